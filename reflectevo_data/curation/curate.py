"""Raw rows -> D+, D± and Dpref rows, and the pairs a judge has to rank.

These functions are the definition of the three sets, on plain rows. `batches.py` makes the same rows from whole Arrow
tables; it shares `ORIGINS` and the choice of pairs with this module, and a test holds the two equal.

- D+: first trial wrong, reflection, second trial correct.
- D±: two reflections on one wrong first trial, the chosen one led to a correct second trial, the other to a wrong one.
- Dpref: two reflections that both led to a correct second trial, ranked by a judge.

A reflection takes part when its requests succeeded, it is not empty, it does not state the gold answer and no earlier
reflection on the question says the same (in a build of several runs: in any of them).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ..schema import (
    COLUMNS,
    DPlusRow,
    DPrefRow,
    PairRow,
    PreferenceRow,
    RankedPair,
    RawRow,
    ranked_pair,
    stable_hash,
)


MAX_PAIRS = 4
"""Pairs of one question in D± and in Dpref unless asked otherwise. Two reflections a question make at most one pair;
with six there can be nine, and questions of middling difficulty, which have the most pairs, would outweigh the rest."""


NearDuplicates = Literal["count", "drop", "off"]
NEAR_DUPLICATES: tuple[NearDuplicates, ...] = get_args(NearDuplicates)


@dataclass(frozen=True, slots=True)
class Curation:
    """What goes into the sets.

    Attributes:
        max_pairs: Pairs of one question in D±, and in Dpref; of each run, where several runs asked it.
        include_leaks: Whether reflections that state the gold answer take part.
        validation_fraction: Share of the questions (groups of questions) that go into the validation split.
        near_duplicates: Whether reflections that nearly repeat an earlier one of the dataset are looked for and, with
            `drop`, left out of the sets.
    """

    max_pairs: int = MAX_PAIRS
    include_leaks: bool = False
    validation_fraction: float = 0.05
    near_duplicates: NearDuplicates = "count"


class Origin(NamedTuple):
    """Where a published column comes from: a field of the row itself, or of one of its trials."""

    part: str
    field: str


_ROW = {
    name: Origin("row", name)
    for name in ("id", "question", "answer", "task", "source", "generator", "reflector", "corrector", "answer_type")
}
_FIRST = {
    "first_trial_reasoning": Origin("first", "reasoning"),
    "first_trial_answer": Origin("first", "generated_answer"),
    "reason_prompt": Origin("first", "reasoning_prompt"),
}
_PAIR = {
    **_ROW,
    **_FIRST,
    "second_trial_reasoning_chosen": Origin("chosen", "reasoning"),
    "second_trial_answer_chosen": Origin("chosen", "generated_answer"),
    "reflection_chosen": Origin("chosen", "reflections"),
    "second_trial_reasoning_rejected": Origin("rejected", "reasoning"),
    "second_trial_answer_rejected": Origin("rejected", "generated_answer"),
    "reflection_rejected": Origin("rejected", "reflections"),
    "reflect_prompt": Origin("chosen", "reflection_prompt"),
    "instruction": Origin("chosen", "instruction"),
    "instruction_rejected": Origin("rejected", "instruction"),
    "reflect_prompt_rejected": Origin("rejected", "reflection_prompt"),
}
ORIGINS: dict[str, dict[str, Origin]] = {
    "dplus": {
        **_ROW,
        **_FIRST,
        "second_trial_reasoning": Origin("chosen", "reasoning"),
        "second_trial_answer": Origin("chosen", "generated_answer"),
        "reflections": Origin("chosen", "reflections"),
        "reflect_prompt": Origin("chosen", "reflection_prompt"),
        "instruction": Origin("chosen", "instruction"),
        "correct_prompt": Origin("chosen", "reasoning_prompt"),
        "options": Origin("row", "options"),
        "test_list": Origin("row", "test_list"),
    },
    "dpm": _PAIR,
    "dpref": {**_PAIR, "judge": Origin("preference", "judge")},
}


def usable(row: RawRow, *, include_leaks: bool = False) -> list[int]:
    """Indices into `row["output"]` of the second trials whose reflection takes part, see the head of this module."""
    first, *_ = row["output"]
    if first["is_correct"] or first["finish_reason"] == "error":
        return []
    indices: list[int] = []
    seen: set[str] = set()
    for i, trial in enumerate(row["output"]):
        if trial["trial"] != 2 or "error" in (trial["finish_reason"], trial["reflection_finish_reason"]):
            continue
        if trial["leaks_answer"] and not include_leaks:
            continue
        text = normalize_whitespace(trial["reflections"][0])
        if text and text not in seen:
            seen.add(text)
            indices.append(i)
    return indices


def dplus_rows(row: RawRow, *, include_leaks: bool = False) -> list[DPlusRow]:
    """The D+ rows of one raw row: every usable reflection whose second trial is correct."""
    correct, _ = _by_outcome(row, include_leaks)
    return [_row("dplus", row, chosen=i) for i in correct]


def dpm_rows(row: RawRow, *, max_pairs: int = MAX_PAIRS, include_leaks: bool = False) -> list[PairRow]:
    """The D± rows of one raw row, at most `max_pairs`."""
    correct, wrong = _by_outcome(row, include_leaks)
    pairs = contrast_pairs(row["id"], correct, wrong, max_pairs=max_pairs)
    return [_row("dpm", row, chosen=i, rejected=j) for i, j in pairs]


def candidate_pairs(
    row: RawRow, *, max_pairs: int | None = None, include_leaks: bool = False
) -> list[tuple[int, int]]:
    """Pairs of indices into `row["output"]` for a judge: both reflections usable, both second trials correct."""
    correct, _ = _by_outcome(row, include_leaks)
    return equal_pairs(row["id"], correct, max_pairs=max_pairs)


def dpref_rows(
    row: RawRow, preferences: Iterable[PreferenceRow], *, max_pairs: int = MAX_PAIRS, include_leaks: bool = False
) -> list[DPrefRow]:
    """The Dpref rows of one raw row, at most `max_pairs`.

    Args:
        row: A raw row.
        preferences: What the judge said of this row's pairs: `chosen` and `rejected` index `row["output"]`, `judge`
            names who ranked; a tie has no chosen one. Of several on one pair the last counts.
        max_pairs: Pairs kept, in the order of `candidate_pairs`.
        include_leaks: Whether reflections that state the gold answer take part.
    """
    correct, _ = _by_outcome(row, include_leaks)
    ranked = filter(None, map(ranked_pair, preferences))
    pairs = ranked_pairs(row["id"], correct, ranked, max_pairs=max_pairs)
    return [_row("dpref", row, chosen=i, rejected=j, judge=judge) for i, j, judge in pairs]


def contrast_pairs(
    question_id: str, correct: Sequence[int], wrong: Sequence[int], *, max_pairs: int
) -> list[tuple[int, int]]:
    """At most `max_pairs` different (correct, wrong) pairs that use each index about equally often.

    The walk goes down the diagonals of the grid correct x wrong, from a place that depends on the question: were it
    always the first reflections, the first instructions of a pool would be trained on more than the others.

    >>> contrast_pairs("q", [1, 2], [3, 4, 5], max_pairs=3)
    [(2, 5), (1, 3), (2, 4)]
    """
    if not correct or not wrong:
        return []
    n, m = len(correct), len(wrong)
    start = stable_hash("pairs", question_id) if n * m > max_pairs else 0
    period = math.lcm(n, m)
    return [
        (correct[(start + t) % n], wrong[(start // n + t + t // period) % m]) for t in range(min(max_pairs, n * m))
    ]


def equal_pairs(question_id: str, indices: Sequence[int], *, max_pairs: int | None = None) -> list[tuple[int, int]]:
    """Unordered pairs, smaller index first, all or `max_pairs` of them that use each index about equally often.

    The order is that of a round-robin tournament, in which everyone plays once a round.

    >>> equal_pairs("q", [1, 2, 3])
    [(1, 3), (2, 3), (1, 2)]
    """
    n = len(indices)
    if n < 2:
        return []
    total = n * (n - 1) // 2
    limit = total if max_pairs is None else min(max_pairs, total)
    start = stable_hash("pairs", question_id) % n if n > 2 else 0
    players: list[int | None] = [*indices[start:], *indices[:start]]
    if n % 2:
        players.insert(0, None)  # whoever meets None sits the round out
    pairs: list[tuple[int, int]] = []
    while len(pairs) < limit:
        half = len(players) // 2
        for a, b in zip(players[:half], reversed(players[half:]), strict=True):
            if a is not None and b is not None:
                pairs.append((min(a, b), max(a, b)))
        players.insert(1, players.pop())
    return pairs[:limit]


def ranked_pairs(
    question_id: str, correct: Sequence[int], ranked: Iterable[RankedPair], *, max_pairs: int
) -> list[RankedPair]:
    """At most `max_pairs` of the pairs that the judge ranked, in the order of `equal_pairs`."""
    of_pair = {frozenset((pair.chosen, pair.rejected)): pair for pair in ranked}
    found = (of_pair.get(frozenset(pair)) for pair in equal_pairs(question_id, correct))
    return list(itertools.islice(filter(None, found), max_pairs))


def normalize_whitespace(text: str) -> str:
    """The text with every run of whitespace as one space, none at the ends."""
    return " ".join(text.split())


def _by_outcome(row: RawRow, include_leaks: bool) -> tuple[list[int], list[int]]:
    indices = usable(row, include_leaks=include_leaks)
    correct = [i for i in indices if row["output"][i]["is_correct"]]
    return correct, [i for i in indices if not row["output"][i]["is_correct"]]


def _row(config: str, row: RawRow, *, chosen: int, rejected: int | None = None, judge: str = "") -> Any:
    """A row of this config; `Any`, as its columns come from `ORIGINS`, where no type checker can follow."""
    output = row["output"]
    parts: dict[str, Any] = {"row": row, "first": output[0], "chosen": output[chosen], "preference": {"judge": judge}}
    parts["rejected"] = None if rejected is None else output[rejected]
    made: dict[str, Any] = {}
    for column in COLUMNS[config]:
        part, field = ORIGINS[config][column]
        value = parts[part][field]
        made[column] = value[0] if field == "reflections" else value
    return made
