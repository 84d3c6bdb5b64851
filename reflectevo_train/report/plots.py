"""Counts -> what a plot shows, as numbers in percent: the page draws them, Markdown gets them as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reflectevo_data.console import percent
from reflectevo_data.errors import InputError
from reflectevo_data.schema import Row

from ..evaluation.counts import EvalReport
from ..evaluation.intervals import Interval, wilson
from ..evaluation.tables import Table


N_BINS = 5
# What the axes of the default pool's keys stand for, in the order of its choices.
AXES = {
    "way through the attempt": ("step by step", "as a whole"),
    "what is checked": (
        "calculation",
        "order of steps",
        "logic",
        "consistency",
        "match with the question",
        "relevance, completeness",
        "form of the answer",
        "facts",
    ),
    "level of the plan": ("broad", "in detail"),
}


class Mark(NamedTuple):
    """A share on the axis, with its interval; all in percent."""

    kind: Literal["t1", "t2", "ungated"]
    at: float
    low: float
    width: float
    title: str


class PlotRow(NamedTuple):
    """A line of the plot; `value` says in words what it shows."""

    label: str
    marks: Sequence[Mark]
    value: str

    @property
    def way(self) -> tuple[float, float]:
        """Start and length of the line that joins the marks."""
        places = [mark.at for mark in self.marks]
        return min(places), max(places) - min(places)


class Plot(NamedTuple):
    """Shares from 0 to 100 %, one row each."""

    title: str
    rows: Sequence[PlotRow]
    kind: Literal["accuracy", "correction"]
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()

    def table(self) -> Table:
        """The same as a table."""
        return Table(("", "corrected"), [(row.label, row.value) for row in self.rows])


class Series(NamedTuple):
    """A curve: `points` are SVG coordinates, both axes from 0 to 100."""

    name: str
    points: str
    start: str
    end: str


class Curve(NamedTuple):
    """Curves over the steps of training."""

    title: str
    series: Sequence[Series]
    low: str
    high: str
    first: int
    last: int

    def table(self) -> Table:
        """First and last value of each curve."""
        return Table(("", f"step {self.first}", f"step {self.last}"), [(s.name, s.start, s.end) for s in self.series])


def accuracy_plot(title: str, reports: Sequence[tuple[str, EvalReport]]) -> Plot:
    """Acc@t1 and Acc@t2 of each run."""
    rows, legend = [], {}
    for name, report in reports:
        numbers = (
            ("t1", "Acc@t1", report.acc_t1, report.acc_t1_interval),
            ("t2", "Acc@t2, oracle-gated", report.acc_t2, report.acc_t2_interval),
            ("ungated", "Acc@t2, ungated", report.acc_t2_ungated, report.acc_t2_ungated_interval),
        )
        marks = []
        for kind, what, share, interval in numbers:
            if share is not None and interval is not None:
                legend[kind] = what
                marks.append(_mark(kind, share, interval, what))
        gated = " → ".join(f"{mark.at:.1f}" for mark in marks if mark.kind != "ungated")
        ungated = "".join(f", ungated {mark.at:.1f}" for mark in marks if mark.kind == "ungated")
        rows.append(PlotRow(name, marks, gated + ungated))
    return Plot(title, rows, "accuracy", legend=list(legend.items()))


def correction_by_length(name: str, rows: Sequence[Row]) -> Plot | None:
    """Share of failed first trials that are corrected, by the length of the reflection; None without reflections."""
    samples = sorted((len(text.split()), correct) for _, text, correct in _samples(rows))
    if len(samples) < N_BINS:
        return None
    edges = sorted({samples[len(samples) * i // N_BINS][0] for i in range(N_BINS)})
    lines = []
    for low, high in zip(edges, [*edges[1:], samples[-1][0] + 1], strict=True):
        inside = [correct for length, correct in samples if low <= length < high]
        lines.append(_share_row(f"{low}" if high == low + 1 else f"{low} to {high - 1}", inside))
    return Plot(f"{name}: corrected, by length of the reflection", lines, "correction", "words; failed first trials")


def correction_by_axis(name: str, rows: Sequence[Row]) -> list[Plot]:
    """The same by instruction, and by axis where the keys are the default pool's."""
    samples = sorted((key, correct) for key, _, correct in _samples(rows) if key)
    if len({key for key, _ in samples}) < 2:
        return []
    if not all(re.fullmatch("[12]-[1-8]-[12]", key) for key, _ in samples):
        return [_by_key(f"{name}: corrected, by instruction", samples)]
    plots = []
    for axis, (title, choices) in enumerate(AXES.items()):
        parts = [(int(key.split("-")[axis]), correct) for key, correct in samples]
        named = [(f"{part} {choices[part - 1]}", correct) for part, correct in sorted(parts)]
        if len({label for label, _ in named}) > 1:
            plots.append(_by_key(f"{name}: corrected, by {title}", named))
    return plots


