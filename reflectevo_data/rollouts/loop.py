"""The loop: trial 1 -> verify -> k reflections -> k second trials -> verify.

A generation reflects on the answers that the verifier refused. An evaluation may reflect on all answers or on those that
the model itself rejects (`gate`), in one generation or without a reflection (`setting`), and more than once (`rounds`).

Problems in, `Rollout`s out in the order in which they finish. Generation, evaluation and the training callback share
this one loop. Each problem is a coroutine that walks its own path, so that the engine always has work of every kind and
nothing waits for a phase (measured 1.2 to 1.5 times the work of whole-dataset phases on small runs).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, cast

from ..completers.base import Completer, Sampling
from ..parsing.one_stage import split_one_stage
from ..parsing.thinking import without_thinking
from ..parsing.trial import ParsedTrial, has_action, parse_trial
from ..prompts.instructions import choose_instructions
from ..prompts.templates import PromptSet
from ..schema import Completion, FailedRollout, Problem, Reflection, Rollout, SecondTrial, Trial, Verdict, stable_hash
from ..verifiers.leaks import leaks_answer
from ..verifiers.voting import majority
from .manifest import Loop


# Where a model goes on to play the environment or the next question, the trial is over.
TRIAL_STOP = ("Observation:", "\nQuestion:", "\nExample ")
# Where a reflector goes on to the new attempt, which is not its task and may state the answer, the reflection is over.
REFLECTION_STOP = ("\nThought:", "\nAction:")
# A second call is for the answer alone; only code is longer. A model that lost the thread is not given more rope.
MAX_ANSWER_TOKENS = 128


E = TypeVar("E", bound=Exception)


class Verifier(Protocol):
    """Judges parsed trials without blocking the event loop; `VerifierPool` is one."""

    async def judge(self, parsed: ParsedTrial, problem: Problem) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Role:
    """Who writes, and how: a completer and its sampling."""

    completer: Completer
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Roles:
    """Generator (trial 1), reflector (reflection), corrector (trial 2). They may share one completer."""

    generator: Role
    reflector: Role
    corrector: Role


class RequestFailed(Exception):
    """A request came back with `finish_reason="error"`."""

    def __init__(self, step: str, error: str) -> None:
        super().__init__(error)
        self.step, self.error = step, error


async def run_rollouts(
    problems: Iterable[Problem],
    roles: Roles,
    loop: Loop | None = None,
    *,
    prompts: PromptSet,
    verifier: Verifier,
    in_flight: int = 128,
) -> AsyncGenerator[Rollout | FailedRollout, None]:
    """Rollouts, each the moment it is done.

    Args:
        problems: Drawn from as places become free, so an iterator of any length does.
        roles: Who writes trial 1, the reflections and trial 2.
        loop: What each problem goes through; by default as the paper generates.
        prompts: The templates; they never see a gold answer.
        verifier: Judges each trial off the event loop.
        in_flight: Problems walking at once; about twice the engine's slots keeps it busy.

    Raises:
        Exception: A bug in a completer or verifier ends the run; a failed request does not.
    """
    walk = _Walk(roles, loop or Loop(), prompts, verifier)
    source = iter(problems)
    finished: asyncio.Queue[Rollout | FailedRollout | Exception | None] = asyncio.Queue(maxsize=in_flight)

    async def work() -> None:
        try:
            for problem in source:  # all workers draw from the one iterator
                await finished.put(await walk.rollout(problem))
        except Exception as error:
            await finished.put(error)
        await finished.put(None)

    workers = [asyncio.create_task(work()) for _ in range(in_flight)]
    try:
        n_working = len(workers)
        while n_working:
            result = await finished.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                n_working -= 1
            else:
                yield result
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One problem's way, with what all problems share."""

    roles: Roles
    loop: Loop
    prompts: PromptSet
    verifier: Verifier

    async def rollout(self, problem: Problem) -> Rollout | FailedRollout:
        try:
            trial_1 = await self._trial(self.roles.generator, problem, self.prompts.solve(problem), step="trial_1")
            attempt = trial_1
            rounds: list[tuple[SecondTrial, ...]] = []
            for number in range(self.loop.rounds):
                if not await self._is_tried_again(problem, attempt, number):
                    break
                rounds.append(await self._round(problem, attempt, number))
                if number + 1 < self.loop.rounds:
                    answers = [second.trial.verdict.answer for second in rounds[-1]]
                    attempt = rounds[-1][majority(answers, problem.answer_type)].trial
        except RequestFailed as failure:
            return FailedRollout(problem, failure.step, failure.error)
        except ExceptionGroup as group:
            failures, bugs = group.split(RequestFailed)
            if bugs is not None or failures is None:
                raise _first(bugs or group) from None
            failure = _first(failures)
            return FailedRollout(problem, failure.step, failure.error)
        reflector = self.roles.reflector.completer.model
        corrector = self.roles.corrector.completer.model
        return Rollout(
            problem=problem,
            trial_1=trial_1,
            second_trials=rounds[0] if rounds else (),
            generator=self.roles.generator.completer.model,
            reflector="" if self.loop.setting == "retry" else reflector,
            corrector=reflector if self.loop.setting == "one_stage" else corrector,
            seed=self.loop.seed,
            later_rounds=tuple(rounds[1:]),
        )

    async def _is_tried_again(self, problem: Problem, attempt: Trial, number: int) -> bool:
        if self.loop.gate == "none":
            return True
        if self.loop.gate == "oracle":
            return not attempt.verdict.is_correct
        prompt = self.prompts.self_check(problem, attempt.reasoning)
        completion = await self._ask(self.roles.reflector, prompt, problem, step=f"self_check{_of_round(number)}")
        return not accepts(completion.text)

    async def _round(self, problem: Problem, attempt: Trial, number: int) -> tuple[SecondTrial, ...]:
        keys = choose_instructions(
            list(self.prompts.pool),
            self.loop.instructions,
            n_reflections=self.loop.n_reflections * (number + 1),
            problem_id=problem.id,
            seed=self.loop.seed,
        )[self.loop.n_reflections * number :]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._second_trials(problem, attempt, key, f"{index}{_of_round(number)}"))
                for index, key in enumerate(keys)
            ]
        return tuple(second for task in tasks for second in task.result())

    async def _second_trials(self, problem: Problem, attempt: Trial, key: str, place: str) -> list[SecondTrial]:
        """A reflection, and the second trials made from it."""
        prompts = self.prompts if self.loop.gate == "oracle" else self.prompts.open()
        if self.loop.setting == "one_stage":
            return [await self._one_stage(problem, attempt, prompts.one_stage(problem, attempt.reasoning), place)]
        if self.loop.setting == "retry":
            reflection = Reflection("", "", Completion(""))
            prompt = prompts.retry(problem, attempt.reasoning)
        else:
            prompt = prompts.reflect(problem, attempt.reasoning, key)
            role = _stopped(self.roles.reflector, REFLECTION_STOP)
            completion = await self._ask(role, prompt, problem, step=f"reflection_{place}")
            leaks = leaks_answer(completion.text, problem, attempt.reasoning)
            reflection = Reflection(key, prompt, completion, leaks)
            prompt = prompts.correct(problem, attempt.reasoning, reflection.text)
        steps = [f"trial_2_{place}{_of_sample(i)}" for i in range(self.loop.n_second_trials)]
        async with asyncio.TaskGroup() as group:
            trials = [group.create_task(self._trial(self.roles.corrector, problem, prompt, step=s)) for s in steps]
        # what the reflection cost is counted with its first trial
        again = replace(
            reflection, completion=replace(reflection.completion, n_prompt_tokens=0, n_completion_tokens=0)
        )
        return [SecondTrial(again if i else reflection, task.result()) for i, task in enumerate(trials)]

    async def _one_stage(self, problem: Problem, attempt: Trial, prompt: str, place: str) -> SecondTrial:
        """Both parts of one generation; its tokens are counted with the trial."""
        step = f"trial_2_{place}"
        prefill, completion = await self._attempt(self.roles.reflector, problem, prompt, step=step, one_stage=True)
        parts = split_one_stage(completion.text)
        leaks = leaks_answer(parts.reflection, problem, attempt.reasoning)
        reflection = Reflection("", prompt, Completion(parts.reflection, completion.finish_reason), leaks)
        trial = await self._judged(problem, prompt, prefill, replace(completion, text=parts.trial))
        return SecondTrial(reflection, trial)

    async def _trial(self, role: Role, problem: Problem, prompt: str, *, step: str) -> Trial:
        return await self._judged(problem, prompt, *await self._attempt(role, problem, prompt, step=step))

    async def _attempt(
        self, role: Role, problem: Problem, prompt: str, *, step: str, one_stage: bool = False
    ) -> tuple[str, Completion]:
        """Prefill and completion. One call gives thought and action; a text that has none is continued by a second."""
        role = _stopped(role, TRIAL_STOP)
        completion = await self._ask(role, prompt, problem, step=step)
        attempt = split_one_stage(completion.text).trial if one_stage else completion.text
        if has_action(attempt, problem.answer_type):
            return "", completion
        prefill = f"{completion.text.rstrip()}\nAction:".lstrip()
        if problem.answer_type != "code":
            max_tokens = min(role.sampling.max_tokens, MAX_ANSWER_TOKENS)
            role = replace(role, sampling=replace(role.sampling, max_tokens=max_tokens))
        action = await self._ask(role, prompt, problem, step=f"{step}_action", prefill=prefill)
        return prefill, Completion(
            text=prefill + action.text,
            finish_reason=action.finish_reason,
            n_prompt_tokens=completion.n_prompt_tokens + action.n_prompt_tokens,
            n_completion_tokens=completion.n_completion_tokens + action.n_completion_tokens,
        )

    async def _judged(self, problem: Problem, prompt: str, prefill: str, completion: Completion) -> Trial:
        parsed = parse_trial(completion.text, problem)
        verdict = await self.verifier.judge(parsed, problem)
        return Trial(prompt, prefill, completion, parsed.reasoning, verdict)

    async def _ask(self, role: Role, prompt: str, problem: Problem, *, step: str, prefill: str = "") -> Completion:
        completions = await role.completer.complete(
            prompt, sampling=role.sampling, seed=request_seed(self.loop.seed, problem.id, step), prefill=prefill
        )
        completion = completions[0]
        if completion.finish_reason == "error":
            raise RequestFailed(step, completion.error)
        return replace(completion, text=without_thinking(completion.text))


