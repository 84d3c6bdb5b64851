"""The loop as an evaluation runs it: gates, one-stage models, rounds, votes, and what of it lands in the rows."""

import re
from collections.abc import Callable
from contextlib import aclosing

import pytest

from reflectevo_data.completers.base import Sampling
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.rollouts.loop import Role, Roles, accepts, run_rollouts
from reflectevo_data.rollouts.manifest import Loop
from reflectevo_data.schema import Completion, Problem, Rollout, Verdict, raw_row


class Answers:
    """A completer that answers with a function of the prompt, and keeps what it was asked."""

    slots = 4

    def __init__(self, model: str, answer: Callable[[str], str]) -> None:
        self.model, self.answer = model, answer
        self.asked: list[tuple[str, int, str]] = []

    async def complete(self, prompt, *, sampling, seed, n=1, prefill=""):
        self.asked.append((prompt, seed, prefill))
        return [Completion(self.answer(prompt + prefill), "stop", 7, 3)]

    async def logprob(self, prompt, continuation, *, prefill=""):
        raise NotImplementedError


class ExactVerifier:
    async def judge(self, parsed, problem):
        answer = parsed.answer or ""
        status = "unparsed" if not answer else "correct" if answer == problem.answer else "incorrect"
        return Verdict(status, answer, f1=float(status == "correct"))


PROBLEMS = [Problem("p/right", "first right?", "6", "math"), Problem("p/wrong", "first wrong?", "8", "math")]


async def evaluate(answer, *, problems=PROBLEMS, prompts="default", **settings) -> tuple[dict[str, Rollout], Answers]:
    completer = Answers("tiny", answer)
    role = Role(completer, Sampling())
    rollouts = run_rollouts(
        problems,
        Roles(role, role, role),
        Loop(**{"n_reflections": 1} | settings),
        prompts=load_prompts(prompts),
        verifier=ExactVerifier(),
        in_flight=2,
    )
    async with aclosing(rollouts):
        results = [result async for result in rollouts]
    assert all(isinstance(result, Rollout) for result in results)
    return {result.problem.id: result for result in results}, completer


def says(number: object) -> str:
    return f"Thought: so it is.\nAction: Finish<<<{number}>>>"


def always_six(prompt: str) -> str:
    return "Check: fine.\nPlan: keep it." if prompt.endswith("Notes:") else says(6)


def after_the_examples(prompt: str) -> str:
    return prompt[prompt.index("Your turn") :]


async def test_the_oracle_reflects_on_failed_answers_alone_and_says_so():
    rollouts, completer = await evaluate(always_six, instructions=("1-1-1",))
    assert not rollouts["p/right"].second_trials
    [second] = rollouts["p/wrong"].second_trials
    assert "the failed solution" in after_the_examples(second.reflection.prompt)
    assert "its answer is wrong" in after_the_examples(second.trial.prompt)
    assert len(completer.asked) == 4


async def test_without_a_gate_every_answer_is_reflected_on_and_no_prompt_claims_that_it_is_wrong():
    rollouts, completer = await evaluate(always_six, gate="none", instructions=("1-1-1",))
    assert [len(rollout.second_trials) for rollout in rollouts.values()] == [1, 1]
    assert len(completer.asked) == 6
    for prompt, _, _ in completer.asked:
        assert "is wrong" not in after_the_examples(prompt)
        assert "failed" not in after_the_examples(prompt)
    # the same prompts, whatever the answer was: nothing tells the model who is right
    right, wrong = (rollouts[id].second_trials[0] for id in ("p/right", "p/wrong"))
    assert right.reflection.prompt.replace("first right?", "first wrong?") == wrong.reflection.prompt
    assert right.trial.prompt.replace("first right?", "first wrong?") == wrong.trial.prompt


@pytest.mark.parametrize(("verdict", "n_reflected"), [("Verdict: right", 0), ("Verdict: wrong", 2), ("Who knows.", 2)])
async def test_a_model_decides_by_judging_its_own_answer(verdict, n_reflected):
    rollouts, completer = await evaluate(
        lambda prompt: verdict if "You judge your own attempt" in prompt else always_six(prompt), gate="self"
    )
    assert sum(bool(rollout.second_trials) for rollout in rollouts.values()) == n_reflected
    checks = [prompt for prompt, _, _ in completer.asked if "You judge your own attempt" in prompt]
    assert len(checks) == 2
    for rollout in rollouts.values():
        for second in rollout.second_trials:
            assert "is wrong" not in after_the_examples(second.trial.prompt)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("All steps hold.\nVerdict: right", True),
        ("Verdict: wrong. On second thought,\n**Verdict:** correct", True),
        ("It seems right, but step 2 is not.\nVerdict: wrong", False),
        ("The verdict is incorrect.", False),
        ("Checking each step. Step 1: 3-9 is 4, right. No step is wrong. Plan: keep the answer.", True),
        ("Checking each step. Step 1 is wrong. The borrow was lost. Plan: do step 1 digit by digit.", False),
        ("It is right.", False),
        ("", False),
    ],
)
def test_an_unclear_judgement_accepts_nothing(text, accepted):
    assert accepts(text) is accepted


