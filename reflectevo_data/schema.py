"""The record types and every published column name: the one place that states them.

In memory a problem becomes a `Rollout` (frozen dataclasses); on disk a rollout is one `RawRow` (plain data), and
`DPlusRow`, `PairRow` and `DPrefRow` are made of raw rows. `COLUMNS` and the explicit `datasets.Features` of
`features(config)` are derived from these four.
"""

# `datasets` has no type information.
# pyright: reportMissingTypeStubs=false

import hashlib
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    TypeAlias,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)


if TYPE_CHECKING:
    import datasets

AnswerType = Literal["choice", "math", "code", "text"]
ANSWER_TYPES: tuple[str, ...] = get_args(AnswerType)
Status = Literal["correct", "incorrect", "unparsed"]
FinishReason = Literal["stop", "length", "error"]
Row = dict[str, Any]
"""A row of any shape, such as a source's; rows of our own shapes are the typed ones below."""

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


Int32 = Annotated[int, "int32"]
Int64 = Annotated[int, "int64"]
Float32 = Annotated[float, "float32"]


# Published columns: names and order are fixed by the upstream format; ours come after them. `COLUMNS` is made from the
# annotations at import, so this module keeps them as types: as texts (`from __future__ import annotations`) they would
# have to be compiled, and the import would take a fifth longer.


class TrialRow(TypedDict):
    """An entry of a raw row's `output`."""

    trial: Int32  # 1: the first attempt, 2: each second attempt, 3 and on: an evaluation's further rounds
    generated_answer: str
    reasoning: str
    is_correct: bool
    error: str  # why it is not correct, or why the request failed
    reflections: list[str]  # none for trial 1, one for a second trial
    reasoning_prompt: list[str]  # the prompt as sent; the prefill of a second call, empty when one call sufficed
    reflection_prompt: str
    reasoning_source: str  # the model that wrote the trial
    reflection_source: str  # the model that wrote the reflection
    instruction: str  # key in the reflection-instruction pool
    # ours
    status: Status
    f1: Float32
    leaks_answer: bool
    finish_reason: FinishReason
    n_prompt_tokens: Int32
    n_completion_tokens: Int32
    reflection_finish_reason: str  # a FinishReason, empty for trial 1
    n_reflection_tokens: Int32


class RawRow(TypedDict):
    """A question with all its trials and reflections."""

    id: str
    question: str
    answer: str
    task: str
    source: str
    options: list[str]
    test_list: list[str]
    output: list[TrialRow]
    # ours
    instruction: list[str]  # the keys of the second trials, in their order
    generator: str
    reflector: str
    corrector: str
    answer_type: AnswerType
    answers: list[str]
    test_setup_code: str
    license: str
    group: str
    seed: Int64


class DPlusRow(TypedDict):
    """A reflection that led to a correct second trial."""

    id: str
    question: str
    answer: str
    first_trial_reasoning: str
    first_trial_answer: str
    second_trial_reasoning: str
    second_trial_answer: str
    reflections: str
    reason_prompt: list[str]
    reflect_prompt: str
    # ours
    task: str
    source: str
    instruction: str
    generator: str
    reflector: str
    corrector: str
    answer_type: AnswerType
    correct_prompt: list[str]  # the prompt of the second trial as sent, and its prefill
    # what a prompt of another kind needs: one-stage training makes its own
    options: list[str]
    test_list: list[str]


class PairRow(TypedDict):
    """Two reflections on one failed trial. In D± the chosen one led to a correct second trial, the other did not."""

    id: str
    question: str
    answer: str
    first_trial_reasoning: str
    first_trial_answer: str
    second_trial_reasoning_chosen: str
    second_trial_answer_chosen: str
    reflection_chosen: str
    second_trial_reasoning_rejected: str
    second_trial_answer_rejected: str
    reflection_rejected: str
    reason_prompt: list[str]
    reflect_prompt: str
    # ours
    task: str
    source: str
    instruction: str  # of the chosen reflection
    generator: str
    reflector: str
    corrector: str
    answer_type: AnswerType
    instruction_rejected: str
    reflect_prompt_rejected: str


class DPrefRow(PairRow):
    """Two reflections that both led to a correct second trial, ranked."""

    judge: str  # the model that ranked the pair, or `self`


class PreferenceRow(TypedDict):
    """A line of a run's preferences; `pair`, `chosen` and `rejected` are places in the question's `output`.

    What is `NotRequired` an imported preference does not have: nothing is known of how it was read.
    """

    id: str
    pair: NotRequired[list[int]]
    chosen: int | None  # None without a winner
    rejected: int | None
    outcome: NotRequired[str]
    positions: NotRequired[list[str]]
    judge: str


class RankedPair(NamedTuple):
    """Two second trials of one question, by their places in its `output`, and who preferred the chosen one."""

    chosen: int
    rejected: int
    judge: str


ColumnType: TypeAlias = "str | list[ColumnType] | dict[str, ColumnType]"
"""The name of a type, a list with the type of its entries, or the fields of an object."""

_TYPE_NAMES: dict[Any, str] = {bool: "bool"} | dict.fromkeys((str, AnswerType, Status, FinishReason), "string")


def _columns(row_type: type) -> dict[str, ColumnType]:
    return {name: _column_type(hint) for name, hint in get_type_hints(row_type, include_extras=True).items()}


def _column_type(hint: Any) -> ColumnType:
    if is_typeddict(hint):
        return _columns(hint)
    if get_origin(hint) is list:
        return [_column_type(get_args(hint)[0])]
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    return _TYPE_NAMES[hint]


COLUMNS: dict[str, dict[str, ColumnType]] = {
    "raw": _columns(RawRow),
    "dplus": _columns(DPlusRow),
    "dpm": _columns(PairRow),
    "dpref": _columns(DPrefRow),
}


def features(config: str) -> "datasets.Features":
    """The `datasets.Features` of one config, columns in their published order."""
    import datasets

    def feature(column: ColumnType) -> Any:
        if isinstance(column, list):
            return datasets.List(feature(column[0]))
        if isinstance(column, dict):
            return {name: feature(entry) for name, entry in column.items()}
        return datasets.Value(column)

    return datasets.Features({name: feature(column) for name, column in COLUMNS[config].items()})


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


def raw_row(rollout: Rollout) -> RawRow:
    """A rollout as one `raw` row."""
    problem = rollout.problem
    outputs = [_trial_row(1, rollout.trial_1, None, rollout)]
    for number, round_trials in enumerate((rollout.second_trials, *rollout.later_rounds), 2):
        outputs += [_trial_row(number, trial, reflection, rollout) for reflection, trial in round_trials]
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


def _trial_row(number: int, trial: Trial, reflection: Reflection | None, rollout: Rollout) -> TrialRow:
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


def problem_of_row(row: RawRow) -> Problem:
    """The problem that a `raw` row was made from."""
    return Problem(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        answer_type=row["answer_type"],
        options=tuple(row["options"]),
        test_list=tuple(row["test_list"]),
        test_setup_code=row["test_setup_code"],
        answers=tuple(row["answers"]),
        task=row["task"],
        source=row["source"],
        license=row["license"],
        group=row["group"],
    )


def ranked_pair(row: PreferenceRow) -> RankedPair | None:
    """The pair that a preference is about, None when it has no winner."""
    if row["chosen"] is None or row["rejected"] is None:
        return None
    return RankedPair(row["chosen"], row["rejected"], row["judge"])
