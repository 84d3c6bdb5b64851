"""Rows of `dplus`, `dpm` and `dpref` -> TRL's conversational examples, one pure function a training setting.

    one_stage           question and failed trial -> reflection, then the second trial, in one assistant message
    two_stage_reflect   question and failed trial -> reflection
    two_stage_correct   question, failed trial and reflection -> second trial
    qa                  question -> correct answer: the baseline that knows no reflection
    dpo                 question and failed trial -> the chosen reflection over the rejected one

Prompts are the recorded ones, made by the same `PromptSet` methods that the loop calls; the one-stage prompt, which no
loop sent when the data was made, comes from `PromptSet.one_stage`.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from reflectevo_data.errors import InputError
from reflectevo_data.parsing.one_stage import join_one_stage
from reflectevo_data.prompts.templates import PromptSet
from reflectevo_data.schema import DPlusRow, PairRow, Problem
from reflectevo_data.verifiers.leaks import leaks_answer

from ..settings import SFTSetting, TrainSetting


# What an environment says of an attempt; in a prompt it means that the prompt was recorded after the answer was known.
_VERDICT = "Answer is CORRECT"


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class SFTExample(TypedDict):
    """TRL's `prompt` and `completion`, and what a collator needs beside them.

    Attributes:
        segments: The texts that the completion is made of, in order.
        failed_trial: The part of the prompt that may be shortened when the example is too long; empty: none.
    """

    id: str
    prompt: list[Message]
    completion: list[Message]
    segments: list[str]
    failed_trial: str


class PreferenceExample(TypedDict):
    """TRL's `prompt`, `chosen` and `rejected`, and the part of the prompt that may be shortened."""

    id: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    failed_trial: str


def sft_example(row: DPlusRow, setting: SFTSetting, prompts: PromptSet) -> SFTExample:
    """A `dplus` row in the chosen setting.

    Raises:
        InputError: The prompt holds the answer.
    """
    match setting:
        case "one_stage":
            return one_stage(row, prompts)
        case "two_stage_reflect":
            return two_stage_reflect(row)
        case "two_stage_correct":
            return two_stage_correct(row)
        case "qa":
            return qa(row)


def one_stage(row: DPlusRow, prompts: PromptSet) -> SFTExample:
    """Question and failed trial -> reflection, then the second trial.

    One assistant message holds both: a multi-turn completion would also train the user turn between them.
    """
    prompt = prompts.one_stage(problem_of(row), row["first_trial_reasoning"])
    return _sft(row, "one_stage", prompt, [row["reflections"], row["second_trial_reasoning"]])


def two_stage_reflect(row: DPlusRow) -> SFTExample:
    """Question and failed trial -> reflection."""
    return _sft(row, "two_stage_reflect", row["reflect_prompt"], [row["reflections"]])


def two_stage_correct(row: DPlusRow) -> SFTExample:
    """Question, failed trial and reflection -> second trial."""
    return _sft(row, "two_stage_correct", row["correct_prompt"][0], [row["second_trial_reasoning"]])


def qa(row: DPlusRow) -> SFTExample:
    """Question -> the answer that was found to be correct. A question's first row is its first correct answer."""
    return _sft(row, "qa", row["reason_prompt"][0], [row["second_trial_reasoning"]], failed_trial="")


def dpo(row: PairRow) -> PreferenceExample:
    """A `dpm` or `dpref` row: two reflections on one failed trial.

    The prompt is the one that the chosen reflection answered; the rejected one may have had another instruction.

    Raises:
        InputError: The prompt holds the answer.
    """
    prompt = row["reflect_prompt"]
    answers = [row["second_trial_reasoning_chosen"], row["second_trial_reasoning_rejected"], row["reflection_chosen"]]
    _refuse_answer_in_prompt(row, "dpo", prompt, answers)
    return {
        "id": row["id"],
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": row["reflection_chosen"].strip()}],
        "rejected": [{"role": "assistant", "content": row["reflection_rejected"].strip()}],
        "failed_trial": row["first_trial_reasoning"],
    }


def problem_of(row: DPlusRow | PairRow) -> Problem:
    """The problem of a `dplus`, `dpm` or `dpref` row, as far as its columns tell."""
    return Problem(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        answer_type=row["answer_type"],
        options=tuple(row.get("options") or ()),
        test_list=tuple(row.get("test_list") or ()),
        task=row["task"],
        source=row["source"],
    )


def _sft(
    row: DPlusRow, setting: SFTSetting, prompt: str, segments: list[str], *, failed_trial: str | None = None
) -> SFTExample:
    segments = [segment.strip() for segment in segments]
    content = join_one_stage(*segments) if len(segments) == 2 else segments[0]
    _refuse_answer_in_prompt(row, setting, prompt, segments)
    return {
        "id": row["id"],
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": content}],
        "segments": segments,
        "failed_trial": row["first_trial_reasoning"] if failed_trial is None else failed_trial,
    }


def _refuse_answer_in_prompt(row: DPlusRow | PairRow, setting: TrainSetting, prompt: str, answers: list[str]) -> None:
    """What is trained must not stand in the prompt: a model learns to copy it.

    Looked at is what comes after the failed trial (after the question, where there is no trial): before it stand the
    question and worked examples of other questions, whose answers may happen to be the same.
    """
    where = f"{row['id']} ({setting})"
    remedy = "The prompt was recorded after the answer was known. Import or generate the row anew."
    if _VERDICT in prompt:
        raise InputError(f"{where}: the prompt says {_VERDICT!r}. {remedy}")
    trial = row["first_trial_reasoning"].strip()
    for answer in answers:
        answer = answer.strip()
        # a second trial may repeat the failed one word for word, where only the verifier's reading differs
        if answer and answer in prompt and answer not in trial:
            raise InputError(f"{where}: the prompt holds the text that it is trained to give. {remedy}")
    known = trial if trial and trial in prompt else row["question"].strip()
    before, found, after = prompt.rpartition(known)
    if leaks_answer(after if found else before, problem_of(row), trial):
        raise InputError(f"{where}: the prompt states the answer {row['answer']!r}. {remedy}")


def first_of_each_question(ids: list[str]) -> list[int]:
    """Places of the first row of each question: the baseline sees a question once.

    >>> first_of_each_question(["q1", "q1", "q2"])
    [0, 2]
    """
    places: dict[str, int] = {}
    for place, question in enumerate(ids):
        places.setdefault(question, place)
    return list(places.values())
