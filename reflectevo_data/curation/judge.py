"""The judge: candidate pairs of reflections -> preferences.

Both reflections of a candidate pair led to a correct second trial; the judge says which is the better one. A model
judge reads each pair in both orders, and a verdict that flips with the order is a tie. `self` needs no other model: it
compares how probable the gold answer is to the corrector under each reflection. Preferences go into the run directory,
which resumes: `reflectevo-data judge RUN`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from ..completers.base import Completer, Sampling
from ..console import progress_bar
from ..errors import InputError
from ..prompts.templates import PromptSet
from ..rollouts.loop import request_seed
from ..rollouts.store import Preferences, load_rows
from ..schema import PreferenceRow, Problem, RawRow, problem_of_row
from .curate import candidate_pairs


# Log-probabilities of the same text differ in the last digits with the batch they were computed in.
MARGIN = 1e-3


class CandidatePair(NamedTuple):
    """Two reflections on one failed trial: `first` < `second` are their places in the row's `output`."""

    row: RawRow
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Preference:
    """What the judge says of a pair: `first`, `second`, or why there is no winner.

    `positions` has, for each reading that could be parsed, which place on the page won: `A` or `B`.
    """

    outcome: Literal["first", "second", "tie", "unparsed", "failed"]
    positions: tuple[str, ...] = ()
    error: str = ""


class Judge(Protocol):
    """Ranks pairs; `name` is published in the `judge` column."""

    @property
    def name(self) -> str: ...

    async def rank(self, pair: CandidatePair) -> Preference: ...


@dataclass(frozen=True, slots=True)
class SelfJudge:
    """Compares mean log-probabilities, in nats a token, that the corrector gives the gold answer."""

    corrector: Completer
    prompts: PromptSet
    name: str = "self"

    async def rank(self, pair: CandidatePair) -> Preference:
        problem = problem_of_row(pair.row)
        if not problem.answer:  # code that is known by its tests alone
            return Preference("tie")
        first, second = await asyncio.gather(
            self._gold_logprob(problem, pair.row, pair.first), self._gold_logprob(problem, pair.row, pair.second)
        )
        if abs(first - second) < MARGIN:
            return Preference("tie")
        return Preference("first" if first > second else "second")

    async def _gold_logprob(self, problem: Problem, row: RawRow, index: int) -> float:
        prompt = self.prompts.correct(problem, row["output"][0]["reasoning"], row["output"][index]["reflections"][0])
        opening, gold, closing = answer_slot(problem)
        score = await self.corrector.logprob(prompt, gold + closing, prefill=opening)
        return score.mean


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """Asks a model which reflection is the better one, once in each order."""

    completer: Completer
    prompts: PromptSet
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    seed: int = 0

    @property
    def name(self) -> str:
        return self.completer.model

    async def rank(self, pair: CandidatePair) -> Preference:
        (forward, error_1), (backward, error_2) = await asyncio.gather(
            self._read(pair, pair.first, pair.second, "forward"), self._read(pair, pair.second, pair.first, "backward")
        )
        if error := error_1 or error_2:
            return Preference("failed", error=error)
        positions = tuple(position for position in (forward, backward) if position)
        if len(positions) < 2:
            return Preference("unparsed", positions)
        if forward == backward:  # the same place on the page won twice: it was the place, not the reflection
            return Preference("tie", positions)
        return Preference("first" if forward == "A" else "second", positions)

    async def _read(self, pair: CandidatePair, a: int, b: int, order: str) -> tuple[str, str]:
        """The place that won (`A`, `B` or empty), and why the request failed (or empty)."""
        row, output = pair.row, pair.row["output"]
        prompt = self.prompts.judge(
            problem_of_row(row), output[0]["reasoning"], output[a]["reflections"][0], output[b]["reflections"][0]
        )
        step = f"judge_{pair.first}_{pair.second}_{order}"
        [completion] = await self.completer.complete(
            prompt, sampling=self.sampling, seed=request_seed(self.seed, row["id"], step)
        )
        if completion.finish_reason == "error":
            return "", completion.error
        return parse_preference(completion.text), ""


async def judge_pairs(
    pairs: Iterable[CandidatePair], judge: Judge, *, in_flight: int = 64
) -> AsyncGenerator[tuple[CandidatePair, Preference], None]:
    """Each pair with its preference, the moment it is ranked; at most `in_flight` at once."""
    source = iter(pairs)
    waiting: set[asyncio.Task[tuple[CandidatePair, Preference]]] = set()

    async def rank(pair: CandidatePair) -> tuple[CandidatePair, Preference]:
        return pair, await judge.rank(pair)

    try:
        while True:
            while len(waiting) < in_flight and (pair := next(source, None)) is not None:
                waiting.add(asyncio.create_task(rank(pair)))
            if not waiting:
                return
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in waiting:
            task.cancel()