def accepts(self_check: str) -> bool:
    """Whether a model that was asked to judge its own attempt calls it right; an unclear answer does not.

    >>> accepts("The sum is right. Verdict: **right**"), accepts("Verdict: wrong"), accepts("It is hard to say.")
    (True, False, False)
    """
    verdicts = ["".join(groups).lower() for groups in _VERDICT.findall(self_check)]
    return verdicts[-1:] in (["right"], ["correct"], ["no step"])


# the second form is how the miniature says it
_VERDICT = re.compile(
    r"\bverdict\W+(?:is\W+)?(right|correct|wrong|incorrect)\b|\b(no step|step \d+) is wrong\b", re.IGNORECASE
)


def _stopped(role: Role, stop: tuple[str, ...]) -> Role:
    return replace(role, sampling=replace(role.sampling, stop=(*role.sampling.stop, *stop)))


def _first(group: ExceptionGroup[E]) -> E:
    """The first error in a group, which may hold groups."""
    error = group.exceptions[0]
    return _first(cast("ExceptionGroup[E]", error)) if isinstance(error, ExceptionGroup) else error


def _of_round(number: int) -> str:
    """Part of a request's step: the first round's has none, so that generation keeps its seeds."""
    return f"_round_{number + 1}" if number else ""


def _of_sample(number: int) -> str:
    """Part of a request's step: a reflection's first trial has none."""
    return f"_sample_{number}" if number else ""


def request_seed(seed: int, problem_id: str, step: str) -> int:
    """A request's seed: the same wherever and whenever the request is made.

    The low byte is clear: engines seed the i-th of n samples with seed + i, and no two requests may share a sample.
    """
    return (stable_hash(str(seed), problem_id, step) >> 1) & ~0xFF
