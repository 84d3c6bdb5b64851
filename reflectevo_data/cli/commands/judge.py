"""`reflectevo-data judge`: ranks the reflections of a run that led to a correct second trial."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ..arguments import add_engine, add_sampling, positive


if TYPE_CHECKING:
    from ...rollouts.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", metavar="RUN", help="a run directory of `generate`")
    parser.add_argument("--judge", default="self", metavar="self|ID|DIR", help="who ranks (default: %(default)s)")
    parser.add_argument("--corrector", metavar="ID|DIR", help="for `self`: where the run's corrector is now")
    parser.add_argument("--max-pairs", type=positive, metavar="N", help="pairs of one question (default: all)")
    parser.add_argument("--prompts", metavar="NAME|DIR", help="the run's prompts, if they were a folder's")
    add_engine(parser)
    add_sampling(parser, default=0.0)


def run(args: argparse.Namespace) -> int:
    from ...completers.base import Sampling
    from ...completers.engine import Engine, open_completer
    from ...console import print_table, say
    from ...curation.judge import ModelJudge, SelfJudge, judge_run
    from ...prompts.templates import load_prompts
    from ...rollouts.manifest import load_manifest
    from ...rollouts.store import Preferences

    manifest = load_manifest(args.run_directory)
    prompts = load_prompts(args.prompts or _prompts_of(manifest))
    model = (args.corrector or _corrector_of(manifest)) if args.judge == "self" else args.judge
    engine = Engine(args.engine, model, base_urls=tuple(args.base_url or ()), slots=args.slots)
    engine.check()

    async def run_all() -> int:
        async with open_completer(engine) as completer:
            sampling = Sampling(temperature=args.temperature, max_tokens=args.max_tokens)
            judge = SelfJudge(completer, prompts) if args.judge == "self" else ModelJudge(completer, prompts, sampling)
            summary = await judge_run(
                preferences, judge, max_pairs=args.max_pairs, in_flight=args.concurrency or 2 * completer.slots
            )
        print_table(f"{args.run_directory}: judged by {args.judge}", ("", ""), summary.table())
        if summary.n_failed:
            say("the same command makes the failed pairs again.")
        return 1 if summary.n_failed and not summary.n_pairs else 0

    with Preferences(args.run_directory) as preferences:
        return asyncio.run(run_all())


def _prompts_of(manifest: Manifest) -> str:
    name = "default" if manifest.prompts is None else manifest.prompts.name
    if name not in ("default", "miniature"):
        raise InputError(f"the run was made with the prompts of a folder named {name}. Give it as --prompts.")
    return name


def _corrector_of(manifest: Manifest) -> str:
    """The corrector's published name: enough for a Hub id and the miniature, not for a folder elsewhere."""
    name = "" if manifest.models is None else manifest.models.corrector
    if not name:
        raise InputError("the run's manifest names no corrector. Give one as --corrector.")
    if name != "miniature" and "/" not in name and manifest.engine != "openai" and not Path(name).is_dir():
        raise InputError(f"the run's corrector was a folder named {name}. Give it as --corrector.")
    return name
