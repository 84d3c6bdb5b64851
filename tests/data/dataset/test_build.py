"""The built folder: what `load_dataset` makes of it, its card, and that it appears whole or not at all."""

import random
import shutil
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import datasets
import jinja2
import orjson
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from reflectevo_data.curation.curate import Curation
from reflectevo_data.dataset import build, write
from reflectevo_data.dataset.build import build_dataset
from reflectevo_data.dataset.statistics import LengthUnit, count_words, stats_table
from reflectevo_data.errors import InputError
from reflectevo_data.hub.cards import BEGIN, END, public_name, render
from reflectevo_data.schema import COLUMNS, CONFIGS, features
from reflectevo_data.sources.decontaminate import TestQuestions
from tests.data.random_runs import TASKS, random_preferences, random_row, row, trial, write_run


NAME = "ReflectEvo-460K"


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network, a cache of its own, and the folder that holds the dataset as working directory."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)


def random_run(folder, *, seed=0, n=200, **changes):
    rng = random.Random(seed)
    rows = [random_row(rng, number) | changes for number in range(n)]
    return write_run(folder, rows, random_preferences(rng, rows))


@pytest.fixture
def run(tmp_path):
    return random_run(tmp_path / "run")


def published(folder):
    """Config -> split -> rows, as the Parquet files have them."""
    return {
        config: {
            split: [r for file in sorted(folder.glob(f"{config}/{split}-*")) for r in pq.read_table(file).to_pylist()]
            for split in ("train", "validation")
        }
        for config in CONFIGS
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_load_dataset_offline_from_the_parent_folder(tmp_path, run, config):
    build_dataset([run], tmp_path / NAME, curation=Curation(validation_fraction=0.2))
    expected = published(tmp_path / NAME)[config]
    loaded = datasets.load_dataset(NAME, config)
    streamed = datasets.load_dataset(NAME, config, streaming=True)
    assert list(loaded) == list(streamed) == ["train", "validation"]
    for split in loaded:
        assert loaded[split].features == streamed[split].features == features(config)
        assert list(loaded[split].features) == list(COLUMNS[config])
        assert len(expected[split]) > 5
        assert loaded[split].to_list() == list(streamed[split]) == expected[split]


def test_a_rebuild_with_other_data_is_not_served_from_the_cache(tmp_path, run):
    first = build_dataset([run], tmp_path / NAME)
    before = datasets.load_dataset(NAME, "raw", split="train").to_list()
    again = build_dataset([run], tmp_path / NAME)
    assert again.versions == first.versions
    # the same shape and the same number of bytes: nothing but the version tells the two cards apart
    lines = (run / "records.jsonl").read_bytes()
    (run / "records.jsonl").write_bytes(lines.replace("Ünïcode".encode(), "Ünïcoda".encode()))
    other = build_dataset([run], tmp_path / NAME)
    assert other.sizes == first.sizes
    assert all(other.versions[config] != first.versions[config] for config in CONFIGS)
    after = datasets.load_dataset(NAME, "raw", split="train").to_list()
    assert before != after == published(tmp_path / NAME)["raw"]["train"]


def test_a_split_without_rows_is_left_out_and_a_config_without_rows_keeps_its_columns(tmp_path):
    report = build_dataset([write_run(tmp_path / "run", [row()])], tmp_path / NAME)
    assert list(datasets.load_dataset(NAME, "raw")) == ["train"]
    for config in ("dplus", "dpm", "dpref"):
        assert report.sizes[config]["train"].n_rows == 0
        streamed = datasets.load_dataset(NAME, config, streaming=True)
        assert list(streamed) == ["train"]
        assert list(streamed["train"]) == []
        assert streamed["train"].features == features(config)
        assert datasets.load_dataset_builder(NAME, config).info.features == features(config)


def test_runs_without_records_build_an_empty_dataset(tmp_path):
    report = build_dataset([write_run(tmp_path / "run", [])], tmp_path / NAME)
    assert {config: split["train"].n_rows for config, split in report.sizes.items()} == dict.fromkeys(CONFIGS, 0)
    [total] = stats_table(tmp_path / NAME).split("\n\n")[0].splitlines()[2:]
    assert {cell.strip() for cell in total.split("|")[2:-1]} == {"0", "–"}


def test_files_are_sharded_zstd_without_the_library_s_metadata(tmp_path, run, monkeypatch):
    monkeypatch.setattr(write, "ROW_GROUP_BYTES", 1)  # a row group a run, for each run is a chunk
    second = random_run(tmp_path / "second", seed=1)
    records = second / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"seed":0', b'"seed":1'))
    build_dataset([second, run], tmp_path / NAME, max_shard_bytes=1)
    names = sorted(path.name for path in (tmp_path / NAME / "raw").glob("train-*"))
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    for path in (tmp_path / NAME).glob("*/*.parquet"):
        metadata = pq.read_metadata(path)
        assert b"huggingface" not in (metadata.metadata or {})
        for group in range(metadata.num_row_groups):
            columns = metadata.row_group(group)
            assert {columns.column(i).compression for i in range(columns.num_columns)} == {"ZSTD"}
    assert len(datasets.load_dataset(NAME, "raw", split="train")) == len(published(tmp_path / NAME)["raw"]["train"])


def test_the_card_describes_the_files(tmp_path, run):
    report = build_dataset([run], tmp_path / NAME)
    card = DatasetCard.load(tmp_path / NAME / "README.md")
    data = card.data.to_dict()
    assert {config["config_name"]: config["version"] for config in data["configs"]} == report.versions
    assert data["license"] == "cc-by-4.0"
    assert {info["config_name"] for info in data["dataset_info"]} == set(CONFIGS)
    for info in data["dataset_info"]:
        rows = published(tmp_path / NAME)[info["config_name"]]
        assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
            split: len(of_split) for split, of_split in rows.items()
        }
        files = (tmp_path / NAME / info["config_name"]).iterdir()
        assert info["download_size"] == sum(path.stat().st_size for path in files)
    text = card.text
    for said in (
        "`Qwen/Qwen3-0.6B`",
        "temperature 0.8",
        "Seed: 7",
        "`0123456789abcdef`",
        "datasets 5.2.0",
        "| questions | 200 | CC-BY-4.0 |",
        "arXiv:2505.16475",
        f'load_dataset("{NAME}", "dpref")',
        "| **Total** ",
    ):
        assert said in text, said
    assert stats_table(tmp_path / NAME).splitlines()[0] in text
    assert all(f"`{column}`" in text for config in CONFIGS for column in COLUMNS[config])


