"""`ReflectEvo`, the `datasets` builder: the curated rows, and a cache that sees a run grow."""

import random
from typing import Any

import datasets
import pytest

from reflectevo_data.builder import ReflectEvo
from reflectevo_data.curation.batches import Curation
from reflectevo_data.schema import CONFIGS, features
from tests.data.random_runs import curated_rows, random_preferences, random_row, row, write_run


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
    expected, _ = curated_rows(run, validation_fraction=0.3)
    curation = Curation(validation_fraction=0.3)
    builder = ReflectEvo(cache_dir=str(hf_cache), config_name=config, runs=[str(run)], curation=curation)
    builder.download_and_prepare()
    for split in ("train", "validation"):
        made: Any = builder.as_dataset(split=split)
        assert made.features == features(config)
        assert made.to_list() == expected[config][split]
        assert len(made) > 5


def test_a_split_without_rows_keeps_its_columns(tmp_path, hf_cache):
    run = write_run(tmp_path / "run", [row()])
    builder = ReflectEvo(cache_dir=str(hf_cache), config_name="dpm", runs=[str(run)])
    builder.download_and_prepare()
    for split in ("train", "validation"):
        made: Any = builder.as_dataset(split=split)
        assert (made.to_list(), made.features) == ([], features("dpm"))


def test_the_builder_sees_that_a_run_has_grown(tmp_path, hf_cache):
    for n in (5, 9):
        run = write_run(tmp_path / "run", [row(number) for number in range(n)])
        builder = ReflectEvo(cache_dir=str(hf_cache), config_name="raw", runs=[str(run)])
        builder.download_and_prepare()
        assert sum(len(split) for split in builder.as_dataset().values()) == n
