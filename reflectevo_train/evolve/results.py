"""What a demo found: the table over all seeds, the counts behind it, and a page with the learning curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from reflectevo_data.console import NOTHING, markdown_table, percent, points
from reflectevo_data.rollouts.store import load_rows
from reflectevo_data.schema import RawRow

from ..evaluation.comparison import Answers, PairedTest, answers_of, compare
from ..evaluation.counts import EvalReport, score_rows
from ..report.report import html, make_report
from ..report.runs import load_runs
from .plan import PROMPTING, Entry, Plan
from .steps import Clock


class Result(NamedTuple):
    """A row of the results table: the counts over all seeds, and the paired test against the untrained reflector."""

    title: str
    report: EvalReport
    against: PairedTest | None
    seeds: int


RESULT_COLUMNS = ("", "Acc@t1", "Acc@t2", "Δ", "against the untrained reflector", "p")


def report(plan: Plan, output: Path, clock: Clock) -> None:
    """Prints the table and writes `table.md`, `results.json` and `report.html`."""
    from reflectevo_data.console import print_table

    results = list(collect(plan, output))
    rows = [table_row(result) for result in results]
    n = results[0].report.n_problems
    title = f"{n:,} {plan.split} problems ({plan.seeds} seeds), greedy trials, reflections at T = 1, oracle-gated"
    (output / "table.md").write_text(f"{title}\n\n{markdown_table(RESULT_COLUMNS, rows)}\n", "utf-8")
    content = {
        "plan": plan.manifest() | {"seeds": plan.seeds, "rounds": plan.rounds},
        "seconds": clock.seconds,
        "results": {result.title: result.report.to_dict() for result in results},
    }
    (output / "results.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print_table(title, RESULT_COLUMNS, rows)
    print_table("Seconds", ("phase", "s"), [(name, f"{seconds:.0f}") for name, seconds in clock.seconds.items()])
    write_page(plan, output)


def collect(plan: Plan, output: Path) -> Iterator[Result]:
    """The table's rows, in its order."""
    baseline = _answers(plan, output, "round-1", PROMPTING)
    rows = [(entry, "round-1", entry.title) for entry in plan.entries]
    if plan.rounds == 2:
        rows = [(e, r, f"{t}, round 1" if e is plan.goes_on else t) for e, r, t in rows]
        rows.append((plan.goes_on, "round-2", f"{plan.goes_on.title}, round 2"))
    for entry, round_name, title in rows:
        raw = [row for _, row in _rows(plan, output, round_name, entry)]
        against = None if entry is PROMPTING else compare(baseline, _answers(plan, output, round_name, entry))
        yield Result(title, score_rows(raw, gate="oracle").total, against, plan.seeds)


def table_row(result: Result) -> tuple[str, ...]:
    """A result as the cells of `RESULT_COLUMNS`."""
    report, test = result.report, result.against
    difference = NOTHING
    if test is not None:
        low, high = points(test.interval.low), points(test.interval.high)
        difference = f"{points(test.difference)} [{low}, {high}]"
    return (
        result.title,
        percent(report.acc_t1, report.acc_t1_interval),
        percent(report.acc_t2, report.acc_t2_interval),
        points(report.delta),
        difference,
        NOTHING if test is None else f"{test.p_value:.2g}",
    )


def write_page(plan: Plan, output: Path) -> None:
    """`report.html`: the first seed's evaluations compared, and the learning curves of every training."""
    entries = sorted(plan.entries, key=lambda entry: entry is not PROMPTING)  # the baseline first
    folders = [f"{entry.title}={output / 'seed-0' / 'round-1' / 'eval' / entry.name}" for entry in entries]
    if plan.rounds == 2:
        folders.append(f"{plan.goes_on.title}, round 2={output / 'seed-0' / 'round-2' / 'eval' / plan.goes_on.name}")
    page = make_report(load_runs(folders), title="ReflectEvo demo, first seed", training=trainings(output))
    (output / "report.html").write_text(html(page), "utf-8")


def trainings(output: Path) -> dict[str, Path]:
    """Name -> folder of every training that ran to its end."""
    found: dict[str, Path] = {}
    for state in sorted(output.glob("seed-*/round-*/models/*/trainer_state.json")):
        seed, round_name, name = state.parts[-5], state.parts[-4], state.parts[-2]
        found[f"{name}, {round_name} ({seed})" if round_name != "round-1" else f"{name} ({seed})"] = state.parent
    return found


def _rows(plan: Plan, output: Path, round_name: str, entry: Entry) -> Iterable[tuple[int, RawRow]]:
    for seed in range(plan.seeds):
        for row in load_rows(output / f"seed-{seed}" / round_name / "eval" / entry.name):
            yield seed, row


def _answers(plan: Plan, output: Path, round_name: str, entry: Entry) -> Answers:
    """Of all seeds; a problem that two of them drew stands twice."""
    correct: dict[str, bool] = {}
    group: dict[str, str] = {}
    for seed, row in _rows(plan, output, round_name, entry):
        answers = answers_of([row], "t2")
        for problem, is_correct in answers.correct.items():
            correct[f"{seed}/{problem}"] = is_correct
            group[f"{seed}/{problem}"] = answers.group[problem]
    return Answers(correct, group)
