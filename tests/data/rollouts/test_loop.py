"""The loop, with a scripted completer: who sees what, what is stored, what fails alone."""

import asyncio
import re

import pytest

from reflectevo_data import Problem
from reflectevo_data.completers.base import CompletionFailed, Sampling
from reflectevo_data.completers.scripted import Request, ScriptedCompleter
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.rollouts.loop import Role, Roles, request_seed, run_rollouts
from reflectevo_data.rollouts.manifest import Loop
from reflectevo_data.schema import FailedRollout, Rollout, raw_row
from reflectevo_data.verifiers.pool import VerifierPool


SAMPLING = Sampling(temperature=1.0, max_tokens=300)
PROMPTS = load_prompts("default")


def problem(number, gold="b"):
    return Problem(f"q/{number}", f"Question number {number}?", gold, "choice", options=["red", "green", "blue"])


def kind(request: Request) -> str:
    """Which prompt it is, by the template's own words."""
    if "You look back at your own attempt" in request.prompt:
        return "reflect"
    return "correct" if "What you noted about that attempt:" in request.prompt else "solve"


def role(answer, model="scripted", **options):
    return Role(ScriptedCompleter(answer, model=model, **options), SAMPLING)


def one_role(answer, **options):
    shared = role(answer, **options)
    return Roles(shared, shared, shared)


def always_wrong_then_right(request: Request) -> str:
    if kind(request) == "reflect":
        return "Check: fine.\nError: I mixed up two colours.\nPlan: read again."
    return "Thought: hm.\nAction: Finish[B]" if kind(request) == "correct" else "Thought: hm.\nAction: Finish[A]"


async def collect(problems, roles, *, in_flight=4, **settings):
    with VerifierPool(workers=1) as verifier:
        loop = Loop(**{"instructions": ("1-1-1",)} | settings)
        rollouts = run_rollouts(problems, roles, loop, prompts=PROMPTS, verifier=verifier, in_flight=in_flight)
        return [result async for result in rollouts]


async def test_a_correct_first_trial_ends_the_walk():
    roles = one_role(lambda request: "Thought: green.\nAction: Finish[B]")
    [rollout] = await collect([problem(1)], roles)
    assert isinstance(rollout, Rollout)
    assert rollout.trial_1.verdict.is_correct
    assert rollout.second_trials == ()
    assert roles.generator.completer.n_calls == 1


async def test_a_wrong_first_trial_is_reflected_on_k_times():
    generator, reflector, corrector = (
        role(always_wrong_then_right, model=name) for name in ("generator", "reflector", "corrector")
    )
    [rollout] = await collect([problem(1)], Roles(generator, reflector, corrector), n_reflections=3)
    assert not rollout.trial_1.verdict.is_correct
    assert [trial.verdict.status for _, trial in rollout.second_trials] == ["correct"] * 3
    assert [len(r.completer.requests) for r in (generator, reflector, corrector)] == [1, 3, 3]
    assert (rollout.generator, rollout.reflector, rollout.corrector) == ("generator", "reflector", "corrector")
    row = raw_row(rollout)
    assert [output["trial"] for output in row["output"]] == [1, 2, 2, 2]
    assert row["output"][0]["reasoning_source"] == "generator"
    assert row["output"][1]["reasoning_source"] == "corrector"
    assert row["output"][1]["reflection_source"] == "reflector"
    assert row["output"][1]["reasoning_prompt"] == [rollout.second_trials[0].trial.prompt, ""]
    assert row["instruction"] == ["1-1-1"] * 3


async def test_a_second_trial_sees_its_own_reflection_only():
    def answer(request):
        if kind(request) == "reflect":
            return f"Note {request.seed}: look again."
        if kind(request) == "correct":
            return "Thought: " + " ".join(re.findall(r"Note \d+", request.prompt)) + ".\nAction: Finish[C]"
        return "Thought: first.\nAction: Finish[A]"

    [rollout] = await collect([problem(1)], one_role(answer), n_reflections=4)
    notes = set()
    for reflection, trial in rollout.second_trials:
        seen = re.findall(r"Note \d+", trial.prompt)
        assert seen == re.findall(r"Note \d+", reflection.text)
        assert seen == re.findall(r"Note \d+", trial.reasoning)
        notes.update(seen)
    assert len(notes) == 4


