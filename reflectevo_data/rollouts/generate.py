"""Generation: problems through the loop into a run directory, and the counts at the end.

`reflectevo-data generate` calls `generate_run`; so can a program of one's own, with completers of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from ..console import NOTHING, percent, progress_bar
from ..prompts.templates import PromptSet
from ..schema import FailedRollout, Problem, RawRow, raw_row
from .loop import Roles, Verifier, run_rollouts
from .manifest import Loop
from .store import RunDirectory, load_rows


@dataclass(slots=True)
class RunCounts:
    """What a run holds, as counts; rates are properties and None where they would divide by nothing."""

    n_problems: int = 0
    n_correct_t1: int = 0
    n_reflections: int = 0
    n_corrected: int = 0
    n_unparsed: int = 0
    n_leaks: int = 0
    n_tokens: int = 0

    @property
    def acc_t1(self) -> float | None:
        """Share of problems solved at trial 1."""
        return self.n_correct_t1 / self.n_problems if self.n_problems else None

    @property
    def corrected(self) -> float | None:
        """Share of second trials that are correct."""
        return self.n_corrected / self.n_reflections if self.n_reflections else None

    def add(self, row: RawRow) -> None:
        """Counts one `raw` row."""
        first, *seconds = row["output"]
        self.n_problems += 1
        self.n_correct_t1 += first["is_correct"]
        self.n_reflections += len(seconds)
        self.n_corrected += sum(second["is_correct"] for second in seconds)
        self.n_unparsed += sum(output["status"] == "unparsed" for output in row["output"])
        self.n_leaks += sum(second["leaks_answer"] for second in seconds)
        self.n_tokens += sum(output["n_completion_tokens"] + output["n_reflection_tokens"] for output in row["output"])


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """The whole run's counts, and what this process added to them, in how many seconds.

    `failures` counts the problems that failed by their reason.
    """

    counts: RunCounts
    new: RunCounts
    failures: Counter[str]
    seconds: float

    def table(self) -> list[tuple[str, str]]:
        """Rows for people: what, how much."""
        counts = self.counts
        n_trials = counts.n_problems + counts.n_reflections
        return [
            ("problems", f"{counts.n_problems:,}"),
            ("Acc@t1", percent(counts.acc_t1)),
            ("reflections", f"{counts.n_reflections:,}"),
            ("corrected after reflection", percent(counts.corrected)),
            ("unparsed trials", f"{counts.n_unparsed:,} of {n_trials:,}"),
            ("failed problems", f"{self.failures.total():,}"),
            ("reflections that leak the answer", f"{counts.n_leaks:,}"),
            ("tokens/s", f"{self.new.n_tokens / self.seconds:,.0f}" if self.seconds else NOTHING),
            ("problems/s", f"{self.new.n_problems / self.seconds:,.2f}" if self.seconds else NOTHING),
        ]


async def generate_run(
    problems: Sequence[Problem],
    roles: Roles,
    run: RunDirectory,
    loop: Loop | None = None,
    *,
    prompts: PromptSet,
    verifier: Verifier,
    in_flight: int = 128,
    title: str = "generate",
) -> GenerationReport:
    """Takes every problem that the run has no record of through the loop, each stored the moment it is done.

    Failed problems are logged in the run and counted; the next call makes them again. The arguments are those of
    `run_rollouts`.
    """
    todo = [problem for problem in problems if problem.id not in run.done]
    new = RunCounts()
    failures: Counter[str] = Counter()
    start = time.monotonic()
    rollouts = run_rollouts(todo, roles, loop, prompts=prompts, verifier=verifier, in_flight=in_flight)
    with progress_bar(title, len(todo)) as bar:
        async with aclosing(rollouts):
            async for result in rollouts:
                if isinstance(result, FailedRollout):
                    run.append_failure(result)
                    failures[result.error] += 1
                else:
                    row = raw_row(result)
                    run.append(row)
                    new.add(row)
                bar.advance(note=_note(new, failures.total(), time.monotonic() - start))
    seconds = time.monotonic() - start
    return GenerationReport(count_run(run.path), new, failures, seconds)


def count_run(path: Path) -> RunCounts:
    """The counts of a run's records."""
    counts = RunCounts()
    for row in load_rows(path):
        counts.add(row)
    return counts


def _note(new: RunCounts, n_failed: int, seconds: float) -> str:
    parts = [
        f"{new.n_tokens / seconds:,.0f} tokens/s",
        f"Acc@t1 {percent(new.acc_t1)}",
        f"corrected {percent(new.corrected)}",
    ]
    return " · ".join([*parts, f"{n_failed:,} failed"] if n_failed else parts)
