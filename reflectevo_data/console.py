"""What a person reads of a command: a line, a progress bar with rate and ETA, a table at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.progress import Progress


NOTHING = "–"  # in the place of a number that there is not


def say(line: str, *, program: str = "reflectevo-data") -> None:
    """One line on standard error, marked as ours."""
    print(f"{program}: {line}", file=sys.stderr)  # noqa: T201


class Bar:
    """A bar that may be off; `update` costs nothing then."""

    def __init__(self, progress: Progress | None, description: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, note="") if progress else None

    def advance(self, n: int = 1, *, note: str = "") -> None:
        """Counts n more done; `note` stands behind the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=n, note=note)


def bars_are_shown() -> bool:
    """Bars are for terminals, and HF_HUB_DISABLE_PROGRESS_BARS turns them off."""
    disabled = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
    return sys.stderr.isatty() and not disabled


@contextmanager
def progress_bar(description: str, total: int | None = None, *, unit: str = "problems") -> Iterator[Bar]:
    """A bar on standard error with count, rate, time gone and time left."""
    if not bars_are_shown():
        yield Bar(None, description, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}/s" if speed else f"– {unit}/s")

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    ) as progress:
        yield Bar(progress, description, total)


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table on standard output; numbers are right-aligned."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows, columns = [list(row) for row in rows], list(columns)
    # a file or a pipe has no width of its own
    console = Console() if sys.stdout.isatty() else Console(width=120 if len(columns) < 5 else 220)
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) or _looks_numeric(str(row[index])) for row in rows)
        table.add_column(column, justify="right" if rows and numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A Markdown table that is legible as it stands: the first column to the left and the others to the right.

    >>> print(markdown_table(["run", "n"], [["a|b", "7"]]))
    | run  |   n |
    | ---- | --: |
    | a\|b |   7 |
    """
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def percent(share: float | None, interval: tuple[float, float] | None = None) -> str:
    """A share, and the ends of its interval, in percent.

    >>> percent(0.4841), percent(0.5, (0.25, 0.751)), percent(None)
    ('48.4 %', '50.0 % [25.0, 75.1]', '–')
    """
    if share is None:
        return NOTHING
    text = f"{100 * share:.1f} %"
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else text


def points(difference: float | None) -> str:
    """A difference of shares, in percentage points and with its sign.

    >>> points(0.1234), points(-0.05), points(0.0)
    ('+12.3', '−5.0', '0.0')
    """
    if difference is None:
        return NOTHING
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _looks_numeric(text: str) -> bool:
    return bool(text) and (text in ("–", "-") or text[0].isdigit() or (text[0] in "+-−" and len(text) > 1))
