"""Reflections that state the gold answer, and those that only speak of it."""

from dataclasses import replace

import pytest

from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.schema import Problem
from reflectevo_data.verifiers.leaks import leaks_answer


CHOICE = Problem("c", "Which?\nA. the red house\nB. the blue car\nC. no\nD. a dog", "b", "choice")


@pytest.mark.parametrize(
    "reflection",
    [
        "The answer is (B).", "the correct option is B", "It should be B.", "Action: Finish[B]", "so option B is correct",
        "The correct answer is the blue car.", "**Answer: B**", "I should have chosen option B", "This leaves only B.",
        "Choose B.", "the correct answer should have been **B**", "the answer is (b)", "Therefore, B.", "Only B fits.",
        "the best choice is clearly option B, since", "B is the correct answer", "B. the blue car is the right choice",
        'The right answer is "the blue car"', "change my answer to B", "The correct choice, B, was overlooked",
        "The correct answer is:\n\n**B**", "Plan: 1. pick B", r"\boxed{B}", "The blue car is the right choice.",
        "Compare option B with option C again: the answer is B.",
    ],
)  # fmt: skip
def test_states_the_option(reflection):
    assert leaks_answer(reflection, CHOICE, "Action: Finish[C]")


@pytest.mark.parametrize(
    "reflection",
    [
        "", "Compare option B and option C again.", "Check whether B is correct.", "I did not consider B.",
        "the answer is not B", "Do not choose B without proof", "The answer is a broad claim", "should be a careful plan",
        "B says that the blue car is fast; check it against the text.", "If the answer is B, then", "The answer is C.",
        "The correct answer must be found among A, B and D", "The answer is Better supported", "Be careful: B-type claims",
        "option B is not correct", "the right approach is to test B against the passage", "I assumed that B is correct",
        "I thought the blue car was correct without checking", "Option A is correct only in part.",
    ],
)  # fmt: skip
def test_speaks_of_the_option(reflection):
    assert not leaks_answer(reflection, CHOICE, "Action: Finish[C]")


@pytest.mark.parametrize(
    ("reflection", "leaks"),
    [
        ("The answer is no.", True), ("The answer is no longer clear.", False), ("No is correct.", False),
        ("C is correct.", True), ("The answer should be no one's guess.", False),
    ],
)  # fmt: skip
def test_an_option_that_is_a_common_word(reflection, leaks):
    problem = Problem("c", CHOICE.question, "c", "choice")
    assert leaks_answer(reflection, problem, "Action: Finish[A]") is leaks


@pytest.mark.parametrize(
    ("gold", "reflection", "leaks"),
    [
        ("42", "The total is 42.", True), ("42", "so it gives $42$", True), ("42", "it is 42.0", True),
        ("42", "see 142, 4.2, 42.5, 420 and -42", False), ("42", "1. check\n2. redo step 42", False),
        ("1000", "that makes 1,000 in all", True), ("3", "The answer is 3.", True), ("3", "x = 3", True),
        ("3", "1. read\n2. solve\n3. check", False), ("3", "There are 3 errors in step 3.", False),
        (r"\frac{3}{4}", "The answer is 3/4.", True), (r"\frac{3}{4}", "one gets 0.75", True),
        (r"\frac{3}{4}", r"so $\frac34$", True), (r"\frac{3}{4}", "13/4 and 3/41", False),
        (r"2\sqrt{3}", r"this is $2 \sqrt3$", True), (r"2\sqrt{3}", r"this is $12\sqrt{3}$", False),
        ("41", "I got 41", False), ("41", "the answer is 41 after all", True),
        ("21", "Recount the 21 apples.", True), ("20", "Recount the 20 apples.", False),
        ("-42", "Check the sign of -42.", True), ("-20", "Check the sign of -20.", False),
    ],
)  # fmt: skip
def test_math(gold, reflection, leaks):
    assert leaks_answer(reflection, Problem("m", "What is it?", gold, "math"), "I got 41") is leaks


