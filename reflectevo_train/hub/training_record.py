"""What a training run was, for its model card: `reflectevo_training.json` in the output folder; names, no paths."""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sized
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from reflectevo_data.errors import InputError
from reflectevo_data.hub.cards import public_name


if TYPE_CHECKING:
    from transformers import Trainer
    from trl import ModelConfig

    from ..training.arguments import ReflectionArguments

RECORD = "reflectevo_training.json"
_HYPERPARAMETERS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "optim",
    "max_length",
    "packing",
    "beta",
    "loss_type",
    "loss_weights",
    "bf16",
    "seed",
)
_OURS = ("segment_weights", "share_prompts")
_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit", "bnb_4bit_quant_type")
_PACKAGES = ("reflectevo", "trl", "transformers", "peft", "accelerate", "deepspeed", "datasets", "torch")

Hyperparameter = int | float | str | list[str] | list[float]


class TrainedOn(TypedDict):
    """The dataset of a training."""

    name: str
    config: str | None
    version: NotRequired[str]


class _Needed(TypedDict):
    """What a card cannot do without."""

    base_model: str
    dataset: TrainedOn
    setting: str
    prompts: str
    recipe: str
    trainer: str
    n_train: int | None
    n_processes: int
    steps: int
    hyperparameters: dict[str, Hyperparameter]
    lora: dict[str, Hyperparameter]
    versions: dict[str, str]


class TrainingRecord(_Needed, total=False):
    """What `reflectevo_training.json` says."""

    kind: str
    base_revision: str
    best_metric: float | None
    metrics: dict[str, float]  # of the last evaluation with the loop, and its `step`


def record_training(trainer: Trainer, script_args: ReflectionArguments, model_args: ModelConfig) -> Path:
    """Writes the record into the training's output folder; call it on the main process, after training."""
    training_args = trainer.args
    metrics = [entry for entry in trainer.state.log_history if "eval_acc_t2" in entry]
    record: TrainingRecord = {
        "kind": "reflectevo-training",
        "base_model": public_name(str(model_args.model_name_or_path)),
        "base_revision": model_args.model_revision,
        "dataset": _dataset(str(script_args.dataset_name), script_args.dataset_config),
        "setting": script_args.setting,
        "prompts": public_name(str(script_args.prompts)),
        "recipe": _recipe(sys.argv),
        "trainer": type(trainer).__name__.removeprefix("Reflection"),
        "n_train": _length(trainer.train_dataset),
        "n_processes": training_args.world_size,
        "steps": trainer.state.global_step,
        "hyperparameters": _plain(training_args, _HYPERPARAMETERS) | _plain(script_args, _OURS),
        "lora": _plain(model_args, _LORA) if model_args.use_peft else {},
        "best_metric": trainer.state.best_metric,
        "metrics": {k: v for k, v in (metrics[-1] if metrics else {}).items() if k.startswith("eval_") or k == "step"},
        "versions": _versions(),
    }
    path = Path(cast(str, training_args.output_dir)) / RECORD  # set by default
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def load_record(folder: str | Path) -> TrainingRecord | None:
    """The record of a training run; None where there is none or it cannot be read.

    Raises:
        InputError: It is one, and something was taken out of it.
    """
    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("kind") != "reflectevo-training":
        return None
    if missing := sorted(_Needed.__required_keys__ - record.keys()):
        raise InputError(f"{path}: lacks {', '.join(missing)}, which training wrote. Put it back or remove the file.")
    return cast(TrainingRecord, record)


def record_rows(record: TrainingRecord | None) -> list[tuple[str, str]]:
    """The record as lines of a table."""
    if record is None:
        return []
    dataset = record["dataset"]
    version = dataset.get("version")
    rows = [
        ("base model", f"`{record['base_model']}`"),
        (
            "dataset",
            f"`{dataset['name']}`, config `{dataset['config']}`" + (f", version {version}" if version else ""),
        ),
        ("setting", f"`{record['setting']}` ({record['trainer']})"),
        ("recipe", f"`{record['recipe']}`" if record["recipe"] else "none: given by flags"),
        ("prompts", f"`{record['prompts']}`"),
        ("rows", f"{record['n_train']:,}" if record["n_train"] else "streamed"),
        ("steps, processes", f"{record['steps']:,}, {record['n_processes']}"),
    ]
    rows += [(name.replace("_", " "), _shown(value)) for name, value in record["hyperparameters"].items()]
    rows += [(name.replace("_", " "), _shown(value)) for name, value in record["lora"].items()]
    return [*rows, ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items()))]


def _dataset(name: str, config: str | None) -> TrainedOn:
    build = Path(name) / "build.json"
    known: TrainedOn = {"name": public_name(name), "config": config}
    if build.is_file():
        try:
            known["version"] = json.loads(build.read_text("utf-8"))["versions"][config]
        except (ValueError, KeyError):
            return known
    return known


def _recipe(argv: list[str]) -> str:
    """The recipe's name under `recipes/`, or its file name."""
    for flag, value in itertools.pairwise(argv):
        if flag == "--config":
            parts = Path(value).parts
            return "/".join(parts[parts.index("recipes") + 1 :]) if "recipes" in parts else parts[-1]
    return ""


def _plain(arguments: object, names: tuple[str, ...]) -> dict[str, Hyperparameter]:
    """Values that are set, as JSON has them."""
    values = {}
    for name in names:
        value = getattr(arguments, name, None)
        value = getattr(value, "value", value)
        if value is not None and value is not False and value != []:
            values[name] = value if isinstance(value, int | float | str | list) else str(value)
    return values


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _length(rows: object) -> int | None:
    return len(rows) if isinstance(rows, Sized) else None


def _shown(value: Hyperparameter) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
