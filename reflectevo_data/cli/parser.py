"""How a command line of this project is declared and run: a table of `Command`s, a module each.

A command's module has `add_arguments(parser)` and `run(args)`, which returns the exit code. Only the module of the command
that is called is imported, so `--help` waits for none. Bad input ends in one line and exit code 2; an interrupt in one line
and 130, with everything finished kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..console import say
from ..errors import InputError


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a program.

    Attributes:
        module: Dotted name of the module that has `add_arguments` and `run`.
        help: What it does, in a few words, beginning in lower case.
        examples: Command lines that work, shown below its flags.
        notes: What else a person has to know, in whole sentences.
    """

    name: str
    module: str
    help: str
    examples: tuple[str, ...]
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """A console script: its name, what it is for, and its commands."""

    name: str
    description: str
    epilog: str
    commands: tuple[Command, ...]

    def parser(self, argv: Sequence[str]) -> argparse.ArgumentParser:
        """The parser, with the flags of the command that `argv` calls."""
        parser = argparse.ArgumentParser(
            prog=self.name,
            description=self.description,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--version", action="version", version=f"reflectevo {__version__}")
        subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")
        called = next((word for word in argv if not word.startswith("-")), "")
        for command in self.commands:
            subparser = subparsers.add_parser(
                command.name,
                help=command.help,
                description=f"{command.help[0].upper()}{command.help[1:]}. {command.notes}".strip(),
                epilog=examples(*command.examples),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            if command.name == called:
                module = import_module(command.module)
                module.add_arguments(subparser)
                subparser.set_defaults(run=module.run)
        return parser

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Runs one command; returns its exit code."""
        argv = list(sys.argv[1:] if argv is None else argv)
        say_it = partial(say, program=self.name)
        signal.signal(signal.SIGTERM, _terminated)
        try:
            args = self.parser(argv).parse_args(argv)
            return args.run(args)
        except InputError as error:
            say_it(str(error))
            return 2
        except KeyboardInterrupt:
            say_it("interrupted. What was finished is kept; the same command goes on from there.")
            return 130
        except BrokenPipeError:  # `reflectevo-data … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def run_command(module: ModuleType, argv: Sequence[str]) -> int:
    """Runs the command of a module within another one; returns its exit code.

    Raises:
        InputError: As the command does; whoever called says it.
    """
    parser = argparse.ArgumentParser(prog=module.__name__.rpartition(".")[2])
    module.add_arguments(parser)
    return module.run(parser.parse_args(argv))


def examples(*lines: str) -> str:
    """The last lines of a help text."""
    return "\n".join(["examples:" if len(lines) > 1 else "example:", *(f"  {line}" for line in lines)])


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
