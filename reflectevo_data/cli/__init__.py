"""The command line `reflectevo-data`, with a command for each step from sources to the Hub.

A command is a row of the table below and a module in `commands/`.
"""

from __future__ import annotations

from .parser import Command, Program, examples


PROGRAM = Program(
    name="reflectevo-data",
    description="Questions in, a dataset of reflections out: raw, D+, D± and Dpref.",
    epilog=examples(
        "reflectevo-data generate --source miniature --model miniature --limit 300 --output run",
        "reflectevo-data judge run --judge self",
        "reflectevo-data build run --output ReflectEvo-460K",
        "reflectevo-data COMMAND --help",
    ),
    commands=(
        Command(
            "sources",
            "reflectevo_data.cli.commands.sources",
            "list the sources, or show problems of one",
            ("reflectevo-data sources", "reflectevo-data sources my_questions.jsonl --preview 3"),
        ),
        Command(
            "generate",
            "reflectevo_data.cli.commands.generate",
            "answer, verify, reflect and answer again, into a run directory",
            (
                "reflectevo-data generate --source my_questions.jsonl --model Qwen/Qwen3-0.6B --output run",
                "reflectevo-data generate --source logiqa --model Qwen/Qwen3-8B --reflector out/reflector-lora --output run",
            ),
            notes="Stopped at any moment, the same command goes on where it was.",
        ),
        Command(
            "import",
            "reflectevo_data.cli.commands.import_files",
            "read the upstream files or dataset into a run directory",
            (
                "reflectevo-data import raw.json dplus.jsonl --output run",
                "reflectevo-data import bigai-nlco/ReflectionEvo --output run",
            ),
            notes="Labels are verified anew, and prompts that were recorded after the answer are cut.",
        ),
        Command(
            "judge",
            "reflectevo_data.cli.commands.judge",
            "rank the reflections of a run that led to a correct second trial",
            (
                "reflectevo-data judge run --judge self",
                "reflectevo-data judge run --judge Qwen/Qwen3-8B --engine vllm",
            ),
            notes="`self` compares how probable the corrector finds the gold answer under each reflection. A model reads "
            "each pair in both orders; a verdict that flips is a tie and dropped.",
        ),
        Command(
            "build",
            "reflectevo_data.cli.commands.build",
            "make the dataset with its four configs and its card",
            ("reflectevo-data build run-0 run-1 --output ReflectEvo-460K",),
        ),
        Command(
            "stats",
            "reflectevo_data.cli.commands.stats",
            "print the statistics of a built dataset",
            ("reflectevo-data stats ReflectEvo-460K",),
        ),
        Command(
            "show",
            "reflectevo_data.cli.commands.show",
            "load a config with `load_dataset` and show rows of it",
            ("reflectevo-data show ReflectEvo-460K --config dpref --rows 2",),
        ),
        Command(
            "card",
            "reflectevo_data.cli.commands.card",
            "render the card of a built dataset anew",
            ("reflectevo-data card ReflectEvo-460K",),
        ),
        Command(
            "push",
            "reflectevo_data.cli.commands.push",
            "publish a built dataset on the Hub, in one commit",
            ("reflectevo-data push ReflectEvo-460K --repo-id owner/ReflectEvo-460K",),
            notes="What a person wrote in the card on the Hub stays.",
        ),
    ),
)
main = PROGRAM.main
