"""Hidden reasoning: what a reasoning model thinks before its attempt, and how it is told apart from it."""

from __future__ import annotations

import re


_THINKING = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


def without_thinking(text: str) -> str:
    """The text without the hidden reasoning that reasoning models put first; it is not part of the attempt.

    >>> without_thinking("<think>2 and 2, so</think>Action: Finish[4]")
    'Action: Finish[4]'
    """
    return _THINKING.sub("", text) if "<think>" in text else text
