"""One-stage text: a reflection and the second trial in one assistant message, joined for training, split after sampling."""

from __future__ import annotations

import re
from typing import NamedTuple


class OneStage(NamedTuple):
    """Both parts of a one-stage message."""

    reflection: str
    trial: str


_TRIAL = re.compile(r"^[ \t*_]*Thought[ \t]*[*_]*:", re.IGNORECASE | re.MULTILINE)
_ACTION = re.compile(r"^[ \t*_]*Action[ \t]*[*_]*:", re.IGNORECASE | re.MULTILINE)


def join_one_stage(reflection: str, trial: str) -> str:
    """The assistant message that a one-stage model is trained on."""
    return f"{reflection.strip()}\n\n{trial.strip()}"


def split_one_stage(text: str) -> OneStage:
    r"""The parts of a one-stage model's message; the trial is empty when the model wrote none.

    >>> split_one_stage("Step 2 is wrong.\n\nThought: 9-3=6. Action: Finish[6]")
    OneStage(reflection='Step 2 is wrong.', trial='Thought: 9-3=6. Action: Finish[6]')
    """
    found = _TRIAL.search(text) or _ACTION.search(text)
    return OneStage(text[: found.start()].strip(), text[found.start() :]) if found else OneStage(text.strip(), "")
