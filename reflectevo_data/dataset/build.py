"""Runs -> a dataset folder that `load_dataset` reads: Parquet for each config and split, and the card.

    reflectevo-data build RUN… --output ReflectEvo-460K

The folder holds `{config}/{split}-*.parquet`, `README.md` and `build.json` (what was built, in numbers). It appears
whole or not at all: the build goes on beside it and is moved into place at the end.
"""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ..console import markdown_table
from ..curation.batches import CurationCounts, curated_batches
from ..curation.curate import Curation
from ..curation.near_duplicates import METHOD
from ..curation.splits import SPLITS
from ..errors import InputError
from ..hub.cards import CARD, merge_cards, new_card, render
from ..rollouts.records import JudgedRun, arrow_schema, open_run
from ..schema import CONFIGS
from ..sources.decontaminate import TestQuestions, overlap
from .card import (
    FIXED,
    DecontaminationResult,
    SourceCount,
    SplitSize,
    card_metadata,
    column_notes,
    configs_shown,
    run_lines,
)
from .statistics import WORDS, LengthUnit, Statistics, add, in_total, row_counts, statistics_of, table
from .write import BUILD, DATASET_KIND, SplitWriter, replacing


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build wrote; `build.json` has the same.

    Attributes:
        sizes: Config -> split -> rows, and bytes in memory.
        versions: Config -> version, another one whenever the config's data differ.
        statistics: Task -> counts.
        n_ranked: Pairs that a judge ranked.
        n_undecided: Pairs that a judge read without a winner.
        runs: How each run was made, in lines for people.
    """

    name: str
    sizes: dict[str, dict[str, SplitSize]]
    versions: dict[str, str]
    curation: Curation
    counts: CurationCounts
    statistics: Statistics
    tokenizer: str
    sources: tuple[SourceCount, ...]
    n_ranked: int
    n_undecided: int
    decontamination: tuple[DecontaminationResult, ...]
    runs: tuple[tuple[str, ...], ...]

    def table(self) -> list[tuple[str, str]]:
        """Rows for people: what was left out or found, how much."""
        counts, near = self.counts, self.curation.near_duplicates
        rows = [
            ("reflections on failed trials", f"{counts.n_reflections:,}"),
            ("state the gold answer", f"{counts.n_leaks:,}" + (" (kept)" if self.curation.include_leaks else "")),
            ("repeat another on the same question", f"{counts.n_duplicates:,}"),
            ("empty, or of a failed request", f"{counts.n_empty + counts.n_failed:,}"),
        ]
        if near != "off":
            rows.append(
                ("nearly repeat another", f"{counts.n_near_duplicates:,}" + (" (kept)" if near == "count" else ""))
            )
        rows.append(("pairs ranked by a judge; without a winner", f"{self.n_ranked:,}; {self.n_undecided:,}"))
        rows.append(("records that several runs had in common", f"{counts.n_doubles:,}"))
        for found in self.decontamination:
            share = (
                "not checked" if found.n_overlapping is None else f"{found.n_overlapping:,} of {found.n_questions:,}"
            )
            rows.append((f"questions that overlap with {found.against}", share))
        return rows


def build_dataset(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    curation: Curation | None = None,
    length_unit: LengthUnit = WORDS,
    evaluation: Mapping[str, TestQuestions | str] | None = None,
    max_shard_bytes: int = 500 << 20,
) -> BuildReport:
    """Builds the dataset folder `output` from run directories.

    The same runs give the same files. A card that is there already keeps what a person wrote in it.

    Args:
        runs: Run directories, judged or not; records that several have in common count once.
        output: The folder, named as the dataset is to be named.
        curation: What goes into the sets, and how the questions are split.
        length_unit: What the lengths on the card are counted with.
        evaluation: Evaluation sets that the questions are compared with, for the card: an index of each, or why there
            is none.
        max_shard_bytes: A file that has grown to this size is followed by another.

    Raises:
        InputError: A run cannot be read, or `output` holds something that is not a dataset built before.
    """
    curation = curation or Curation()
    opened = [open_run(run) for run in runs]
    output = Path(os.path.abspath(output))
    with replacing(output) as folder:
        sizes, counts, statistics, sources = _write_configs(opened, folder, curation, length_unit, max_shard_bytes)
        report = BuildReport(
            name=output.name,
            sizes=sizes,
            versions={config: _version(folder / config) for config in CONFIGS},
            curation=curation,
            counts=counts,
            statistics=statistics,
            tokenizer=length_unit.description,
            sources=sources,
            n_ranked=sum(len(rows) for run in opened for rows in run.preferences.values()),
            n_undecided=sum(run.n_undecided for run in opened),
            decontamination=tuple(_overlaps(folder, evaluation or {})),
            runs=tuple(tuple(run_lines(run.manifest)) for run in opened),
        )
        _describe(report, folder, output)
    return report


def load_build(folder: str | Path) -> tuple[BuildReport, dict[str, Any]]:
    """What the build of this dataset wrote, and the metadata that it generated for the card.

    Raises:
        InputError: The folder is not a dataset that `build` made, or its build.json cannot be read.
    """
    path = Path(folder) / BUILD
    if not path.is_file():
        raise InputError(f"{folder}: no dataset (no {BUILD}). Make one with `reflectevo-data build`.")
    try:
        build = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return msgspec.convert(build, BuildReport), build["card"]
    except (msgspec.DecodeError, KeyError) as error:  # a ValidationError is a DecodeError
        raise InputError(f"{path}: cannot be read ({error}). Build the dataset again.") from None


def write_dataset_card(folder: str | Path) -> Path:
    """Renders the card of a built dataset anew; what a person wrote in it stays."""
    report, _ = load_build(folder)
    _describe(report, Path(folder), Path(folder))
    return Path(folder) / CARD


def _write_configs(
    runs: Sequence[JudgedRun], folder: Path, curation: Curation, unit: LengthUnit, max_shard_bytes: int
) -> tuple[dict[str, dict[str, SplitSize]], CurationCounts, Statistics, tuple[SourceCount, ...]]:
    counts, statistics, sources = CurationCounts(), Statistics(), Counter[tuple[str, str]]()
    counting: deque[Future[Statistics]] = deque()
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as executor:
        writers = {(c, s): SplitWriter(folder / c, c, s, executor, max_shard_bytes) for c in CONFIGS for s in SPLITS}
        for tables, batch_counts in curated_batches(runs, curation, executor=executor):
            counts += batch_counts
            for (config, split), writer in writers.items():
                writer.add(tables[config][split])
            for batch in tables["raw"].values():
                sources += _sources_of(batch)
                counting.append(executor.submit(statistics_of, batch, unit))
            while len(counting) > 2 * len(SPLITS):
                statistics = add(statistics, counting.popleft().result())
        for future in counting:
            statistics = add(statistics, future.result())
        sizes: dict[str, dict[str, SplitSize]] = {config: {} for config in CONFIGS}
        for (config, split), writer in writers.items():
            if size := writer.close():
                sizes[config][split] = size
    for config in CONFIGS:
        # load_dataset refuses a config of which one split is empty ("corresponds to no data", datasets 5.2), so an
        # empty split is left out; a config without any row keeps its columns, and loads with streaming=True.
        if not sizes[config]:
            pq.ParquetWriter(folder / config / "train-00000-of-00001.parquet", arrow_schema(config)).close()
            sizes[config]["train"] = SplitSize(0, 0)
    by_source = tuple(SourceCount(name, license, n) for (name, license), n in sorted(sources.items()))
    return sizes, counts, statistics, by_source


class _Question(NamedTuple):
    id: str
    question: str
    group: str


def _overlaps(folder: Path, evaluation: Mapping[str, TestQuestions | str]) -> Iterator[DecontaminationResult]:
    """What the dataset's questions share with each evaluation set."""
    for against, index in evaluation.items():
        if isinstance(index, str):
            yield DecontaminationResult(against, 0, None, index)
            continue
        found = overlap(_questions(folder / "raw"), index)
        method = f"a run of {found.n} words in common, or the whole text, with one of {found.n_against:,} questions"
        yield DecontaminationResult(against, found.n_problems, len(found.ids), method)


