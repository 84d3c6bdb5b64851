"""Workers of one kind that threads share."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from .worker import Ended, Worker, WorkerDied


class Receiver(Protocol):
    """Takes a request's messages; whether it has all it needs."""

    def receive(self, message: Any) -> bool: ...


R = TypeVar("R", bound=Receiver)


class Pool:
    """At most `size` workers, each started when it is first needed and again when it has died."""

    def __init__(self, size: int, new_worker: Callable[[], Worker]) -> None:
        self._new_worker = new_worker
        self._size = size
        self._workers: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: not started
        for _ in range(size):
            self._workers.put(None)

    def close(self) -> None:
        """End the workers, once the requests that run are done."""
        for worker in [self._workers.get() for _ in range(self._size)]:
            if worker is not None:
                worker.stop()
            self._workers.put(None)

    def run(self, request: dict[str, Any], new_receiver: Callable[[], R], wall_s: float) -> tuple[R, Ended | None]:
        """Run one request in a process of its own, and once more if its worker died: no program has the means to kill it.

        Raises:
            NotPreloaded: The program imports a module that these workers do without.
        """
        worker = self._workers.get()
        try:
            for _ in range(2):
                receiver = new_receiver()
                try:
                    worker = worker or self._started()
                    return receiver, worker.run(request, receiver.receive, wall_s)
                except WorkerDied:
                    if worker is not None:
                        worker.stop()
                    worker = None
            return new_receiver(), Ended(0, 0.0, "lost its sandbox twice: something kills it from outside")
        finally:
            self._workers.put(worker)

    def _started(self) -> Worker:
        try:
            return self._new_worker()
        except WorkerDied as error:
            raise RuntimeError("the code sandbox has started before and does not now: is memory exhausted?") from error
