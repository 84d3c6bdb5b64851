"""SQuAD exact match and F1, as the official script has them, but for the cases in which it loses the answer.

Official: lower case, no punctuation, no articles, white space folded. Here signs and decimal points that belong to a
number stay (officially 3.5 equals 35, and -5 equals 5), punctuation is Unicode's, and an answer of articles alone keeps
them (`A` would become empty, and equal to every other such answer).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?!\w|\.\d)|[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """What two answers have in common when they count as the same one.

    >>> normalize_answer("The  “Eiffel Tower”."), normalize_answer("1,000"), normalize_answer("-3.5"), normalize_answer("A")
    ('eiffel tower', '1000', '-3.5', 'a')
    """
    return _normalize(text)


def _keep_numbers(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) < 2 and not found.isdigit():
        return ""
    return found.replace(",", "").replace("−", "-").removeprefix("+")


@lru_cache(maxsize=8192)
def _normalize(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _NUMBER.sub(_keep_numbers, text)
    without_articles = " ".join(_ARTICLES.sub(" ", text).split())
    return without_articles or " ".join(text.split())


def exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Whether the prediction is one of the golds after normalisation."""
    normalized = _normalize(prediction)
    return normalized != "" and any(normalized == _normalize(gold) for gold in golds)


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Token F1 against the gold that fits best."""
    return max((_f1(prediction, gold) for gold in golds), default=0.0)


def leave_one_out(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """(EM, F1) as CoQA reports them: each gold left out once, the best of the others, averaged.

    It compares a system with people, whose own answers were scored against the other annotators' alone.
    """
    if len(golds) < 2:
        return float(exact_match(prediction, golds)), f1(prediction, golds)
    rounds = [[gold for j, gold in enumerate(golds) if j != i] for i in range(len(golds))]
    em = sum(exact_match(prediction, others) for others in rounds) / len(rounds)
    return em, sum(f1(prediction, others) for others in rounds) / len(rounds)


def _f1(prediction: str, gold: str) -> float:
    predicted, expected = _normalize(prediction).split(), _normalize(gold).split()
    if not predicted or not expected:
        return float(predicted == expected != [])
    n_common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * n_common / (len(predicted) + len(expected))
