"""Flags that several commands share, of `reflectevo-data` and of `reflectevo-train`, and what they stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..completers.engine import ENGINES
from ..errors import InputError


if TYPE_CHECKING:
    from ..completers.engine import Engine
    from ..prompts.templates import PromptSet
    from ..rollouts.manifest import QuestionSource
    from ..schema import Problem


def add_questions(parser: argparse.ArgumentParser, *, split: str) -> Any:
    """The group of flags that `problems_of` reads, but for --seed."""
    group = parser.add_argument_group("questions")
    group.add_argument(
        "--source",
        required=True,
        metavar="NAME|FILE",
        help="a source (`reflectevo-data sources` lists them) or a file",
    )
    group.add_argument("--split", default=split, help="the source's split (default: %(default)s)")
    group.add_argument(
        "--source-file", metavar="FILE", help="read the named source's rows from FILE, not from the Hub"
    )
    group.add_argument("--limit", type=positive, metavar="N", help="take N problems; may grow when a run is continued")
    return group


def add_models(parser: argparse.ArgumentParser) -> None:
    """The group of flags that `engine_of` reads."""
    group = parser.add_argument_group("models")
    group.add_argument("--model", required=True, metavar="ID|DIR", help="who answers; `miniature` is bundled")
    group.add_argument(
        "--reflector", metavar="ID|DIR", help="who reflects: a model or a LoRA adapter (default: --model)"
    )
    group.add_argument("--corrector", metavar="ID|DIR", help="who makes the second trial (default: --model)")
    add_engine(group)


def add_engine(group: Any) -> None:
    """What a model runs on; `group` may be a parser."""
    group.add_argument("--engine", choices=ENGINES, default="transformers", help="(%(default)s)")
    group.add_argument("--base-url", action="append", metavar="URL", help="for openai: a server; repeat for several")
    group.add_argument("--slots", type=positive, metavar="N", help="requests the engine works on at once")
    group.add_argument(
        "--concurrency", type=positive, metavar="N", help="in flight at once (default: twice the slots)"
    )


def add_instructions(group: Any) -> None:
    """What a reflection is asked for, and how everything is asked."""
    group.add_argument(
        "--instruction",
        nargs="+",
        default=["random"],
        metavar="KEY",
        help="keys of the instruction pool (1-1-1 … 2-8-2), `all` in turn, or `random` (default)",
    )
    group.add_argument("--instruction-file", metavar="FILE", help="YAML with instructions of your own, key: text")
    group.add_argument("--prompts", metavar="NAME|DIR", help="default, miniature or a folder of templates")


def add_sampling(group: Any, *, default: float) -> None:
    """Temperature and length of what models write."""
    group.add_argument(
        "--temperature", type=temperature, default=default, metavar="T", help="0 is greedy (%(default)s)"
    )
    group.add_argument("--max-tokens", type=positive, default=512, metavar="N", help="new tokens a call (%(default)s)")


def add_randomness(group: Any) -> None:
    """What is drawn from, and the seed of every draw."""
    group.add_argument("--top-p", type=share, default=1.0, metavar="P", help="nucleus sampling (%(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of the draw of problems and of every sample (%(default)s)")


def add_verification(group: Any) -> None:
    """How answers are checked; `group` may be a parser."""
    group.add_argument("--verifier-workers", type=positive, default=2, metavar="N", help="processes (%(default)s)")
    group.add_argument(
        "--allow-unsandboxed-code",
        action="store_true",
        help="run model-written code without isolation; also needs HF_ALLOW_CODE_EVAL=1",
    )


def add_length_unit(parser: argparse.ArgumentParser) -> None:
    """What statistics count lengths with."""
    parser.add_argument(
        "--tokenizer", metavar="ID|DIR", help="what lengths are counted with (default: words and marks)"
    )


def add_repository(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Where on the Hub something is published."""
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help=f"the {what} on the Hub")
    parser.add_argument("--private", action="store_true", default=None, help="if it is made now")
    parser.add_argument("--revision", metavar="BRANCH", help="a branch, made if need be (default: main)")


def prompts_of(args: argparse.Namespace) -> PromptSet:
    """The prompt set, with every instruction that is asked for in its pool.

    Unless one is named, the miniature's problems are asked about in the words that its model was trained on.
    """
    from ..prompts.instructions import choose_instructions
    from ..prompts.templates import load_prompts

    name = args.prompts or ("miniature" if args.source == "miniature" else "default")
    prompts = load_prompts(name, instruction_file=args.instruction_file)
    choose_instructions(list(prompts.pool), args.instruction, n_reflections=1, problem_id="", seed=args.seed)
    return prompts


def problems_of(args: argparse.Namespace) -> tuple[list[Problem], QuestionSource]:
    """The problems to answer, and what a manifest says of where they come from."""
    from ..rollouts.manifest import QuestionSource, file_sha256
    from ..sources.load import load_problems
    from ..sources.table import SOURCES

    problems = load_problems(
        args.source, split=args.split, limit=args.limit, seed=args.seed, source_file=args.source_file
    )
    if not problems:
        raise InputError(f"--source {args.source}: no problem is left to answer.")
    n = len(problems)
    if Path(args.source).is_file():
        return problems, QuestionSource(Path(args.source).name, sha256=file_sha256(args.source), n_problems=n)
    if args.source_file is not None:
        file, sha256 = Path(args.source_file).name, file_sha256(args.source_file)
        return problems, QuestionSource(args.source, args.split, file=file, sha256=sha256, n_problems=n)
    revision = SOURCES[args.source].revision if args.source in SOURCES else ""
    return problems, QuestionSource(args.source, args.split, revision, n_problems=n)


def engine_of(args: argparse.Namespace) -> Engine:
    """The engine, checked: its models are there, and so is what it needs."""
    from ..completers.engine import Engine

    engine = Engine(
        args.engine,
        args.model,
        reflector=args.reflector,
        corrector=args.corrector,
        base_urls=tuple(args.base_url or ()),
        slots=args.slots,
    )
    engine.check()
    return engine


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1 on")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, 0.0, 1.0)


def temperature(text: str) -> float:
    """A number from 0 to 10."""
    return _number(text, 0.0, 10.0)


def shard(text: str) -> tuple[int, int]:
    """`I/N` as numbers, I below N."""
    index, slash, n_shards = text.partition("/")
    if not (slash and index.isdecimal() and n_shards.isdecimal() and int(index) < int(n_shards)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected I/N with I from 0 to N-1, such as 0/8")
    return int(index), int(n_shards)


def _number(text: str, lowest: float, highest: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from {lowest:g} to {highest:g}")
    return number
