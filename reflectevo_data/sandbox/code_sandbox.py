"""Runs model-written code against a problem's asserts: `CodeSandbox().check(code, problem)` -> passed, reason.

The program's process is shown the calls of the tests and nothing else; what they return comes back as plain data and is
compared here, so there is no expected value to find and no verdict to forge. Each check is a fork of a small process
that was started once (`zygote.py`), has no files, no network, no other process and no privileges, and ends
with the check. The fork for the next check is made while a check runs; the two share nothing.

Own walls rather than a library's: sandlock 0.9.0 denies a list of system calls and starts a command a run (25 CPU ms
for an empty Python on the machine where a whole check costs 5 here); pyseccomp needs libseccomp on the machine and
landlockpy the file rules that an empty root does without. What is allowed fits on a page (`walls.py`).
`python -m tests.benchmarks.code_checks` measures the checks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..errors import InputError
from ..schema import Problem
from . import asserts, values
from .pool import Pool, R
from .worker import Ended, NotPreloaded, Worker, WorkerDied, find_bubblewrap


MAX_CODE = 1 << 18  # characters of a program

# What must be impossible behind the walls; `probe()` lists what was not.
_PROBE = """
import os, signal, socket

def end_child(pid):
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

ATTACKS = {
    "read a file": lambda: open("/proc/self/maps").close(),
    "look at a file": lambda: os.stat("/"),
    "list a directory": lambda: os.listdir("/"),
    "write a file": lambda: os.mkdir("/tmp/reflectevo-probe"),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "make a process": lambda: end_child(os.fork()),
    "signal a process": lambda: os.kill(os.getppid(), 0),
}

def probe():
    possible = []
    for name, attack in ATTACKS.items():
        try:
            attack()
        except OSError:
            continue
        possible.append(name)
    return possible
