"""What a demo found: the table over all seeds, the counts behind it, and the learning curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from reflectevo_data.console import NOTHING, markdown_table, percent, points
from reflectevo_data.rollouts.store import load_rows
from reflectevo_data.schema import RawRow

from ..evaluation.comparison import Answers, PairedTest, answers_of, compare
from ..evaluation.counts import EvalReport, score_rows
from .plan import PROMPTING, Entry, Plan
from .steps import Clock


class Result(NamedTuple):
    """A row of the results table: the counts over all seeds, and the paired test against the untrained reflector."""

    title: str
    report: EvalReport
    against: PairedTest | None
    seeds: int


COLUMNS = ("", "Acc@t1", "Acc@t2", "Δ", "against the untrained reflector", "p")


def report(plan: Plan, output: Path, clock: Clock) -> None:
    """Prints the table and writes `table.md`, `results.json` and the plot."""
    from reflectevo_data.console import print_table

    results = list(collect(plan, output))
    rows = [table_row(result) for result in results]
    n = results[0].report.n_problems
    title = f"{n:,} {plan.split} problems ({plan.seeds} seeds), greedy trials, reflections at T = 1, oracle-gated"
    (output / "table.md").write_text(f"{title}\n\n{markdown_table(COLUMNS, rows)}\n", "utf-8")
    content = {
        "plan": plan.manifest() | {"seeds": plan.seeds, "rounds": plan.rounds},
        "seconds": clock.seconds,
        "results": {result.title: result.report.to_dict() for result in results},
    }
    (output / "results.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print_table(title, COLUMNS, rows)
    print_table("Seconds", ("phase", "s"), [(name, f"{seconds:.0f}") for name, seconds in clock.seconds.items()])
    plot_learning_curves(learning_curves(output), output / "learning_curves.png")


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
    """A result as the cells of `COLUMNS`."""
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


class Curve(NamedTuple):
    """Acc@t2 on validation problems at each evaluation of a training."""

    name: str
    steps: list[int]
    acc_t2: list[float]


def learning_curves(output: Path) -> list[Curve]:
    """What the evaluation callback logged, of every training in the folder."""
    curves = []
    for state in sorted(output.glob("seed-*/round-*/models/*/trainer_state.json")):
        log = [e for e in json.loads(state.read_text("utf-8"))["log_history"] if "eval_acc_t2" in e]
        seed, round_name, name = state.parts[-5], state.parts[-4], state.parts[-2]
        label = f"{name}, {round_name}" if round_name != "round-1" else name
        if log:
            curves.append(Curve(f"{label} ({seed})", [e["step"] for e in log], [e["eval_acc_t2"] for e in log]))
    return curves


def plot_learning_curves(curves: Sequence[Curve], path: Path) -> None:
    """One line a training, one color a setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    names = list(dict.fromkeys(curve.name.rpartition(" (")[0] for curve in curves))
    labelled: set[str] = set()
    for curve in curves:
        name = curve.name.rpartition(" (")[0]
        label = None if name in labelled else name
        labelled.add(name)
        axes.plot(curve.steps, curve.acc_t2, marker="o", markersize=3, color=f"C{names.index(name)}", label=label)
    axes.set(xlabel="optimizer step", ylabel="Acc@t2, validation problems", title="Learning curves")
    if curves:
        figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


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
