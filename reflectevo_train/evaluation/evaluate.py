"""Evaluation: problems through the loop into a run directory, then the counts.

reflectevo-train evaluate --source logiqa --split test --model Qwen/Qwen3-0.6B --reflector out/reflector --output eval

DIR/manifest.json, records.jsonl, failures.jsonl   as every run directory; the same command resumes
DIR/predictions.parquet                            the same `raw` records, sorted by id
DIR/report.json                                    `EvalReport`s in total, per task and per source: counts alone
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from reflectevo_data.arguments import (
    add_instructions,
    add_models,
    add_questions,
    add_randomness,
    add_sampling,
    add_verification,
    engine_of,
    positive,
    problems_of,
    prompts_of,
    temperature,
)
from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.store import load_manifest, load_rows

from .counts import EvalReport, Gate, Scores, score_rows


PREDICTIONS, REPORT = "predictions.parquet", "report.json"
KIND = "reflectevo-evaluation"


class Evaluation(NamedTuple):
    """An evaluation directory that has been read: what was run, and what it counted."""

    folder: Path
    manifest: dict[str, Any]
    scores: Scores


def write_results(folder: str | Path, *, gate: Gate, n_failed: int = 0) -> Scores:
    """Counts the run's records, and writes `predictions.parquet` and `report.json` into its folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from reflectevo_data.rollouts.records import arrow_schema

    folder = Path(folder)
    rows = sorted(load_rows(folder), key=lambda row: row["id"])
    scores = score_rows(rows, gate=gate, n_failed=n_failed)
    part = folder / f".{PREDICTIONS}.part"
    pq.write_table(pa.Table.from_pylist(rows, arrow_schema("raw")), part, compression="zstd")
    part.replace(folder / PREDICTIONS)
    part = folder / f".{REPORT}.part"
    part.write_bytes(orjson.dumps(report_json(scores), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    part.replace(folder / REPORT)
    return scores


def report_json(scores: Scores) -> dict[str, Any]:
    """The content of `report.json`."""
    return {
        "kind": KIND,
        "format": 1,
        "total": scores.total.to_dict(),
        "tasks": {name: report.to_dict() for name, report in scores.tasks.items()},
        "sources": {name: report.to_dict() for name, report in scores.sources.items()},
    }


def load_evaluation(folder: str | Path) -> Evaluation:
    """The evaluation in this folder.

    Raises:
        InputError: There is none, or its report cannot be read.
    """
    folder = Path(folder)
    path = folder / REPORT
    if not path.is_file():
        raise InputError(f"{folder}: no evaluation (no {REPORT}). Make one with `reflectevo-train evaluate`.")
    try:
        report = orjson.loads(path.read_bytes())
        if report["kind"] != KIND:
            raise KeyError("kind")
        groups = (
            {name: EvalReport.from_dict(counts) for name, counts in report[key].items()}
            for key in ("tasks", "sources")
        )
        scores = Scores(EvalReport.from_dict(report["total"]), *groups)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no evaluation report ({error!r}). Evaluate again to write it anew.") from None
    return Evaluation(folder, load_manifest(folder), scores)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `reflectevo-train evaluate`."""
    add_questions(command, split="test")
    add_models(command)
    group = command.add_argument_group("what is evaluated")
    group.add_argument(
        "--setting",
        choices=("two_stage", "one_stage", "retry"),
        default="two_stage",
        help="two_stage: the reflector reflects and the corrector answers; one_stage: the reflector does both in one "
        "generation; retry: answer again without a reflection, the baseline (%(default)s)",
    )
    group.add_argument(
        "--gate",
        choices=("none", "oracle", "self"),
        default="none",
        help="which answers are reflected on: all, those that the verifier refuses (the paper's), or those that the "
        "reflector, asked, does not call right (%(default)s)",
    )
    group.add_argument("--rounds", type=positive, default=1, metavar="N", help="reflect at most N times (%(default)s)")
    group.add_argument(
        "--vote",
        type=positive,
        default=1,
        metavar="K",
        help="the answer that most of K second trials give (%(default)s)",
    )
    add_instructions(group)
    add_sampling(group, default=0.0)
    group.add_argument(
        "--reflection-temperature", type=temperature, metavar="T", help="of the reflector (default: --temperature)"
    )
    add_randomness(group)
    add_verification(command.add_argument_group("verification"))
    command.add_argument("--output", required=True, metavar="DIR", help="the evaluation's folder")


def run(args: argparse.Namespace) -> int:
    """Runs `reflectevo-train evaluate`."""
    from reflectevo_data.completers.base import Sampling
    from reflectevo_data.completers.engine import open_roles
    from reflectevo_data.rollouts.generate import generate_run
    from reflectevo_data.rollouts.loop import Role, Roles
    from reflectevo_data.rollouts.store import RunDirectory, new_manifest
    from reflectevo_data.verifiers.pool import VerifierPool

    reflection_temperature = args.temperature if args.reflection_temperature is None else args.reflection_temperature
    if args.vote > 1 and not max(args.temperature, reflection_temperature):
        raise InputError(
            f"--vote {args.vote}: at temperature 0 all second trials are the same. Give --temperature, such as 0.8."
        )
    if args.setting == "one_stage" and args.corrector:
        raise InputError("--corrector: a one-stage model reflects and answers itself. Drop the flag.")
    if args.setting == "retry" and args.reflector:
        raise InputError("--reflector: a retry has no reflection. Drop the flag.")
    prompts = prompts_of(args, default="miniature" if args.source == "miniature" else "default")
    engine = engine_of(args)
    problems, source = problems_of(args)
    configuration = {
        "kind": "evaluate",
        "source": source,
        "engine": args.engine,
        "models": engine.names(),
        "setting": args.setting,
        "gate": args.gate,
        "rounds": args.rounds,
        "vote": args.vote,
        "sampling": {
            "temperature": args.temperature,
            "reflection_temperature": reflection_temperature,
            "top_p": args.top_p,
            "max_tokens": args.max_tokens,
        },
        "instructions": args.instruction,
        "prompts": {"name": prompts.name, "fingerprint": prompts.fingerprint},
        "seed": args.seed,
    }
    trials = Sampling(temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_tokens)
    reflections = Sampling(temperature=reflection_temperature, top_p=args.top_p, max_tokens=args.max_tokens)

    async def run_all() -> int:
        async with open_roles(engine) as completers:
            report = await generate_run(
                problems,
                Roles(
                    Role(completers.generator, trials),
                    Role(completers.reflector, reflections),
                    Role(completers.corrector, trials),
                ),
                directory,
                prompts=prompts,
                verifier=verifier,
                instructions=args.instruction,
                n_reflections=args.vote,
                seed=args.seed,
                in_flight=args.concurrency or 2 * max(completer.slots for completer in completers),
                gate=args.gate,
                setting=args.setting,
                rounds=args.rounds,
                title="evaluate",
            )
        return _finish(directory, args.gate, {problem.id for problem in problems}, report.failures)

    with VerifierPool(args.verifier_workers, allow_unsandboxed_code=args.allow_unsandboxed_code) as verifier:
        verifier.preflight(problems)
        with RunDirectory.open(args.output, new_manifest(configuration)) as directory:
            return asyncio.run(run_all())


def _finish(directory: Any, gate: Gate, ids: set[str], failures: Any) -> int:
    from ..cli import say

    scores = write_results(directory.path, gate=gate, n_failed=len(ids - directory.done))
    print_scores(str(directory.path), scores)
    for error, n in failures.most_common(3):
        say(f"{n} failed: {error}")
    if failures:
        say("the same command makes the failed problems again; they are in no accuracy.")
    return 1 if failures and not scores.total.n_problems else 0


def print_scores(title: str, scores: Scores) -> None:
    """The tables on standard output."""
    from reflectevo_data.console import print_table

    from .tables import GATES, group_columns, group_rows, summary_rows

    print_table(f"{title}: {GATES[scores.total.gate]}", ("", ""), summary_rows(scores.total))
    if scores.tasks or scores.sources:
        print_table("by task and source", group_columns(scores), group_rows(scores, intervals=False))