async def judge_run(
    preferences: Preferences, judge: Judge, *, max_pairs: int | None = None, in_flight: int = 64
) -> JudgeSummary:
    """Ranks the run's candidate pairs that have no preference yet; each is stored the moment it is ranked.

    Failed requests are counted and not stored; the next call makes them again.

    Args:
        preferences: The run's, locked for writing.
        judge: One judge a run: what two judges say is not comparable.
        max_pairs: Pairs of one question, all unless given.
        in_flight: Pairs read at once.

    Raises:
        InputError: The run has preferences of another judge.
    """
    run = preferences.path.parent
    if others := {row["judge"] for row in preferences.rows} - {judge.name}:
        raise InputError(
            f"{preferences.path}: holds the preferences of {', '.join(sorted(others))}, not of {judge.name}. "
            "Remove the file to judge the run anew."
        )
    ranked = {(row["id"], *row["pair"]) for row in preferences.rows if "pair" in row}
    # only rows with a pair to rank are kept in memory
    pairs = [
        CandidatePair(row, first, second)
        for row in load_rows(run)
        for first, second in candidate_pairs(row, max_pairs=max_pairs)
        if (row["id"], first, second) not in ranked
    ]
    n_failed = 0
    with progress_bar("judge", len(pairs), unit="pairs") as bar:
        async with aclosing(judge_pairs(pairs, judge, in_flight=in_flight)) as verdicts:
            async for pair, preference in verdicts:
                if preference.outcome == "failed":
                    n_failed += 1
                else:
                    preferences.append(preference_row(pair, preference, judge.name))
                bar.advance()
    return summarise(preferences.rows, n_failed=n_failed)


def preference_row(pair: CandidatePair, preference: Preference, judge: str) -> PreferenceRow:
    """A line of `preferences.jsonl`; `chosen` and `rejected` are places in `output`, null without a winner."""
    winner = {"first": pair.first, "second": pair.second}.get(preference.outcome)
    loser = {"first": pair.second, "second": pair.first}.get(preference.outcome)
    return {
        "id": pair.row["id"],
        "pair": [pair.first, pair.second],
        "chosen": winner,
        "rejected": loser,
        "outcome": preference.outcome,
        "positions": list(preference.positions),
        "judge": judge,
    }


@dataclass(frozen=True, slots=True)
class JudgeSummary:
    """Counts over preference rows; rates are properties."""

    n_pairs: int
    n_ranked: int
    n_ties: int
    n_unparsed: int
    n_readings: int
    n_first_place: int
    n_failed: int = 0

    @property
    def position_bias(self) -> float | None:
        """Share of the readings won by whichever reflection stood first; 0.5 is no bias, None without readings."""
        return self.n_first_place / self.n_readings if self.n_readings else None

    @property
    def parse_failure_rate(self) -> float:
        return self.n_unparsed / self.n_pairs if self.n_pairs else 0.0

    def table(self) -> list[tuple[str, str]]:
        """Rows for people: what, how much."""
        bias = self.position_bias
        return [
            ("pairs of reflections that both led to a correct trial", f"{self.n_pairs:,}"),
            ("ranked", f"{self.n_ranked:,}"),
            ("ties, dropped", f"{self.n_ties:,}"),
            ("unparsed, dropped", f"{self.n_unparsed:,} ({100 * self.parse_failure_rate:.1f} %)"),
            (
                "readings won by the first on the page",
                "–" if bias is None else f"{100 * bias:.1f} % (50 % is no bias)",
            ),
            ("failed requests", f"{self.n_failed:,}"),
        ]


def summarise(rows: Iterable[PreferenceRow], *, n_failed: int = 0) -> JudgeSummary:
    """The counts of a run's preferences."""
    rows = list(rows)
    outcomes = Counter(row.get("outcome") for row in rows)
    positions = Counter(position for row in rows for position in row.get("positions", ()))
    return JudgeSummary(
        n_pairs=len(rows),
        n_ranked=outcomes["first"] + outcomes["second"],
        n_ties=outcomes["tie"],
        n_unparsed=outcomes["unparsed"],
        n_readings=positions.total(),
        n_first_place=positions["A"],
        n_failed=n_failed,
    )


_BETTER = re.compile(
    r"better\s*(?:notes?|one|reflection)?\s*(?:is|are|:|=)\s*\W*(?:notes?\s+)?\W*([AB])\b", re.IGNORECASE
)


def parse_preference(text: str) -> str:
    """`A` or `B` from the judge's last verdict, empty when there is none.

    >>> parse_preference("A is vague, B names the sign. Better: **B**")
    'B'
    """
    verdicts = _BETTER.findall(text)
    return verdicts[-1].upper() if verdicts else ""


def answer_slot(problem: Problem) -> tuple[str, str, str]:
    """The gold answer as the model would write it: what opens the slot, the gold, what closes it."""
    if problem.answer_type == "math":
        return "Action: Finish<<<", problem.answer, ">>>"
    if problem.answer_type == "code":
        return "Action: [BEGIN]\n", problem.answer.strip(), "\n[END]"
    gold = problem.answer.upper() if problem.answer_type == "choice" else problem.answer
    return "Action: Finish[", gold, "]"
