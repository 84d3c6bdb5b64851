"""Run records -> the rows of all sets, for thousands of records at once.

`curated_batches` is the one pass over the records from which the `datasets` builder and `dataset.build` take their tables.
What belongs into which set is defined in `curate.py`, row by row; a test holds the two equal.
"""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..rollouts.records import JudgedRun, arrow_schema, parse_chunk, read_chunks
from ..schema import COLUMNS, CONFIGS, RankedPair, stable_digest
from .curate import ORIGINS, Curation, contrast_pairs, normalize_whitespace, ranked_pairs
from .flat_trials import FlatTrials
from .near_duplicates import NearDuplicateIndex
from .splits import SPLITS, split_of


@dataclass(frozen=True, slots=True)
class CurationCounts:
    """What was left out, and why.

    Attributes:
        n_records: Records read, doubles included.
        n_doubles: Records that an earlier run already had: same question, models and seed.
        n_failed: Reflections left out of the sets because a request of theirs failed.
        n_leaks: Reflections that state the gold answer; left out unless asked for.
        n_empty: Reflections without text.
        n_duplicates: Reflections that repeat, whitespace apart, an earlier one on the same question, in any run.
        n_near_duplicates: Reflections that nearly repeat an earlier one on any question.
    """

    n_records: int = 0
    n_doubles: int = 0
    n_reflections: int = 0
    n_failed: int = 0
    n_leaks: int = 0
    n_empty: int = 0
    n_duplicates: int = 0
    n_near_duplicates: int = 0

    def __add__(self, other: CurationCounts) -> CurationCounts:
        return CurationCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class CuratedBatch(NamedTuple):
    """The rows of all sets that come from one batch of records: config -> split -> rows."""

    tables: dict[str, dict[str, pa.RecordBatch]]
    counts: CurationCounts


@dataclass
class _Seen:
    """What earlier batches had; records and reflections by digests of what makes them doubles.

    A digest that two different ones shared would lose a row without a word: 128 bits make that impossible in practice, 16
    bytes each keep a million in 100 MB.
    """

    near_duplicates: NearDuplicateIndex | None
    records: set[bytes] = field(default_factory=set[bytes])
    reflections: set[bytes] = field(default_factory=set[bytes])


class _Selection(NamedTuple):
    """Rows of a derived set, by the positions of their trials in a `FlatTrials`."""

    chosen: np.ndarray
    rejected: np.ndarray | None = None
    judges: np.ndarray | None = None

    def where(self, keep: np.ndarray) -> _Selection:
        rejected = None if self.rejected is None else self.rejected[keep]
        return _Selection(self.chosen[keep], rejected, None if self.judges is None else self.judges[keep])


def curated_batches(
    runs: Sequence[JudgedRun],
    curation: Curation,
    *,
    configs: Sequence[str] = CONFIGS,
    executor: Executor | None = None,
) -> Iterator[CuratedBatch]:
    """The runs' records, a few megabytes at a time, as the rows of each config and split.

    Records are parsed ahead on the executor's threads and come out in the order of runs and lines, so that the same
    runs give the same tables. An `executor` of the caller's shares its threads with other work.
    """
    seen = _Seen(None if curation.near_duplicates == "off" else NearDuplicateIndex())
    with ThreadPoolExecutor(2) as own:
        for run, batch in _parsed(runs, executor or own):
            fresh = _without_doubles(batch, seen.records)
            flat = FlatTrials(fresh)
            selections, counts = _select(flat, run.preferences, curation, seen)
            counts += CurationCounts(n_records=batch.num_rows, n_doubles=batch.num_rows - fresh.num_rows)
            split_of_row = _splits(fresh, curation.validation_fraction)
            tables: dict[str, dict[str, pa.RecordBatch]] = {config: {} for config in configs}
            for split in SPLITS:
                in_split = split_of_row == split
                for config in configs:
                    if config == "raw":
                        tables[config][split] = fresh.filter(pa.array(in_split))
                    else:
                        selection = selections[config].where(in_split[flat.row_of[selections[config].chosen]])
                        tables[config][split] = _derive(config, flat, selection)
            yield CuratedBatch(tables, counts)


def _parsed(runs: Sequence[JudgedRun], executor: Executor) -> Iterator[tuple[JudgedRun, pa.RecordBatch]]:
    chunks = ((run, chunk) for run in runs for chunk in read_chunks(run.records))
    ahead: deque[tuple[JudgedRun, Future[pa.RecordBatch]]] = deque()
    for run, chunk in chunks:
        ahead.append((run, executor.submit(parse_chunk, chunk)))
        if len(ahead) > 2:
            first, future = ahead.popleft()
            yield first, future.result()
    for run, future in ahead:
        yield run, future.result()