def test_the_card_tells_licences_overlap_and_leaks(tmp_path):
    rows = [row(0, license="MIT"), row(1, license="", source="other"), row(2, [trial(1), trial(2, leaks_answer=True)])]
    test_questions = TestQuestions.of([SimpleNamespace(id="t", question=rows[1]["question"], group="")])
    evaluation = {"logiqa, split test": test_questions, "mbpp, split test": "the Hub cannot be reached"}
    report = build_dataset([write_run(tmp_path / "run", rows)], tmp_path / NAME, evaluation=evaluation)
    text = (tmp_path / NAME / "README.md").read_text()
    assert "license: other" in text
    assert "| other | 1 | not stated |" in text
    assert "logiqa, split test: 1 of 3 questions overlap (a run of 13 words in common" in text
    assert "mbpp, split test: not checked (the Hub cannot be reached)" in text
    assert "| state the gold answer (`leaks_answer` in `raw`) | 1 | left out |" in text
    build = orjson.loads((tmp_path / NAME / "build.json").read_bytes())
    assert build["counts"]["n_leaks"] == report.counts.n_leaks == 1
    assert [found["n_overlapping"] for found in build["decontamination"]] == [1, None]


def test_nothing_of_this_machine_is_published(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_published")
    build_dataset([run], tmp_path / NAME)
    files = [path for path in (tmp_path / NAME).rglob("*") if path.is_file()]
    assert {path.name for path in files if path.parent == tmp_path / NAME} == {"README.md", "build.json"}
    assert {path.suffix for path in files if path.parent != tmp_path / NAME} == {".parquet"}
    for path in files:
        if path.suffix == ".parquet":
            text = f"{pq.read_table(path).to_pylist()} {pq.read_metadata(path).metadata}"
        else:
            text = path.read_text().replace("annotations_creators", "")
        for secret in (str(tmp_path), "/home/", "ann", "hf_not_to_be_published", socket.gethostname()):
            assert secret not in text, (path.name, secret)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("miniature", "miniature"),
        ("/home/ann/models/tiny", "tiny"),
        ("./out/refl", "refl"),
        ("~/refl/", "refl"),
        ("C:\\models\\tiny", "tiny"),
        ("data/questions.jsonl", "questions.jsonl"),
        ("", ""),
    ],
)
def test_public_names(name, public):
    assert public_name(name) == public


