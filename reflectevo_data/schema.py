"""The record types and every published column name: the one place that states them.

In memory a problem becomes a `Rollout` (frozen dataclasses); on disk a rollout is one `raw` row (plain data), and the
`dplus`, `dpm` and `dpref` rows are made of raw rows. `features(config)` gives the explicit `datasets.Features`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args


if TYPE_CHECKING:
    import datasets

AnswerType = Literal["choice", "math", "code", "text"]
ANSWER_TYPES: tuple[str, ...] = get_args(AnswerType)
Status = Literal["correct", "incorrect", "unparsed"]
FinishReason = Literal["stop", "length", "error"]
Row = dict[str, Any]

CONFIGS = ("raw", "dplus", "dpm", "dpref")


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer.

    Attributes:
        id: Stable over runs and machines, `source/…` for the named sources.
        question: The text shown to the model; lettered options may be part of it.
        answer: The gold answer as the source has it: an option letter (often lower case), a LaTeX expression, a short
            text, or for code a reference solution (may be empty: `test_list` decides).
        answer_type: How an answer is written and verified.
        options: Option texts without their letters; option i has the letter `chr(65 + i)`.
        test_list: For code: `assert …` statements, one an entry.
        test_setup_code: For code: run after the solution and before the tests.
        answers: Further accepted golds (text), beside `answer`.
        group: Problems of one group (a story, a passage) never fall into different splits; empty: the id.
    """

    id: str
    question: str
    answer: str
    answer_type: AnswerType = "text"
    options: tuple[str, ...] = ()
    test_list: tuple[str, ...] = ()
    test_setup_code: str = ""
    answers: tuple[str, ...] = ()
    task: str = ""
    source: str = ""
    license: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if self.answer_type not in ANSWER_TYPES:
            raise ValueError(
                f"{self.id}: answer_type {self.answer_type!r} is not one of {', '.join(ANSWER_TYPES)}. Correct the row."
            )
        for name in ("options", "test_list", "answers"):  # lists and None are welcome from callers
            object.__setattr__(self, name, tuple(getattr(self, name) or ()))


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine gave for one request. `error` is set, and `text` empty, when `finish_reason` is `error`."""

    text: str
    finish_reason: FinishReason = "stop"
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of one model text: three states, never a bool.

    Attributes:
        status: `unparsed` (no answer could be read) counts as wrong in accuracy and is reported beside it.
        answer: The parsed answer, empty when unparsed.
        reason: Why it is not correct, one line; empty when correct.
        f1: SQuAD F1 for text answers, 1.0 or 0.0 for the other types.
    """

    status: Status
    answer: str = ""
    reason: str = ""
    f1: float = 0.0

    @property
    def is_correct(self) -> bool:
        return self.status == "correct"

    def __bool__(self) -> bool:
        raise TypeError("a Verdict has three states: write verdict.is_correct or compare verdict.status")


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt at a problem.

    Attributes:
        prompt: The user message as it was sent, before any chat template.
        prefill: Assistant text that a second call was made to continue; empty when one call sufficed.
        completion: `text` is the whole attempt, prefill included; tokens are summed over both calls.
        reasoning: The attempt from its first word to the end of its answer, hallucinated observations cut.
    """

    prompt: str
    prefill: str
    completion: Completion
    reasoning: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Reflection:
    """One reflection on a failed trial, written under the pool's instruction with this key."""

    instruction: str
    prompt: str
    completion: Completion
    leaks_answer: bool = False

    @property
    def text(self) -> str:
        return self.completion.text.strip()


class SecondTrial(NamedTuple):
    """A reflection and the second trial made from it alone."""

    reflection: Reflection
    trial: Trial


