"""Two evaluations on the same problems -> the difference, its bootstrap interval and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from reflectevo_data.rollouts.manifest import Loop, Manifest, loop_flags

from .counts import outcome_of
from .intervals import Interval, bootstrap, mcnemar


Metric = Literal["t1", "t2", "t2_ungated"]


class Answers(NamedTuple):
    """Whether each problem's answer is correct, by id.

    Attributes:
        group: Problems of one group (a story, a passage) are not independent; the id where there is none.
    """

    correct: dict[str, bool]
    group: dict[str, str]


@dataclass(frozen=True, slots=True)
class PairedTest:
    """B − A on the problems that both have.

    Attributes:
        n_only_a: Problems that A alone solved.
        n_only_b: Problems that B alone solved.
        interval: Of the difference, 95%, by resampling whole groups of problems.
        p_value: McNemar's exact test, two-sided.
    """

    n: int
    n_only_a: int
    n_only_b: int
    interval: Interval
    p_value: float

    @property
    def difference(self) -> float:
        return (self.n_only_b - self.n_only_a) / self.n


def answers_of(rows: Sequence[Mapping[str, Any]], metric: Metric) -> Answers:
    """Which problems a run solved: at trial 1, oracle-gated at trial 2, or with the last answer that it gave."""
    correct, group = {}, {}
    for row in rows:
        outcome = outcome_of(row)
        place = {"t1": 0, "t2": outcome.oracle, "t2_ungated": outcome.last}[metric]
        correct[row["id"]] = bool(row["output"][place]["is_correct"])
        group[row["id"]] = row["group"] or row["id"]
    return Answers(correct, group)


def compare(a: Answers, b: Answers, *, seed: int = 0) -> PairedTest | None:
    """The paired test of B against A; None when they have no problem in common."""
    ids = sorted(a.correct.keys() & b.correct.keys())
    if not ids:
        return None
    only_a = sum(a.correct[id] and not b.correct[id] for id in ids)
    only_b = sum(b.correct[id] and not a.correct[id] for id in ids)
    return PairedTest(
        n=len(ids),
        n_only_a=only_a,
        n_only_b=only_b,
        interval=bootstrap([b.correct[id] - a.correct[id] for id in ids], [a.group[id] for id in ids], seed),
        p_value=mcnemar(only_a, only_b),
    )


def settings_that_differ(manifests: Sequence[Manifest]) -> list[str]:
    """What else than the models two runs should have in common and do not, in words."""
    comparable = [
        {
            "source": replace(manifest.source, n_problems=None),
            "sampling": manifest.sampling,
            "prompts": manifest.prompts,
        }
        | loop_flags(manifest.loop or Loop(), "evaluate")
        for manifest in manifests
    ]
    first = comparable[0]
    return [name.replace("n_", "") for name in first if any(other[name] != first[name] for other in comparable[1:])]
