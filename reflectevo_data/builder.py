"""Runs -> the four sets: `ReflectEvo`, a `datasets` builder with the configs raw, dplus, dpm and dpref.

    >>> builder = ReflectEvo(config_name="dpref", runs=["RUN"])  # doctest: +SKIP
    >>> builder.download_and_prepare()  # doctest: +SKIP
    >>> builder.as_dataset(split="train")  # doctest: +SKIP

`curated_batches` is the one pass over the records from which both this builder and `publish.build_dataset` take their
tables. What belongs into which set is defined in `curate.py`; here it is worked out for thousands of rows at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .curate import MAX_PAIRS, ORIGINS, contrast_pairs, normalize_whitespace, ranked_pairs
from .near_duplicates import NearDuplicateIndex
from .rollouts.records import Run, arrow_schema, open_run, parse_chunk, read_chunks
from .rollouts.store import PREFERENCES, RECORDS
from .schema import COLUMNS, CONFIGS, Row, features, stable_hash


SPLITS = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Curation:
    """What goes into the sets.

    Attributes:
        max_pairs: Pairs of one question in D±, and in Dpref; of each run, where several runs asked it.
        include_leaks: Whether reflections that state the gold answer take part.
        validation_fraction: Share of the questions (groups of questions) that go into the validation split.
        near_duplicates: Whether reflections that nearly repeat an earlier one of the dataset are looked for and, with
            `drop`, left out of the sets.
    """

    max_pairs: int = MAX_PAIRS
    include_leaks: bool = False
    validation_fraction: float = 0.05
    near_duplicates: Literal["off", "count", "drop"] = "count"


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
class ReflectEvoConfig(datasets.BuilderConfig):
    """A config of `ReflectEvo`: the run directories, and what goes into the sets."""

    runs: Sequence[str] = ()
    curation: Curation = field(default_factory=Curation)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """The cache's key: runs grow and are judged, so the state of their files belongs to it."""
        files = [Path(run) / name for run in self.runs for name in (RECORDS, PREFERENCES)]
        state = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]
        kwargs = {**config_kwargs, "curation": asdict(self.curation), "state": state}
        return super().create_config_id(kwargs, custom_features)


class ReflectEvo(datasets.ArrowBasedBuilder):
    """The sets as a `datasets` builder, one config at a time, from run directories."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ReflectEvoConfig
    BUILDER_CONFIGS = [ReflectEvoConfig(name=config) for config in CONFIGS]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=features(self.config.name))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_tables(self, *, split: str) -> Iterator[tuple[int, pa.Table]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        config = cast(ReflectEvoConfig, self.config)
        runs = [open_run(run) for run in config.runs]
        for i, (tables, _) in enumerate(curated_batches(runs, config.curation, configs=[config.name])):
            yield i, pa.Table.from_batches([tables[config.name][split]])

    def _as_dataset(self, split: Any = "train", in_memory: bool = False) -> datasets.Dataset:
        """As in the base class, which refuses a split without rows (datasets 5.2)."""
        info = cast(datasets.SplitDict, self.info.splits).get(str(split))
        if info is not None and not info.num_examples:
            no_rows: dict[str, list] = {name: [] for name in COLUMNS[self.config.name]}
            return datasets.Dataset.from_dict(no_rows, self.info.features, split=datasets.NamedSplit(info.name))
        return super()._as_dataset(split, in_memory)


class _Flat:
    """A batch of raw rows with its trials as one flat array, which the sets are taken from by position."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        output = batch.column("output")
        self.offsets = output.offsets.to_numpy()
        self.starts = self.offsets[:-1]
        self.trials = output.values
        self.row_of = np.repeat(np.arange(batch.num_rows), np.diff(self.offsets))
        self.reflections = self.trials.field("reflections").values
        self.reflection_of = self.trials.field("reflections").offsets.to_numpy()
        self.ids: list[str] = batch.column("id").to_pylist()

    def column(self, name: str) -> np.ndarray:
        """A field of every trial."""
        return self.trials.field(name).to_numpy(zero_copy_only=False)

    def has_failed(self, name: str) -> np.ndarray:
        failed = pc.equal(self.trials.field(name), "error")  # pyright: ignore[reportAttributeAccessIssue]
        return failed.to_numpy(zero_copy_only=False)


@dataclass
class _Seen:
    """What earlier batches had; records and reflections by the hashes of what makes them doubles."""

    near_duplicates: NearDuplicateIndex | None
    records: set[int] = field(default_factory=set)
    reflections: set[int] = field(default_factory=set)


class _Selection(NamedTuple):
    """Rows of a derived set, by the positions of their trials in a `_Flat`."""

    chosen: np.ndarray
    rejected: np.ndarray | None = None
    judges: np.ndarray | None = None

    def where(self, keep: np.ndarray) -> _Selection:
        rejected = None if self.rejected is None else self.rejected[keep]
        return _Selection(self.chosen[keep], rejected, None if self.judges is None else self.judges[keep])


