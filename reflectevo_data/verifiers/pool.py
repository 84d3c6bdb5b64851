r"""Model text and problem -> `Verdict`: parsed, judged, with a reason.

`verify` judges one text, a `VerifierPool` many, and does not block an event loop. Choice and text are judged in place
(tens of microseconds); math that needs algebra goes to killable worker processes, code to the sandbox.

    >>> verify("Action: Finish[b]", Problem(id="1", question="Is it?\nA. Yes\nB. No", answer="b", answer_type="choice"))
    Verdict(status='correct', answer='B', reason='', f1=1.0)
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..parsing.trial import ParsedTrial, parse_trial
from ..schema import Problem, Verdict
from .math_process import MATH_SECONDS, MathProcess
from .verdicts import check_gold, judge_in_place, verdict_of


if TYPE_CHECKING:
    from ..sandbox.code_sandbox import CodeSandbox


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
        self._math_workers = [MathProcess(math_seconds) for _ in range(self._n_workers)]
        self._math: queue.LifoQueue[MathProcess] = queue.LifoQueue()
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
            return verdict_of(result.passed, answer, result.reason)
        worker = self._math.get()
        try:
            reason = worker.compare(answer, problem.answer, problem.question)
        finally:
            self._math.put(worker)
        return verdict_of(reason == "", answer, reason)

    def _code_sandbox(self) -> CodeSandbox:
        from ..sandbox.code_sandbox import CodeSandbox

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
