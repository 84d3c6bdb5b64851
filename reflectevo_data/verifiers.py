r"""Model text and problem -> `Verdict`: parsed, judged, with a reason.

`verify` judges one text, a `VerifierPool` many, and does not block an event loop. Choice and text are judged in place
(tens of microseconds); math that needs algebra goes to killable worker processes, code to the sandbox.

    >>> verify("Action: Finish[b]", Problem(id="1", question="Is it?\nA. Yes\nB. No", answer="b", answer_type="choice"))
    Verdict(status='correct', answer='B', reason='', f1=1.0)
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import text_metrics
from .errors import InputError
from .math_answers import MAX_LENGTH, NeedsAlgebra, same_answer
from .parsing.options import options_of, read_option
from .parsing.trial import ParsedTrial, parse_trial
from .schema import Problem, Verdict


if TYPE_CHECKING:
    from .sandbox import CodeSandbox

MATH_SECONDS = 5.0
MATH_MEGABYTES = 2048
UNPARSED = "no answer found in the text"


class VerifierPool:
    """Judges texts with worker processes for math and a sandbox for code, both started when first needed.

        with VerifierPool(workers=2) as pool:
            verdicts = pool.verify_many(texts, problems)

    Usable from several threads and event loops at once; `close` ends the workers.
    """

    def __init__(
        self, workers: int = 2, *, allow_unsandboxed_code: bool = False, math_seconds: float = MATH_SECONDS
    ) -> None:
        """Starts nothing yet.

        Args:
            workers: Worker processes for math, and as many for code.
            allow_unsandboxed_code: Run model-written code with rlimits alone where no sandbox can be had.
            math_seconds: CPU seconds of one comparison.
        """
        self._n_workers = max(1, workers)
        self._allow_unsandboxed_code = allow_unsandboxed_code
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._n_workers, thread_name_prefix="verifier")
        self._math_workers = [MathWorker(math_seconds) for _ in range(self._n_workers)]
        self._math: queue.LifoQueue[MathWorker] = queue.LifoQueue()
        for worker in self._math_workers:
            self._math.put(worker)
        self._sandbox: CodeSandbox | None = None

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every worker process; a comparison of math answers under way is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._math_workers:
            worker.close()
        with self._lock:
            if self._sandbox is not None:
                self._sandbox.close()
                self._sandbox = None

    def preflight(self, problems: Iterable[Problem]) -> None:
        """Makes sure, before any model is loaded, that these problems can be verified.

        Raises:
            InputError: A gold answer cannot be used, or there is code to run and no sandbox for it.
        """
        has_code = False
        for problem in problems:
            check_gold(problem)
            has_code = has_code or problem.answer_type == "code"
        if has_code:
            self._code_sandbox().preflight()

    def verify_many(self, texts: Iterable[str | None], problems: Iterable[Problem]) -> list[Verdict]:
        """One verdict a text, in order."""
        pairs = list(zip(texts, problems, strict=True))
        parsed = [parse_trial(text, problem) for text, problem in pairs]
        return list(self._threads.map(self.judge_now, parsed, [problem for _, problem in pairs]))

    async def verify(self, text: str | None, problem: Problem) -> Verdict:
        """Parses and judges one text without blocking the event loop."""
        return await self.judge(parse_trial(text, problem), problem)

    async def judge(self, parsed: ParsedTrial, problem: Problem) -> Verdict:
        """Judges a parsed trial without blocking the event loop."""
        verdict = judge_in_place(parsed.answer, problem)
        if verdict is not None:
            return verdict
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.judge_now, parsed, problem)

    def judge_now(self, parsed: ParsedTrial, problem: Problem) -> Verdict:
        """Judges a parsed trial; blocks until a worker has answered."""
        verdict = judge_in_place(parsed.answer, problem)
        if verdict is not None:
            return verdict
        answer = parsed.answer or ""
        if problem.answer_type == "code":
            result = self._code_sandbox().check(answer, problem)
            return _verdict(result.passed, answer, result.reason)
        worker = self._math.get()
        try:
            reason = worker.compare(answer, problem.answer, problem.question)
        finally:
            self._math.put(worker)
        return _verdict(reason == "", answer, reason)

    def _code_sandbox(self) -> CodeSandbox:
        from .sandbox import CodeSandbox

        with self._lock:
            if self._sandbox is None:
                self._sandbox = CodeSandbox(self._n_workers, self._allow_unsandboxed_code)
            return self._sandbox


def verify(text: str | None, problem: Problem) -> Verdict:
    """Parses and judges one model text; math and code in a worker that is started once and kept.

    Raises:
        InputError: The problem is about code and no sandbox can be had.
    """
    parsed = parse_trial(text, problem)
    verdict = judge_in_place(parsed.answer, problem)
    return _shared_pool().judge_now(parsed, problem) if verdict is None else verdict


_shared: tuple[int, VerifierPool] | None = None
_shared_lock = threading.Lock()


def _shared_pool() -> VerifierPool:
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():  # a forked process has no right to its parent's workers
            pool = VerifierPool(workers=1)
            atexit.register(pool.close)
            _shared = (os.getpid(), pool)
        return _shared[1]


def judge_in_place(answer: str | None, problem: Problem) -> Verdict | None:
    """The verdict on a parsed answer where no worker is needed, else None."""
    if answer is None:
        return Verdict("unparsed", reason=UNPARSED)
    if problem.answer_type == "choice":
        return judge_choice(answer, problem)
    if problem.answer_type == "text":
        return judge_text(answer, problem)
    if problem.answer_type == "math":
        if len(answer) > MAX_LENGTH and answer != problem.answer:
            return _verdict(False, answer, f"the answer has {len(answer)} characters, more than {MAX_LENGTH}")
        with contextlib.suppress(NeedsAlgebra):
            return _verdict(same_answer(answer, problem.answer, problem.question), answer, NOT_EQUAL)
    return None


NOT_EQUAL = "not equal to the gold answer"


def judge_choice(answer: str, problem: Problem) -> Verdict:
    """Letters are compared without case; an answer that is no option is wrong."""
    options = options_of(problem)
    gold = read_option(problem.answer, options)
    last = chr(64 + len(options)) if options else "Z"
    if not (len(answer) == 1 and "A" <= answer <= last):
        return _verdict(False, answer, f"{_short(answer)} is not one of the options A to {last}")
    return _verdict(answer == gold, answer, "not the correct option")


def judge_text(answer: str, problem: Problem) -> Verdict:
    """Exact match after SQuAD's normalisation with any gold; F1 is against the best gold, for CoQA leave-one-out."""
    golds = [gold for gold in (problem.answer, *problem.answers) if gold.strip()]
    f1 = text_metrics.leave_one_out(answer, golds)[1] if problem.source == "coqa" else text_metrics.f1(answer, golds)
    if text_metrics.exact_match(answer, golds):
        return Verdict("correct", answer, f1=f1)
    return Verdict("incorrect", answer, f"no exact match with a gold answer (F1 {f1:.2f})", f1=f1)


def check_gold(problem: Problem) -> None:
    """Makes sure that some answer to the problem can be judged correct.

    Raises:
        InputError: None can.
    """
    if problem.answer_type == "choice":
        options = options_of(problem)
        gold = read_option(problem.answer, options)
        if gold is None or len(gold) != 1 or (options and ord(gold) - 65 >= len(options)):
            last = chr(64 + len(options)) if options else "Z"
            raise InputError(
                f"{problem.id}: answer {_short(problem.answer)} is not one of the options A to {last}. Correct the row."
            )
    elif problem.answer_type == "code":
        if not problem.test_list:
            raise InputError(f"{problem.id}: a code problem without test_list. Add its tests.")
    elif not problem.answer.strip() and not any(answer.strip() for answer in problem.answers):
        raise InputError(f"{problem.id}: the gold answer is empty. Correct the row.")


def _verdict(correct: bool, answer: str, reason: str) -> Verdict:
    if correct:
        return Verdict("correct", answer, f1=1.0)
    return Verdict("incorrect", answer, " ".join(reason.split()) or "incorrect")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "…")


class MathWorker:
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
        package_parent = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.math_worker", str(self._seconds), str(self._megabytes)],
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
