"""Math answers compared in a process that can be killed, both ends: `MathProcess` here, `main` over there.

One JSON line in, `[given, gold, question]`; one JSON line out: true, false or the name of the signal that ended the
comparison. SymPy cannot be interrupted safely (`9^{9^{9^9}}` is computed in C), so a child does the work under a kernel
timer whose signal kills it, and the process that imported SymPy forks the next one, which takes milliseconds. That process
is `python -P -m reflectevo_data.verifiers.math_process SECONDS MEGABYTES`.
"""

# SymPy and math-verify have no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from .math_answers import NOT_EQUAL, Expressions, same_answer


MATH_SECONDS = 5.0
MATH_MEGABYTES = 2048


class MathProcess:
    """One worker process for math, started when first used and again after it was killed."""

    def __init__(self, seconds: float = MATH_SECONDS, megabytes: int = MATH_MEGABYTES) -> None:
        self._seconds, self._megabytes = seconds, megabytes
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._in_use = threading.Lock()
        self._closed = False

    def compare(self, given: str, gold: str, question: str = "") -> str:
        """Why the two answers are not the same, one line; empty when they are."""
        request = json.dumps([given, gold, question]).encode() + b"\n"
        with self._in_use:
            for attempt in (1, 2):  # a worker that was killed from outside between two requests is started again
                if self._closed:
                    return "not compared: the verifiers were closed"
                reply = self._ask(request)
                if reply is not None or attempt == 2:
                    break
        if reply is True:
            return ""
        if reply in ("SIGPROF", "timeout"):
            return f"not comparable within {self._seconds:g} s"
        if reply == "memory":
            return f"not comparable within {self._megabytes} MB of memory"
        if reply is None:
            return "not comparable: the worker process ended twice"
        return f"not comparable: {reply}" if isinstance(reply, str) else NOT_EQUAL

    def _ask(self, request: bytes) -> Any:
        process = self._started()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:  # both are pipes
            raise RuntimeError("the math worker has no pipes")
        try:
            stdin.write(request)
            stdin.flush()
            line = b""
            # the worker's own timer ends a comparison; this one is for a worker that was stopped
            while not line.endswith(b"\n"):
                if not select.select([stdout], [], [], 60 + 10 * self._seconds)[0]:
                    self._kill()
                    return "timeout"
                chunk = os.read(stdout.fileno(), 65536)
                if not chunk:
                    raise BrokenPipeError
                line += chunk
            return json.loads(line)
        except (BrokenPipeError, ConnectionError):
            self._kill()
            return None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        package_parent = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            # -P: nothing in the folder where the command runs may stand in for a module
            [sys.executable, "-P", "-m", f"{__package__}.math_process", str(self._seconds), str(self._megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the command, which then closes its workers
        )
        self._owner = os.getpid()
        return self._process

    def _kill(self) -> None:
        """Ends the process and lets go of it; for the thread that uses it."""
        if self._process is None or self._owner != os.getpid():
            return
        self._signal_group()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None

    def _signal_group(self) -> None:
        process = self._process
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the process, at once if it is at work; the comparison then says so."""
        self._closed = True
        while not self._in_use.acquire(timeout=0.1):
            self._signal_group()
        self._kill()
        self._in_use.release()


def main() -> int:
    seconds, megabytes = float(sys.argv[1]), int(sys.argv[2])
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing that a library prints may pass for a reply
    logging.disable()
    _expressions().equal("x+1", "1+x")  # imports and caches, once for all children
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while True:
        pid = os.fork()
        if pid == 0:
            _serve(requests, replies, seconds, megabytes)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) == 0:
            return 0
        died_of = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
        replies.write(json.dumps(died_of).encode() + b"\n")


def _serve(requests: Any, replies: Any, seconds: float, megabytes: int) -> None:
    limit = megabytes << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while line := _read_line(requests):
        given, gold, question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # CPU time: a busy machine changes no verdict
        try:
            reply = same_answer(given, gold, question, _expressions())
        except MemoryError:
            reply = "memory"
        except Exception as error:  # SymPy and the LaTeX grammar raise nearly every type there is
            reply = type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps(reply).encode() + b"\n")


def _read_line(stream: Any) -> bytes:
    """One line without reading ahead: what follows is for the next child, should this one die."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = stream.read(65536)
        if not chunk:
            return b""
        line += chunk
    return line


@lru_cache(maxsize=1)
def _expressions() -> Expressions:
    """Comparisons by math-verify, behind checks for what it accepts too easily."""
    import sympy
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # with `units` it drops the m of 5m and the o of 5o; units have been taken off before
    normalization = NormalizationConfig(units=False, malformed_operators=True, boxed="all")
    configuration = [LatexExtractionConfig(normalization_config=normalization)]

    @lru_cache(maxsize=512)
    def read(text: str) -> Any:
        found = parse(
            rf"\boxed{{{text}}}",
            extraction_config=configuration,
            fallback_mode="no_fallback",
            parsing_timeout=None,  # pyright: ignore[reportArgumentType]
        )
        return found[0] if found else None

    def equal(given: str, gold: str) -> bool:
        given_read, gold_read = read(given), read(gold)
        if given_read is None or gold_read is None:
            return False
        if not verify(gold_read, given_read, timeout_seconds=None):
            return False
        return _equal_to_many_digits(given_read, gold_read)

    def proportional(given: str, gold: str) -> int:
        given_read, gold_read = read(given), read(gold)
        if given_read is None or gold_read is None:
            return 0
        try:
            ratio = sympy.simplify(given_read.doit() / gold_read.doit())
        except (TypeError, ValueError, AttributeError):
            return 0
        if not ratio.is_number or not ratio.is_real or ratio.is_zero:
            return 0
        return 1 if ratio.is_positive else -1

    def _equal_to_many_digits(a: Any, b: Any) -> bool:
        """Refuses what agrees to 15 digits only; true for what is no number."""
        try:
            difference = a.doit() - b.doit()
            if difference.free_symbols or not difference.is_number:
                return True
            return bool(abs(difference.evalf(60)) <= sympy.Float("1e-40") * max(1, abs(a.doit().evalf(10))))
        except (TypeError, ValueError, AttributeError):
            return True

    return Expressions(equal, proportional)


if __name__ == "__main__":
    sys.exit(main())
