"""The command line: `reflectevo-train demo | evaluate | score | report | push`.

Training itself is launched by `accelerate launch -m reflectevo_train.sft` (or `.dpo`). Bad input ends in one line and exit
code 2; an interrupt in one line and 130, with everything finished kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from reflectevo_data import __version__
from reflectevo_data.errors import InputError


COMMANDS = {
    "demo": "the paper in miniature: generate, build, train and evaluate on a CPU",
    "evaluate": "solve, reflect and answer again; count Acc@t1, Acc@t2 and what was lost",
    "score": "the same numbers from prediction files, ours or the upstream format",
    "report": "compare evaluations: Markdown and an HTML page",
    "push": "a model with its card, results and predictions to the Hub",
}
MODULES = {
    "demo": "evolve.demo",
    "evaluate": "evaluation.evaluate",
    "score": "evaluation.rescore",
    "report": "report.report",
    "push": "hub.push",
}
EXAMPLES = {
    "demo": ("reflectevo-train demo", "reflectevo-train demo --full"),
    "evaluate": (
        "reflectevo-train evaluate --source miniature --model miniature --limit 300 --output eval",
        "reflectevo-train evaluate --source logiqa --model Qwen/Qwen3-8B --reflector out/reflector --gate oracle "
        "--output eval",
    ),
    "score": ("reflectevo-train score predictions.jsonl",),
    "report": ("reflectevo-train report eval-base eval-sft --output report.html",),
    "push": ("reflectevo-train push out/reflector --repo-id owner/reflector --eval eval",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        args = build_parser(argv).parse_args(argv)
        return args.command(args)
    except InputError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("interrupted. What was finished is kept; the same command goes on from there.")
        return 130
    except BrokenPipeError:  # `reflectevo-train … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def say(line: str) -> None:
    """One line on standard error, marked as ours."""
    print(f"reflectevo-train: {line}", file=sys.stderr)  # noqa: T201


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the module of the command that is named is imported."""
    parser = argparse.ArgumentParser(
        prog="reflectevo-train",
        description="Train reflectors, evaluate them, publish them.",
        epilog="training:\n  accelerate launch -m reflectevo_train.sft --config RECIPE.yaml\n"
        "  accelerate launch -m reflectevo_train.dpo --config RECIPE.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"reflectevo {__version__}")
    named = next((word for word in argv if not word.startswith("-")), "")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")
    for name, description in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            epilog="\n".join(
                ["example:" if len(EXAMPLES[name]) == 1 else "examples:", *(f"  {e}" for e in EXAMPLES[name])]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == named:
            module = import_module(f".{MODULES[name]}", __package__)
            module.add_arguments(command)
            command.set_defaults(command=module.run)
    return parser


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
