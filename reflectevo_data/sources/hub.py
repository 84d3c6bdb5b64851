"""A named source -> its problems, read from the Hub by `datasets` at the revision that the table states, or from a file.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_DATASETS_OFFLINE` work as they do for `datasets`; no
repository code is ever run.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import InputError, one_line
from ..schema import Problem, Row, stable_hash
from .reading import read_records
from .table import HASHED, PARQUET_BRANCH, SOURCES, Source


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_TEST_SHARE = 10  # one group in ten, where a source is published as one split


def load_source(name: str, *, split: str, limit: int | None, seed: int, source_file: str | None) -> list[Problem]:
    """The problems of one split; with `limit`, that many of them, from rows drawn with the seed.

    Exact copies of a problem are one problem. A published row that gives none (no gold, say) is left out and logged.

    Raises:
        InputError: No such split, the Hub cannot be reached, or the columns are not the published ones.
    """
    source = SOURCES[name]
    check_split(name, split)
    if source_file is not None:
        found = _of_file(name, source, source_file)
    else:
        found = _of_hub(name, source, split, seed=None if limit is None else seed)
    if source.splits[split] == HASHED:
        found = (problem for problem in found if hashed_split(problem) == split)
    problems: dict[str, Problem] = {}
    for problem in found:
        problems.setdefault(problem.id, problem)
        if limit is not None and len(problems) >= limit:
            break
    if not problems:
        where = source_file or source.hub_id
        raise InputError(f"--source {name}: found no problem of the split {split} in {where}. Check the file.")
    return list(problems.values())


def check_split(name: str, split: str) -> None:
    """Refuses a split that the source does not have."""
    if split not in SOURCES[name].splits:
        expected = ", ".join(SOURCES[name].splits)
        raise InputError(f"--split {split}: {name} has no such split. Expected one of {expected}.")


def hashed_split(problem: Problem) -> str:
    """`train` or `test`, by a hash of the group, so that no story is in both; independent of order and seed."""
    place = stable_hash("split", problem.source, problem.group or problem.id) % _TEST_SHARE
    return "test" if place == 0 else "train"


def _of_hub(name: str, source: Source, split: str, *, seed: int | None) -> Iterator[Problem]:
    """Problems in published order, or with a seed in an order drawn from it."""
    held_out: set[str] = set()
    if source.grouped and source.splits[split] != HASHED:
        later = list(source.splits)[list(source.splits).index(split) + 1 :]
        for other in later:
            held_out |= {problem.group for problem in _of_hub(name, source, other, seed=None)}
    dataset = _read(name, source, source.published_split or source.splits[split])
    order = list(range(len(dataset)))
    if seed is not None:
        random.Random(stable_hash("rows", name, split, str(seed))).shuffle(order)
    rows = dataset if seed is None else (dataset[i] for i in order)
    left_out, first = 0, ""
    for row in cast(Iterable[Row], rows):
        try:
            for problem in _problems(name, source, row):
                if problem.group not in held_out:
                    yield problem
        except ValueError as error:
            left_out += 1
            first = first or str(error)
    if left_out == len(dataset) > 0:
        raise InputError(f"--source {name}: no row of {source.hub_id} can be used ({first}). Give --source-file FILE.")
    if left_out:
        logger.warning("%s: %d of %d rows left out (first: %s)", name, left_out, len(dataset), first)


def _of_file(name: str, source: Source, path: str) -> Iterator[Problem]:
    """Problems of a file that has the published columns; it is read whole, as the split that was asked for."""
    for line, row, error in read_records(path):
        if not error and not isinstance(row, dict):
            error = f"found {type(row).__name__}, expected an object"
        if not error and (missing := [column for column in source.columns if column not in row]):
            error = f"found no {', '.join(missing)}, expected the columns {', '.join(source.columns)}"
        if not error:
            try:
                yield from _problems(name, source, row)
                continue
            except (ValueError, TypeError, KeyError, AttributeError) as found:  # a column of another type
                error = str(found) if isinstance(found, ValueError) else f"found a column of another type ({found})"
        raise InputError(f"{path}:{line}: {error}. Correct the row.")


def _problems(name: str, source: Source, row: Row) -> Iterator[Problem]:
    for problem in source.problems(row):
        yield replace(
            problem,
            id=f"{name}/{problem.id}",
            group=problem.group and f"{name}/{problem.group}",
            source=name,
            task=source.task,
            license=source.license,
        )


def _read(name: str, source: Source, published_split: str) -> datasets.Dataset:
    """One published split, all configs one after the other."""
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    # of the HTTP library that this huggingface_hub is built on: httpx, or since 2.0 a fork of it
    http_error = cast(type[Exception], HfHubHTTPError.__base__)
    parts = []
    for config in source.configs:
        try:
            part = _read_config(source, config, published_split)
        except (OSError, ValueError, RuntimeError, DatasetsError, http_error) as error:
            reason = one_line(error).rstrip(".")
            raise InputError(
                f"--source {name}: {source.hub_id} (config {config}, split {published_split}, revision "
                f"{source.revision}) cannot be read: {reason}. Check the network, HF_ENDPOINT and HF_TOKEN, or give "
                f"--source-file FILE with the columns {', '.join(source.columns)}."
            ) from error
        if missing := [column for column in source.columns if column not in part.column_names]:
            raise InputError(
                f"--source {name}: {source.hub_id} has the columns {', '.join(part.column_names)}, expected "
                f"{', '.join(missing)} too. Give --source-file FILE with the published columns."
            )
        parts.append(part)
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _read_config(source: Source, config: str, published_split: str) -> datasets.Dataset:
    import datasets
    from huggingface_hub import snapshot_download

    if source.revision != PARQUET_BRANCH:
        return datasets.load_dataset(source.hub_id, config, split=published_split, revision=source.revision)
    # the branch has no card that names its configs: there a config is a folder, and `load_dataset` by folder does not
    # find its own cache when offline (datasets 5.2)
    folder = f"{config}/{published_split}"
    local = snapshot_download(
        source.hub_id, repo_type="dataset", revision=source.revision, allow_patterns=f"{folder}/*.parquet"
    )
    if not (files := sorted(map(str, Path(local, folder).glob("*.parquet")))):
        raise FileNotFoundError(f"no Parquet file in {folder}")
    return datasets.load_dataset("parquet", data_files={published_split: files}, split=published_split)
