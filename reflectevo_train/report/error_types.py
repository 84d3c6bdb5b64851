"""Why first trials failed: a model labels each failed trial with one of eight error types.

The types are the paper's: mathematical (calculation, algorithm), logic and reasoning (flawed rationale, internal
inconsistency), instruction violation (context misinterpretation, incomplete or irrelevant response, format discrepancy)
and factual. The labelling prompt shows the gold answer; labels serve the report alone and go into no training data. They
are kept in `error_types.jsonl` beside the predictions, so that a report made again asks only for what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from reflectevo_data.completers.base import Completer, Sampling
from reflectevo_data.console import percent, say
from reflectevo_data.schema import Row, stable_hash

from ..evaluation.counts import outcome_of
from ..evaluation.intervals import wilson
from ..evaluation.tables import Table
from .runs import ComparedRun


LABELS = "error_types.jsonl"
ERROR_TYPES = {
    "calculation": "a number is computed wrongly: arithmetic, signs, carries, units",
    "algorithm": "the method does not fit, or its steps are missing, doubled or in the wrong order",
    "rationale": "a conclusion does not follow from what is said before it",
    "inconsistency": "statements contradict each other, or the answer contradicts the reasoning",
    "misinterpretation": "the question is misread, or a condition that it sets is not met",
    "incompleteness": "something that matters is left out, or something beside the point decides",
    "format": "the answer is not in the form that was asked for",
    "facts": "a statement about the world or about a definition is wrong",
}


class Label(NamedTuple):
    """What was said of one failed trial; the type is empty when no type could be read."""

    id: str
    error_type: str
    corrected: bool


@dataclass(frozen=True, slots=True)
class ErrorTypes:
    """Labels of several runs."""

    labels: dict[str, list[Label]]
    labeller: str

    def table(self) -> Table:
        """For each run and type how often it comes, and how often such a trial is corrected."""
        rows = []
        for name in [*ERROR_TYPES, ""]:
            row = [name or "(no type read)"]
            for labels in self.labels.values():
                mine = [label.corrected for label in labels if label.error_type == name]
                row += [
                    f"{len(mine):,} ({percent(len(mine) / len(labels) if labels else None)})",
                    percent(sum(mine) / len(mine), wilson(sum(mine), len(mine))) if mine else "–",
                ]
            if name or any(label.error_type == "" for labels in self.labels.values() for label in labels):
                rows.append(row)
        columns = ("error type", *["trials", "corrected"] * len(self.labels))
        return Table(columns, rows, [(run, 2) for run in self.labels])

    def note(self) -> str:
        """How to read the table."""
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in ERROR_TYPES.items())
        return f"Labelled by {self.labeller}, which saw the gold answer and was not checked by people. {meanings}."


def labelling_prompt(row: Row) -> str:
    """The prompt for one failed first trial."""
    types = "\n".join(f"- {name}: {meaning}" for name, meaning in ERROR_TYPES.items())
    gold = row["answer"] or "\n".join(row["test_list"])
    return (
        "An attempt at a question failed. Decide which kind of error is the first one that matters.\n\n"
        f"Kinds:\n{types}\n\nQuestion: {row['question']}\n\nCorrect answer: {gold}\n\n"
        f"Attempt:\n{row['output'][0]['reasoning']}\n\n"
        'Say in a sentence or two what went wrong. Then end with one line "Kind: " and one word of the list.'
    )


_KIND = re.compile(rf"\bkind\W+(?:is\W+)?({'|'.join(ERROR_TYPES)})\b", re.IGNORECASE)


def parse_error_type(text: str) -> str:
    """The last error type that is named as the verdict, empty when there is none.

    >>> parse_error_type("The carry was lost. Kind: **Calculation**"), parse_error_type("It is hard to say.")
    ('calculation', '')
    """
    found = _KIND.findall(text)
    return found[-1].lower() if found else ""


async def label_rows(
    rows: Sequence[Row], completer: Completer, folder: Path, *, limit: int, in_flight: int = 64
) -> list[Label]:
    """Labels of the failed first trials, at most `limit`, drawn by id; those asked for before are read from the folder."""
    failed = [row for row in rows if not row["output"][0]["is_correct"]]
    drawn = sorted(failed, key=lambda row: stable_hash("error type", row["id"]))[:limit]
    known = _known(folder / LABELS, completer.model)
    places = asyncio.Semaphore(in_flight)

    async def label(row: Row) -> None:
        async with places:
            [completion] = await completer.complete(
                labelling_prompt(row), sampling=Sampling(temperature=0.0, max_tokens=256), seed=0
            )
        if completion.finish_reason != "error":
            known[row["id"]] = parse_error_type(completion.text)
            line = {"id": row["id"], "error_type": known[row["id"]], "labeller": completer.model}
            with open(folder / LABELS, "ab") as file:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    await asyncio.gather(*(label(row) for row in drawn if row["id"] not in known))
    return [
        Label(row["id"], known[row["id"]], row["output"][outcome_of(row).last]["is_correct"])
        for row in drawn
        if row["id"] in known
    ]


def label_runs(runs: Sequence[ComparedRun], args: argparse.Namespace) -> ErrorTypes:
    """The labels of all runs, by the model that the command line names."""
    from reflectevo_data.completers.engine import Engine, open_completer

    engine = Engine(args.engine, args.error_types, base_urls=tuple(args.base_url or ()), slots=args.slots)

    async def label_all() -> ErrorTypes:
        labels = {}
        async with open_completer(engine) as completer:
            for run in runs:
                labels[run.name] = await label_rows(
                    run.rows,
                    completer,
                    run.evaluation.folder,
                    limit=args.error_types_limit,
                    in_flight=args.concurrency or 2 * completer.slots,
                )
                n_unread = Counter(label.error_type for label in labels[run.name])[""]
                if n_unread:
                    say(
                        f"{run.name}: no error type could be read for {n_unread} of {len(labels[run.name])} trials.",
                        program="reflectevo-train",
                    )
            return ErrorTypes(labels, completer.model)

    return asyncio.run(label_all())


def _known(path: Path, labeller: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    known: dict[str, str] = {}
    for line in path.read_bytes().splitlines():
        try:
            row: dict[str, Any] = orjson.loads(line)
        except orjson.JSONDecodeError:  # its writer died
            continue
        if row.get("labeller") == labeller and row.get("error_type") in ("", *ERROR_TYPES):
            known[row["id"]] = row["error_type"]
    return known
