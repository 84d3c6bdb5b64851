"""The bundled worked examples say what they claim: every trial is verified by the verifier of its type."""

import pytest

from reflectevo_data import Problem
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.verifiers.leaks import leaks_answer
from reflectevo_data.verifiers.pool import verify


EXAMPLES = [
    pytest.param(answer_type, example, id=f"{answer_type}-{number}")
    for answer_type, examples in load_prompts("default").few_shot.items()
    for number, example in enumerate(examples, 1)
]


def problem_of(answer_type, example):
    return Problem(
        "few-shot",
        example["question"],
        example["answer"],
        answer_type,
        test_list=example.get("test_list", ()),
        answers=example.get("answers", ()),
    )


def test_every_answer_type_has_examples_with_different_answers():
    few_shot = load_prompts("default").few_shot
    assert few_shot.keys() == {"choice", "math", "code", "text"}
    for examples in few_shot.values():
        assert len({example["answer"] for example in examples}) == len(examples) >= 2
        assert sum("reflection" in example for example in examples) == 1


@pytest.mark.parametrize(("answer_type", "example"), EXAMPLES)
def test_a_worked_example_is_correct(answer_type, example):
    verdict = verify(example["trial"], problem_of(answer_type, example))
    assert verdict.status == "correct", verdict


@pytest.mark.parametrize(("answer_type", "example"), [e for e in EXAMPLES if "reflection" in e.values[1]])
def test_a_failed_example_is_wrong_and_its_reflection_does_not_tell_the_answer(answer_type, example):
    problem = problem_of(answer_type, example)
    verdict = verify(example["failed_trial"], problem)
    assert verdict.status == "incorrect", verdict
    assert not leaks_answer(example["reflection"], problem, example["failed_trial"])