"""


class CodeResult(NamedTuple):
    """Whether a program passed all tests; if not, why, in one line that does not state what was expected."""

    passed: bool
    reason: str = ""


class SandboxInfo(NamedTuple):
    """The walls that programs run behind, and what keeps them from being enough: empty when they are."""

    layers: tuple[str, ...]
    missing: str = ""

    @property
    def isolated(self) -> bool:
        return not self.missing


class CodeSandbox:
    r"""A pool of processes that check model-written code; threads may share it.

    Example:
        >>> problem = Problem("add", "Add two numbers.", "", "code", test_list=("assert add(2, 3) == 5",))
        >>> with CodeSandbox(workers=1) as sandbox:
        ...     sandbox.check("def add(a, b):\n    return a + b", problem)
        ...     sandbox.check("def add(a, b):\n    return a - b", problem)
        CodeResult(passed=True, reason='')
        CodeResult(passed=False, reason='test 1 of 1: add(2, 3) returned -1')

    Args:
        workers: Checks that run at the same time.
        allow_unsandboxed: Where a wall is missing (macOS, old kernels) run all the same, behind those there are.
            Takes effect only with `HF_ALLOW_CODE_EVAL=1` in the environment.
        cpu_s: CPU seconds of a check.
        wall_s: Seconds of a check, a loose backstop for programs that sleep; three times `cpu_s` unless given.
        memory_mb: Address space of a check.
        bubblewrap: Use bubblewrap always, never, or (None) where namespaces of our own are refused.
        namespaces: Use namespaces of our own.
        landlock: Use Landlock.
    """

    def __init__(
        self,
        workers: int = 2,
        allow_unsandboxed: bool = False,
        *,
        cpu_s: int = 10,
        wall_s: float | None = None,
        memory_mb: int = 1024,
        bubblewrap: bool | None = None,
        namespaces: bool = True,
        landlock: bool = True,
    ) -> None:
        if workers < 1:
            raise InputError(f"workers is {workers}, expected 1 or more.")
        self._allow_unsandboxed = allow_unsandboxed
        self._cpu_s = cpu_s
        self._wall_s = 3.0 * cpu_s if wall_s is None else wall_s
        self._bubblewrap = bubblewrap
        self._options: dict[str, Any] = {
            "cpu_s": cpu_s,
            "memory_mb": memory_mb,
            "namespaces": namespaces,
            "landlock": landlock,
            "seccomp": sys.platform == "linux",
        }
        self._common, self._complete = (
            Pool(workers, partial(self._new_worker, complete)) for complete in (False, True)
        )
        self._lock = threading.Lock()
        self._way = ""  # of starting a worker: in bubblewrap at this path, or without
        self._info: SandboxInfo | None = None

    def __enter__(self) -> CodeSandbox:
        self.preflight()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, once the checks that run are done."""
        self._common.close()
        self._complete.close()

    def preflight(self) -> SandboxInfo:
        """The walls this machine gives, tried out by a program that attacks them. Takes a fraction of a second.

        Raises:
            InputError: They are not enough, and running without was not allowed.
        """
        with self._lock:
            if self._info is None:
                info = self._find_walls()
                if info.missing and not self._may_run_unsandboxed():
                    raise InputError(
                        f"code verification: {info.missing}, expected Linux 5.13 or newer on x86-64 or aarch64 with "
                        "seccomp, and Landlock, user namespaces or bubblewrap. Install bubblewrap, use another machine, "
                        "or run model-written code unprotected with --allow-unsandboxed-code and HF_ALLOW_CODE_EVAL=1."
                    )
                self._info = info
            return self._info

    def check(self, code: str, problem: Problem) -> CodeResult:
        """Whether a program passes all asserts of a problem, run as code, setup, tests.

        Raises:
            InputError: The problem's tests cannot be judged, or there is no sandbox.
        """
        plan = asserts.plan(problem)
        self.preflight()
        if len(code) > MAX_CODE:
            return CodeResult(False, f"the program has {len(code)} characters, more than {MAX_CODE}")
        request = {"code": code, "setup": problem.test_setup_code, "calls": plan.compiled}
        answers, ended = self._run(request, lambda: _Answers(plan))
        if not answers.reason and not answers.complete:
            answers.reason = f"{answers.stage()} {self._how_it_ended(ended)}"
        if not answers.reason:
            answers.reason = self._judge(plan, answers)
        return CodeResult(not answers.reason, answers.reason)

    def _judge(self, plan: asserts.CheckPlan, answers: _Answers) -> str:
        """Why one of the tests fails whose expressions take more than a comparison with a literal; or nothing."""
        numbers = [number for number, test in enumerate(plan.tests) if test.kind == "judge"]
        if not numbers:
            return ""
        tests = [plan.tests[number] for number in numbers]
        imports = [plan.imports, *(f"import {name}" for test in tests for name in test.modules)]
        expressions = [
            (test.expression, {f"_{i}": answers.trees[call] for i, call in enumerate(test.calls)}) for test in tests
        ]
        request = {"imports": "\n".join(imports), "expressions": expressions}
        (verdicts, _), ended = self._run(request, lambda: _Verdicts([], len(numbers)))
        for number, verdict in zip(numbers, verdicts, strict=False):
            if verdict != ["value", True]:
                kind = f"; judging it raised {_one_line(verdict[1])}" if verdict and verdict[0] == "raised" else ""
                return answers.returned(number) + kind
        if len(verdicts) < len(numbers):
            return f"{answers.returned(numbers[len(verdicts)])}; judging it {self._how_it_ended(ended)}"
        return ""

    def _run(self, request: dict[str, Any], new_receiver: Callable[[], R]) -> tuple[R, Ended | None]:
        """Run one request in a process of its own, with few modules at hand and, where it asks for more, with all."""
        try:
            return self._common.run(request, new_receiver, self._wall_s)
        except NotPreloaded:
            return self._complete.run(request, new_receiver, self._wall_s)

    def _new_worker(self, complete: bool) -> Worker:
        return Worker(self._options | {"complete": complete}, self._way)

    def _find_walls(self) -> SandboxInfo:
        """The best walls to be had; the workers start behind them from now on."""
        bubblewrap = find_bubblewrap() if self._bubblewrap is not False else ""
        if self._bubblewrap and not bubblewrap:
            raise InputError(
                "code verification: bubblewrap was asked for and there is no `bwrap`. Install bubblewrap."
            )
        best: SandboxInfo | None = None
        for way in dict.fromkeys([bubblewrap if self._bubblewrap else "", bubblewrap]):
            with contextlib.suppress(WorkerDied):
                worker = Worker(self._options | {"complete": False}, way)
                try:
                    info = self._try_out(worker)
                finally:
                    worker.stop()
                if best is None or (info.isolated and not best.isolated):
                    best, self._way = info, way
                if info.isolated and {"namespaces", "bubblewrap"} & set(info.layers):
                    return info
        if best is None:
            raise InputError(
                "code verification: the sandbox's process does not start. Check this Python installation."
            )
        return best

    def _try_out(self, worker: Worker) -> SandboxInfo:
        layers = set(worker.layers)
        if "seccomp" not in layers:
            missing = f"there is no seccomp filter for {sys.platform} on this processor"
        elif not any(name.startswith("Landlock") for name in layers) and not layers & {"empty root", "bubblewrap"}:
            missing = "the kernel gives neither Landlock nor namespaces"
        else:
            answers: list[Any] = []
            worker.run(
                {"code": _PROBE, "setup": "", "calls": [compile("probe()", "<test>", "eval")]},
                lambda message: answers.append(message) or len(answers) == 2,
                self._wall_s,
            )
            missing = ""
            if answers != [["ready"], ["value", ["l"]]]:
                missing = f"the walls do not hold ({_one_line(str(answers))})"
        return SandboxInfo(worker.layers, missing)

    def _may_run_unsandboxed(self) -> bool:
        return self._allow_unsandboxed and os.environ.get("HF_ALLOW_CODE_EVAL") == "1"

    def _how_it_ended(self, ended: Ended | None) -> str:
        if ended is None:
            return "ended without an answer"
        if ended.why:
            return ended.why
        if os.WIFSIGNALED(ended.status):
            number = os.WTERMSIG(ended.status)
            if number == signal.SIGXCPU or (number == signal.SIGKILL and ended.cpu_s > self._cpu_s - 0.5):
                return f"used more than {self._cpu_s} s of CPU time"
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(number).name}"
        return "ended without an answer"


