"""A built dataset -> the Hub: the Parquet of all configs and the card in one commit.

reflectevo-data push ReflectEvo-460K --repo-id owner/ReflectEvo-460K [--private] [--revision BRANCH]
reflectevo-data card ReflectEvo-460K
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import InputError
from ..hub.cards import merge_cards
from ..hub.commit import Published, Remote, publish, token_free


if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    api: HfApi | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Published:
    """Publishes a folder that `build` made; pushing it again changes nothing.

    What a person wrote into the card on the Hub stays, the generated part and what describes the files is replaced.
    Parquet files of an earlier build are deleted in the same commit.

    Raises:
        InputError: The folder is no built dataset, or the Hub refuses or cannot be reached.
    """
    from ..schema import CONFIGS
    from .build import BUILD, CARD, load_build
    from .card import FIXED

    folder = Path(folder)
    load_build(folder)
    parquet = {f"{config}/{path.name}": path for config in CONFIGS for path in (folder / config).glob("*.parquet")}
    if missing := [config for config in CONFIGS if not any(path.startswith(f"{config}/") for path in parquet)]:
        raise InputError(f"{folder}: has no {missing[0]}/*.parquet. Build the dataset again.")
    card = (folder / CARD).read_text("utf-8") if (folder / CARD).is_file() else ""
    if not card:
        raise InputError(f"{folder}: has no {CARD}. Write it with `reflectevo-data card {folder}`.")
    for name in (CARD, BUILD):
        token_free(name, folder / name)

    def files(remote: Remote) -> Mapping[str, Path | bytes]:
        theirs = (remote.read(CARD) or b"").decode("utf-8", "replace")
        try:
            generated: dict[str, Any] = orjson.loads(remote.read(BUILD) or b"{}").get("card", {})
        except (orjson.JSONDecodeError, AttributeError):  # another program's file of this name
            generated = {}
        merged = merge_cards(card, theirs, generated=generated, fixed=FIXED)
        return {**parquet, BUILD: folder / BUILD, CARD: merged.encode()}

    return publish(
        repo_id,
        "dataset",
        files,
        owned=[f"{config}/*" for config in CONFIGS],
        message="Upload dataset",
        private=private,
        revision=revision,
        api=api,
        wait=wait,
    )
