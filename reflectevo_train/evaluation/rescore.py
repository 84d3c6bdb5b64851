"""Prediction files, ours or the upstream format -> the same numbers as `evaluate` prints.

    reflectevo-train score predictions.jsonl other_run/

Ours are Parquet or JSON lines of `raw` rows, and the folders of runs and evaluations. Upstream's raw files (JSON lines or
concatenated JSON) are counted by the labels stored in them; its D+ files, which store none, by parsing and verifying the
stored trials again. Every number is a share of the rows that are there.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.manifest import Gate
from reflectevo_data.schema import Row

from .counts import score_rows
from .evaluate import print_scores, report_json


# Upstream's free-text runs write the score into the trial.
_STORED_F1 = re.compile(r"F1 Score:\s*([\d.]+)")
_NO_ANSWER = ("", "none", "n/a", "null")


class Predictions(NamedTuple):
    """What a file or folder holds.

    Attributes:
        gate: As the manifest says; None where there is none.
        n_failed: Problems whose requests failed.
    """

    rows: Sequence[Mapping[str, Any]]
    gate: Gate | None = None
    n_failed: int = 0


def load_predictions(path: str | Path) -> Predictions:
    """The rows of a prediction file or folder, with what scoring needs of each.

    Raises:
        InputError: It cannot be read, or a row is neither ours nor upstream's; the message has file and line.
    """
    path = Path(path)
    if path.is_dir():
        from reflectevo_data.rollouts.manifest import load_manifest
        from reflectevo_data.rollouts.store import load_failed_ids, load_rows

        manifest = load_manifest(path)
        gate = None if manifest.loop is None else manifest.loop.gate
        return Predictions(list(load_rows(path)), gate, len(load_failed_ids(path)))
    from reflectevo_data.sources.reading import read_records

    rows, to_judge = [], []
    for line, record, error in read_records(path):
        where = f"{path}:{line}"
        if error:
            raise InputError(f"{where}: {error}. Correct the file.")
        if isinstance(record, Mapping) and isinstance(record.get("output"), (list, tuple)):
            rows.append(_raw_row(record, where))
        else:
            to_judge.append((where, record))
    if to_judge:
        rows += _judged(to_judge)
    return Predictions(rows)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `reflectevo-train score`."""
    command.add_argument("files", nargs="+", metavar="FILE", help="prediction files, or folders of runs")
    command.add_argument("--output", metavar="FILE.json", help="also write the counts, as report.json has them")


