"""Evaluation counts -> cells and tables for people: the terminal, Markdown and the model card show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reflectevo_data.console import NOTHING, markdown_table, percent, points
from reflectevo_data.rollouts.manifest import Gate

from .counts import EvalReport, Scores
from .intervals import Interval


GATE_MEANINGS: dict[Gate, str] = {
    "none": "every answer is reflected on",
    "oracle": "only answers that the verifier refuses are reflected on",
    "self": "answers that the model itself does not call right are reflected on",
}


class Table(NamedTuple):
    """Cells as they are shown; `groups` are titles over columns from the second on, with their widths."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()

    def markdown(self) -> str:
        """A Markdown table; group titles go into the column titles."""
        titles = [title for title, width in self.groups for _ in range(width)] or [""] * (len(self.columns) - 1)
        columns = (f"{title} {column}".strip() for title, column in zip(titles, self.columns[1:], strict=True))
        return markdown_table([self.columns[0], *columns], self.rows)


def summary_rows(report: EvalReport) -> list[tuple[str, str]]:
    """What was measured in all, one line a number."""
    rows = [
        ("problems", f"{report.n_problems:,}"),
        ("Acc@t1", percent(report.acc_t1, report.acc_t1_interval)),
    ]
    if report.gate == "self":
        rows.append(("Acc@t2, oracle-gated", f"{NOTHING} (a self-gated run does not reflect on every failed answer)"))
    else:
        rows += [
            ("Acc@t2, oracle-gated", percent(report.acc_t2, report.acc_t2_interval)),
            ("Δ, oracle-gated", points(report.delta)),
        ]
    name = "self-gated" if report.gate == "self" else "ungated"
    if report.gate == "oracle":
        rows.append((f"Acc@t2, {name}", f"{NOTHING} (an oracle run has none: --gate none measures both)"))
    else:
        rows += [
            (f"Acc@t2, {name}", percent(report.acc_t2_ungated, report.acc_t2_ungated_interval)),
            (f"Δ, {name}", points(report.delta_ungated)),
        ]
    rows += [
        ("wrong → right", f"{report.n_wrong_to_right:,}"),
        ("right → wrong", f"{report.n_right_to_wrong:,}" if report.gate != "oracle" else f"{NOTHING} (oracle)"),
        ("reflected on", f"{report.n_reflected:,}"),
        ("second trials correct", f"{report.n_second_trials_correct:,} of {report.n_second_trials:,}"),
        ("unparsed at trial 1", f"{report.n_unparsed_t1:,}"),
        ("unparsed at trial 2", f"{report.n_unparsed_t2:,}"),
        ("reflections that leak the answer", f"{report.n_leaks:,}"),
        ("failed problems", f"{report.n_failed:,}"),
        ("generated tokens", f"{report.n_tokens:,}"),
    ]
    if report.n_text:
        rows += [
            (f"EM, F1 at trial 1 ({report.n_text:,} in free text)", _em_f1(report.em_t1, report.f1_t1)),
            ("EM, F1 at trial 2, oracle-gated", _em_f1(report.em_t2, report.f1_t2)),
            (f"EM, F1 at trial 2, {name}", _em_f1(report.em_t2_ungated, report.f1_t2_ungated)),
            ("higher F1 at trial 2", f"{report.n_f1_improved:,}"),
        ]
    return rows


def group_columns(scores: Scores) -> tuple[str, ...]:
    """The titles of what `group_rows` gives."""
    delivered = "self-gated" if scores.total.gate == "self" else "ungated"
    accuracies = ("Acc@t1", "Acc@t2", "Δ", delivered, "Δ")
    return ("", "n", *accuracies, "gained", "lost", "unparsed", "EM/F1 t1", "EM/F1 t2")


def group_rows(scores: Scores, *, intervals: bool = True) -> list[tuple[str, ...]]:
    """One row a task, one a source where these are not the same, and one in total."""
    groups = [*scores.tasks.items()]
    if list(scores.sources.values()) != list(scores.tasks.values()):
        groups += scores.sources.items()
    return [_group_row(name, report, intervals) for name, report in [*groups, ("all", scores.total)]]


def result_cells(report: EvalReport, *, intervals: bool = True) -> tuple[str, ...]:
    """Problems, Acc@t1, Acc@t2, its Δ, the ungated Acc@t2, its Δ, gained, lost, unparsed: what every table shows."""

    def share(value: float | None, interval: Interval | None) -> str:
        return percent(value, interval if intervals else None)

    return (
        f"{report.n_problems:,}",
        share(report.acc_t1, report.acc_t1_interval),
        share(report.acc_t2, report.acc_t2_interval),
        points(report.delta),
        share(report.acc_t2_ungated, report.acc_t2_ungated_interval),
        points(report.delta_ungated),
        f"{report.n_wrong_to_right:,}",
        f"{report.n_right_to_wrong:,}" if report.gate != "oracle" else NOTHING,
        f"{report.n_unparsed_t1:,}, {report.n_unparsed_t2:,}",
    )


def _group_row(name: str, report: EvalReport, intervals: bool) -> tuple[str, ...]:
    ungated = report.em_t2_ungated is not None and report.em_t2 is None
    return (
        name,
        *result_cells(report, intervals=intervals),
        _em_f1(report.em_t1, report.f1_t1),
        _em_f1(report.em_t2_ungated, report.f1_t2_ungated) if ungated else _em_f1(report.em_t2, report.f1_t2),
    )


def _em_f1(em: float | None, f1: float | None) -> str:
    return NOTHING if em is None or f1 is None else f"{100 * em:.1f}/{100 * f1:.1f}"