class _Verdicts(NamedTuple):
    """The messages of a judge, one a test, up to the first test that does not hold."""

    messages: list[Any]
    n_tests: int

    def receive(self, message: Any) -> bool:
        self.messages.append(message)
        return message != ["value", True] or len(self.messages) == self.n_tests


class _Answers:
    """What a program's process has sent so far, judged as it comes; `reason` is set by the first thing that is wrong."""

    def __init__(self, plan: asserts.CheckPlan) -> None:
        self._plan = plan
        self._ready = False
        self._last_of = {test.calls[-1]: number for number, test in enumerate(plan.tests)}
        self.trees: list[Any] = []
        self.reason = ""

    @property
    def complete(self) -> bool:
        return self._ready and len(self.trees) == len(self._plan.calls)

    def receive(self, message: Any) -> bool:
        """Take one message; whether the program need not go on."""
        match message:
            case ["ready"] if not self._ready:
                self._ready = True
                return False
            case ["value", tree] if self._ready and not self.complete:
                self.trees.append(tree)
                number = self._last_of.get(len(self.trees) - 1)
                if number is not None and not self._holds(self._plan.tests[number]):
                    self.reason = self.returned(number)
            case ["raised", str(kind), str(text)]:
                self.reason = f"{self.stage()} raised {_one_line(f'{kind}: {text}' if text else kind)}"
            case _:
                self.reason = f"{self.stage()} sent something that is not a result"
        return bool(self.reason) or self.complete

    def _holds(self, test: asserts.Test) -> bool:
        """Whether a test holds, as far as its values decide it here."""
        if test.kind == "judge":
            return True
        tree = self.trees[test.calls[0]]
        try:
            if test.kind == "equals":
                return values.equals(tree, test.expected, test.expected_size)
            return bool(values.decode(tree) if values.size(tree) == 1 else len(tree) > 1) == (test.kind == "true")
        except (values.Uncomparable, ValueError, RecursionError):
            return False

    def stage(self) -> str:
        """What the program is doing: its code, or a test's call."""
        if not self._ready:
            return "the code"
        call = len(self.trees)
        number = next((n for n, test in enumerate(self._plan.tests) if call in test.calls), len(self._plan.tests) - 1)
        return f"{self._name(number)}: {self._call(min(call, len(self._plan.calls) - 1))}"

    def returned(self, number: int) -> str:
        """What the calls of a test returned."""
        shown = (
            f"{self._call(call)} returned {values.show(self.trees[call])}" for call in self._plan.tests[number].calls
        )
        return _one_line(f"{self._name(number)}: {', '.join(shown)}")

    def _name(self, number: int) -> str:
        return f"test {number + 1} of {len(self._plan.tests)}"

    def _call(self, number: int) -> str:
        text = self._plan.calls[number]
        return text if len(text) <= 100 else f"{text[:99]}…"


def _one_line(text: str) -> str:
    """Hostile text made fit for a table's cell."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
