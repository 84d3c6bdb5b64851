"""What `--model`, `--reflector` and `--corrector` name: found, checked and given its published name before any loading."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..models import miniature_path


HUB_ID = re.compile(r"[\w][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A model that an engine can load.

    Attributes:
        name: Published in the records: a Hub id or a folder's last name, never a path.
        base: Folder or Hub id of the whole model.
        adapter: Folder or Hub id of a LoRA adapter on it; empty for the model itself.
        lora_rank: The adapter's rank; 0 without one.
    """

    name: str
    base: str
    adapter: str = ""
    lora_rank: int = 0


def locate_models(named: Sequence[tuple[str, str]]) -> list[LocatedModel]:
    """The models that the flags name, in their order; downloads no more than a configuration file each.

    Args:
        named: Flag and value, such as `("--reflector", "out/reflector-lora")`. A value is `miniature`, a folder with a
            model, a folder with a LoRA adapter, or the Hub id of either.

    Raises:
        InputError: A value names nothing that can be loaded, or an adapter belongs to another model.
    """
    found = [_find(flag, value) for flag, value in named]
    whole = [place for place, config in found if config is None]
    return [
        LocatedModel(published_name(value), place)
        if config is None
        else LocatedModel(published_name(value), _base(flag, value, config, whole), place, int(config.get("r", 0)))
        for (flag, value), (place, config) in zip(named, found, strict=True)
    ]


def published_name(model: str) -> str:
    """The name that goes into records: `miniature`, a Hub id, or a folder's last name.

    >>> published_name("/home/ada/runs/reflector-lora/")
    'reflector-lora'
    >>> published_name("Qwen/Qwen3-0.6B")
    'Qwen/Qwen3-0.6B'
    """
    if _is_path(model):
        return Path(model).expanduser().resolve().name
    return model


def _is_path(model: str) -> bool:
    return model != "miniature" and (Path(model).expanduser().is_dir() or not HUB_ID.fullmatch(model))


def _find(flag: str, value: str) -> tuple[str, dict | None]:
    """Folder or Hub id, and the adapter's configuration when it is one."""
    if value != "miniature" and not _is_path(value):
        return value, _hub_adapter_config(flag, value)
    folder = miniature_path() if value == "miniature" else Path(value).expanduser()
    if not folder.is_dir():
        raise InputError(f"{flag} {value}: no such folder. Expected miniature, a model's folder or a Hub id.")
    if (folder / "adapter_config.json").is_file():
        return str(folder), _json(flag, value, folder / "adapter_config.json")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{flag} {value}: found neither config.json nor adapter_config.json in it. "
            "Expected a folder as `save_pretrained` writes it."
        )
    return str(folder), None


def _hub_adapter_config(flag: str, model: str) -> dict | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        hf_hub_download(model, "config.json")
        return None
    except LocalEntryNotFoundError:
        where = (
            "is not in the local cache"
            if os.environ.get("HF_HUB_OFFLINE")
            else "is not cached, and the Hub did not answer"
        )
        try:  # an adapter's repository has no config.json
            return _json(flag, model, Path(hf_hub_download(model, "adapter_config.json")))
        except LocalEntryNotFoundError:
            raise InputError(
                f"{flag} {model}: no such folder here, and as a Hub id it {where}. "
                "Name a folder, or download the model first."
            ) from None
    except EntryNotFoundError:
        try:
            return _json(flag, model, Path(hf_hub_download(model, "adapter_config.json")))
        except EntryNotFoundError:
            raise InputError(
                f"{flag} {model}: the Hub has neither config.json nor adapter_config.json in it. Name a model."
            ) from None
    except GatedRepoError:
        raise InputError(
            f"{flag} {model}: access on the Hub is restricted. Ask for it there and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{flag} {model}: neither a folder here nor a model on the Hub. Correct the name; private ones need HF_TOKEN."
        ) from None


def _base(flag: str, value: str, config: dict, whole: Sequence[str]) -> str:
    """The model that an adapter belongs to: one of those given if its name fits, else what the adapter itself names."""
    trained_on = str(config.get("base_model_name_or_path") or "")
    # training often ran from a folder that is elsewhere now: the last name decides
    for place in whole:
        if Path(place).name == Path(trained_on).name:
            return place
    if whole:
        raise InputError(
            f"{flag} {value}: a LoRA adapter trained on {trained_on or 'a model it does not name'}, "
            f"not on {published_name(whole[0])}. Give that model as --model."
        )
    if not trained_on:
        raise InputError(f"{flag} {value}: a LoRA adapter that names no base model. Give that model as --model.")
    place, adapter = _find(f"{flag} {value}: its base model", trained_on)
    if adapter is not None:
        raise InputError(
            f"{flag} {value}: a LoRA adapter on another adapter, {trained_on}. Merge the first into a model."
        )
    return place


def _json(flag: str, value: str, path: Path) -> dict:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{flag} {value}: {path.name} is not JSON ({error}). Copy the folder anew.") from None
    if not isinstance(content, dict):
        raise InputError(f"{flag} {value}: {path.name} is not a JSON object. Copy the folder anew.")
    return content
