"""The reader of files of records: the same rows from every layout, each with its line, and what a broken one costs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectevo_data.errors import InputError
from reflectevo_data.sources.reading import Located, read_records
from tests.reference import REFERENCE, needs_reference, reference_rows


NO_JSON = "found no JSON (expecting value), expected a JSON object"


def read(folder: Path, content: str | bytes, name: str = "my.json") -> list[Located]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records(path))


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
records = st.dictionaries(st.sampled_from(["id", "question", "answer", "output"]), values, min_size=1)
line_ends = st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\n"])


class File(NamedTuple):
    """A text, and for each record in it the line on which it begins and the row; None of a broken one."""

    text: str
    places: list[tuple[int, Any]]


@st.composite
def files(draw: st.DrawFn, *, one_broken: bool = False) -> File:
    """JSON lines, an array or concatenated records, each record on lines of its own; one of them cut short."""
    rows: list[Any] = draw(st.lists(records, min_size=one_broken, max_size=5))
    layout = draw(st.sampled_from(["lines", "array", "concatenated"]))
    pretty = layout == "concatenated" or (layout == "array" and draw(st.booleans()))
    # with an indent of 0 what is within a record stands as far to the left as the next one, and is taken for it
    indent = draw(st.sampled_from([1, 4, "\t"] if one_broken else [0, 1, 4, "\t"])) if pretty else None
    ascii_only = draw(st.booleans())
    texts = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows]
    if one_broken:
        broken = draw(st.integers(0, len(rows) - 1))
        texts[broken] = texts[broken][: draw(st.integers(1, len(texts[broken]) - 1))]
        rows[broken] = None
    margin = draw(st.sampled_from(["", "  "])) if layout == "array" else ""
    comma = "," if layout == "array" or (layout == "concatenated" and draw(st.booleans())) else ""
    whole, places = "[\n" if layout == "array" else "", []
    for number, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
        places.append((1 + whole.count("\n"), row))
        whole += margin + text.replace("\n", f"\n{margin}") + (comma if number < len(rows) else "") + draw(line_ends)
    return File(whole + ("]" if layout == "array" else ""), places)


@settings(deadline=None)
@given(file=files(), mark=st.sampled_from(["", "\ufeff"]))
def test_the_same_rows_from_every_layout_each_with_its_line(tmp_path_factory, file, mark):
    found = read(tmp_path_factory.getbasetemp(), mark + file.text)
    assert found == [Located(line, row) for line, row in file.places]


@settings(deadline=None)
@given(file=files(one_broken=True))
def test_a_truncated_record_is_lost_alone_with_its_line(tmp_path_factory, file):
    found = read(tmp_path_factory.getbasetemp(), file.text)
    assert [(line, row) for line, row, _ in found] == file.places
    assert [error.startswith("found no JSON (") for _, _, error in found] == [row is None for _, row in file.places]


@pytest.mark.parametrize("separator", ["", " ", ",", ", "])
def test_records_without_line_ends_between_them(tmp_path, separator):
    rows = [{"id": 1, "output": [{}]}, {"id": 2}]
    compact, pretty = (separator.join(json.dumps(row, indent=indent) for row in rows) for indent in (None, 4))
    assert read(tmp_path, compact) == [Located(1, rows[0]), Located(1, rows[1])]
    assert read(tmp_path, pretty) == [Located(1, rows[0]), Located(6, rows[1])]  # what `json.dump` in a loop leaves
    assert read(tmp_path, json.dumps(rows)) == [Located(1, rows[0]), Located(1, rows[1])]


@needs_reference
def test_the_upstream_raw_example_is_concatenated():
    assert [one.line for one in read_records(REFERENCE / "example_raw.jsonl")] == list(range(1, 400, 40))
    assert [one.row for one in read_records(REFERENCE / "example_raw.jsonl")] == reference_rows("example_raw.jsonl")


@pytest.mark.parametrize(
    ("value", "row"),
    [
        ("Infinity", float("inf")),  # as Python writes it
        ("1e400", float("inf")),
        ('"a\tb"', "a\tb"),  # a text that was pasted in
        (r'"cut \ud83d"', "cut \ud83d"),  # half an emoji, where a model's answer was cut: the importer repairs it
        ("1267650600228229401496703205376", 2**100),  # a gold answer, which as a float would be another one
        ("1.0", 1.0),
        ("1", 1),
    ],
)
def test_values_are_the_same_in_every_layout(tmp_path, value, row):
    for text in (f'{{"a": {value}}}', f'{{\n"a": {value}\n}}', f'[{{"a": {value}}}]'):
        (found,) = read(tmp_path, text)
        assert (found.row, found.error) == ({"a": row}, "")
        assert type(found.row["a"]) is type(row)


def test_not_a_number(tmp_path):
    for text in ('{"a": NaN}', '{\n"a": NaN\n}'):
        (found,) = read(tmp_path, text)
        assert found.row["a"] != found.row["a"]


def test_a_byte_that_is_no_utf_8(tmp_path):
    reason = "found byte 0xff that is not UTF-8 (at byte 8), expected a JSON object on one line"
    assert read(tmp_path, b'{"a": "\xff"}\n{"a": 1}') == [Located(1, None, reason), Located(2, {"a": 1})]
    assert read(tmp_path, b'{\n"a": "\xff"\n}\n{\n"a": 1\n}') == [Located(1, {"a": "\ufffd"}), Located(4, {"a": 1})]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{\n"a": oops\n}\n{\n"b": 2\n}', [Located(1, None, NO_JSON), Located(4, {"b": 2})]),
        ('{\n"a": 1\n}\n}\n{\n"b": 2\n}', [Located(1, {"a": 1}), Located(4, None, NO_JSON), Located(5, {"b": 2})]),
        # not at the objects in it, which stand further to the right
        ('[\n  {"a": oops,\n    "x": [\n    {}]},\n  {"b": 2}\n]', [Located(2, None, NO_JSON), Located(5, {"b": 2})]),
        ('[{"a": oops},\n{"b": 2}]', [Located(1, None, NO_JSON), Located(2, {"b": 2})]),
        ('[{"a": oops}, {"b": 2}]', [Located(1, None, NO_JSON)]),  # no line opens another one
        ("[oops", [Located(1, None, NO_JSON)]),
        ("[" * 100_000, [Located(1, None, "found JSON nested too deep, expected a JSON object")]),
    ],
)
def test_where_the_reading_goes_on_after_a_broken_record(tmp_path, text, found):
    assert read(tmp_path, text) == found


@pytest.mark.parametrize("opening", ["{", "{\n"])
@pytest.mark.parametrize(
    ("value", "reason"), [("[" * 100_000, "JSON nested too deep"), ("1" * 5000, "an integer of too many digits")]
)
def test_too_much_for_python_s_reader(tmp_path, opening, value, reason):
    broken, after = read(tmp_path, f'{opening}"a": {value}}}\n{{"b": 2}}')
    assert broken.error.startswith(f"found {reason}, expected a JSON object")
    assert after.row == {"b": 2}


def test_another_notation_is_refused_before_every_record_is_tried(tmp_path):
    broken = [f"{{\n    'id': {i}\n}}\n" for i in range(102)]
    assert len(read(tmp_path, "".join(broken[:100]))) == 100
    with pytest.raises(InputError, match=r"my\.json:301: found no JSON \(.*, as in 100 records before\. Correct the"):
        read(tmp_path, "".join(broken))


def test_a_huge_line_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("reflectevo_data.sources.reading.MAX_RECORD_BYTES", 1 << 20)
    found = read(tmp_path, '{"a": 1}\n{"a": "' + "x" * (3 << 20) + '"}\n{"a": 3}')
    error = "found a line of over 1 MB, expected a smaller record"
    assert found == [Located(1, {"a": 1}), Located(2, None, error), Located(3, {"a": 3})]


@pytest.mark.parametrize("content", ["", "\n \n", "[]", "[\n\n]\n"])
def test_no_records(tmp_path, content):
    assert read(tmp_path, content) == []


def test_parquet(tmp_path):
    rows = [{"question": "a", "options": None}, {"question": "b", "options": ["x", "y"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    assert list(read_records(tmp_path / "table.parquet")) == [Located(1, rows[0]), Located(2, rows[1])]
    with pytest.raises(InputError, match=r"bad\.parquet: no readable Parquet after row 0"):
        read(tmp_path, b"PAR1", "bad.parquet")


def test_csv(tmp_path):
    found = read(tmp_path, '\ufeffquestion,answer\n"a\nb",4\nc,\nd,5,6\ne,7\n', "my.csv")
    too_many = "found more cells than the header has columns"
    rows = [Located(2, {"question": "a\nb", "answer": "4"}), Located(4, {"question": "c"})]
    assert found == [*rows, Located(5, None, too_many), Located(6, {"question": "e", "answer": "7"})]
    with pytest.raises(InputError, match=r"my\.csv:1: no CSV in UTF-8 \(.*0xff"):
        read(tmp_path, b"question\n\xff\n", "my.csv")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("my.json", '{"question": "a"}'.encode("utf-16"), "found UTF-16, expected UTF-8 text. Convert the file."),
        ("my.json", b"\x1f\x8b\x08\x00", "found gzip, expected UTF-8 text. Convert the file."),
        ("my.json", b"PK\x03\x04", "found zip, expected UTF-8 text. Convert the file."),
        ("my.txt", b"{}", "found the suffix '.txt', expected one of .jsonl, "),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, name, content, reason):
    with pytest.raises(InputError) as refused:
        read(tmp_path, content, name)
    assert str(refused.value).startswith(f"{tmp_path / name}: {reason}")


@pytest.mark.parametrize("name", ["no.parquet", "no.jsonl", "no.csv"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(InputError, match="no such file"):
        list(read_records(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}]\n[{"a": 2}]\n',
        '[{"a": 1}] [{"a": 2}]',
        '{"a":\n1}\n[{"a": 2}]',
        '[]\n[{"a": 1},\n{"a": 2}]',
        '[{"a": 1}],[{"a": 2}]',
    ],
)
def test_arrays_one_after_the_other_are_their_records(tmp_path, text):
    path = tmp_path / "questions.json"
    path.write_text(text)
    assert [record.row for record in read_records(path)] == [{"a": 1}, {"a": 2}]