async def test_one_stage_reflects_and_answers_in_one_generation():
    def answer(prompt: str) -> str:
        return f"The sum is off by two.\n\n{says(8)}" if "First write notes" in prompt else says(6)

    rollouts, completer = await evaluate(answer, setting="one_stage")
    [second] = rollouts["p/wrong"].second_trials
    assert second.reflection.text == "The sum is off by two."
    assert second.trial.reasoning == says(8)
    assert second.trial.verdict.is_correct
    assert len(completer.asked) == 3
    output = raw_row(rollouts["p/wrong"])["output"][1]
    assert (output["n_completion_tokens"], output["n_reflection_tokens"]) == (3, 0)
    assert output["reflection_prompt"] == output["reasoning_prompt"][0] == second.trial.prompt


async def test_one_stage_that_stops_after_its_notes_is_asked_for_the_action():
    def answer(prompt: str) -> str:
        if prompt.endswith("Action:"):
            return " Finish<<<8>>>"
        return "The Action: line is off by two." if "First write notes" in prompt else says(6)

    rollouts, completer = await evaluate(answer, setting="one_stage")
    [second] = rollouts["p/wrong"].second_trials
    assert second.trial.verdict.is_correct
    assert second.reflection.text == "The Action: line is off by two."
    assert second.trial.prefill == "The Action: line is off by two.\nAction:"
    assert len(completer.asked) == 4


async def test_retry_answers_again_without_a_reflection():
    rollouts, completer = await evaluate(
        lambda prompt: says(8 if "correctly this time" in prompt else 6), setting="retry"
    )
    row = raw_row(rollouts["p/wrong"])
    assert row["output"][1]["is_correct"]
    assert row["output"][1]["reflections"] == [""]
    assert row["reflector"] == ""
    assert len(completer.asked) == 3


async def test_rounds_go_on_until_correct_and_each_starts_from_the_last_answer():
    def answer(prompt: str) -> str:
        if prompt.endswith("Notes:"):
            return "Add one."
        tried = re.findall(r"Finish<<<(\d+)>>>", prompt.split("for the second time")[-1])
        return says(int(tried[-1]) + 1 if "for the second time" in prompt else 6)

    rollouts, completer = await evaluate(answer, rounds=5)
    row = raw_row(rollouts["p/wrong"])
    assert [(output["trial"], output["generated_answer"]) for output in row["output"]] == [
        (1, "6"),
        (2, "7"),
        (3, "8"),
    ]
    assert len(row["instruction"]) == len(set(row["instruction"])) == 2
    assert len({seed for _, seed, _ in completer.asked}) == len(completer.asked)
    rollouts, _ = await evaluate(answer, rounds=3, gate="none")
    assert [output["generated_answer"] for output in raw_row(rollouts["p/right"])["output"]] == ["6", "7", "8", "9"]


async def test_the_answer_that_most_second_trials_give_is_reflected_on_next():
    second_trials = iter(["7", "9", "9", "8", "8", "8"])

    def answer(prompt: str) -> str:
        if prompt.endswith("Notes:"):
            return "Again."
        return says(next(second_trials) if "for the second time" in prompt else 6)

    rollouts, _ = await evaluate(answer, problems=PROBLEMS[1:], n_reflections=3, rounds=2)
    rollout = rollouts["p/wrong"]
    assert [
        [second.trial.verdict.answer for second in one] for one in (rollout.second_trials, *rollout.later_rounds)
    ] == [
        ["7", "9", "9"],
        ["8", "8", "8"],
    ]
    for reflection, trial in rollout.later_rounds[0]:
        assert "<<<9>>>" in reflection.prompt.split("The attempt:")[-1]
        assert "<<<9>>>" in trial.prompt


async def test_a_bug_in_a_second_trial_ends_the_run():
    def breaks(prompt: str) -> str:
        if prompt.endswith("Notes:"):
            raise RuntimeError("a bug")
        return says(6)

    with pytest.raises(RuntimeError, match="a bug"):
        await evaluate(breaks)
