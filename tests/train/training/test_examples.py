"""The settings: what is trained, and that a prompt in training is the prompt of inference, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from reflectevo_data.completers.base import Sampling
from reflectevo_data.completers.scripted import Request, ScriptedCompleter
from reflectevo_data.curation.curate import dplus_rows, dpm_rows
from reflectevo_data.errors import InputError
from reflectevo_data.parsing.one_stage import split_one_stage
from reflectevo_data.prompts.templates import PromptSet, load_prompts
from reflectevo_data.rollouts.loop import Role, Roles, run_rollouts
from reflectevo_data.rollouts.manifest import Loop, Setting
from reflectevo_data.schema import Problem, Row, raw_row
from reflectevo_data.verifiers.leaks import leaks_answer
from reflectevo_data.verifiers.pool import VerifierPool
from reflectevo_train.settings import SFT_SETTINGS
from reflectevo_train.training.examples import dpo, first_of_each_question, problem_of, sft_example


PROBLEMS = [
    Problem("t", "Who wrote it?", "Ada Lovelace", "text", task="reading", source="s"),
    # options that the question does not list, so that the prompt has to show them
    Problem("c", "Which one floats?", "b", "choice", options=("iron", "cork"), task="physics", source="s"),
    Problem("m", "What is 6 times 7?", "42", "math", task="mathematics", source="s"),
]
RIGHT = {"t": "Finish[Ada Lovelace]", "c": "Finish[B]", "m": "Finish<<<42>>>"}
WRONG = {"t": "Finish[Bob]", "c": "Finish[A]", "m": "Finish<<<40>>>"}


def problem_in(prompt: str) -> Problem:
    # worked examples come first: the last question in the prompt is the one that is asked
    return max(PROBLEMS, key=lambda problem: prompt.rfind(problem.question))


def answer(request: Request) -> str:
    """Wrong first; the even reflections help."""
    problem = problem_in(request.prompt)
    action = lambda answers: f"Thought: Let me see.\nAction: {answers[problem.id]}"  # noqa: E731
    after = request.prompt[request.prompt.rfind(problem.question) :]
    if "One of my steps" in after:
        return action(RIGHT if "helpful" in after else WRONG)
    if after.endswith("Notes:") or "Reflect" in after.splitlines()[-1]:
        return f"One of my steps is {'helpful' if request.seed & 256 else 'useless'}: I guessed. Plan: look again."
    if "First write notes" in after:
        return "One of my steps was a guess.\n\n" + action(RIGHT)
    return action(WRONG)


def roll_out(prompts: PromptSet, setting: Setting = "two_stage", n_reflections: int = 6) -> tuple[list[Row], set[str]]:
    """Raw rows, and every prompt that was sent."""
    completer = ScriptedCompleter(answer)
    role = Role(completer, Sampling())

    async def collect(verifier: VerifierPool) -> list[Row]:
        rollouts = run_rollouts(
            PROBLEMS,
            Roles(role, role, role),
            Loop(setting=setting, n_reflections=n_reflections),
            prompts=prompts,
            verifier=verifier,
        )
        return [raw_row(rollout) async for rollout in rollouts]

    with VerifierPool(1) as verifier:
        return asyncio.run(collect(verifier)), {request.prompt for request in completer.requests}


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("default")


@pytest.fixture(scope="module")
def raw(prompts: PromptSet) -> tuple[list[Row], set[str]]:
    return roll_out(prompts)


@pytest.fixture(scope="module")
def dplus(raw: tuple[list[Row], set[str]]) -> list[Row]:
    rows = [row for raw_row in raw[0] for row in dplus_rows(raw_row)]
    assert {row["id"] for row in rows} == {"t", "c", "m"}
    return rows


@pytest.mark.parametrize("setting", SFT_SETTINGS)
def test_prompt_is_the_one_that_inference_sends(
    setting: str, raw: tuple[list[Row], set[str]], dplus: list[Row], prompts: PromptSet
):
    sent = roll_out(prompts, setting="one_stage")[1] if setting == "one_stage" else raw[1]
    for row in dplus:
        [message] = sft_example(row, setting, prompts)["prompt"]
        assert message["role"] == "user"
        assert message["content"] in sent


def test_preference_prompt_is_the_one_that_inference_sends(raw: tuple[list[Row], set[str]]):
    rows = [row for raw_row in raw[0] for row in dpm_rows(raw_row)]
    assert {row["id"] for row in rows} == {"t", "c", "m"}
    for row in rows:
        example = dpo(row)
        assert example["prompt"][0]["content"] in raw[1]
        assert (example["chosen"][0]["content"], example["rejected"][0]["content"]) == (
            row["reflection_chosen"],
            row["reflection_rejected"],
        )


def test_completions(dplus: list[Row], prompts: PromptSet):
    row = next(row for row in dplus if row["id"] == "c")
    reflection, trial = row["reflections"], row["second_trial_reasoning"]
    assert trial.endswith("Action: Finish[B]")
    completions = {s: sft_example(row, s, prompts)["completion"] for s in SFT_SETTINGS}  # pyright: ignore
    assert completions == {
        "one_stage": [{"role": "assistant", "content": f"{reflection}\n\n{trial}"}],
        "two_stage_reflect": [{"role": "assistant", "content": reflection}],
        "two_stage_correct": [{"role": "assistant", "content": trial}],
        "qa": [{"role": "assistant", "content": trial}],
    }
    spaced = row | {"reflections": f" {reflection}\n", "second_trial_reasoning": f"\n{trial} "}
    assert {s: sft_example(spaced, s, prompts)["completion"] for s in SFT_SETTINGS} == completions  # pyright: ignore
    # what the loop reads from a one-stage model is what was put in
    assert split_one_stage(completions["one_stage"][0]["content"]) == (reflection, trial)


def test_failed_trial_is_in_the_prompt(dplus: list[Row], prompts: PromptSet):
    for row in dplus:
        for setting in SFT_SETTINGS:
            example = sft_example(row, setting, prompts)  # pyright: ignore
            assert example["failed_trial"] == ("" if setting == "qa" else row["first_trial_reasoning"])
            assert example["failed_trial"] in example["prompt"][0]["content"]


def test_row_has_what_its_problem_had(dplus: list[Row]):
    found = {row["id"]: problem_of(row) for row in dplus}
    assert found == {problem.id: problem for problem in PROBLEMS}


@pytest.mark.parametrize(
    ("setting", "change", "message"),
    [
        # the second trial, recorded into the prompt of the reflection: what upstream's columns hold
        (
            "two_stage_reflect",
            lambda row: {"reflect_prompt": f"{row['reflect_prompt']}\n{row['second_trial_reasoning']}"},
            "states the answer 'Ada Lovelace'",
        ),
        (
            "two_stage_reflect",
            lambda row: {"reflect_prompt": f"{row['reflect_prompt']} {row['reflections']}"},
            "holds the text that it is trained to give",
        ),
        (
            "two_stage_correct",
            lambda row: {"correct_prompt": [f"{row['correct_prompt'][0]}\nObservation: Answer is CORRECT", ""]},
            "says 'Answer is CORRECT'",
        ),
        (
            "two_stage_correct",
            lambda row: {
                "correct_prompt": [row["correct_prompt"][0].replace("I guessed", "The answer is Ada Lovelace"), ""]
            },
            "states the answer 'Ada Lovelace'",
        ),
        (
            "qa",
            lambda row: {"reason_prompt": [f"{row['reason_prompt'][0]}\n{row['second_trial_reasoning']}", ""]},
            "holds",
        ),
        ("one_stage", lambda row: {"first_trial_reasoning": "Thought: The Answer is CORRECT"}, "says 'Answer"),
    ],
)
def test_prompt_that_holds_the_answer_is_refused(setting, change, message, dplus: list[Row], prompts: PromptSet):
    row = next(row for row in dplus if row["id"] == "t")
    sft_example(row, setting, prompts)
    with pytest.raises(InputError, match=rf"^t \({setting}\): .*{message}"):
        sft_example(row | change(row), setting, prompts)


def test_preference_completions_are_stripped(raw: tuple[list[Row], set[str]]):
    row = next(row for raw_row in raw[0] for row in dpm_rows(raw_row))
    example = dpo(row | {"reflection_chosen": " good\n", "reflection_rejected": "\nbad "})
    assert (example["chosen"], example["rejected"]) == (
        [{"role": "assistant", "content": "good"}],
        [{"role": "assistant", "content": "bad"}],
    )
    assert example["failed_trial"] == row["first_trial_reasoning"]


@pytest.mark.parametrize(
    "column", ["reflection_chosen", "second_trial_reasoning_chosen", "second_trial_reasoning_rejected"]
)
def test_preference_prompt_that_holds_the_answer_is_refused(column: str, raw: tuple[list[Row], set[str]]):
    row = next(row for raw_row in raw[0] for row in dpm_rows(raw_row))
    row |= {column: " Look at the first line again.\n"}
    dpo(row)
    with pytest.raises(InputError, match="holds the text"):
        dpo(row | {"reflect_prompt": f"{row['reflect_prompt']}\nLook at the first line again."})


def test_second_trial_that_repeats_the_failed_one_is_no_leak(dplus: list[Row], prompts: PromptSet):
    row = next(row for row in dplus if row["id"] == "t")
    repeated = row | {"second_trial_reasoning": row["first_trial_reasoning"]}
    assert sft_example(repeated, "two_stage_correct", prompts)["segments"] == [row["first_trial_reasoning"]]


@pytest.mark.parametrize("letter", ["a", "b"])
def test_worked_examples_are_no_leak(letter: str, dplus: list[Row], prompts: PromptSet):
    """Their answers may be the letter of this question's gold, and their trials this question's failed one."""
    row = next(row for row in dplus if row["answer_type"] == "choice") | {"answer": letter}
    trial = row["first_trial_reasoning"]
    row |= {"reflect_prompt": f"Example 1\n{trial}\nThe answer is ({letter.upper()}).\n\n{row['reflect_prompt']}"}
    assert leaks_answer(row["reflect_prompt"].rpartition(trial)[0], problem_of(row), trial)
    assert sft_example(row, "two_stage_reflect", prompts)["segments"] == [row["reflections"]]


def test_settings_know_no_other_prompts(dplus: list[Row], prompts: PromptSet):
    """The one-stage prompt follows the prompt set; the recorded ones do not."""
    other = replace(prompts, templates=prompts.templates | {"one_stage": prompts.templates["retry"]})
    row = dplus[0]
    changed = {
        s
        for s in SFT_SETTINGS
        if sft_example(row, s, other)["prompt"] != sft_example(row, s, prompts)["prompt"]  # pyright: ignore
    }
    assert changed == {"one_stage"}


def test_first_rows():
    assert first_of_each_question(["b", "b", "a", "b", "c", "a"]) == [0, 2, 4]
