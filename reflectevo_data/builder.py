"""Runs -> the four sets: `ReflectEvo`, a `datasets` builder with the configs raw, dplus, dpm and dpref.

>>> builder = ReflectEvo(config_name="dpref", runs=["RUN"])  # doctest: +SKIP
>>> builder.download_and_prepare()  # doctest: +SKIP
>>> builder.as_dataset(split="train")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa

from .curation.batches import curated_batches
from .curation.curate import Curation
from .curation.splits import SPLITS
from .rollouts.records import open_run
from .rollouts.store import PREFERENCES, RECORDS
from .schema import COLUMNS, CONFIGS, features


@dataclass
class ReflectEvoConfig(datasets.BuilderConfig):
    """A config of `ReflectEvo`: the run directories, and what goes into the sets."""

    runs: Sequence[str] = ()
    curation: Curation = field(default_factory=Curation)

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """The cache's key: runs grow and are judged, so the state of their files belongs to it."""
        files = [Path(run) / name for run in self.runs for name in (RECORDS, PREFERENCES)]
        state = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]
        kwargs = {**config_kwargs, "curation": asdict(self.curation), "state": state}
        return super().create_config_id(kwargs, custom_features)


class ReflectEvo(datasets.ArrowBasedBuilder):
    """The sets as a `datasets` builder, one config at a time, from run directories."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ReflectEvoConfig
    BUILDER_CONFIGS = [ReflectEvoConfig(name=config) for config in CONFIGS]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=features(self.config.name))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_tables(self, *, split: str) -> Iterator[tuple[int, pa.Table]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        config = cast(ReflectEvoConfig, self.config)
        runs = [open_run(run) for run in config.runs]
        for i, (tables, _) in enumerate(curated_batches(runs, config.curation, configs=[config.name])):
            yield i, pa.Table.from_batches([tables[config.name][split]])

    def _as_dataset(self, split: Any = "train", in_memory: bool = False) -> datasets.Dataset:
        """As in the base class, which refuses a split without rows (datasets 5.2)."""
        info = cast(datasets.SplitDict, self.info.splits).get(str(split))
        if info is not None and not info.num_examples:
            no_rows: dict[str, list] = {name: [] for name in COLUMNS[self.config.name]}
            return datasets.Dataset.from_dict(no_rows, self.info.features, split=datasets.NamedSplit(info.name))
        return super()._as_dataset(split, in_memory)