def learning_curves(trainings: Mapping[str, Path]) -> list[Curve]:
    """Accuracies on held-out problems over the steps of training runs, from their trainer states.

    Args:
        trainings: Name -> output folder.

    Raises:
        InputError: A folder has no trainer state, or none that can be read.
    """
    curves = []
    for training, folder in trainings.items():
        path = _trainer_state(folder)
        try:
            history = json.loads(path.read_text("utf-8"))["log_history"]
            for title, names in (("accuracy", ("eval_acc_t1", "eval_acc_t2")), ("loss", ("loss", "eval_loss"))):
                series = {name: [(e["step"], float(e[name])) for e in history if name in e] for name in names}
                if any(len(points) > 1 for points in series.values()):
                    curves.append(_curve(f"{training}: {title}", series))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no trainer state that can be read ({error!r}).") from None
    return curves


def _samples(rows: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """(instruction, reflection, corrected) of each second trial on a failed first one."""
    return [
        (trial["instruction"], " ".join(trial["reflections"]), trial["is_correct"])
        for row in rows
        if not row["output"][0]["is_correct"]
        for trial in row["output"]
        if trial["trial"] == 2 and any(trial["reflections"])
    ]


def _by_key(title: str, samples: Sequence[tuple[str, bool]]) -> Plot:
    keys = list(dict.fromkeys(key for key, _ in samples))
    rows = [_share_row(key, [correct for other, correct in samples if other == key]) for key in keys]
    return Plot(title, rows, "correction", "failed first trials")


def _share_row(label: str, correct: Sequence[bool]) -> PlotRow:
    share, interval = sum(correct) / len(correct), wilson(sum(correct), len(correct))
    assert interval is not None
    return PlotRow(label, [_mark("t2", share, interval, "corrected")], f"{percent(share)} of {len(correct):,}")


def _mark(kind: Any, share: float, interval: Interval, what: str) -> Mark:
    low, high = 100 * interval.low, 100 * interval.high
    return Mark(
        kind, round(100 * share, 3), round(low, 3), round(high - low, 3), f"{what}: {percent(share, interval)}"
    )


def _curve(title: str, series: dict[str, list[tuple[int, float]]]) -> Curve:
    steps = [step for points in series.values() for step, _ in points]
    values = [value for points in series.values() for _, value in points]
    first, last, low, high = min(steps), max(steps), min(values), max(values)

    def place(step: int, value: float) -> str:
        return f"{100 * (step - first) / max(last - first, 1):.2f},{100 * (high - value) / ((high - low) or 1):.2f}"

    return Curve(
        title,
        [
            Series(name, " ".join(place(*point) for point in points), f"{points[0][1]:.3f}", f"{points[-1][1]:.3f}")
            for name, points in series.items()
            if points
        ],
        f"{low:.3f}",
        f"{high:.3f}",
        first,
        last,
    )


def _trainer_state(folder: Path) -> Path:
    def step(path: Path) -> int:
        number = path.parent.name.removeprefix("checkpoint-")
        return int(number) if number.isdecimal() else -1

    found = [folder / "trainer_state.json", *sorted(folder.glob("checkpoint-*/trainer_state.json"), key=step)[::-1]]
    for path in found:
        if path.is_file():
            return path
    raise InputError(f"--training {folder}: no trainer_state.json in it. Name the output folder of a training run.")
