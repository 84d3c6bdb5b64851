"""The command line: `reflectevo-data`, with a command for each step from sources to the Hub.

Parses, and hands over to `commands`. Bad input ends in one line and exit code 2; an interrupt in one line and 130, with
everything finished kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import __version__, commands
from .arguments import (
    add_engine,
    add_instructions,
    add_models,
    add_questions,
    add_randomness,
    add_sampling,
    add_verification,
    positive,
    shard,
    share,
)
from .console import say
from .errors import InputError


Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return args.command(args)
    except InputError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("interrupted. What was finished is kept; the same command goes on from there.")
        return 130
    except BrokenPipeError:  # `reflectevo-data … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="reflectevo-data",
        description="Questions in, a dataset of reflections out: raw, D+, D± and Dpref.",
        epilog=_examples(
            "reflectevo-data generate --source miniature --model miniature --limit 300 --output run",
            "reflectevo-data judge run --judge self",
            "reflectevo-data build run --output ReflectEvo-460K",
            "reflectevo-data COMMAND --help",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"reflectevo {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_sources(subparsers)
    _add_generate(subparsers)
    _add_import(subparsers)
    _add_judge(subparsers)
    _add_build(subparsers)
    _add_stats(subparsers)
    _add_show(subparsers)
    _add_card(subparsers)
    _add_push(subparsers)
    return parser


def _add_sources(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "sources",
        commands.show_sources,
        "list the sources, or show problems of one",
        "reflectevo-data sources",
        "reflectevo-data sources my_questions.jsonl --preview 3",
    )
    command.add_argument("name", nargs="?", metavar="NAME|FILE", help="a source, a group of sources or a file")
    command.add_argument("--split", default="train", help="its split (default: %(default)s)")
    command.add_argument("--source-file", metavar="FILE", help="read the source's rows from FILE, not from the Hub")
    command.add_argument("--preview", type=positive, default=3, metavar="N", help="problems shown (%(default)s)")


def _add_generate(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "generate",
        commands.generate,
        "answer, verify, reflect and answer again, into a run directory",
        "reflectevo-data generate --source my_questions.jsonl --model Qwen/Qwen3-0.6B --output run",
        "reflectevo-data generate --source logiqa --model Qwen/Qwen3-8B --reflector out/reflector-lora --output run",
        notes="Stopped at any moment, the same command goes on where it was.",
    )
    group = add_questions(command, split="train")
    group.add_argument("--shard", type=shard, metavar="I/N", help="every N-th problem from the I-th on, I from 0")

    group.add_argument(
        "--decontaminate-against",
        action="append",
        metavar="NAME|FILE",
        help="count problems that overlap with this file or source's test split; repeat for several",
    )
    group.add_argument("--drop-contaminated", action="store_true", help="leave these problems out")

    add_models(command)
    group = command.add_argument_group("reflections and sampling")
    add_instructions(group)
    group.add_argument(
        "--n-reflections", type=positive, default=2, metavar="K", help="on each failed trial (%(default)s)"
    )
    add_sampling(group, default=0.8)
    add_randomness(group)
    add_verification(command.add_argument_group("verification"))
    command.add_argument("--output", required=True, metavar="RUN", help="the run directory")


def _add_import(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "import",
        commands.import_files,
        "read the upstream files or dataset into a run directory",
        "reflectevo-data import raw.json dplus.jsonl --output run",
        "reflectevo-data import bigai-nlco/ReflectionEvo --output run",
        notes="Labels are verified anew, and prompts that were recorded after the answer are cut.",
    )
    command.add_argument("files", nargs="+", metavar="FILE|HUB_ID", help="raw, D+, D± and Dpref rows, in any mixture")
    command.add_argument("--source", default="", metavar="NAME", help="the rows' source, where they do not say it")
    command.add_argument("--keep-labels", action="store_true", help="take the stored labels without verifying them")
    add_verification(command)
    command.add_argument("--output", required=True, metavar="RUN", help="the run directory")


def _add_judge(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "judge",
        commands.judge,
        "rank the reflections of a run that led to a correct second trial",
        "reflectevo-data judge run --judge self",
        "reflectevo-data judge run --judge Qwen/Qwen3-8B --engine vllm",
        notes="`self` compares how probable the corrector finds the gold answer under each reflection. A model reads "
        "each pair in both orders; a verdict that flips is a tie and dropped.",
    )
    command.add_argument("run", metavar="RUN", help="a run directory of `generate`")
    command.add_argument("--judge", default="self", metavar="self|ID|DIR", help="who ranks (default: %(default)s)")
    command.add_argument("--corrector", metavar="ID|DIR", help="for `self`: where the run's corrector is now")
    command.add_argument("--max-pairs", type=positive, metavar="N", help="pairs of one question (default: all)")
    command.add_argument("--prompts", metavar="NAME|DIR", help="the run's prompts, if they were a folder's")
    add_engine(command)
    add_sampling(command, default=0.0)


def _add_build(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "build",
        commands.build,
        "make the dataset with its four configs and its card",
        "reflectevo-data build run-0 run-1 --output ReflectEvo-460K",
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    command.add_argument(
        "--output", required=True, metavar="DIR", help="the dataset folder; its name is the dataset's"
    )
    command.add_argument(
        "--max-pairs", type=positive, default=4, metavar="N", help="pairs of one question (%(default)s)"
    )
    command.add_argument(
        "--validation-fraction", type=share, default=0.05, metavar="P", help="of questions (%(default)s)"
    )
    command.add_argument("--include-leaks", action="store_true", help="keep reflections that state the gold answer")
    command.add_argument(
        "--near-duplicates",
        choices=("count", "drop", "off"),
        default="count",
        help="reflections that nearly repeat another one of the dataset (%(default)s)",
    )
    command.add_argument(
        "--decontaminate-against",
        action="append",
        metavar="NAME|FILE",
        help="also report the overlap with this; that with the sources' own test splits is always reported",
    )
    _add_tokenizer(command)


def _add_stats(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "stats",
        commands.print_stats,
        "print the statistics of a built dataset",
        "reflectevo-data stats ReflectEvo-460K",
    )
    command.add_argument("dataset", metavar="DIR", help="a folder that `build` made")
    _add_tokenizer(command)


def _add_show(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "show",
        commands.show_rows,
        "load a config with `load_dataset` and show rows of it",
        "reflectevo-data show ReflectEvo-460K --config dpref --rows 2",
    )
    command.add_argument("dataset", metavar="DIR", help="a folder that `build` made")
    command.add_argument("--config", choices=("raw", "dplus", "dpm", "dpref"), default="dpref", help="(%(default)s)")
    command.add_argument("--split", choices=("train", "validation"), default="train", help="(%(default)s)")
    command.add_argument("--rows", type=positive, default=1, metavar="N", help="how many (%(default)s)")
    command.add_argument("--all", action="store_true", help="the prompt columns too")


def _add_card(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "card",
        commands.render_card,
        "render the card of a built dataset anew",
        "reflectevo-data card ReflectEvo-460K",
    )
    command.add_argument("dataset", metavar="DIR", help="a folder that `build` made; what a person wrote stays")


def _add_push(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "push",
        commands.push,
        "publish a built dataset on the Hub, in one commit",
        "reflectevo-data push ReflectEvo-460K --repo-id owner/ReflectEvo-460K",
        notes="What a person wrote in the card on the Hub stays.",
    )
    command.add_argument("dataset", metavar="DIR", help="a folder that `build` made")
    command.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="the dataset on the Hub")
    command.add_argument("--private", action="store_true", default=None, help="if it is made now")
    command.add_argument("--revision", metavar="BRANCH", help="a branch, made if need be (default: main)")


def _add_tokenizer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tokenizer", metavar="ID|DIR", help="what lengths are counted with (default: words and marks)"
    )


def _command(
    subparsers: Any, name: str, run: Command, description: str, *examples: str, notes: str = ""
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}. {notes}".strip(),
        epilog=_examples(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _examples(*commands: str) -> str:
    return "\n".join(["examples:" if len(commands) > 1 else "example:", *(f"  {command}" for command in commands)])


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