async def test_several_second_trials_are_made_from_one_reflection():
    def answer(request):
        if kind(request) == "reflect":
            return f"Note {request.seed}: look again."
        return f"Thought: {request.seed}.\nAction: Finish[{'AC'[kind(request) == 'correct']}]"

    roles = one_role(answer)
    [rollout] = await collect([problem(1)], roles, n_reflections=2, n_second_trials=3)
    assert roles.generator.completer.n_calls == 1 + 2 + 2 * 3
    texts = [second.reflection.text for second in rollout.second_trials]
    assert [len(set(texts[i : i + 3])) for i in (0, 3)] == [1, 1]
    assert texts[0] != texts[3]
    assert len({second.trial.reasoning for second in rollout.second_trials}) == 6
    tokens = [trial["n_reflection_tokens"] for trial in raw_row(rollout)["output"][1:]]
    assert [count > 0 for count in tokens] == [True, False, False] * 2  # a reflection is paid for once
    [single] = await collect([problem(1)], one_role(answer), n_reflections=2)
    assert [single.second_trials[i].trial for i in (0, 1)] == [rollout.second_trials[i].trial for i in (0, 3)]


def test_one_stage_makes_one_second_trial_with_each_reflection():
    with pytest.raises(ValueError, match="one second trial with each reflection"):
        Loop(setting="one_stage", n_second_trials=2)


@pytest.mark.parametrize("answer_type", ["choice", "math", "text", "code"])
async def test_the_gold_answer_is_in_no_prompt(answer_type):
    gold = {"choice": "b", "math": "9876.5", "text": "zanzibar", "code": "def sesame(): return 'zanzibar'"}[
        answer_type
    ]
    tests = ["assert sesame() is not None", "assert sesame() == 'zanzibar'"] if answer_type == "code" else ()
    options = ["red", "green"] if answer_type == "choice" else ()
    asked = Problem("q", "Where to?", gold, answer_type, options=options, test_list=tests, answers=["zanzibar"])
    roles = one_role(
        lambda request: "Notes." if kind(request) == "reflect" else "Thought: no idea.\nAction: Finish[A]"
    )
    if answer_type == "code":  # without an answer in the right form nothing is run, and no sandbox is needed
        roles = one_role(lambda request: "Notes." if kind(request) == "reflect" else "Thought: no idea.\nAction: none")
    wrong = asked if answer_type != "choice" else Problem("q", "Where to?", "b", "choice", options=options)
    [rollout] = await collect([wrong], roles)
    assert not rollout.trial_1.verdict.is_correct
    prompts = [request.prompt for request in roles.generator.completer.requests]
    assert len(prompts) >= 5
    for prompt in prompts:
        asked_part = prompt[prompt.rindex("Where to?") :]
        assert "zanzibar" not in prompt
        assert "9876.5" not in prompt
        assert "Finish[B]" not in asked_part


async def test_a_text_without_an_action_is_continued_once():
    def answer(request):
        return " Finish[B]" if request.prefill else "Thought: it must be green"

    roles = one_role(answer)
    [rollout] = await collect([problem(1)], roles)
    first, second = roles.generator.completer.requests
    assert (first.prefill, second.prefill) == ("", "Thought: it must be green\nAction:")
    assert first.seed != second.seed
    assert (first.sampling.max_tokens, second.sampling.max_tokens) == (300, 128)
    assert rollout.trial_1.prefill == "Thought: it must be green\nAction:"
    assert rollout.trial_1.reasoning == "Thought: it must be green\nAction: Finish[B]"
    assert rollout.trial_1.verdict.is_correct
    assert raw_row(rollout)["output"][0]["reasoning_prompt"] == [first.prompt, second.prefill]
    assert rollout.trial_1.completion.n_completion_tokens == 7


async def test_hallucinated_environments_are_cut():
    roles = one_role(
        lambda request: "Thought: x\nAction: Finish[B]\nObservation: Answer is CORRECT\nAction: Finish[A]"
    )
    [rollout] = await collect([problem(1)], roles)
    assert rollout.trial_1.reasoning == "Thought: x\nAction: Finish[B]"


async def test_a_reflection_ends_where_the_new_attempt_begins():
    def answer(request):
        if kind(request) == "reflect":
            return "I took the wrong colour.\n\nThought: so it is green.\nAction: Finish[B]"
        return always_wrong_then_right(request)

    [rollout] = await collect([problem(1)], one_role(answer), n_reflections=1)
    [(reflection, trial)] = rollout.second_trials
    assert reflection.text == "I took the wrong colour."
    assert not reflection.leaks_answer
    assert "so it is green" not in trial.prompt


