"""Self-consistency: several answers to one question -> the place of the one that most of them give."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .text_metrics import normalize_answer


def majority(answers: Sequence[str], answer_type: str) -> int:
    """The place of the first answer that is given most often; of equally frequent ones, the earliest.

    Answers that could not be read (empty) have no vote. The gold answer plays no part.

    >>> majority(["12", "", "13", " 13 "], "math")
    2
    """
    votes = [_canonical(answer, answer_type) for answer in answers]
    cast = [vote for vote in votes if vote]
    return votes.index(max(cast, key=cast.count)) if cast else 0


_LATEX_STYLE = re.compile(r"\\(?:left|right|,|;|!|displaystyle)(?![A-Za-z])|\\text\b|[\s${}]|\.$")


def _canonical(answer: str, answer_type: str) -> str:
    """What two equal answers have in common; code is compared as it is written."""
    if answer_type == "math":
        return _LATEX_STYLE.sub("", answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
    if answer_type == "code":
        return answer.strip()
    if answer_type == "choice":
        return answer.strip().casefold()
    return normalize_answer(answer) or answer.strip()
