"""Predictions -> what the reader of examples on the report's page reads.

Input: the `raw` rows of each run. Output: one JSON object, problems once and examples (a problem in a run) by number, packed
for the page.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from reflectevo_data.schema import Row, stable_hash

from ..evaluation.counts import outcome_of


MAX_TEXT = 8_000  # characters of one text


def examples_data(runs: Sequence[tuple[str, Sequence[Row]]], *, max_examples: int) -> dict[str, Any]:
    """What the reader reads: problems once, and for each run and problem its trials and outcome."""
    ids: dict[str, None] = {row["id"]: None for _, rows in runs for row in rows}
    drawn = sorted(ids, key=lambda id: stable_hash("example", id))[: max_examples // max(len(runs), 1)]
    places: dict[str, int] = {}
    problems, examples = [], []
    for number, (_, rows) in enumerate(runs):
        by_id = {row["id"]: row for row in rows}
        for id in sorted(set(drawn) & by_id.keys()):
            row = by_id[id]
            if id not in places:
                places[id] = len(problems)
                problems.append(_problem(row))
            examples.append({"problem": places[id], "run": number, "outcomes": outcomes(row), "trials": _trials(row)})
    examples.sort(key=lambda example: (example["problem"], example["run"]))
    return {"runs": [name for name, _ in runs], "problems": problems, "examples": examples}


def outcomes(row: Row) -> list[str]:
    """What became of a problem: first how its answer changed, then what else there is to say."""
    first, last = row["output"][0], row["output"][outcome_of(row).last]
    if first["is_correct"]:
        kind = "right" if last["is_correct"] else "lost"
    else:
        kind = "corrected" if last["is_correct"] else "wrong"
    more = {
        "unparsed": last["status"] == "unparsed",
        "leaks": any(trial["leaks_answer"] for trial in row["output"]),
        "not_reflected": len(row["output"]) == 1,
    }
    return [kind, *(name for name, holds in more.items() if holds)]


def packed(examples: dict[str, Any]) -> str:
    """The examples as base64 of gzipped JSON: what models write is a third of its size, and cannot end the script."""
    text = json.dumps(examples, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()


def _problem(row: Row) -> dict[str, Any]:
    listed = all(option.strip() in row["question"] for option in row["options"])
    return {
        "id": row["id"],
        "question": row["question"][:MAX_TEXT],
        "options": [] if listed else row["options"],
        "answer": row["answer"][:MAX_TEXT],
        "task": row["task"],
        "source": row["source"],
    }


def _trials(row: Row) -> list[dict[str, Any]]:
    standing = outcome_of(row).rounds
    return [
        {
            "trial": trial["trial"],
            "text": trial["reasoning"][:MAX_TEXT],
            "answer": trial["generated_answer"][:MAX_TEXT],
            "status": trial["status"],
            "reflection": "\n".join(trial["reflections"])[:MAX_TEXT],
            "instruction": trial["instruction"],
            "leaks": trial["leaks_answer"],
            "stands": place in standing,
        }
        for place, trial in enumerate(row["output"])
    ]