def run(args: argparse.Namespace) -> int:
    """Runs `reflectevo-train score`: one table a file, and one of all together."""
    everything: list[Mapping[str, Any]] = []
    counts: dict[str, Any] = {}
    gates, n_failed = set(), 0
    for file in args.files:
        predictions = load_predictions(file)
        if not predictions.rows:
            raise InputError(f"{file}: has no predictions. Name another file.")
        scores = score_rows(predictions.rows, gate=predictions.gate, n_failed=predictions.n_failed)
        print_scores(Path(file).name, scores)
        counts[Path(file).name] = report_json(scores)
        everything += predictions.rows
        gates.add(scores.total.gate)
        n_failed += predictions.n_failed
    if len(args.files) > 1 and len(gates) == 1:
        scores = score_rows(everything, gate=gates.pop(), n_failed=n_failed)
        print_scores("all files", scores)
        counts["all files"] = report_json(scores)
    if args.output:
        try:
            Path(args.output).write_bytes(orjson.dumps(counts, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise InputError(f"--output {args.output}: cannot be written ({error.strerror}).") from None
    return 0


def _raw_row(record: Mapping[str, Any], where: str) -> Row:
    """Ours as it is; upstream's with its missing fields filled in."""
    outputs = []
    for place, trial in enumerate(record["output"]):
        if not isinstance(trial, Mapping) or not isinstance(trial.get("is_correct"), bool):
            raise InputError(f"{where}: output[{place}] has no is_correct. Expected trials as upstream's or ours.")
        outputs.append(_trial(trial, place, record))
    if not outputs or outputs[0]["trial"] != 1:
        raise InputError(f"{where}: output has no first trial. Expected trial 1 and then the second trials.")
    return {
        "id": str(record.get("id", where)),
        "task": str(record.get("task") or ""),
        "source": str(record.get("source") or record.get("dataset") or ""),
        "answer_type": record.get("answer_type") or _answer_type(record, where),
        "output": outputs,
    }


def _trial(trial: Mapping[str, Any], place: int, record: Mapping[str, Any]) -> Row:
    answer = str(trial.get("generated_answer") or "")
    is_correct = trial["is_correct"]
    unparsed = not is_correct and answer.strip().lower() in _NO_ANSWER
    number = trial.get("trial", trial.get("trail"))
    return {
        "trial": int(number) if number is not None else 1 + (place > 0),
        "generated_answer": answer,
        "is_correct": is_correct,
        "status": trial.get("status") or ("correct" if is_correct else "unparsed" if unparsed else "incorrect"),
        "f1": _f1(trial, answer, record),
        "leaks_answer": bool(trial.get("leaks_answer")),
        "n_completion_tokens": int(trial.get("n_completion_tokens") or 0),
        "n_reflection_tokens": int(trial.get("n_reflection_tokens") or 0),
    }


def _f1(trial: Mapping[str, Any], answer: str, record: Mapping[str, Any]) -> float:
    """As stored, else computed from the stored answer."""
    from reflectevo_data.verifiers.text_metrics import f1

    for name in ("f1", "F1_score"):
        if isinstance(trial.get(name), int | float):
            return float(trial[name])
    stored = _STORED_F1.findall(str(trial.get("scratchpad") or trial.get("reasoning") or ""))
    if stored:
        return float(stored[-1].rstrip("."))
    return f1(answer, [str(record.get("answer") or ""), *map(str, record.get("answers") or ())])


def _answer_type(record: Mapping[str, Any], where: str) -> str:
    from reflectevo_data.upstream.rows import NotRecognisedError, attempts

    try:
        return next(attempts(record)).answer_type
    except NotRecognisedError as error:
        raise InputError(f"{where}: {error}. Expected upstream's raw rows, or ours.") from None


def _judged(records: Iterable[tuple[str, Any]]) -> Iterator[Row]:
    """D+ rows: each a failed trial and a second one, both verified anew."""
    from reflectevo_data.upstream.rows import NotRecognisedError, attempts
    from reflectevo_data.verifiers.pool import VerifierPool

    found = []
    for where, record in records:
        try:
            one = next(attempts(record))
        except NotRecognisedError as error:
            raise InputError(
                f"{where}: no predictions: {error}. Expected upstream's raw or D+ rows, or ours."
            ) from None
        if one.is_pair or not one.seconds:
            raise InputError(
                f"{where}: a preference pair, which is no prediction. Score the raw file it was made from."
            )
        found.append((where, one))
    problems = [one.problem(where) for where, one in found]
    with VerifierPool() as verifier:
        verifier.preflight(problems)
        firsts = verifier.verify_many([one.first.reasoning for _, one in found], problems)
        seconds = verifier.verify_many([one.seconds[0].reasoning for _, one in found], problems)
    for (where, one), first, second in zip(found, firsts, seconds, strict=True):
        trials = [
            {
                "trial": number,
                "generated_answer": verdict.answer,
                "is_correct": verdict.is_correct,
                "status": verdict.status,
                "f1": verdict.f1,
                "leaks_answer": False,
                "n_completion_tokens": 0,
                "n_reflection_tokens": 0,
            }
            for number, verdict in ((1, first), (2, second))
        ]
        yield {
            "id": where,
            "task": one.task,
            "source": one.source,
            "answer_type": one.answer_type,
            "output": trials,
        }
