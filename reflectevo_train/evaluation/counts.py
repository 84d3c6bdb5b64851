"""Raw rows -> `EvalReport`: integer counts, with every rate a property.

`score_rows(rows)` counts a run's predictions in total, per task and per source. The training callback, `evaluate`,
`score` and `report` all count here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from reflectevo_data.rollouts.manifest import Gate
from reflectevo_data.verifiers.voting import majority

from .intervals import Interval, wilson


@dataclass(frozen=True, slots=True)
class EvalReport:
    """What an evaluation counted; shares, differences and intervals are properties.

    Three kinds of number, by suffix:

    - `_t1`: the first trial.
    - `_t2`: the second, **oracle-gated** as in the paper: a problem solved at trial 1 is not tried again and carries
      into Acc@t2, so that Acc@t2 cannot fall below Acc@t1. The verifier, which knows the gold answer, decides who
      reflects. None for a `self` run, which did not reflect on every failed answer.
    - `_t2_ungated`: what is delivered without the gold answer: every answer is reflected on (gate `none`), or those
      that the model itself rejects (gate `self`), and a correct one may be lost. None for an `oracle` run.

    With several rounds, the oracle stops at the first correct answer and the ungated number is the last round's; with
    several second trials in a round the answer is the one that most of them give. An answer that cannot be read counts
    as wrong.

    Attributes:
        gate: Who decided which answers were reflected on.
        n_problems: The denominator of every accuracy: all problems with a record.
        n_unparsed_t2: Reflected problems whose last answer cannot be read.
        n_reflected: Problems with at least one second trial.
        n_wrong_to_right: Problems whose first answer is wrong and last one correct.
        n_right_to_wrong: Problems whose first answer is correct and last one wrong; an oracle run cannot have any.
        n_second_trials: Single second trials, and how many of them are correct: what voting started from.
        n_leaks: Reflections that state the gold answer.
        n_text: Problems answered in free text; exact matches and sums of F1 are over these.
        n_f1_improved: Of these, how many have a last answer with a higher F1 than the first.
        n_failed: Problems without a record, because a request failed; in no denominator.
        n_tokens: Generated tokens.
    """

    gate: Gate = "none"
    n_problems: int = 0
    n_correct_t1: int = 0
    n_correct_t2: int | None = None
    n_correct_t2_ungated: int | None = None
    n_unparsed_t1: int = 0
    n_unparsed_t2: int = 0
    n_reflected: int = 0
    n_wrong_to_right: int = 0
    n_right_to_wrong: int = 0
    n_second_trials: int = 0
    n_second_trials_correct: int = 0
    n_leaks: int = 0
    n_text: int = 0
    n_text_correct_t1: int = 0
    n_text_correct_t2: int | None = None
    n_text_correct_t2_ungated: int | None = None
    f1_sum_t1: float = 0.0
    f1_sum_t2: float | None = None
    f1_sum_t2_ungated: float | None = None
    n_f1_improved: int = 0
    n_failed: int = 0
    n_tokens: int = 0

    @property
    def acc_t1(self) -> float | None:
        return _share(self.n_correct_t1, self.n_problems)

    @property
    def acc_t2(self) -> float | None:
        """Oracle-gated: solved at trial 1, or after reflection."""
        return _share(self.n_correct_t2, self.n_problems)

    @property
    def acc_t2_ungated(self) -> float | None:
        return _share(self.n_correct_t2_ungated, self.n_problems)

    @property
    def delta(self) -> float | None:
        """Acc@t2 − Acc@t1, oracle-gated."""
        return _difference(self.acc_t2, self.acc_t1)

    @property
    def delta_ungated(self) -> float | None:
        return _difference(self.acc_t2_ungated, self.acc_t1)

    @property
    def acc_t1_interval(self) -> Interval | None:
        return wilson(self.n_correct_t1, self.n_problems)

    @property
    def acc_t2_interval(self) -> Interval | None:
        return wilson(self.n_correct_t2, self.n_problems)

    @property
    def acc_t2_ungated_interval(self) -> Interval | None:
        return wilson(self.n_correct_t2_ungated, self.n_problems)

    @property
    def corrected(self) -> float | None:
        """Share of single second trials on any answer that are correct."""
        return _share(self.n_second_trials_correct, self.n_second_trials)

    @property
    def em_t1(self) -> float | None:
        """Exact match over the free-text problems, as the text verifier has it."""
        return _share(self.n_text_correct_t1, self.n_text)

    @property
    def em_t2(self) -> float | None:
        return _share(self.n_text_correct_t2, self.n_text)

    @property
    def em_t2_ungated(self) -> float | None:
        return _share(self.n_text_correct_t2_ungated, self.n_text)

    @property
    def f1_t1(self) -> float | None:
        """Mean F1 over the free-text problems."""
        return _share(self.f1_sum_t1, self.n_text)

    @property
    def f1_t2(self) -> float | None:
        return _share(self.f1_sum_t2, self.n_text)

    @property
    def f1_t2_ungated(self) -> float | None:
        return _share(self.f1_sum_t2_ungated, self.n_text)

    def to_dict(self) -> dict[str, Any]:
        """The counts alone, for report.json."""
        return asdict(self)


class Scores(NamedTuple):
    """The counts of all rows, and of those of each task and each source, in alphabetic order."""

    total: EvalReport
    tasks: dict[str, EvalReport]
    sources: dict[str, EvalReport]


class Outcome(NamedTuple):
    """One problem's way through an evaluation: positions in the row's `output`.

    Attributes:
        rounds: For each round, the second trial that stands for it: the only one, or the first with the answer that
            most of them give. Empty when nothing was reflected on.
        oracle: The answer that stands when the verifier decides who reflects: the first correct one, else the last.
    """

    rounds: tuple[int, ...]
    oracle: int

    @property
    def last(self) -> int:
        return self.rounds[-1] if self.rounds else 0


def outcome_of(row: Mapping[str, Any]) -> Outcome:
    """Which answers of a raw row stand."""
    output = row["output"]
    places: dict[int, list[int]] = {}
    for place, trial in enumerate(output[1:], 1):
        places.setdefault(trial["trial"], []).append(place)
    rounds = []
    for _, round_places in sorted(places.items()):
        answers = [output[place]["generated_answer"] for place in round_places]
        rounds.append(round_places[majority(answers, row["answer_type"])])
    correct = [place for place in (0, *rounds) if output[place]["is_correct"]]
    return Outcome(tuple(rounds), correct[0] if correct else (rounds[-1] if rounds else 0))


def score_rows(rows: Iterable[Mapping[str, Any]], *, gate: Gate | None = None, n_failed: int = 0) -> Scores:
    """The counts of raw rows, in total, per task and per source.

    Args:
        rows: As `store.load_rows` or a Parquet file gives them.
        gate: How the rows were made; None finds out from them; a `self` run that
            accepted every correct answer and none of the wrong ones looks like an `oracle` run.
        n_failed: Problems that have no row because a request failed.

    >>> trial = {"is_correct": True, "status": "correct", "generated_answer": "B", "f1": 1.0, "leaks_answer": False,
    ...          "n_completion_tokens": 9, "n_reflection_tokens": 0, "trial": 1}
    >>> wrong = trial | {"is_correct": False, "status": "incorrect", "generated_answer": "A", "f1": 0.0}
    >>> rows = [{"task": "", "source": "", "answer_type": "choice", "output": output}
    ...         for output in ([trial], [wrong, trial | {"trial": 2}], [wrong, wrong | {"trial": 2}])]
    >>> report = score_rows(rows, gate="oracle").total
    >>> report.n_correct_t1, report.n_correct_t2, report.n_problems
    (1, 2, 3)
    """
    counters: dict[tuple[str, str], Counter[str]] = {}
    f1_terms: dict[tuple[str, str], dict[str, list[float]]] = {}
    seen: set[str] = set()
    for row in rows:
        counts, f1 = _count(row)
        seen.update(name for name in ("correct_reflected", "wrong_not_reflected") if counts[name])
        for group in (("", ""), ("task", row["task"]), ("source", row["source"])):
            counters.setdefault(group, Counter()).update(counts)
            terms = f1_terms.setdefault(group, {})
            for name, value in f1.items():
                terms.setdefault(name, []).append(value)
    gate = gate or _gate(seen)
    reports = {group: _report(gate, counts, f1_terms[group], 0) for group, counts in sorted(counters.items())}
    total = _report(gate, counters.get(("", ""), Counter()), f1_terms.get(("", ""), {}), n_failed)
    return Scores(
        total,
        {name: report for (kind, name), report in reports.items() if kind == "task" and name},
        {name: report for (kind, name), report in reports.items() if kind == "source" and name},
    )


def _count(row: Mapping[str, Any]) -> tuple[Counter[str], dict[str, float]]:
    """One row's counts, and for free text its F1 at each point."""
    output = row["output"]
    outcome = outcome_of(row)
    first, oracle, last = output[0], output[outcome.oracle], output[outcome.last]
    reflected = bool(outcome.rounds)
    counts = Counter(
        n_problems=1,
        n_correct_t1=first["is_correct"],
        n_correct_t2=oracle["is_correct"],
        n_correct_t2_ungated=last["is_correct"],
        n_unparsed_t1=first["status"] == "unparsed",
        n_unparsed_t2=reflected and last["status"] == "unparsed",
        n_reflected=reflected,
        n_wrong_to_right=not first["is_correct"] and last["is_correct"],
        n_right_to_wrong=first["is_correct"] and not last["is_correct"],
        n_second_trials=len(output) - 1,
        n_second_trials_correct=sum(trial["is_correct"] for trial in output[1:]),
        n_leaks=sum(trial["leaks_answer"] for trial in output[1:]),
        n_tokens=sum(trial["n_completion_tokens"] + trial["n_reflection_tokens"] for trial in output),
        correct_reflected=first["is_correct"] and reflected,
        wrong_not_reflected=not first["is_correct"] and not reflected,
    )
    if row["answer_type"] != "text":
        return counts, {}
    counts.update(
        n_text=1,
        n_text_correct_t1=first["is_correct"],
        n_text_correct_t2=oracle["is_correct"],
        n_text_correct_t2_ungated=last["is_correct"],
        n_f1_improved=last["f1"] > first["f1"],
    )
    return counts, {"f1_sum_t1": first["f1"], "f1_sum_t2": oracle["f1"], "f1_sum_t2_ungated": last["f1"]}


def _gate(seen: set[str]) -> Gate:
    """An oracle never reflects on a correct answer; without a gate no answer goes without reflection."""
    if "correct_reflected" not in seen:
        return "oracle"
    return "self" if "wrong_not_reflected" in seen else "none"


def _report(gate: Gate, counts: Counter[str], f1_terms: dict[str, list[float]], n_failed: int) -> EvalReport:
    values: dict[str, Any] = {}
    for field in fields(EvalReport):
        if field.name.startswith("n_"):
            values[field.name] = int(counts[field.name])
        elif field.name.startswith("f1_"):
            # exact summation: the same sum in whatever order the rows were finished
            values[field.name] = math.fsum(f1_terms.get(field.name, ()))
    not_measured = {"oracle": "_t2_ungated", "self": "_t2"}.get(gate)
    for name in values:
        if not_measured and name.endswith(not_measured) and name != "n_unparsed_t2":
            values[name] = None
    return EvalReport(**values | {"gate": gate, "n_failed": n_failed})


def _share(count: float | None, n: int) -> float | None:
    return count / n if count is not None and n else None


def _difference(after: float | None, before: float | None) -> float | None:
    return after - before if after is not None and before is not None else None
