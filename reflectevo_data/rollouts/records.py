"""Run directories -> Arrow tables of raw rows, checked, a few megabytes at a time.

A run directory has `manifest.json`, `records.jsonl` (one raw row a line) and, once judged, `preferences.jsonl`. The
records are parsed by pyarrow; a chunk that it refuses, or that breaks a rule of the raw rows, is read again line by
line, so that the message can name the line.
"""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json

from ..errors import InputError
from ..schema import COLUMNS, ColumnType, RankedPair, ranked_pair
from .manifest import Manifest, load_manifest
from .store import PREFERENCES, RECORDS, load_preferences


CHUNK_BYTES = 8 << 20
_RANGES = {"int32": range(-(2**31), 2**31), "int64": range(-(2**63), 2**63)}
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "int32": (int,),
    "int64": (int,),
    "float32": (int, float),
}


class JudgedRun(NamedTuple):
    """A run directory whose manifest and preferences, if there are any, have been read.

    Attributes:
        preferences: Question id -> the pairs that the judge ranked, in the order of the file.
        n_undecided: Pairs without a winner: ties, unreadable or failed verdicts.
    """

    folder: Path
    manifest: Manifest
    preferences: dict[str, list[RankedPair]]
    n_undecided: int

    @property
    def records(self) -> Path:
        return self.folder / RECORDS


class Chunk(NamedTuple):
    """Whole lines of one records file, from byte `start` on."""

    path: Path
    start: int
    content: memoryview


def open_run(folder: str | Path) -> JudgedRun:
    """The run in this folder, its preferences without the ties.

    Raises:
        InputError: No run is there, or its manifest or preferences cannot be read.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    preferences: dict[str, list[RankedPair]] = defaultdict(list)
    n_undecided = 0
    for row in load_preferences(folder):
        if fault := _preference_fault(row):
            raise InputError(f"{folder / PREFERENCES}: {fault} in {_show(row)}. Remove the line and judge again.")
        if pair := ranked_pair(row):
            preferences[row["id"]].append(pair)
        else:
            n_undecided += 1
    return JudgedRun(folder, manifest, preferences, n_undecided)


def read_chunks(path: Path, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The file's whole lines, about `chunk_bytes` at a time; a half-written last line is left out."""
    start, size = 0, chunk_bytes
    with path.open("rb") as file:
        while block := file.read(size):
            if end := block.rfind(b"\n") + 1:
                yield Chunk(path, start, memoryview(block)[:end])
                start, size = start + end, chunk_bytes
            elif len(block) < size:
                return
            else:
                size *= 2  # a line longer than a chunk
            file.seek(start)


def arrow_type(column: ColumnType) -> pa.DataType:
    """The Arrow type of one entry of `schema.COLUMNS`."""
    if isinstance(column, list):
        return pa.list_(arrow_type(column[0]))
    if isinstance(column, dict):
        return pa.struct([(name, arrow_type(entry)) for name, entry in column.items()])
    return {
        "string": pa.string(),
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
    }[column]


def arrow_schema(config: str) -> pa.Schema:
    """The Arrow schema of one config, columns in their published order, no metadata."""
    return pa.schema([(name, arrow_type(column)) for name, column in COLUMNS[config].items()])


RAW_SCHEMA = arrow_schema("raw")
_PARSE = pyarrow.json.ParseOptions(explicit_schema=RAW_SCHEMA, unexpected_field_behavior="error")


def parse_chunk(chunk: Chunk) -> pa.RecordBatch:
    """The chunk's records as one batch of raw rows.

    Raises:
        InputError: A line is not a raw row; the message names file, line and column.
    """
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=len(chunk.content) + 1)
    try:
        table = pyarrow.json.read_json(pa.BufferReader(chunk.content), read_options=options, parse_options=_PARSE)
        batch = table.combine_chunks().to_batches(max_chunksize=None)[0] if table.num_rows else _empty()
        sound = batch.schema.equals(RAW_SCHEMA) and not _has_nulls(batch) and _keeps_the_rules(batch)
    except pa.ArrowInvalid as error:
        _raise_first_fault(chunk)
        raise AssertionError(
            f"{chunk.path}: pyarrow refuses lines that look sound, from byte {chunk.start}"
        ) from error
    if not sound:
        _raise_first_fault(chunk)
        raise AssertionError(f"{chunk.path}: found unsound lines, and then none, from byte {chunk.start}")
    return batch