def test_a_template_with_a_missing_value_fails():
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        render("dataset_card.md", name="x")


def test_what_a_person_wrote_on_the_card_survives_a_rebuild(tmp_path, run):
    build_dataset([run], tmp_path / NAME)
    path = tmp_path / NAME / "README.md"
    edited = path.read_text().replace(BEGIN, f"My words before.\n{BEGIN}").replace(END, f"{END}\nMy words after.")
    edited = edited.replace("tags:\n- self-reflection\n", "language: en\ntags:\n- self-reflection\n- mine\n")
    path.write_text(edited)
    random_run(run, seed=5, n=60, license="MIT")
    build_dataset([run], tmp_path / NAME)
    card = DatasetCard.load(path)
    text = path.read_text()
    assert text.index("My words before.") < text.index(BEGIN) < text.index(END) < text.index("My words after.")
    assert (card.data.language, "mine" in card.data.tags) == ("en", True)
    assert card.data.license == "mit"  # the person did not touch it
    assert "| questions | 60 | MIT |" in text
    assert "| questions | 200 |" not in text
    assert len(datasets.load_dataset(NAME, "raw", split="train")) == len(published(tmp_path / NAME)["raw"]["train"])


def test_an_interrupted_build_leaves_what_was_there(tmp_path, run, monkeypatch):
    build_dataset([run], tmp_path / NAME)
    before = {path: path.read_bytes() for path in (tmp_path / NAME).rglob("*") if path.is_file()}
    records = run / "records.jsonl"
    records.write_bytes(records.read_bytes() + b'{"id": 3}\n')
    with pytest.raises(InputError, match=r"records\.jsonl:201"):
        build_dataset([run], tmp_path / NAME)
    monkeypatch.setattr(build, "_describe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_dataset([random_run(tmp_path / "good", n=5)], tmp_path / NAME)
    assert {path: path.read_bytes() for path in (tmp_path / NAME).rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir() if NAME in path.name) == [NAME]


def test_a_killed_build_leaves_what_was_there_and_is_cleared_by_the_next(tmp_path, run):
    build_dataset([run], tmp_path / NAME)
    before = published(tmp_path / NAME)
    dies = (
        "import os, signal, reflectevo_data.dataset.build as p\n"
        "p._describe = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"p.build_dataset([{str(run)!r}], {str(tmp_path / NAME)!r})"
    )
    assert subprocess.run([sys.executable, "-c", dies], check=False).returncode == -9
    assert published(tmp_path / NAME) == before
    assert (tmp_path / f".{NAME}.part").exists()
    # killed between the two moves that put a new build in place
    (tmp_path / NAME).rename(tmp_path / f".{NAME}.previous")
    small = random_run(tmp_path / "small", n=10)
    (tmp_path / f".{NAME}.previous" / "README.md").write_text(f"Mine.\n{BEGIN}\n{END}")
    build_dataset([small], tmp_path / NAME)
    assert sum(map(len, published(tmp_path / NAME)["raw"].values())) == 10
    assert "Mine." in (tmp_path / NAME / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if NAME in path.name) == [NAME]


def test_two_builds_of_one_folder_at_once_are_refused(tmp_path, run, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    describe = build._describe

    def slow(*arguments):
        inside.set()
        go_on.wait(30)
        describe(*arguments)

    monkeypatch.setattr(build, "_describe", slow)
    first = threading.Thread(target=build_dataset, args=([run], tmp_path / NAME))
    first.start()
    assert inside.wait(30)
    with pytest.raises(InputError, match="another build is writing it"):
        build_dataset([run], tmp_path / NAME)
    go_on.set()
    first.join()
    assert (tmp_path / NAME / "README.md").exists()


def test_only_a_dataset_built_before_is_replaced(tmp_path, run):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a file, expected a folder"):
        build_dataset([run], tmp_path / "file")
    with pytest.raises(InputError, match="not a dataset built before"):
        build_dataset([run], tmp_path / "other")
    build_dataset([run], tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds notes\.txt"):
        build_dataset([run], tmp_path / "empty")
    assert (tmp_path / "empty" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run"):
        build_dataset([tmp_path / "nowhere"], tmp_path / NAME)
    assert not (tmp_path / NAME).exists()


def test_the_same_runs_give_the_same_files(tmp_path, run):
    for name in ("a", "b"):
        build_dataset([run], tmp_path / name / NAME)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_statistics_of_the_build_are_those_of_the_published_files(tmp_path, run):
    rows = [orjson.loads(line) for line in (run / "records.jsonl").read_bytes().splitlines()]
    report = build_dataset([run], tmp_path / NAME)
    samples = [
        (entry, output)
        for entry in rows
        if not entry["output"][0]["is_correct"] and entry["output"][0]["finish_reason"] != "error"
        for output in entry["output"][1:]
        if output["trial"] == 2 and "error" not in (output["finish_reason"], output["reflection_finish_reason"])
    ]
    assert report.statistics.keys() == set(TASKS)
    for task, counts in report.statistics.items():
        asked = [entry for entry in rows if entry["task"] == task]
        of_task = [(entry, output) for entry, output in samples if entry["task"] == task]
        assert counts.n_questions == len(asked)
        assert counts.n_solved == sum(entry["output"][0]["is_correct"] for entry in asked)
        assert counts.n_samples == len(of_task) > 20
        assert counts.n_corrected == sum(output["is_correct"] for _, output in of_task)
        assert counts.n_unparsed == sum(output["status"] == "unparsed" for _, output in of_task)
        assert counts.question_tokens == sum(words(entry["question"]) for entry, _ in of_task)
        assert counts.tokens_t1 == sum(words(entry["output"][0]["reasoning"]) for entry, _ in of_task)
        assert counts.reflection_tokens == sum(words(output["reflections"][0]) for _, output in of_task)
        assert counts.tokens_t2 == sum(words(output["reasoning"]) for _, output in of_task)
        assert counts.engine_tokens_t2 == sum(output["n_completion_tokens"] for _, output in of_task)
        assert counts.engine_reflection_tokens == sum(output["n_reflection_tokens"] for _, output in of_task)
        assert counts.engine_tokens_t1 == sum(e["output"][0]["n_completion_tokens"] for e, _ in of_task)
    table = stats_table(tmp_path / NAME).split("\n\n")[0]
    assert table in (tmp_path / NAME / "README.md").read_text()
    n_dpref = sum(size.n_rows for size in report.sizes["dpref"].values())
    assert table.splitlines()[-1].split("|")[-2].strip() == str(n_dpref) != "0"


def words(text):
    """The definition that `count_words` works out for whole arrays."""
    import re

    return len(re.findall(r"[A-Za-z0-9\u0080-\U0010ffff]+|[!-/:-@\[-`{-~]", text))


def test_words_are_counted_the_same_one_by_one_and_in_an_array():
    import pyarrow as pa

    rng = random.Random(0)
    texts = ["", "a", "a b", "a,b", "don't", " x ", "é", "看 图", "\t\n", "_a_", "a\x7fb", "12.5%"]
    texts += ["".join(rng.choices("ab1 .,\né看_-", k=rng.randint(0, 30))) for _ in range(300)]
    array = pa.array(texts)
    assert count_words(array).tolist() == [words(text) for text in texts]
    assert count_words(array[5:40]).tolist() == [words(text) for text in texts[5:40]]
    assert count_words(array[:0]).tolist() == []
    assert count_words(pa.array(["", ""])).tolist() == [0, 0]


def test_lengths_can_be_counted_with_another_tokenizer(tmp_path, run):
    import numpy as np

    characters = LengthUnit("characters", lambda texts: np.array([len(text) for text in texts.to_pylist()], int))
    report = build_dataset([run], tmp_path / NAME, length_unit=characters)
    assert "samples, in characters." in (tmp_path / NAME / "README.md").read_text()
    by_words = build_dataset([run], tmp_path / "words")
    assert report.statistics["Coding"].tokens_t1 > by_words.statistics["Coding"].tokens_t1
    assert report.versions == by_words.versions
    shutil.rmtree(tmp_path / "words")
