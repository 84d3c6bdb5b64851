"""What several rows say of one first trial, brought together: `merge(attempts, counts)` -> one `Merged` a trial.

Attempts that do not fit into memory together are first spread over files by question (`spread`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import orjson

from ..schema import Problem
from ..sources.table import SOURCES
from .repair import cut_verdict
from .rows import Attempt, Stored


class Merged(NamedTuple):
    """All that is known of one first trial. `pairs` are places in `seconds`, the preferred one first."""

    problem: Problem
    first: Stored
    seconds: list[Stored]
    pairs: list[tuple[int, int]]


def spread(found: Iterable[Attempt], folder: Path, n_parts: int) -> Iterator[Iterator[Attempt]]:
    """The attempts in parts, by question: each part has its questions whole."""
    with ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context((folder / str(i)).open("wb")) for i in range(n_parts)]
        for attempt in found:
            line = orjson.dumps(dataclasses.asdict(attempt)) + b"\n"
            files[int(attempt.question_id, 16) % n_parts].write(line)
    for i in range(n_parts):
        yield _part(folder / str(i))
        (folder / str(i)).unlink()


def _part(path: Path) -> Iterator[Attempt]:
    with path.open("rb") as file:
        for line in file:
            values = orjson.loads(line)
            values |= {name: tuple(values[name]) for name in ("answers", "options", "test_list")}
            values["first"] = _stored(values["first"])
            values["seconds"] = tuple(map(_stored, values["seconds"]))
            yield Attempt(**values)


def _stored(values: dict[str, Any]) -> Stored:
    values["prompts"] = tuple(values["prompts"])
    return Stored(**values)


def merge(found: Iterable[Attempt], counts: Counter[str]) -> Iterator[Merged]:
    """Attempts at one question with one first trial as one; what one file leaves open another may say."""
    merged: dict[str, Merged] = {}
    for attempt in found:
        known = merged.get(attempt.id)
        if known is None:
            known = merged[attempt.id] = Merged(_problem(attempt), attempt.first, [], [])
        else:
            counts["rows merged into another's record"] += 1
            problem = _completed(known.problem, _problem(attempt))
            known = merged[attempt.id] = known._replace(problem=problem, first=_completed(known.first, attempt.first))
        places = [_add(known.seconds, second) for second in attempt.seconds]
        if attempt.is_pair and places[0] != places[1]:
            known.pairs.append((places[0], places[1]))
    yield from merged.values()


def _problem(attempt: Attempt) -> Problem:
    of_source = SOURCES.get(attempt.source)
    return replace(
        attempt.problem(f"imported/{attempt.id}"),
        task=attempt.task or (of_source.task if of_source else ""),
        license=attempt.license or (of_source.license if of_source else "unknown"),
        group=f"imported/{attempt.question_id}",  # records of one question stay in one split
    )


def _add(seconds: list[Stored], second: Stored) -> int:
    """The place of this second trial, which is added when it is new."""
    key = _words(second.reflection), _words(cut_verdict(second.reasoning)[0])
    for i, known in enumerate(seconds):
        if (_words(known.reflection), _words(cut_verdict(known.reasoning)[0])) == key:
            seconds[i] = _completed(known, second)
            return i
    seconds.append(second)
    return len(seconds) - 1


_Fields = TypeVar("_Fields", Problem, Stored)


def _completed(known: _Fields, other: _Fields) -> _Fields:
    """`known` with the fields that it leaves empty taken from `other`."""
    empty: dict[str, Any] = {
        f.name: getattr(other, f.name)
        for f in dataclasses.fields(known)
        if getattr(known, f.name) in ("", (), None) and getattr(other, f.name) not in ("", (), None)
    }
    return replace(known, **empty) if empty else known


def _words(text: str) -> str:
    return " ".join(text.split())
