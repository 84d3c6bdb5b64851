"""The command line `reflectevo-train`; a command is a row of the table below and a module.

Training itself is launched by `accelerate launch -m reflectevo_train.sft` (or `.dpo`).
"""

from __future__ import annotations

import sys

from reflectevo_data.cli.parser import Command, Program


PROGRAM = Program(
    name="reflectevo-train",
    description="Train reflectors, evaluate them, publish them.",
    epilog="training:\n  accelerate launch -m reflectevo_train.sft --config RECIPE.yaml\n"
    "  accelerate launch -m reflectevo_train.dpo --config RECIPE.yaml",
    commands=(
        Command(
            "demo",
            "reflectevo_train.evolve.demo",
            "the paper in miniature: generate, build, train and evaluate on a CPU",
            ("reflectevo-train demo", "reflectevo-train demo --full"),
        ),
        Command(
            "evaluate",
            "reflectevo_train.evaluation.evaluate",
            "solve, reflect and answer again; count Acc@t1, Acc@t2 and what was lost",
            (
                "reflectevo-train evaluate --source miniature --model miniature --limit 300 --output eval",
                "reflectevo-train evaluate --source logiqa --model Qwen/Qwen3-8B --reflector out/reflector --gate oracle "
                "--output eval",
            ),
        ),
        Command(
            "score",
            "reflectevo_train.evaluation.rescore",
            "the same numbers from prediction files, ours or the upstream format",
            ("reflectevo-train score predictions.jsonl",),
        ),
        Command(
            "report",
            "reflectevo_train.report.report",
            "compare evaluations: Markdown and an HTML page",
            ("reflectevo-train report eval-base eval-sft --output report.html",),
        ),
        Command(
            "push",
            "reflectevo_train.hub.push",
            "a model with its card, results and predictions to the Hub",
            ("reflectevo-train push out/reflector --repo-id owner/reflector --eval eval",),
        ),
    ),
)
main = PROGRAM.main


if __name__ == "__main__":
    sys.exit(main())
