"""Where problems come from: 17 sources read from the Hub, the miniature, and a file of one's own.

`load_problems(source)` takes the name of a source, of a group (`bigbench`, `bigbench-free`) or a file.
"""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path

from ..errors import InputError
from ..schema import Problem
from . import miniature
from .files import load_file
from .hub import check_split, load_source
from .reading import SUFFIXES
from .table import GROUPS, SOURCES


def load_problems(
    source: str,
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    source_file: str | None = None,
) -> list[Problem]:
    """The problems of a source; all of them are checked before the list is returned.

    Args:
        source: A named source, a group, or a file (its first `limit` problems; a file has no splits and is read whole).
        split: One of the source's splits.
        limit: How many problems; for a named source they are drawn with the seed, for a group evenly over its sources.
        seed: Of that draw.
        source_file: A file with the source's published columns, read instead of the Hub.

    Raises:
        InputError: No such source or split, a row that cannot be used, or a Hub that cannot be reached.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: expected at least 1.")
    if source_file is not None and source not in SOURCES:
        raise InputError(f"--source-file: goes with a named source, and {source} is none. Expected {_names()}.")
    if source == "miniature":
        if split not in miniature.MINIATURE_SPLITS:
            raise InputError(
                f"--split {split}: miniature has no such split. Expected {', '.join(miniature.MINIATURE_SPLITS)}."
            )
        return list(miniature.problems(split, seed=seed, n=1000 if limit is None else limit))
    if source in SOURCES:
        return load_source(source, split=split, limit=limit, seed=seed, source_file=source_file)
    if source in GROUPS:
        return _load_group(source, split=split, limit=limit, seed=seed)
    if source.lower().endswith(SUFFIXES) or Path(source).is_file():
        return load_file(source, limit=limit)
    near = difflib.get_close_matches(source, source_names(), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(
        f"--source {source}: no such source.{hint} Expected {_names()}, or a file ({', '.join(SUFFIXES)})."
    )


def source_names() -> list[str]:
    """Everything that `--source` takes by name."""
    return ["miniature", *SOURCES, *GROUPS]


def sources_table() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column titles and one row a source, as `reflectevo-data sources` prints them."""
    rows = [
        (
            "miniature",
            "miniature arithmetic",
            "text",
            "(generated)",
            "",
            "Apache-2.0",
            ", ".join(miniature.MINIATURE_SPLITS),
        )
    ]
    for name, source in SOURCES.items():
        revision = source.revision[:12] if source.is_pinned else f"{source.revision} (branch)"
        splits = ", ".join(
            ours
            if ours == published
            else f"{ours} {published}"
            if published == "(hashed)"
            else f"{ours} ({published})"
            for ours, published in source.splits.items()
        )
        rows.append((name, source.task, source.answer_type, source.hub_id, revision, source.license, splits))
    return ("name", "task", "answer type", "Hub id", "revision", "licence", "splits"), rows


def _load_group(group: str, *, split: str, limit: int | None, seed: int) -> list[Problem]:
    """The problems of every source of a group; with a limit, in turn one of each."""
    for name in GROUPS[group]:
        check_split(name, split)
    lists = [load_source(name, split=split, limit=limit, seed=seed, source_file=None) for name in GROUPS[group]]
    if limit is None:
        return [problem for problems in lists for problem in problems]
    in_turn = (problem for turn in itertools.zip_longest(*lists) for problem in turn if problem is not None)
    return list(itertools.islice(in_turn, limit))


def _names() -> str:
    return ", ".join(source_names())
