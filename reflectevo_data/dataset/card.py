"""What a build did -> the dataset card: YAML metadata that `load_dataset` and the Hub read, and a text for people.

What a person wrote survives the next build: see `hub/cards.py`.
"""

# `datasets` has no type information.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..curation.splits import SPLITS
from ..hub.cards import public_name
from ..rollouts.manifest import Manifest
from ..schema import COLUMNS, CONFIGS, ColumnType, features


# What describes the files has to be ours; the rest of the metadata a person may change.
FIXED = ("configs", "dataset_info", "size_categories")

_DESCRIPTIONS = {
    "raw": "a question with all its trials and reflections",
    "dplus": "a reflection that led to a correct second trial (D+)",
    "dpm": "a pair: a reflection that led to a correct second trial, one that did not (D±)",
    "dpref": "a pair: two reflections that led to a correct second trial, ranked (Dpref)",
}
_COLUMN_NOTES = (
    "`output` has the trials of a question: `trial` is 1 for the first attempt and 2 for each second attempt; "
    "`reflections` is empty for the first and has the one reflection that a second attempt was made with.",
    "`status` is `correct`, `incorrect` or `unparsed`: no answer could be read. Unparsed answers are not correct.",
    "`reasoning_prompt`, `reason_prompt` and `correct_prompt` are two texts: the prompt, and how a second call for the "
    "answer alone began the assistant's message, empty when one call sufficed.",
    "`reason_prompt` belongs to the first trial, `reflect_prompt` to the reflection, `correct_prompt` to the second trial.",
    "`answer` is the gold answer as the source has it; letters are compared without case.",
    "`instruction` is the key of the reflection instruction; `generator` wrote the first trial, `reflector` the "
    "reflection, `corrector` the second trial.",
)


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Rows of a split, and their bytes in memory."""

    n_rows: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class DecontaminationResult:
    """What a decontamination check found: questions of this dataset that overlap with an evaluation set.

    `n_overlapping` is None, and `method` says why, when the evaluation set could not be had.
    """

    against: str
    n_questions: int
    n_overlapping: int | None
    method: str


@dataclass(frozen=True, slots=True)
class SourceCount:
    """Where questions come from."""

    name: str
    license: str
    n_questions: int


def card_metadata(
    name: str,
    *,
    sizes: Mapping[str, Mapping[str, SplitSize]],
    versions: Mapping[str, str],
    download_bytes: Mapping[str, int],
    sources: Sequence[SourceCount],
) -> dict[str, Any]:
    """The card's YAML as a dict: `configs` with a version each, `dataset_info`, and what the Hub's search uses."""
    import datasets
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        pretty_name=name,
        license=_hub_license(sources),
        task_categories=["text-generation", "question-answering"],
        tags=["self-reflection", "preference", "synthetic", "reasoning", "reflectevo"],
        size_categories=[_size_category(sum(split.n_rows for split in sizes["raw"].values()))],
        annotations_creators=["machine-generated"],
    )
    MetadataConfigs(
        {
            config: {
                # the key of load_dataset's cache is made from this metadata, not from the Parquet files
                "version": versions[config],
                "data_files": [{"split": split, "path": f"{config}/{split}-*"} for split in sizes[config]],
            }
            for config in CONFIGS
        }
    ).to_dataset_card_data(data)
    infos: dict[str, datasets.DatasetInfo] = {}
    for config in CONFIGS:
        splits = datasets.SplitDict()
        for split, size in sizes[config].items():
            splits.add(datasets.SplitInfo(split, num_bytes=size.n_bytes, num_examples=size.n_rows))
        infos[config] = datasets.DatasetInfo(
            features=features(config),
            splits=splits,
            download_size=download_bytes[config],
            dataset_size=sum(size.n_bytes for size in sizes[config].values()),
        )
    datasets.info.DatasetInfosDict(infos).to_dataset_card_data(data)
    return data.to_dict()


def configs_shown(sizes: Mapping[str, Mapping[str, SplitSize]]) -> list[dict[str, Any]]:
    """What the card says of each config."""
    return [
        {
            "name": config,
            "description": _DESCRIPTIONS[config],
            **{split: sizes[config][split].n_rows if split in sizes[config] else 0 for split in SPLITS},
            "columns": _columns_shown(COLUMNS[config]),
        }
        for config in CONFIGS
    ]


def column_notes() -> tuple[str, ...]:
    return _COLUMN_NOTES


def run_lines(manifest: Manifest) -> list[str]:
    """How a run was made, from its manifest, fit to be published: names only, no paths."""
    source, loop, prompts = manifest.source, manifest.loop, manifest.prompts
    n = source.n_problems
    lines = [
        ("Imported records: " if manifest.kind == "import" else "Questions: ")
        + f"`{public_name(source.name)}`"
        + (f", split `{source.split}`" if source.split else "")
        + (f", revision `{source.revision}`" if source.revision else "")
        + (f", {n:,} of them" if n is not None else "")
    ]
    if manifest.models is not None:
        by_role = [f"{role} `{public_name(model)}`" for role, model in manifest.models.by_role().items()]
        lines.append(f"Models: {', '.join(by_role)}" + (f"; engine {manifest.engine}" if manifest.engine else ""))
    if manifest.sampling is not None:
        sampling = {name: value for name, value in asdict(manifest.sampling).items() if value is not None}
        lines.append("Sampling: " + ", ".join(f"{name} {value}" for name, value in sampling.items()))
    if loop is not None:
        lines.append(
            f"Reflections: {loop.n_reflections} on each failed first trial, "
            f"instructions {_keys_shown(loop.instructions)}"
        )
    if prompts is not None:
        lines.append(f"Prompts: `{public_name(prompts.name)}`, fingerprint `{prompts.fingerprint}`")
    lines.append("Seed: not recorded" if loop is None else f"Seed: {loop.seed}")
    if manifest.versions:
        revision = f", revision `{manifest.git_revision}`" if manifest.git_revision else ""
        versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        lines.append(f"Software: {versions}{revision}")
    return lines


def _columns_shown(columns: Mapping[str, ColumnType]) -> str:
    return ", ".join(
        f"`{name}` (a list of: {_columns_shown(column[0])})"
        if isinstance(column, list) and isinstance(column[0], dict)
        else f"`{name}`"
        for name, column in columns.items()
    )


def _keys_shown(keys: Sequence[str]) -> str:
    return (
        ", ".join(f"`{key}`" for key in keys)
        if len(keys) <= 8
        else f"`{keys[0]}` … `{keys[-1]}` ({len(keys)} of them)"
    )


def _hub_license(sources: Sequence[SourceCount]) -> str | None:
    """The one licence of all sources under the Hub's key for it, `other` for several, None when none is stated."""
    licenses = {re.sub(r"[\s_]+", "-", source.license.strip().lower()) for source in sources}
    if licenses <= {""}:
        return None
    [only, *more] = licenses
    known = re.fullmatch(r"mit|apache-2\.0|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[1234]\.0|odc-by|odbl|bsd-[23]-clause", only)
    return only if known and not more else "other"


def _size_category(n: int) -> str:
    steps = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
    return next((name for name, limit in steps if n < limit), "10M<n<100M")
