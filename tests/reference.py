"""The upstream sample files, where they are at hand: `$REFLECTEVO_REFERENCE`, or `shared/reference` beside the checkout."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("REFLECTEVO_REFERENCE", ROOT.parent / "shared" / "reference"))
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference data at {REFERENCE}")


def reference_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file: JSON lines, or JSON objects one after the other. Skips the test where there is none."""
    if not (REFERENCE / name).is_file():
        pytest.skip(f"no {name} in {REFERENCE}; set REFLECTEVO_REFERENCE to the folder that has it")
    text = (REFERENCE / name).read_text("utf-8")
    decoder, rows, position = json.JSONDecoder(), [], 0
    while position < len(text):
        row, position = decoder.raw_decode(text, position)
        rows.append(row)
        while position < len(text) and text[position].isspace():
            position += 1
    return rows