def curated_batches(
    runs: Sequence[Run],
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
            flat = _Flat(fresh)
            selections, counts = _select(flat, run.preferences, curation, seen)
            counts += CurationCounts(n_records=batch.num_rows, n_doubles=batch.num_rows - fresh.num_rows)
            in_validation = _in_validation(fresh, curation.validation_fraction)
            tables: dict[str, dict[str, pa.RecordBatch]] = {config: {} for config in configs}
            for split, in_split in zip(SPLITS, (~in_validation, in_validation), strict=True):
                for config in configs:
                    if config == "raw":
                        tables[config][split] = fresh.filter(pa.array(in_split))
                    else:
                        selection = selections[config].where(in_split[flat.row_of[selections[config].chosen]])
                        tables[config][split] = _derive(config, flat, selection)
            yield CuratedBatch(tables, counts)


def _parsed(runs: Sequence[Run], executor: Executor) -> Iterator[tuple[Run, pa.RecordBatch]]:
    chunks = ((run, chunk) for run in runs for chunk in read_chunks(run.records))
    ahead: deque[tuple[Run, Future[pa.RecordBatch]]] = deque()
    for run, chunk in chunks:
        ahead.append((run, executor.submit(parse_chunk, chunk)))
        if len(ahead) > 2:
            first, future = ahead.popleft()
            yield first, future.result()
    for run, future in ahead:
        yield run, future.result()


def _without_doubles(batch: pa.RecordBatch, seen: set[int]) -> pa.RecordBatch:
    columns = ("id", "question", "generator", "reflector", "corrector", "seed")
    keep = np.ones(batch.num_rows, bool)
    for i, key in enumerate(zip(*(batch.column(name).to_pylist() for name in columns), strict=True)):
        n_before = len(seen)
        seen.add(hash(key))
        keep[i] = len(seen) > n_before
    return batch if keep.all() else batch.filter(pa.array(keep))


def _in_validation(batch: pa.RecordBatch, fraction: float) -> np.ndarray:
    groups, ids = batch.column("group").to_pylist(), batch.column("id").to_pylist()
    limit = fraction * 2**64
    return np.array([stable_hash("split", g or i) < limit for g, i in zip(groups, ids, strict=True)], bool)


def _select(
    flat: _Flat, preferences: dict[str, list[Row]], curation: Curation, seen: _Seen
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
    ranked: list[tuple[int, int, str]] = []
    for row, indices in correct.items():
        if len(indices) < 2 or not (said := preferences.get(flat.ids[row])):
            continue
        start = int(flat.starts[row])
        places = [{**p, "chosen": start + p["chosen"], "rejected": start + p["rejected"]} for p in said]
        ranked += ranked_pairs(flat.ids[row], indices, places, max_pairs=curation.max_pairs)
    selections = {
        "dplus": _Selection(positions[is_correct]),
        "dpm": _Selection(*_columns(contrasts)),
        "dpref": _Selection(
            *_columns([pair[:2] for pair in ranked]), np.array([judge for _, _, judge in ranked], object)
        ),
    }
    return selections, counts


def _usable(flat: _Flat, curation: Curation, seen: _Seen) -> tuple[np.ndarray, CurationCounts]:
    """Positions of the second trials that take part, as `curate.usable` says it."""
    requests_failed = flat.has_failed("finish_reason")
    reflected = (~flat.column("is_correct") & ~requests_failed)[flat.starts]
    candidates = (flat.column("trial") == 2) & reflected[flat.row_of]
    failed = candidates & (requests_failed | flat.has_failed("reflection_finish_reason"))
    leaks = candidates & ~failed & flat.column("leaks_answer")
    left = candidates & ~failed & (curation.include_leaks | ~leaks)
    positions = np.flatnonzero(left)
    texts = flat.reflections.take(pa.array(flat.reflection_of[positions])).to_pylist()
    keep = np.ones(len(positions), bool)
    different: list[str] = []
    n_empty = 0
    for i, (row, text) in enumerate(zip(flat.row_of[positions].tolist(), texts, strict=True)):
        text = normalize_whitespace(text)
        key = hash((flat.ids[row], text))
        if text and key not in seen.reflections:
            seen.reflections.add(key)
            different.append(text)
        else:
            keep[i] = False
            n_empty += not text
    positions = positions[keep]
    counts = CurationCounts(
        n_reflections=int(candidates.sum()),
        n_failed=int(failed.sum()),
        n_leaks=int(leaks.sum()),
        n_empty=n_empty,
        n_duplicates=len(texts) - len(different) - n_empty,
    )
    if seen.near_duplicates is None:
        return positions, counts
    is_new = np.array(seen.near_duplicates.add(different), bool)
    counts += CurationCounts(n_near_duplicates=int((~is_new).sum()))
    return positions[is_new] if curation.near_duplicates == "drop" else positions, counts


def _by_row(flat: _Flat, positions: np.ndarray) -> dict[int, list[int]]:
    by_row: dict[int, list[int]] = {}
    for row, position in zip(flat.row_of[positions].tolist(), positions.tolist(), strict=True):
        by_row.setdefault(row, []).append(position)
    return by_row


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _derive(config: str, flat: _Flat, selection: _Selection) -> pa.RecordBatch:
    """The rows of a derived set, column by column, from where `curate.ORIGINS` says."""
    rows = flat.row_of[selection.chosen]
    positions = {"first": flat.starts[rows], "chosen": selection.chosen, "rejected": selection.rejected}

    def column(part: str, name: str) -> pa.Array:
        if part == "row":
            return flat.batch.column(name).take(pa.array(rows))
        if part == "preference":
            return pa.array(selection.judges, pa.string())
        if name == "reflections":
            return flat.reflections.take(pa.array(flat.reflection_of[positions[part]]))
        return flat.trials.field(name).take(pa.array(positions[part]))

    arrays = [column(*ORIGINS[config][name]) for name in COLUMNS[config]]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(config))