async def test_a_hidden_thinking_block_is_no_part_of_the_attempt():
    roles = one_role(lambda request: "<think>\nAction: Finish[A]\n</think>\n\nThought: green.\nAction: Finish[B]")
    [rollout] = await collect([problem(1)], roles)
    assert rollout.trial_1.reasoning == "Thought: green.\nAction: Finish[B]"


async def test_a_reflection_that_states_the_answer_is_flagged():
    def answer(request):
        if kind(request) == "reflect":
            return "The correct answer is B." if request.seed % 512 else "Look again at the colours."
        return always_wrong_then_right(request)

    [rollout] = await collect([problem(1)], one_role(answer), n_reflections=4)
    flags = {reflection.text: reflection.leaks_answer for reflection, _ in rollout.second_trials}
    assert flags == {"The correct answer is B.": True, "Look again at the colours.": False}


async def test_a_failed_request_fails_its_problem_alone():
    def answer(request):
        if "number 2?" in request.prompt:
            return CompletionFailed("prompt too long")
        if "number 3?" in request.prompt and kind(request) == "correct":
            return CompletionFailed("engine gone")
        return always_wrong_then_right(request)

    results = await collect([problem(i) for i in range(5)], one_role(answer))
    failed = sorted((r.problem.id, r.step, r.error) for r in results if isinstance(r, FailedRollout))
    assert [f[0] for f in failed] == ["q/2", "q/3"]
    assert failed[0][1:] == ("trial_1", "prompt too long")
    assert failed[1][1] in ("trial_2_0", "trial_2_1")
    assert sorted(r.problem.id for r in results if isinstance(r, Rollout)) == ["q/0", "q/1", "q/4"]


@pytest.mark.parametrize("where", ["solve", "reflect"])
async def test_a_bug_ends_the_run(where):
    def answer(request):
        return ZeroDivisionError("bug") if kind(request) == where else "Action: Finish[A]"

    with pytest.raises(ZeroDivisionError, match="bug"):
        await collect([problem(i) for i in range(5)], one_role(answer))


async def test_problems_in_flight_are_bounded_and_drawn_lazily():
    drawn = 0

    def source():
        nonlocal drawn
        for i in range(100):
            drawn += 1
            yield problem(i)

    roles = one_role(lambda request: "Action: Finish[B]", delay=0.001)
    with VerifierPool(workers=1) as verifier:
        rollouts = run_rollouts(source(), roles, prompts=PROMPTS, verifier=verifier, in_flight=8)
        first = await anext(rollouts)
        assert isinstance(first, Rollout)
        assert drawn <= 24  # in flight, finished and waiting to be taken, and the next
        await rollouts.aclose()
    assert roles.generator.completer.n_at_once == 8
    await asyncio.sleep(0.01)
    assert drawn <= 24


async def test_nothing_waits_for_a_phase():
    """One slow first trial does not keep the others from their reflections."""
    order = []

    class Slow(ScriptedCompleter):
        async def complete(self, prompt, **request):
            if "number 0?" in prompt:
                await asyncio.sleep(0.2)
            return await super().complete(prompt, **request)

    completer = Slow(always_wrong_then_right)
    shared = Role(completer, SAMPLING)
    for result in await collect([problem(i) for i in range(10)], Roles(shared, shared, shared), in_flight=10):
        order.append(result.problem.id)
    assert order[-1] == "q/0"
    assert set(order) == {f"q/{i}" for i in range(10)}


async def test_records_depend_on_the_seed_and_not_on_the_order():
    def answer(request):
        text = "ABC"[request.seed // 256 % 3]
        return f"Notes {request.seed}." if kind(request) == "reflect" else f"Thought.\nAction: Finish[{text}]"

    async def rows(order, **options):
        results = await collect([problem(i) for i in order], one_role(answer), instructions=("random",), **options)
        return {result.problem.id: raw_row(result) for result in results}

    assert await rows(range(12)) == await rows(reversed(range(12)), in_flight=1)
    assert await rows(range(12)) != await rows(range(12), seed=1)


def test_seeds_never_share_a_sample():
    seeds = {request_seed(0, f"q/{i}", step) for i in range(1000) for step in ("trial_1", "reflection_0")}
    assert len({seed + sample for seed in seeds for sample in range(256)}) == 2000 * 256
    assert all(0 <= seed < 2**63 - 256 for seed in seeds)
