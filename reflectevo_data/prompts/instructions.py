"""The pool of reflection instructions, and which of them the reflections on a problem are written under."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, one_line
from ..schema import stable_hash


_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster; both are safe


def choose_instructions(
    pool: Sequence[str], requested: Sequence[str], *, n_reflections: int, problem_id: str, seed: int
) -> list[str]:
    """The instruction keys of one problem's reflections, `n_reflections` of them.

    `random` draws without repetition while the pool lasts; `all` and a list of keys walk through the keys, from a place
    that depends on the problem, so that over many problems each is used equally often. The draw depends on seed and id
    alone.

    Raises:
        InputError: A requested key is not in the pool.
    """
    if unknown := [key for key in requested if key not in pool and key not in ("all", "random")]:
        raise InputError(
            f"--instruction {unknown[0]}: not in the pool. Expected all, random or keys such as "
            f"{', '.join(list(pool)[:3])} ({len(pool)} in all)."
        )
    start = stable_hash("instruction", str(seed), problem_id)
    if "random" in requested:
        keys = list(pool)
        random.Random(start).shuffle(keys)
        return [keys[i % len(keys)] for i in range(n_reflections)]
    keys = list(pool) if "all" in requested else list(requested)
    return [keys[(start + i) % len(keys)] for i in range(n_reflections)]


def instruction_pool(path: Path, text: str, *, choices: str = "choices") -> dict[str, str]:
    """Instructions by key: either given one by one, or as `axes` whose entries are combined in order.

    `choices` names the wording; an axis that has no such wording is taken with its `choices`.
    """
    content = yaml_mapping(path, text)
    if "axes" not in content:
        if bad := [key for key, value in content.items() if not isinstance(value, str)]:
            raise InputError(f"{path}: instruction {bad[0]!r} is not a text. Expected `key: instruction`.")
        return {str(key): value.strip() for key, value in content.items()}
    combined: dict[str, str] = {"": ""}
    for axis in content["axes"]:
        combined = {
            f"{key}-{i}".lstrip("-"): f"{so_far} {part.strip()}".strip()
            for key, so_far in combined.items()
            for i, part in enumerate(axis.get(choices, axis["choices"]), 1)
        }
    return combined


def yaml_mapping(path: Path, text: str) -> dict[str, Any]:
    """The content of a YAML file, empty for an empty one.

    Raises:
        InputError: It is no YAML, or no mapping.
    """
    try:
        content = yaml.load(text, Loader=_YAML_LOADER) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({one_line(error)}). Correct the file.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected a mapping. Correct the file.")
    return content
