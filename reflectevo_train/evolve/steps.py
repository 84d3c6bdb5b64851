"""Steps of long work, each in a process of its own, several at the same time: `await steps.run(log, train, ...)`.

Who calls says by awaiting what needs what. A step that is ended at any moment is one that goes on when it is called again.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVarTuple

from reflectevo_data.console import progress_bar
from reflectevo_data.errors import InputError


Arguments = TypeVarTuple("Arguments")


@dataclass(slots=True)
class Clock:
    """Seconds that each phase worked, over steps that ran at once and over all the times the command was started."""

    path: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path) -> Clock:
        """The clock that is kept in a file; it goes on counting."""
        return cls(path, json.loads(path.read_text()) if path.is_file() else {})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.add({name: time.monotonic() - started})

    def add(self, seconds: dict[str, float]) -> None:
        for name, more in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + more
        if self.path is not None:
            self.path.write_text(json.dumps(self.seconds, indent=2))


def available_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Steps:
    """A pool of processes for steps. One step at a time writes where this process does; several write to their logs.

    A step is a function at the top of a module; its last argument is a `Clock`. When a step raises, so does `run`, and
    leaving the `with` block by an exception ends the other steps where they are, as does the end of this process: a step
    has to go on from where it was ended. `title` and `total` are for the progress bar.
    """

    def __init__(self, jobs: int, clock: Clock, *, title: str = "", total: int | None = None) -> None:
        self._jobs, self._several = jobs, jobs > 1
        self._clock = clock
        self._title, self._total = title, total
        context = multiprocessing.get_context("spawn")
        end, self._end = context.Pipe(duplex=False)  # closed by us, or by the kernel when we are killed
        self._executor = ProcessPoolExecutor(jobs, context, _start, (end, self._several))
        self._exits = ExitStack()

    def __enter__(self) -> Steps:
        # The executor notices the death only of processes that were there when it last had a result (Python 3.11).
        list(self._executor.map(_is_there, range(self._jobs)))
        self._bar = (
            self._exits.enter_context(progress_bar(self._title, self._total, unit="steps")) if self._several else None
        )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._end.close()
        self._executor.shutdown(cancel_futures=True)
        self._exits.close()

    async def run(self, log: Path, step: Callable[[*Arguments, Clock], None], *arguments: *Arguments) -> None:
        """Runs `step(*arguments, clock)` when a process is free.

        Raises:
            InputError: The process was killed, by a lack of memory for one; and whatever the step raises.
        """
        work = self._executor.submit(_timed, log if self._several else None, step, arguments)
        try:
            self._clock.add(await asyncio.wrap_future(work))
        except BrokenProcessPool:
            raise InputError(
                f"{log}: the step's process was killed. If memory was short, run fewer --jobs; the same command goes on."
            ) from None
        if self._bar is not None:
            self._bar.advance(note=log.stem)


def _start(end: Connection, several: bool) -> None:
    """In a new process: one core for each of several, and no life after the process that it works for."""
    if several:
        os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that waits for them ends them

    def watch() -> None:
        end.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_there(_: int) -> None: ...


def _timed(
    log: Path | None, step: Callable[[*Arguments, Clock], None], arguments: tuple[*Arguments]
) -> dict[str, float]:
    clock = Clock()
    with _written_to(log):
        step(*arguments, clock)
    return clock.seconds


@contextmanager
def _written_to(log: Path | None) -> Iterator[None]:
    """Standard output and error of this process, and of those it starts, go to the end of a file."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    saved = [os.dup(1), os.dup(2)]
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in enumerate(saved, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)