def _questions(raw: Path) -> Iterator[_Question]:
    for path in sorted(raw.iterdir()):
        for batch in pq.ParquetFile(path).iter_batches(columns=list(_Question._fields)):
            columns = (batch.column(name).to_pylist() for name in _Question._fields)
            yield from map(_Question, *columns)


def _sources_of(batch: pa.RecordBatch) -> Counter[tuple[str, str]]:
    grouped = pa.table([batch.column("source"), batch.column("license")], ["source", "license"])
    grouped = grouped.group_by(["source", "license"]).aggregate([([], "count_all")])
    return Counter({(row["source"], row["license"]): row["count_all"] for row in grouped.to_pylist()})


def _describe(report: BuildReport, folder: Path, output: Path) -> None:
    """Writes the card and `build.json` into `folder`; the card at `output` is the one that people may have edited."""
    from huggingface_hub import DatasetCardData

    metadata = card_metadata(
        report.name,
        sizes=report.sizes,
        versions=report.versions,
        download_bytes={c: sum(f.stat().st_size for f in (folder / c).iterdir()) for c in CONFIGS},
        sources=report.sources,
    )
    total = in_total(report.statistics)
    text = render(
        "dataset_card.md",
        name=report.name,
        configs=configs_shown(report.sizes),
        column_notes=column_notes(),
        statistics=markdown_table(*table(report.statistics, row_counts(folder))),
        tokenizer=report.tokenizer,
        engine_lengths=total.engine_lengths(),
        n_unparsed=total.n_unparsed,
        runs=report.runs,
        max_pairs=report.curation.max_pairs,
        include_leaks=report.curation.include_leaks,
        counts=report.counts,
        n_ranked=report.n_ranked,
        n_undecided=report.n_undecided,
        near_duplicates=report.curation.near_duplicates,
        near_duplicate_method=METHOD,
        decontamination=report.decontamination,
        sources=report.sources,
    )
    card = new_card(DatasetCardData(**metadata).to_yaml(), text)
    if (output / CARD).exists():
        generated = orjson.loads((output / BUILD).read_bytes()).get("card", {})
        card = merge_cards(card, (output / CARD).read_text("utf-8"), generated=generated, fixed=FIXED)
    (folder / CARD).write_text(card, "utf-8")
    build = {"kind": DATASET_KIND, "format": 1, **asdict(report), "card": metadata}
    (folder / BUILD).write_bytes(orjson.dumps(build, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _version(folder: Path) -> str:
    """`1.0.N`, N made from the content of the config's files: `load_dataset` takes its cache for current by it."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"1.0.{int.from_bytes(content.digest()[:6], 'big')}"