def _without_doubles(batch: pa.RecordBatch, seen: set[bytes]) -> pa.RecordBatch:
    columns = ("id", "question", "generator", "reflector", "corrector", "seed")
    keep = np.ones(batch.num_rows, bool)
    for i, key in enumerate(zip(*(batch.column(name).to_pylist() for name in columns), strict=True)):
        n_before = len(seen)
        seen.add(stable_digest(*map(str, key)))
        keep[i] = len(seen) > n_before
    return batch if keep.all() else batch.filter(pa.array(keep))


def _splits(batch: pa.RecordBatch, validation_fraction: float) -> np.ndarray:
    """The split of each raw row."""
    ids, groups = batch.column("id").to_pylist(), batch.column("group").to_pylist()
    return np.array([split_of(id, group, validation_fraction) for id, group in zip(ids, groups, strict=True)])


def _select(
    flat: FlatTrials, preferences: dict[str, list[RankedPair]], curation: Curation, seen: _Seen
) -> tuple[dict[str, _Selection], CurationCounts]:
    positions, counts = _usable(flat, curation, seen)
    is_correct = flat.column("is_correct")[positions]
    correct = _by_row(flat, positions[is_correct])
    wrong = _by_row(flat, positions[~is_correct])
    contrasts = [
        pair
        for row, indices in correct.items()
        if row in wrong
        for pair in contrast_pairs(flat.ids[row], indices, wrong[row], max_pairs=curation.max_pairs)
    ]
    ranked: list[RankedPair] = []
    for row, indices in correct.items():
        if len(indices) < 2 or not (said := preferences.get(flat.ids[row])):
            continue
        start = int(flat.starts[row])
        places = [p._replace(chosen=start + p.chosen, rejected=start + p.rejected) for p in said]
        ranked += ranked_pairs(flat.ids[row], indices, places, max_pairs=curation.max_pairs)
    selections = {
        "dplus": _Selection(positions[is_correct]),
        "dpm": _Selection(*_columns(contrasts)),
        "dpref": _Selection(
            *_columns([(p.chosen, p.rejected) for p in ranked]), np.array([p.judge for p in ranked], object)
        ),
    }
    return selections, counts


def _usable(flat: FlatTrials, curation: Curation, seen: _Seen) -> tuple[np.ndarray, CurationCounts]:
    """Positions of the second trials that take part, as `curate.usable` says it."""
    leaks = flat.samples & flat.column("leaks_answer")
    positions = np.flatnonzero(flat.samples if curation.include_leaks else flat.samples & ~leaks)
    texts = flat.reflections(positions).to_pylist()
    keep = np.ones(len(positions), bool)
    different: list[str] = []
    n_empty = 0
    for i, (row, text) in enumerate(zip(flat.row_of[positions].tolist(), texts, strict=True)):
        text = normalize_whitespace(text)
        key = stable_digest(flat.ids[row], text)
        if text and key not in seen.reflections:
            seen.reflections.add(key)
            different.append(text)
        else:
            keep[i] = False
            n_empty += not text
    positions = positions[keep]
    counts = CurationCounts(
        n_reflections=int(flat.candidates.sum()),
        n_failed=int(flat.failed.sum()),
        n_leaks=int(leaks.sum()),
        n_empty=n_empty,
        n_duplicates=len(texts) - len(different) - n_empty,
    )
    if seen.near_duplicates is None:
        return positions, counts
    is_new = np.array(seen.near_duplicates.add(different), bool)
    counts += CurationCounts(n_near_duplicates=int((~is_new).sum()))
    return positions[is_new] if curation.near_duplicates == "drop" else positions, counts


def _by_row(flat: FlatTrials, positions: np.ndarray) -> dict[int, list[int]]:
    by_row: dict[int, list[int]] = {}
    for row, position in zip(flat.row_of[positions].tolist(), positions.tolist(), strict=True):
        by_row.setdefault(row, []).append(position)
    return by_row


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _derive(config: str, flat: FlatTrials, selection: _Selection) -> pa.RecordBatch:
    """The rows of a derived set, column by column, from where `curate.ORIGINS` says."""
    rows = flat.row_of[selection.chosen]
    positions = {"first": flat.starts[rows], "chosen": selection.chosen}
    if selection.rejected is not None:
        positions["rejected"] = selection.rejected

    def column(part: str, name: str) -> pa.Array:
        if part == "row":
            return flat.batch.column(name).take(pa.array(rows))
        if part == "preference":
            return pa.array(selection.judges, pa.string())
        if name == "reflections":
            return flat.reflections(positions[part])
        return flat.trials.field(name).take(pa.array(positions[part]))

    arrays = [column(*ORIGINS[config][name]) for name in COLUMNS[config]]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(config))
