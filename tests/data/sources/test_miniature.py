"""The miniature's problems and prompts: exact ground truth, splits that cannot leak, texts that the weights know."""

import random
import subprocess
import sys
from itertools import islice, product

import pytest

from reflectevo_data.models import miniature_path
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.sources.miniature import (
    MINIATURE_SPLITS,
    VERBS,
    Chain,
    chain_of,
    draw_chain,
    is_hard,
    problems,
    slip,
)


EXAMPLE = Chain(83, (-9, 7, 5))


def test_a_problem_as_it_is_written():
    problem = EXAMPLE.problem
    assert problem.question == "Start with 83. Subtract 9. Add 7. Add 5. What is left?"
    assert (problem.answer, problem.answer_type) == ("86", "text")
    assert (problem.id, problem.group) == ("miniature/83-9+7+5", "miniature/83-9+7+5")


def test_the_same_arithmetic_in_other_words_is_another_problem_of_the_same_group():
    other = Chain(83, (-9, 7, 5), VERBS[1])
    assert other.problem.question == "Start with 83. Lose 9. Gain 7. Gain 5. What is left?"
    assert other.problem.id != EXAMPLE.problem.id
    assert (other.problem.group, other.split) == (EXAMPLE.problem.group, EXAMPLE.split)


def test_splits_are_stable():
    """Literal: a change here would put problems that the weights were trained on into the test split."""
    split = {start: Chain(start, (5, -3, 8)).split for start in range(50, 70)}
    assert [start for start in split if split[start] == "validation"] == [55, 61, 67]
    assert [start for start in split if split[start] == "test"] == [54, 66, 69]


@pytest.mark.parametrize("split", MINIATURE_SPLITS)
def test_problems_are_drawn_by_seed(split):
    first = list(problems(split, seed=3, n=50))
    assert list(problems(split, seed=3, n=80))[:50] == first
    assert list(problems(split, seed=4, n=50)) != first
    assert len({problem.group for problem in first}) == 50


def test_splits_never_overlap_whatever_the_seeds():
    groups = {
        split: {problem.group for seed in range(3) for problem in problems(split, seed=seed, n=500)}
        for split in MINIATURE_SPLITS
    }
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not groups[one] & groups[other]


def test_the_answer_is_what_the_arithmetic_gives():
    for problem in problems("train", n=500):
        expression = problem.id.removeprefix("miniature/").split("/")[0]
        assert problem.answer == str(eval(expression))  # digits and signs


def test_a_question_gives_its_chain_back():
    for problem in problems("test", n=300):
        chain = chain_of(problem.question)
        assert chain is not None
        assert chain.problem == problem
    assert chain_of("What is left of 83?") is None
    assert chain_of("Start with 83. Divide 9. What is left?") is None


def test_chains_stay_within_two_digits_however_their_hard_steps_slip():
    rng = random.Random(1)
    n_hard_seen = set()
    for chain in (draw_chain(rng) for _ in range(3000)):
        assert 3 <= len(chain.operands) <= 5
        assert 15 <= chain.start <= 84
        assert all(2 <= abs(operand) <= 9 for operand in chain.operands)
        before = (chain.start, *chain.values[:-1])
        hard = [is_hard(value, operand) for value, operand in zip(before, chain.operands, strict=True)]
        n_hard_seen.add(sum(hard))
        for slips in product((False, True), repeat=len(hard)):
            value = chain.start
            for operand, slipped, step_is_hard in zip(chain.operands, slips, hard, strict=True):
                value = slip(value, operand) if slipped and step_is_hard else value + operand
                assert 10 <= value <= 99
    assert n_hard_seen == {0, 1, 2}


@pytest.mark.parametrize(
    ("value", "operand", "expected"),
    [(59, 5, True), (58, 5, False), (45, 9, True), (44, 9, False), (30, -5, True), (31, -5, False), (83, -9, True)],
)
def test_which_steps_are_hard(value, operand, expected):
    assert is_hard(value, operand) is expected


def test_a_slip_forgets_the_carry_or_the_borrow():
    assert slip(59, 5) == 54
    assert slip(83, -9) == 84


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'dev'"):
        next(problems("dev"))  # type: ignore[arg-type]


def test_prompts_are_those_that_the_weights_were_trained_on():
    """Literal: whoever changes a template has to train the weights anew."""
    prompts = load_prompts("miniature")
    question, problem = EXAMPLE.question, EXAMPLE.problem
    assert prompts.solve(problem) == question
    assert prompts.retry(problem, "T") == f"{question}\n\nAttempt:\nT\n\nTry again."
    assert prompts.reflect(problem, "T", "advise") == f"{question}\n\nAttempt:\nT\n\nAdvise the next attempt."
    assert prompts.correct(problem, "T", "R") == f"{question}\n\nAttempt:\nT\n\nReflection:\nR\n\nTry again."
    assert prompts.one_stage(problem, "T") == f"{question}\n\nAttempt:\nT\n\nReflect on the attempt, then try again."
    assert list(prompts.pool.items()) == [
        ("reflect", "Reflect on the attempt."),
        ("review", "Review the attempt."),
        ("advise", "Advise the next attempt."),
        ("hold", "Does the attempt hold?"),
    ]
    assert prompts.few_shot == {}
    assert {"A one", "B two"} <= set(prompts.judge(problem, "T", "A one", "B two").split("\n"))


def test_the_bundled_model_is_whole_and_small():
    files = {path.name: path.stat().st_size for path in miniature_path().iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "training.json",
    } <= set(files)
    assert sum(files.values()) <= 8_000_000


def test_drawing_problems_loads_no_torch():
    code = (
        "import sys; from reflectevo_data.sources.miniature import problems; list(problems(n=3));"
        "from reflectevo_data.models import miniature_path; assert miniature_path().is_dir();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_stream_can_be_read_in_parts():
    assert len(list(islice(problems("validation", n=10**6), 5))) == 5
