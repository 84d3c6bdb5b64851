"""A file of records, whatever its format -> its rows one by one, each with the place where it stands.

Reads JSON lines, a JSON array or concatenated (pretty-printed) JSON values, Parquet and CSV, told apart by suffix and
content. JSON lines, Parquet and CSV are streams: memory is one record, or one batch of a Parquet file. A JSON array and
concatenated values are held whole as text: one byte a character, two or four in a file with characters beyond Latin-1.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import InputError, one_line


SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")
MAX_RECORD_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_MAX_UNREADABLE = 100  # in a text held whole: each costs a pass over it, for Python counts the lines before an error
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK": "zip"}
_VALUE = re.compile(r"[^\s,]")  # what a value or an array's end begins with, behind white space and commas


class Located(NamedTuple):
    """One record of a file.

    Attributes:
        line: The line on which it starts, from 1; in a Parquet file the row, from 1.
        row: The record, None when it cannot be read.
        error: `found …, expected …` when it cannot be read, else empty.
    """

    line: int
    row: Any
    error: str = ""


def read_records(path: str | Path) -> Iterator[Located]:
    """The records of a file in their order; an unreadable one comes with its `error` and the reading goes on.

    Raises:
        InputError: The file is missing, of no known format, not text where text was expected, or a JSON array or
            concatenated JSON with over a hundred unreadable records.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Expected one of {', '.join(SUFFIXES)}.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix == ".csv":
            yield from _csv(path)
        elif suffix in (".jsonl", ".ndjson", ".json"):
            yield from _json(path)
        else:
            raise InputError(f"{path}: found the suffix {suffix!r}, expected one of {', '.join(SUFFIXES)}. Rename it.")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the file.") from None


def parse_json(text: bytes) -> Any:
    """The value of one JSON text; raises `ValueError` whose message says what was found.

    Beyond the standard, NaN and control characters in a string are taken. orjson refuses them, and makes a float of an
    integer over 64 bits: a gold answer would be another number.
    """
    try:
        return json.loads(text.decode("utf-8"), strict=False)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte 0x{text[error.start]:02x} that is not UTF-8 (at byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg.lower()} at character {error.colno})") from None
    except ValueError:
        raise ValueError("an integer of too many digits") from None
    except RecursionError:
        raise ValueError("JSON nested too deep") from None


def _json(path: Path) -> Iterator[Located]:
    with path.open("rb") as file:
        start = file.read(3)
        for mark, name in _BYTE_ORDER_MARKS.items():
            if start.startswith(mark):
                raise InputError(f"{path}: found {name}, expected UTF-8 text. Convert the file.")
        offset = 3 if start == b"\xef\xbb\xbf" else 0
        file.seek(offset)
        lines = _is_lines(file)
        file.seek(offset)
        yield from _lines(file) if lines else _values(path, str(file.read(), "utf-8", "replace"))


def _is_lines(file: IO[bytes]) -> bool:
    """Whether the first line that is not blank is meant as a whole record: JSON lines, not one JSON over many lines."""
    for line in iter(lambda: file.readline(MAX_RECORD_BYTES), b""):
        text = line.strip()
        if not text:
            continue
        if text.startswith(b"["):
            return False
        try:
            parse_json(text)
        except ValueError as error:
            # `{` alone opens a pretty-printed record; `}{` on one line are concatenated ones; the rest is a bad line
            return text.endswith(b"}") and "extra data" not in str(error)
        return True
    return True


def _lines(file: IO[bytes]) -> Iterator[Located]:
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK_BYTES)
            yield Located(number, None, f"found a line of over {MAX_RECORD_BYTES >> 20} MB, expected a smaller record")
            continue
        text = line.strip()
        if not text:
            continue
        try:
            yield Located(number, parse_json(text))
        except ValueError as error:
            yield Located(number, None, f"found {error}, expected a JSON object on one line")


def _values(path: Path, text: str) -> Iterator[Located]:
    """The values of JSON texts one after the other, in any layout; those of an array one by one.

    After an unreadable one the reading goes on at the next line that opens an object as far to the left. (ijson would
    stream, but it tells no line, ends at the first error, refuses NaN, turns half an emoji into a question mark, and
    takes gigabytes for a hundred thousand opening brackets.)
    """
    decoder = json.JSONDecoder(strict=False)
    end, in_array = 0, False
    line, counted, n_unreadable = 1, 0, 0
    while found := _VALUE.search(text, end):
        start = found.start()
        if text[start] == "]" or (text[start] == "[" and not in_array):
            in_array = text[start] == "["
            end = start + 1
            continue
        line += text.count("\n", counted, start)
        counted = start
        try:
            row, end = decoder.raw_decode(text, start)
            error = ""
        except json.JSONDecodeError as problem:
            row, error = None, f"found no JSON ({problem.msg.lower()}), expected a JSON object"
        except ValueError:
            row, error = None, "found an integer of too many digits, expected a JSON object"
        except RecursionError:
            row, error = None, "found JSON nested too deep, expected a JSON object"
        if error:
            end = _next_object(text, start)
            n_unreadable += 1
            if n_unreadable > _MAX_UNREADABLE:
                raise InputError(f"{path}:{line}: {error}, as in {_MAX_UNREADABLE} records before. Correct the file.")
        yield Located(line, row, error)


def _next_object(text: str, start: int) -> int:
    """Where the next line opens an object at the indentation of the line of `start`; the text's end if none does."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    indentation = before[: len(before) - len(before.lstrip())]
    found = text.find(f"\n{indentation}{{", start)
    return len(text) if found < 0 else found


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield Located(number, row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: no readable Parquet after row {number} ({one_line(error)}). Check the file."
        ) from None


def _csv(path: Path) -> Iterator[Located]:
    csv.field_size_limit(min(MAX_RECORD_BYTES, sys.maxsize))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="")
        line = 1
        try:
            for row in reader:
                line, start = reader.line_num + 1, line
                if "" in row:
                    yield Located(start + (start == 1), None, "found more cells than the header has columns")
                else:
                    yield Located(start + (start == 1), {name: value for name, value in row.items() if value})
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}:{reader.line_num + 1}: no CSV in UTF-8 ({error}). Correct the file.") from None
