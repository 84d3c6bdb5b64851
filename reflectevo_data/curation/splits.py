"""Which split a question goes into, the same in every config."""

from __future__ import annotations

from typing import Literal, get_args

from ..schema import stable_hash


Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)


def split_of(id: str, group: str, validation_fraction: float) -> Split:
    """The split of a question, decided by its group alone, or by its id where it has none.

    >>> {split_of(f"story/{turn}", "story", 0.5) for turn in range(20)}
    {'validation'}
    """
    place = stable_hash("split", group or id)
    return "validation" if place < validation_fraction * 2**64 else "train"