@pytest.mark.parametrize(
    ("gold", "reflection", "leaks"),
    [
        ("80", "Look at the 80 again.", False), ("80", "The answer is 80.", True),
        (r"2\sqrt{3}", r"Look at $2\sqrt{3}$ again.", False), (r"2\sqrt{3}", r"The answer is $2\sqrt{3}$.", True),
        (r"5\sqrt{7}", r"Look at $5\sqrt{7}$ again.", False), (r"5\sqrt{7}", r"The answer is $5\sqrt{7}$.", True),
        (r"5\sqrt{3}", r"Look at $5\sqrt{3}$ again.", True),
    ],
)  # fmt: skip
def test_an_expression_of_the_question_or_the_trial_is_no_leak_until_it_is_asserted(gold, reflection, leaks):
    problem = Problem("m", r"Is $2\sqrt{3}$ more than 80?", gold, "math")
    assert leaks_answer(reflection, problem, r"Thought: so it is $5\sqrt{7}$.") is leaks


@pytest.mark.parametrize(
    ("gold", "reflection", "leaks"),
    [
        ("Eiffel Tower", "Look again: the Eiffel Tower is named.", True),
        ("Louvre", "The Louvre is in the question.", False), ("Louvre", "The answer is the Louvre.", True),
        ("Rome", "I said Rome.", False), ("yes", "Yes, I overlooked it.", False), ("yes", "The answer should be yes.", True),
        ("no", "The answer is no longer clear", False), ("no", "the correct answer is no.", True),
        ("Oslo", "I overlooked Oslo.", True), ("Rio", "I overlooked Rio.", False), ("Rio", "The answer is Rio.", True),
    ],
)  # fmt: skip
def test_text(gold, reflection, leaks):
    problem = Problem("t", "Near the Louvre, what stands?", gold, "text")
    assert leaks_answer(reflection, problem, "Action: Finish[Rome]") is leaks
    assert (
        leaks_answer(reflection, replace(problem, answer="Atlantis", answers=(gold,)), "Action: Finish[Rome]") is leaks
    )


CODE = Problem(
    "p", "?", "def top(xs):\n    return sorted(set(xs))[-2]", "code", test_list=("assert top([1, 2]) == 1",)
)


@pytest.mark.parametrize(
    ("reflection", "leaks"),
    [
        ("Use `return sorted( set(xs) )[-2]` instead.", True),
        ("```python\ndef top(numbers):\n    best = set(numbers)\n    return max(best)\n```", True),
        ("I wrote\ndef top(xs):\n    return xs[-2]\nwhich keeps duplicates.", False),
        ("Remove duplicates with set() before sorting in top(xs).", False),
        ("def helper(x):\n    return x", False),
        ("def top(xs):\n    pass", False),
    ],
)
def test_code(reflection, leaks):
    assert leaks_answer(reflection, CODE, "Action: [BEGIN]\ndef top(xs):\n    return xs[-2]\n[END]") is leaks


def test_code_that_the_trial_had_or_that_anything_holds_is_no_leak():
    assert not leaks_answer("Keep `return sorted(set(xs))[-2]`.", CODE, f"[BEGIN]\n{CODE.answer}\n[END]")
    short = Problem("p", "?", "def f(n):\n    return n", "code", test_list=("assert f(1) == 1",))
    assert not leaks_answer("I should return n + 1 when n is odd.", short, "")


def test_the_few_shot_reflections_state_no_answer():
    n_checked = 0
    for answer_type, examples in load_prompts("default").few_shot.items():
        for example in examples:
            if "reflection" in example:
                n_checked += 1
                problem = Problem("f", example["question"], example["answer"], answer_type)  # pyright: ignore
                assert not leaks_answer(example["reflection"], problem, example["failed_trial"])
    assert n_checked >= 4
