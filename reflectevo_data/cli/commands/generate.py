"""`reflectevo-data generate`: answers, verifies, reflects and answers again, into a run directory."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...console import print_table, say
from ...errors import InputError
from ..arguments import (
    add_instructions,
    add_models,
    add_questions,
    add_randomness,
    add_sampling,
    add_verification,
    positive,
    problems_of,
    shard,
)
from ..run_loop import run_loop


if TYPE_CHECKING:
    from ...rollouts.generate import GenerationReport
    from ...rollouts.manifest import QuestionSource
    from ...rollouts.store import RunDirectory
    from ...schema import Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = add_questions(parser, split="train")
    group.add_argument("--shard", type=shard, metavar="I/N", help="every N-th problem from the I-th on, I from 0")
    group.add_argument(
        "--decontaminate-against",
        action="append",
        metavar="NAME|FILE",
        help="count problems that overlap with this file or source's test split; repeat for several",
    )
    group.add_argument("--drop-contaminated", action="store_true", help="leave these problems out")
    add_models(parser)
    group = parser.add_argument_group("reflections and sampling")
    add_instructions(group)
    group.add_argument(
        "--n-reflections", type=positive, default=2, metavar="K", help="on each failed trial (%(default)s)"
    )
    add_sampling(group, default=0.8)
    add_randomness(group)
    add_verification(parser.add_argument_group("verification"))
    parser.add_argument("--output", required=True, metavar="RUN", help="the run directory")


def run(args: argparse.Namespace) -> int:
    from ...rollouts.manifest import Loop

    loop = Loop(instructions=tuple(args.instruction), n_reflections=args.n_reflections, seed=args.seed)
    return run_loop(args, "generate", loop, questions=_questions, finish=_finish)


def _questions(args: argparse.Namespace) -> tuple[list[Problem], QuestionSource]:
    """The problems of this run or shard, and what its manifest says of them."""
    from ...rollouts.manifest import Decontamination
    from ...sources.decontaminate import decontaminate

    problems, source = problems_of(args)
    found = {}
    for against in args.decontaminate_against or ():
        problems, overlap = decontaminate(problems, against, drop=args.drop_contaminated)
        say(f"{against}: {overlap}{', dropped' if args.drop_contaminated else ''}.")
        found[Path(against).name] = Decontamination(len(overlap.ids), args.drop_contaminated)
    if not problems:
        raise InputError(f"--source {args.source}: no problem is left to answer.")
    part = ""
    if args.shard is not None:
        index, n_shards = args.shard
        problems, part = problems[index::n_shards], f"{index}/{n_shards}"
    return problems, replace(source, decontaminated=found, shard=part, n_problems=len(problems))


def _finish(directory: RunDirectory, problems: list[Problem], report: GenerationReport) -> int:
    print_table(str(directory.path), ("", ""), report.table())
    for error, n in report.failures.most_common(3):
        say(f"{n} failed: {error}")
    if report.failures:
        say("the same command makes the failed problems again.")
    return 1 if report.failures and not report.counts.n_problems else 0
