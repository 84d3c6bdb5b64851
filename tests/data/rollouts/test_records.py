"""Records as Arrow tables: whole lines, and what is wrong with one said with file, line and column."""

import random

import orjson
import pyarrow as pa
import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.records import arrow_schema, open_run, parse_chunk, read_chunks
from reflectevo_data.schema import CONFIGS, RankedPair, features
from tests.data.random_runs import random_row, row, trial, write_run


def test_chunks_are_whole_lines_and_a_half_written_last_line_is_left_out(tmp_path):
    rows = [random_row(random.Random(i), i) for i in range(20)]
    path = write_run(tmp_path / "run", rows) / "records.jsonl"
    with path.open("ab") as file:
        file.write(orjson.dumps(row(99))[:-1])
    for chunk_bytes in (1, 1000, 10_000, 10**7):
        chunks = list(read_chunks(path, chunk_bytes=chunk_bytes))
        assert [r for chunk in chunks for r in parse_chunk(chunk).to_pylist()] == rows
    assert list(read_chunks(write_run(tmp_path / "none", []) / "records.jsonl")) == []


def without(entry, name):
    return {key: value for key, value in entry.items() if key != name}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", r"the line: found \[1\], expected an object"),
        (without(row(), "task"), "task: missing"),
        (row() | {"tasks": "x"}, "tasks: unknown column"),
        (row(answer=None), "answer: found None, expected string"),
        (row(seed="1"), "seed: found '1', expected int64"),
        (row(seed=True), "seed: found True, expected int64"),
        (row(seed=2**63), "seed: found 9223372036854775808, expected int64"),
        (row(options="abc"), "options: found 'abc', expected a list"),
        (row(0, [trial(1, f1="high")]), r"output\[0\].f1: found 'high', expected float32"),
        (row(0, [trial(1, is_correct=1)]), r"output\[0\].is_correct: found 1, expected bool"),
        (row(0, [trial(1, n_prompt_tokens=2**31)]), r"output\[0\].n_prompt_tokens: found 2147483648, expected int32"),
        (row(0, [without(trial(1), "status")]), r"output\[0\].status: missing"),
        (row(0, [trial(1), trial(2, reflections=[None])]), r"output\[1\].reflections\[0\]: found None"),
        (row(0, [trial(2)]), r"output: found the trials \[2\], expected 1 first"),
        (row(0, [trial(1), trial(1)]), r"output: found the trials \[1, 1\]"),
        (row(0, [trial(1), trial(1, reflections=["a"])]), r"output: found the trials \[1, 1\]"),
        (row(0, [trial(1), trial(2, reflections=["a", "b"])]), r"output\[1\].reflections: found 2, expected 1"),
        (row(0, [trial(1, reasoning_prompt=["p"])]), r"output\[0\].reasoning_prompt: found 1 texts"),
        (row() | {"output": []}, r"output: found the trials \[\]"),
    ],
)
def test_a_bad_line_is_refused_with_file_line_and_column(tmp_path, bad, message):
    good = [orjson.dumps(row(i)) for i in range(50)]
    line = bad if isinstance(bad, bytes) else orjson.dumps(bad)
    run = write_run(tmp_path / "run", [])
    (run / "records.jsonl").write_bytes(b"\n".join([*good[:30], b"", line, *good[30:]]) + b"\n")
    for chunk_bytes in (5000, 10**7):
        with pytest.raises(InputError, match=rf"records\.jsonl:32: {message}"):
            list(map(parse_chunk, read_chunks(run / "records.jsonl", chunk_bytes=chunk_bytes)))


def test_whole_numbers_are_good_floats(tmp_path):
    run = write_run(tmp_path / "run", [row(0, [trial(1, f1=1)])])
    [chunk] = read_chunks(run / "records.jsonl")
    assert parse_chunk(chunk).to_pylist()[0]["output"][0]["f1"] == 1.0


def test_preferences_are_kept_by_question_and_ties_are_counted(tmp_path):
    def said(question, chosen, rejected):
        return {"id": question, "pair": [1, 2], "chosen": chosen, "rejected": rejected, "judge": "self"}

    lines = [said("q/0", 1, 2), said("q/1", None, None), said("q/0", 3, 1), said("q/0", None, None)]
    run = open_run(write_run(tmp_path / "run", [row()], lines))
    assert run.preferences == {"q/0": [RankedPair(1, 2, "self"), RankedPair(3, 1, "self")]}
    assert run.n_undecided == 2


@pytest.mark.parametrize(
    "line",
    [
        {"id": "q/0", "chosen": 1},
        {"id": 3, "chosen": 1, "rejected": 2, "judge": "self"},
        {"id": "q/0", "chosen": 1, "rejected": 0, "judge": "self"},  # the first trial has no reflection
        [1],
    ],
)
def test_a_bad_preference_is_refused(tmp_path, line):
    run = write_run(tmp_path / "run", [row()], [line])
    with pytest.raises(InputError, match=r"preferences\.jsonl: .*judge again"):
        open_run(run)


def test_arrow_schemas_are_the_published_features():
    for config in CONFIGS:
        assert arrow_schema(config) == features(config).arrow_schema.remove_metadata()
        assert isinstance(arrow_schema(config), pa.Schema)