def fault_of(row: Any) -> str:
    """What is wrong with one raw row, in words; empty when nothing is."""
    if fault := _type_fault(COLUMNS["raw"], row, ""):
        return fault
    trials = [trial["trial"] for trial in row["output"]]
    if trials[:1] != [1] or min(trials[1:], default=2) < 2:
        return f"output: found the trials {trials}, expected 1 first, then 2 or more"
    for i, trial in enumerate(row["output"]):
        if len(trial["reflections"]) != (i > 0):
            return f"output[{i}].reflections: found {len(trial['reflections'])}, expected {int(i > 0)}"
        if len(trial["reasoning_prompt"]) != 2:
            found = len(trial["reasoning_prompt"])
            return f"output[{i}].reasoning_prompt: found {found} texts, expected prompt and prefill"
    return ""


def _type_fault(column: ColumnType, value: Any, where: str) -> str:
    if isinstance(column, dict):
        if not isinstance(value, dict):
            return f"{where or 'the line'}: found {_show(value)}, expected an object"
        prefix = f"{where}." if where else ""
        if missing := [name for name in column if name not in value]:
            return f"{prefix}{missing[0]}: missing"
        if unknown := [name for name in value if name not in column]:
            return f"{prefix}{unknown[0]}: unknown column"
        faults = (_type_fault(entry, value[name], f"{prefix}{name}") for name, entry in column.items())
        return next(filter(None, faults), "")
    if isinstance(column, list):
        if not isinstance(value, list):
            return f"{where}: found {_show(value)}, expected a list"
        return next(filter(None, (_type_fault(column[0], v, f"{where}[{i}]") for i, v in enumerate(value))), "")
    of_type = isinstance(value, _PYTHON_TYPES[column]) and isinstance(value, bool) == (column == "bool")
    if not of_type or (column in _RANGES and value not in _RANGES[column]):
        return f"{where}: found {_show(value)}, expected {column}"
    return ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _raise_first_fault(chunk: Chunk) -> None:
    for number, line in enumerate(bytes(chunk.content).split(b"\n"), 1 + _count_lines(chunk.path, chunk.start)):
        if not line.strip():
            continue
        try:
            fault = fault_of(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            fault = f"not JSON ({error})"
        if fault:
            raise InputError(f"{chunk.path}:{number}: {fault}. Remove the line and resume the run, or correct it.")


def _count_lines(path: Path, n_bytes: int) -> int:
    """Lines that end within the first `n_bytes`."""
    n_lines = 0
    with path.open("rb") as file:
        while n_bytes and (block := file.read(min(n_bytes, 1 << 20))):
            n_lines += block.count(b"\n")
            n_bytes -= len(block)
    return n_lines


def _has_nulls(batch: pa.RecordBatch) -> bool:
    arrays = list(batch.columns)
    while arrays:
        array = arrays.pop()
        if array.null_count:
            return True
        if pa.types.is_list(array.type):
            arrays.append(array.values)
        elif pa.types.is_struct(array.type):
            arrays.extend(array.field(i) for i in range(array.type.num_fields))
    return False


def _keeps_the_rules(batch: pa.RecordBatch) -> bool:
    """Whether every row has a first trial, then later ones with one reflection each, as `fault_of` says it."""
    output = batch.column("output")
    offsets = output.offsets.to_numpy()
    if not np.diff(offsets).all():
        return False
    is_first = np.zeros(len(output.values), bool)
    is_first[offsets[:-1]] = True
    trials = output.values.field("trial").to_numpy()
    n_reflections = np.diff(output.values.field("reflections").offsets.to_numpy())
    n_prompts = np.diff(output.values.field("reasoning_prompt").offsets.to_numpy())
    in_order = np.where(is_first, trials == 1, trials >= 2)
    return bool(in_order.all() and (n_reflections == ~is_first).all() and (n_prompts == 2).all())


def _preference_fault(row: Any) -> str:
    if not isinstance(row, dict):
        return f"found {_show(row)}, expected an object"
    if missing := [name for name in ("id", "chosen", "rejected", "judge") if name not in row]:
        return f"{missing[0]}: missing"
    if not isinstance(row["id"], str) or not isinstance(row["judge"], str):
        return "id, judge: expected texts"
    indices = (row["chosen"], row["rejected"])
    if row["chosen"] is not None and not all(isinstance(i, int) and i > 0 for i in indices):
        return "chosen, rejected: expected places in the row's output, both of second trials"
    return ""


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=RAW_SCHEMA)
