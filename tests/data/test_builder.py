"""The sets made from whole Arrow tables: equal to the definition in `curate`, split by question, doubles counted once."""

import random

import datasets
import orjson
import pyarrow as pa
import pytest

from reflectevo_data.builder import ReflectEvo
from reflectevo_data.curation.batches import Curation, curated_batches
from reflectevo_data.curation.curate import dplus_rows, dpm_rows, dpref_rows
from reflectevo_data.errors import InputError
from reflectevo_data.rollouts import records
from reflectevo_data.rollouts.records import open_run, parse_chunk, read_chunks
from reflectevo_data.schema import CONFIGS, features
from tests.data.random_runs import random_preferences, random_row, row, trial, write_run


def build(*folders, **options):
    """Config -> split -> rows, and the counts, of a whole pass."""
    rows = {config: {"train": [], "validation": []} for config in CONFIGS}
    total = None
    for tables, counts in curated_batches([open_run(folder) for folder in folders], Curation(**options)):
        total = counts if total is None else total + counts
        for config, splits in tables.items():
            for split, batch in splits.items():
                rows[config][split] += batch.to_pylist()
    return rows, total


def both_splits(rows, config):
    return sorted(rows[config]["train"] + rows[config]["validation"], key=orjson.dumps)


@pytest.mark.parametrize("include_leaks", [False, True])
@pytest.mark.parametrize("max_pairs", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_tables_equal_the_rows_that_curate_defines(tmp_path, monkeypatch, seed, max_pairs, include_leaks):
    monkeypatch.setattr(records.read_chunks, "__kwdefaults__", {"chunk_bytes": 20_000})  # several chunks
    rng = random.Random(seed)
    rows = [random_row(rng, number) for number in range(200)]
    preferences = random_preferences(rng, rows)
    run = write_run(tmp_path / "run", rows, preferences)
    made, _ = build(run, max_pairs=max_pairs, include_leaks=include_leaks, near_duplicates="off")

    options = {"include_leaks": include_leaks}
    expected = {
        "raw": rows,
        "dplus": [made for entry in rows for made in dplus_rows(entry, **options)],
        "dpm": [made for entry in rows for made in dpm_rows(entry, max_pairs=max_pairs, **options)],
        "dpref": [
            made
            for entry in rows
            for made in dpref_rows(
                entry, [p for p in preferences if p["id"] == entry["id"]], max_pairs=max_pairs, **options
            )
        ],
    }
    for config in CONFIGS:
        assert len(expected[config]) > 20
        assert both_splits(made, config) == sorted(expected[config], key=orjson.dumps), config


def test_a_question_and_its_group_are_in_one_split_in_every_config(tmp_path):
    rng = random.Random(0)
    rows = [random_row(rng, number) for number in range(300)]
    run = write_run(tmp_path / "run", rows, random_preferences(rng, rows))
    made, _ = build(run, validation_fraction=0.3)
    group_of = {entry["id"]: entry["group"] or entry["id"] for entry in rows}
    groups = {s: {group_of[r["id"]] for c in CONFIGS for r in made[c][s]} for s in ("train", "validation")}
    assert not groups["train"] & groups["validation"]
    assert 0.2 < len(made["raw"]["validation"]) / 300 < 0.4
    # a question does not move when others come or go
    write_run(tmp_path / "half", rows[::2])
    half, _ = build(tmp_path / "half", validation_fraction=0.3)
    in_validation = {entry["id"] for entry in made["raw"]["validation"]}
    assert {r["id"] for r in half["raw"]["validation"]} == in_validation & {r["id"] for r in rows[::2]}


def test_what_is_left_out_is_counted(tmp_path):
    output = [
        trial(1),
        trial(2, reflections=["a b"]),
        trial(2, reflections=["a  b"]),
        trial(2, reflections=[" "]),
        trial(2, leaks_answer=True),
        trial(2, finish_reason="error"),
        trial(2, reflection_finish_reason="error", leaks_answer=True),
    ]
    _, counts = build(write_run(tmp_path / "run", [row(0, output), row(1, [trial(1, is_correct=True), trial(2)])]))
    assert (counts.n_records, counts.n_reflections) == (2, 6)
    assert (counts.n_duplicates, counts.n_empty, counts.n_leaks, counts.n_failed) == (1, 1, 1, 2)


def test_records_that_runs_have_in_common_count_once(tmp_path):
    rows = [row(number) for number in range(3)]
    first = write_run(tmp_path / "a", rows)
    second = write_run(tmp_path / "b", [rows[1], row(1, seed=1), row(1, reflector="other"), row(1, question="Other?")])
    made, counts = build(first, second)
    assert (counts.n_records, counts.n_doubles) == (7, 1)
    assert len(both_splits(made, "raw")) == 6


def test_a_reflection_that_another_run_wrote_on_the_same_question_counts_once(tmp_path):
    said = [trial(1), trial(2, is_correct=True, reflections=["Check step 2."])]
    first = write_run(tmp_path / "a", [row(0, said), row(1, said)])
    second = write_run(tmp_path / "b", [row(0, said, seed=1)])
    made, counts = build(first, second)
    assert counts.n_duplicates == 1
    assert [(r["id"], r["reflections"]) for r in both_splits(made, "dplus")] == [
        ("q/0", "Check step 2."),
        ("q/1", "Check step 2."),
    ]
    assert len(both_splits(made, "raw")) == 3


def test_near_duplicates_are_counted_and_dropped_on_request(tmp_path):
    words = [f"word{i}" for i in range(60)]
    said = [" ".join(words), " ".join([*words[:59], "changed"]), " ".join(reversed(words)), "short one"]
    rows = [row(i, [trial(1), trial(2, is_correct=True, reflections=[text])]) for i, text in enumerate(said)]
    run = write_run(tmp_path / "run", rows)
    for asked, n_found, n_left in (("off", 0, 4), ("count", 1, 4), ("drop", 1, 3)):
        made, counts = build(run, near_duplicates=asked)
        assert counts.n_near_duplicates == n_found
        assert len(both_splits(made, "dplus")) == n_left
        assert len(both_splits(made, "raw")) == 4
    assert sorted(r["id"] for r in both_splits(made, "dplus")) == ["q/0", "q/2", "q/3"]


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
        (row(seed=2**63), "seed: found 9223372036854775808, expected int64"),
        (row(options="abc"), "options: found 'abc', expected a list"),
        (row(0, [trial(1, f1="high")]), r"output\[0\].f1: found 'high', expected float32"),
        (row(0, [trial(1, is_correct=1)]), r"output\[0\].is_correct: found 1, expected bool"),
        (row(0, [trial(1, n_prompt_tokens=2**31)]), r"output\[0\].n_prompt_tokens: found 2147483648, expected int32"),
        (row(0, [without(trial(1), "status")]), r"output\[0\].status: missing"),
        (row(0, [trial(1), trial(2, reflections=[None])]), r"output\[1\].reflections\[0\]: found None"),
        (row(0, [trial(2)]), r"output: found the trials \[2\], expected 1 first"),
        (row(0, [trial(1), trial(1)]), r"output: found the trials \[1, 1\]"),
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


@pytest.mark.parametrize(
    "line", [{"id": "q/0", "chosen": 1}, {"id": 3, "chosen": 1, "rejected": 2, "judge": "self"}, [1]]
)
def test_a_bad_preference_is_refused(tmp_path, line):
    run = write_run(tmp_path / "run", [row()], [line])
    with pytest.raises(InputError, match=r"preferences\.jsonl: .*judge again"):
        open_run(run)


@pytest.fixture
def hf_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "cache"


@pytest.mark.parametrize("config", CONFIGS)
def test_the_builder_materialises_one_config(tmp_path, hf_cache, config):
    rng = random.Random(0)
    rows = [random_row(rng, number) for number in range(120)]
    run = write_run(tmp_path / "run", rows, random_preferences(rng, rows))
    expected, _ = build(run)
    builder = ReflectEvo(cache_dir=str(hf_cache), config_name=config, runs=[str(run)])
    builder.download_and_prepare()
    for split in ("train", "validation"):
        made = builder.as_dataset(split=split)
        assert made.features == features(config)
        assert made.to_list() == expected[config][split]


def test_the_builder_sees_that_a_run_has_grown(tmp_path, hf_cache):
    for n in (5, 9):
        run = write_run(tmp_path / "run", [row(number) for number in range(n)])
        builder = ReflectEvo(cache_dir=str(hf_cache), config_name="raw", runs=[str(run)])
        builder.download_and_prepare()
        assert sum(len(split) for split in builder.as_dataset().values()) == n


def test_arrow_schemas_are_the_published_features():
    for config in CONFIGS:
        assert records.arrow_schema(config) == features(config).arrow_schema.remove_metadata()
        assert isinstance(records.arrow_schema(config), pa.Schema)
