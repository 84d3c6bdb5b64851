"""Parquet as it is published, and a folder that appears whole or not at all.

A build goes on beside its folder and is moved into place at the end: whenever it is killed, what was there stays.
"""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..hub.cards import CARD
from ..rollouts.records import arrow_schema
from ..schema import CONFIGS
from .card import SplitSize


BUILD = "build.json"
DATASET_KIND = "reflectevo-dataset"
ROW_GROUP_BYTES = 12 << 20
# Columns whose values repeat. The others are long texts: a dictionary of them is built, found too large and thrown away.
_REPEATING_IN_TRIALS = (
    "trial",
    "generated_answer",
    "error",
    "reasoning_source",
    "reflection_source",
    "instruction",
    "status",
    "f1",
    "finish_reason",
    "reflection_finish_reason",
)
_REPEATING = {
    *("task", "source", "answer", "answer_type", "generator", "reflector", "corrector", "license", "judge"),
    *("instruction", "instruction_rejected", "instruction.list.element", "seed", "test_setup_code"),
    *(f"output.list.element.{name}" for name in _REPEATING_IN_TRIALS),
}


class SplitWriter:
    """Writes one split of one config, a row group at a time, on the executor's threads."""

    def __init__(self, folder: Path, config: str, split: str, executor: Executor, max_shard_bytes: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._split, self._executor = folder, split, executor
        self._schema, self._max_shard_bytes = arrow_schema(config), max_shard_bytes
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._writing: Future[None] | None = None
        self._sink: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._n_rows = self._n_bytes = self._n_shards = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._n_rows += batch.num_rows
        self._n_bytes += batch.nbytes
        if not batch.num_rows:
            return
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> SplitSize | None:
        """Writes what waits and gives the files their names; None when there is no row, and so no file."""
        if self._waiting:
            self._flush()
        if self._writing:
            self._writing.result()
        self._close_shard()
        for i in range(self._n_shards):
            self._shard(i).rename(self._folder / f"{self._split}-{i:05d}-of-{self._n_shards:05d}.parquet")
        return SplitSize(self._n_rows, self._n_bytes) if self._n_rows else None

    def _flush(self) -> None:
        if self._writing:
            self._writing.result()
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_bytes = [], 0
        self._writing = self._executor.submit(self._write, table)

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._sink = pa.OSFile(str(self._shard(self._n_shards)), "wb")
            repeating: Any = [name for name in _REPEATING if name.split(".")[0] in self._schema.names]
            self._writer = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                use_dictionary=repeating,
                write_statistics=repeating,  # the least and greatest of long texts, whole, would fill the footers
            )
            self._n_shards += 1
        self._writer.write_table(table, row_group_size=table.num_rows)
        if self._sink is not None and self._sink.tell() >= self._max_shard_bytes:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None

    def _shard(self, i: int) -> Path:
        return self._folder / f"{self._split}-{i:05d}.parquet"


@contextmanager
def replacing(output: Path) -> Generator[Path]:
    """A new folder beside `output` that takes its place when the block ends well."""
    _refuse_foreign(output)
    part = output.with_name(f".{output.name}.part")
    previous = output.with_name(f".{output.name}.previous")
    part.mkdir(parents=True, exist_ok=True)
    lock = os.open(part, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{output}: another build is writing it. Wait for it or name another --output.") from None
        if previous.exists() and not output.exists():  # killed between the two moves below
            previous.rename(output)
        _clear(part)  # of a build that was killed
        try:
            yield part
            shutil.rmtree(previous, ignore_errors=True)
            if output.exists():
                output.rename(previous)
            part.rename(output)
            shutil.rmtree(previous, ignore_errors=True)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _refuse_foreign(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output}: a file, expected a folder. Name another --output.")
    entries = {entry.name for entry in output.iterdir()}
    if not entries:
        return
    try:
        ours = orjson.loads((output / BUILD).read_bytes()).get("kind") == DATASET_KIND
    except (OSError, orjson.JSONDecodeError, AttributeError):
        ours = False
    if not ours:
        raise InputError(f"{output}: not empty and not a dataset built before (no {BUILD}). Name another --output.")
    if foreign := sorted(entries - {*CONFIGS, CARD, BUILD}):
        raise InputError(
            f"{output}: also holds {', '.join(foreign[:3])}, which a build would remove. Move it or name another --output."
        )
