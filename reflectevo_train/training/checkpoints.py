"""Where training goes on: the newest checkpoint that was written to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reflectevo_data.errors import InputError


if TYPE_CHECKING:
    from transformers import TrainingArguments


def newest_whole_checkpoint(output_dir: str | Path, *, world_size: int = 1) -> str | None:
    """The newest checkpoint that training can go on from; None when there is none.

    A process that is killed while it saves leaves a checkpoint that Trainer would pick as the newest one and then fail
    on. A whole one has weights, optimizer state, every rank's random state and, written last, its trainer state.
    """
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdigit() and is_whole(folder, world_size=world_size):
            found.append((int(step), folder))
    return str(max(found)[1]) if found else None


def is_whole(checkpoint: Path, *, world_size: int = 1) -> bool:
    """Whether everything is there that resuming reads."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    ranks = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    if not all((checkpoint / name).is_file() for name in ranks):
        return False
    if (latest := checkpoint / "latest").is_file():  # DeepSpeed names the folder of its states in it, last
        return (checkpoint / latest.read_text("utf-8").strip()).is_dir()
    if any(checkpoint.glob("pytorch_model_fsdp*")):
        return any(checkpoint.glob("optimizer*"))
    return (checkpoint / "optimizer.pt").is_file() and _has_weights(checkpoint)


def _has_weights(checkpoint: Path) -> bool:
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return all((checkpoint / shard).is_file() for shard in shards)
    return any((checkpoint / name).is_file() for name in ("model.safetensors", "adapter_model.safetensors"))


def resume_point(training_args: TrainingArguments) -> str | None:
    """Where training goes on: the named checkpoint, or the newest whole one in `output_dir`; `false` starts anew.

    Raises:
        InputError: The named checkpoint is not whole.
    """
    asked = training_args.resume_from_checkpoint
    if asked in (False, "false", "False", "no"):
        return None
    if asked in (None, True, "true", "True", "yes"):
        output_dir = cast(str, training_args.output_dir)  # set by default
        return newest_whole_checkpoint(output_dir, world_size=training_args.world_size)
    if not is_whole(Path(asked), world_size=training_args.world_size):
        raise InputError(
            f"resume_from_checkpoint: {asked} is not a whole checkpoint. Leave it out to take the newest one."
        )
    return asked
