"""The sets made from whole Arrow tables: equal to the definition in `curate`, split by question, doubles counted once."""

import random

import numpy as np
import orjson
import pyarrow as pa
import pytest

from reflectevo_data.curation import batches
from reflectevo_data.curation.batches import Curation, curated_batches
from reflectevo_data.curation.curate import dplus_rows, dpm_rows, dpref_rows
from reflectevo_data.curation.flat_trials import FlatTrials
from reflectevo_data.curation.near_duplicates import NearDuplicateIndex
from reflectevo_data.rollouts import records
from reflectevo_data.rollouts.records import RAW_SCHEMA, open_run
from reflectevo_data.schema import CONFIGS
from tests.data.random_runs import curated_rows, random_preferences, random_row, row, trial, write_run


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
    made, _ = curated_rows(run, max_pairs=max_pairs, include_leaks=include_leaks, near_duplicates="off")

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
    made, _ = curated_rows(run, validation_fraction=0.3)
    group_of = {entry["id"]: entry["group"] or entry["id"] for entry in rows}
    groups = {s: {group_of[r["id"]] for c in CONFIGS for r in made[c][s]} for s in ("train", "validation")}
    assert not groups["train"] & groups["validation"]
    assert 0.2 < len(made["raw"]["validation"]) / 300 < 0.4
    # a question does not move when others come or go
    write_run(tmp_path / "half", rows[::2])
    half, _ = curated_rows(tmp_path / "half", validation_fraction=0.3)
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
    _, counts = curated_rows(
        write_run(tmp_path / "run", [row(0, output), row(1, [trial(1, is_correct=True), trial(2)])])
    )
    assert (counts.n_records, counts.n_reflections) == (2, 6)
    assert (counts.n_duplicates, counts.n_empty, counts.n_leaks, counts.n_failed) == (1, 1, 1, 2)


def test_records_that_runs_have_in_common_count_once(tmp_path):
    rows = [row(number) for number in range(3)]
    first = write_run(tmp_path / "a", rows)
    others = [row(1, generator="other"), row(1, reflector="other"), row(1, corrector="other")]
    second = write_run(tmp_path / "b", [rows[1], row(1, seed=1), row(1, question="Other?"), *others])
    made, counts = curated_rows(first, second)
    assert (counts.n_records, counts.n_doubles) == (9, 1)
    assert len(both_splits(made, "raw")) == 8


def test_a_reflection_that_another_run_wrote_on_the_same_question_counts_once(tmp_path):
    said = [trial(1), trial(2, is_correct=True, reflections=["Check step 2."])]
    first = write_run(tmp_path / "a", [row(0, said), row(1, said)])
    second = write_run(tmp_path / "b", [row(0, said, seed=1)])
    made, counts = curated_rows(first, second)
    assert counts.n_duplicates == 1
    assert [(r["id"], r["reflections"]) for r in both_splits(made, "dplus")] == [
        ("q/0", "Check step 2."),
        ("q/1", "Check step 2."),
    ]
    assert len(both_splits(made, "raw")) == 3


def test_near_duplicates_are_counted_and_dropped_on_request(tmp_path):
    words = [f"word{i}" for i in range(60)]
    said = [" ".join(words), " ".join([*words[:59], "CHANGED"]).title(), " ".join(reversed(words)), "short one"]
    rows = [row(i, [trial(1), trial(2, is_correct=True, reflections=[text])]) for i, text in enumerate(said)]
    run = write_run(tmp_path / "run", rows)
    for asked, n_found, n_left in (("off", 0, 4), ("count", 1, 4), ("drop", 1, 3)):
        made, counts = curated_rows(run, near_duplicates=asked)
        assert counts.n_near_duplicates == n_found
        assert len(both_splits(made, "dplus")) == n_left
        assert len(both_splits(made, "raw")) == 4
    assert sorted(r["id"] for r in both_splits(made, "dplus")) == ["q/0", "q/2", "q/3"]


def test_texts_that_are_three_quarters_alike_are_different():
    index = NearDuplicateIndex()
    for family in range(6):  # whether a pair is compared at all is a matter of its hashes
        words = [f"word{family}x{i}" for i in range(60)]
        other = [*words[:52], *(f"other{family}x{i}" for i in range(8))]
        assert index.add([" ".join(words), " ".join(other)]) == [True, True]


def test_texts_of_all_batches_are_remembered():
    index = NearDuplicateIndex()
    assert index.add(["check the sign of step two", "carry the one"]) == [True, True]
    assert index.add(["read the question again", "draw the figure"]) == [True, True]
    assert index.add(["carry the one", "draw the figure"]) == [False, False]


def test_records_are_read_a_few_chunks_ahead(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", [row(number) for number in range(50)])
    n_read = 0

    def counted(path):
        nonlocal n_read
        for chunk in records.read_chunks(path, chunk_bytes=1):
            n_read += 1
            yield chunk

    monkeypatch.setattr(batches, "read_chunks", counted)
    made = curated_batches([open_run(run)], Curation())
    assert next(made).counts.n_records == 1
    assert n_read == 3
    assert sum(batch.counts.n_records for batch in made) == 49


def test_a_slice_of_a_batch_has_its_own_trials():
    rows = [row(i, [trial(1), *(trial(2, reflections=[f"note {i}{k}"]) for k in range(i))]) for i in range(4)]
    flat = FlatTrials(pa.RecordBatch.from_pylist(rows, schema=RAW_SCHEMA).slice(1, 2))
    assert flat.ids == ["q/1", "q/2"]
    assert flat.starts.tolist() == [0, 2]
    assert flat.row_of.tolist() == [0, 0, 1, 1, 1]
    assert flat.samples.tolist() == [False, True, False, True, True]
    assert flat.reflections(np.array([1, 3, 4])).to_pylist() == ["note 10", "note 20", "note 21"]
