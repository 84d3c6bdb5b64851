"""Evaluation: problems through the loop into a run directory, then the counts.

reflectevo-train evaluate --source logiqa --split test --model Qwen/Qwen3-0.6B --reflector out/reflector --output eval

DIR/manifest.json, records.jsonl, failures.jsonl   as every run directory; the same command resumes
DIR/predictions.parquet                            the same `raw` records, sorted by id
DIR/report.json                                    `EvalReport`s in total, per task and per source: counts alone
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import orjson

from reflectevo_data.cli.arguments import (
    add_instructions,
    add_models,
    add_questions,
    add_randomness,
    add_sampling,
    add_verification,
    positive,
    temperature,
)
from reflectevo_data.cli.run_loop import run_loop
from reflectevo_data.console import print_table, say
from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.manifest import GATES, Gate, Loop, Manifest, load_manifest
from reflectevo_data.rollouts.store import load_rows

from ..settings import LOOP_SETTINGS
from .counts import EvalReport, Scores, score_rows
from .tables import GATE_MEANINGS, group_columns, group_rows, summary_rows


if TYPE_CHECKING:
    from reflectevo_data.rollouts.generate import GenerationReport
    from reflectevo_data.rollouts.store import RunDirectory
    from reflectevo_data.schema import Problem

PREDICTIONS, REPORT = "predictions.parquet", "report.json"
EVALUATION_KIND = "reflectevo-evaluation"


class Evaluation(NamedTuple):
    """An evaluation directory that has been read: what was run, and what it counted."""

    folder: Path
    manifest: Manifest
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
        "kind": EVALUATION_KIND,
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
        report = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if report["kind"] != EVALUATION_KIND:
            raise KeyError("kind")
        scores = Scores(
            msgspec.convert(report["total"], EvalReport),
            msgspec.convert(report["tasks"], dict[str, EvalReport]),
            msgspec.convert(report["sources"], dict[str, EvalReport]),
        )
    except (msgspec.DecodeError, KeyError) as error:  # a ValidationError is a DecodeError
        raise InputError(f"{path}: no evaluation report ({error}). Evaluate again to write it anew.") from None
    return Evaluation(folder, load_manifest(folder), scores)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `reflectevo-train evaluate`."""
    add_questions(command, split="test")
    add_models(command)
    group = command.add_argument_group("what is evaluated")
    group.add_argument(
        "--setting",
        choices=LOOP_SETTINGS,
        default="two_stage",
        help="two_stage: the reflector reflects and the corrector answers; one_stage: the reflector does both in one "
        "generation; retry: answer again without a reflection, the baseline; the name of a training's setting stands "
        "for the one that its model is evaluated in (%(default)s)",
    )
    group.add_argument(
        "--gate",
        choices=GATES,
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
    reflection_temperature = args.temperature if args.reflection_temperature is None else args.reflection_temperature
    if args.vote > 1 and not max(args.temperature, reflection_temperature):
        raise InputError(
            f"--vote {args.vote}: at temperature 0 all second trials are the same. Give --temperature, such as 0.8."
        )
    setting = LOOP_SETTINGS[args.setting]
    if setting == "one_stage" and args.corrector:
        raise InputError("--corrector: a one-stage model reflects and answers itself. Drop the flag.")
    if setting == "retry" and args.reflector:
        raise InputError("--reflector: a retry has no reflection. Drop the flag.")
    loop = Loop(
        gate=args.gate,
        setting=setting,
        rounds=args.rounds,
        instructions=tuple(args.instruction),
        n_reflections=args.vote,
        seed=args.seed,
    )
    return run_loop(
        args, "evaluate", loop, finish=partial(_finish, args.gate), reflection_temperature=reflection_temperature
    )


def _finish(gate: Gate, directory: RunDirectory, problems: list[Problem], report: GenerationReport) -> int:
    n_failed = len({problem.id for problem in problems} - directory.done)
    scores = write_results(directory.path, gate=gate, n_failed=n_failed)
    print_scores(str(directory.path), scores)
    for error, n in report.failures.most_common(3):
        say(f"{n} failed: {error}", program="reflectevo-train")
    if report.failures:
        say(
            "the same command makes the failed problems again; they are in no accuracy.",
            program="reflectevo-train",
        )
    return 1 if report.failures and not scores.total.n_problems else 0


def print_scores(title: str, scores: Scores) -> None:
    """The tables on standard output."""
    print_table(f"{title}: {GATE_MEANINGS[scores.total.gate]}", ("", ""), summary_rows(scores.total))
    if scores.tasks or scores.sources:
        print_table("by task and source", group_columns(scores), group_rows(scores, intervals=False))