@dataclass(frozen=True, slots=True)
class Rollout:
    """A problem's whole way through the loop. `second_trials` is empty when trial 1 was correct.

    An evaluation may go on for further rounds: `later_rounds` has the trials made from the last round's answer.
    """

    problem: Problem
    trial_1: Trial
    second_trials: tuple[SecondTrial, ...]
    generator: str
    reflector: str
    corrector: str
    seed: int
    later_rounds: tuple[tuple[SecondTrial, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class FailedRollout:
    """A problem whose request failed at `step` (`trial_1`, `reflection_0`, `trial_2_0`, …); to be made again."""

    problem: Problem
    step: str
    error: str


# Published columns: names and order are fixed by the upstream format.

_OUTPUT_COLUMNS = {
    "trial": "int32",  # 1: the first attempt, 2: each second attempt, 3 and on: an evaluation's further rounds
    "generated_answer": "string",
    "reasoning": "string",
    "is_correct": "bool",
    "error": "string",  # why it is not correct, or why the request failed
    "reflections": ["string"],  # none for trial 1, one for a second trial
    "reasoning_prompt": ["string"],  # the prompt as sent; the prefill of a second call, empty when one call sufficed
    "reflection_prompt": "string",
    "reasoning_source": "string",  # the model that wrote the trial
    "reflection_source": "string",  # the model that wrote the reflection
    "instruction": "string",  # key in the reflection-instruction pool
    # ours, after the published ones
    "status": "string",
    "f1": "float32",
    "leaks_answer": "bool",
    "finish_reason": "string",
    "n_prompt_tokens": "int32",
    "n_completion_tokens": "int32",
    "reflection_finish_reason": "string",
    "n_reflection_tokens": "int32",
}

_PAIR = ("second_trial_reasoning", "second_trial_answer", "reflection")

COLUMNS: dict[str, dict[str, Any]] = {
    "raw": {
        "id": "string",
        "question": "string",
        "answer": "string",
        "task": "string",
        "source": "string",
        "options": ["string"],
        "test_list": ["string"],
        "output": [_OUTPUT_COLUMNS],
        # ours
        "instruction": ["string"],  # the keys of the second trials, in their order
        "generator": "string",
        "reflector": "string",
        "corrector": "string",
        "answer_type": "string",
        "answers": ["string"],
        "test_setup_code": "string",
        "license": "string",
        "group": "string",
        "seed": "int64",
    },
    "dplus": {
        "id": "string",
        "question": "string",
        "answer": "string",
        "first_trial_reasoning": "string",
        "first_trial_answer": "string",
        "second_trial_reasoning": "string",
        "second_trial_answer": "string",
        "reflections": "string",
        "reason_prompt": ["string"],
        "reflect_prompt": "string",
        # ours
        "task": "string",
        "source": "string",
        "instruction": "string",
        "generator": "string",
        "reflector": "string",
        "corrector": "string",
        "answer_type": "string",
        "correct_prompt": ["string"],  # the prompt of the second trial as sent, and its prefill
        # what a prompt of another kind needs: one-stage training makes its own
        "options": ["string"],
        "test_list": ["string"],
    },
    "dpm": {
        "id": "string",
        "question": "string",
        "answer": "string",
        "first_trial_reasoning": "string",
        "first_trial_answer": "string",
        **{f"{name}_chosen": "string" for name in _PAIR},
        **{f"{name}_rejected": "string" for name in _PAIR},
        "reason_prompt": ["string"],
        "reflect_prompt": "string",
        # ours
        "task": "string",
        "source": "string",
        "instruction": "string",  # of the chosen reflection
        "generator": "string",
        "reflector": "string",
        "corrector": "string",
        "answer_type": "string",
        "instruction_rejected": "string",
        "reflect_prompt_rejected": "string",
    },
}
COLUMNS["dpref"] = {**COLUMNS["dpm"], "judge": "string"}  # the model that ranked the pair, or `self`


def features(config: str) -> datasets.Features:
    """The `datasets.Features` of one config, columns in their published order."""
    import datasets

    def feature(spec: Any) -> Any:
        if isinstance(spec, list):
            return datasets.List(feature(spec[0]))
        if isinstance(spec, dict):
            return {name: feature(value) for name, value in spec.items()}
        return datasets.Value(spec)

    return datasets.Features({name: feature(spec) for name, spec in COLUMNS[config].items()})


def stable_hash(*parts: str) -> int:
    """64 bits that depend on the texts alone: equal on every machine and Python run."""
    digest = hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def stable_digest(*parts: str) -> bytes:
    """128 bits that depend on the texts, and on where each ends, alone: for telling whether something was seen before."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def raw_row(rollout: Rollout) -> Row:
    """A rollout as one `raw` row."""
    problem = rollout.problem
    outputs = [_output_row(1, rollout.trial_1, None, rollout)]
    for number, round_trials in enumerate((rollout.second_trials, *rollout.later_rounds), 2):
        outputs += [_output_row(number, trial, reflection, rollout) for reflection, trial in round_trials]
    return {
        "id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "task": problem.task,
        "source": problem.source,
        "options": list(problem.options),
        "test_list": list(problem.test_list),
        "output": outputs,
        "instruction": [output["instruction"] for output in outputs[1:]],
        "generator": rollout.generator,
        "reflector": rollout.reflector,
        "corrector": rollout.corrector,
        "answer_type": problem.answer_type,
        "answers": list(problem.answers),
        "test_setup_code": problem.test_setup_code,
        "license": problem.license,
        "group": problem.group,
        "seed": rollout.seed,
    }


def _output_row(number: int, trial: Trial, reflection: Reflection | None, rollout: Rollout) -> Row:
    return {
        "trial": number,
        "generated_answer": trial.verdict.answer,
        "reasoning": trial.reasoning,
        "is_correct": trial.verdict.is_correct,
        "error": trial.verdict.reason,
        "reflections": [] if reflection is None else [reflection.text],
        "reasoning_prompt": [trial.prompt, trial.prefill],
        "reflection_prompt": "" if reflection is None else reflection.prompt,
        "reasoning_source": rollout.generator if reflection is None else rollout.corrector,
        "reflection_source": "" if reflection is None else rollout.reflector,
        "instruction": "" if reflection is None else reflection.instruction,
        "status": trial.verdict.status,
        "f1": trial.verdict.f1,
        "leaks_answer": reflection is not None and reflection.leaks_answer,
        "finish_reason": trial.completion.finish_reason,
        "n_prompt_tokens": trial.completion.n_prompt_tokens,
        "n_completion_tokens": trial.completion.n_completion_tokens,
        "reflection_finish_reason": "" if reflection is None else reflection.completion.finish_reason,
        "n_reflection_tokens": 0 if reflection is None else reflection.completion.n_completion_tokens,
    }


def problem_of_row(row: Row) -> Problem:
    """The problem that a `raw` row was made from."""
    return Problem(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        answer_type=row["answer_type"],
        options=row["options"],
        test_list=row["test_list"],
        test_setup_code=row["test_setup_code"],
        answers=row["answers"],
        task=row["task"],
        source=row["source"],
        license=row["license"],
        group=row["group"],
    )
