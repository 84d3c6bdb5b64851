"""Paired tests against scipy and against resampling in the plain way."""

import random
from dataclasses import replace

import numpy as np
import pytest

from reflectevo_data.rollouts.manifest import Loop, Manifest, PromptSource, QuestionSource, RoleModels, RunSampling
from reflectevo_train.evaluation.comparison import Answers, answers_of, compare, settings_that_differ
from reflectevo_train.evaluation.intervals import bootstrap, holm, mcnemar


def answers(correct: list[bool], group=None) -> Answers:
    ids = [f"p{i}" for i in range(len(correct))]
    return Answers(dict(zip(ids, correct, strict=True)), {id: group(i) if group else id for i, id in enumerate(ids)})


@pytest.mark.parametrize(("a", "b"), [(2, 10), (0, 5), (7, 7), (40, 61), (0, 0), (1, 0), (300, 200)])
def test_mcnemar_is_the_exact_binomial_test(a, b):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(a, a + b).pvalue if a + b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_of_many_problems_does_not_overflow():
    assert 0 < mcnemar(4_000, 4_400) < 1e-4


@pytest.mark.parametrize("group_size", [1, 5])
def test_the_interval_is_that_of_resampling_whole_groups(group_size):
    draw = random.Random(1)
    n = 400
    correct_a, correct_b = [], []
    for _ in range(n // group_size):
        hard = draw.random()
        correct_a += [draw.random() < hard] * group_size
        correct_b += [draw.random() < min(1.0, hard + 0.1)] * group_size
    test = compare(
        answers(correct_a, lambda i: str(i // group_size)), answers(correct_b, lambda i: str(i // group_size))
    )
    assert test is not None
    differences = (np.array(correct_b, dtype=int) - np.array(correct_a, dtype=int)).reshape(-1, group_size).sum(1)
    drawn = np.random.default_rng(7).integers(0, len(differences), (10_000, len(differences)))
    low, high = np.percentile(differences[drawn].sum(1) / n, [2.5, 97.5])
    assert test.interval == pytest.approx((low, high), abs=0.01)
    assert test.difference == pytest.approx((sum(correct_b) - sum(correct_a)) / n)
    assert test.interval.low < test.difference < test.interval.high


def test_only_problems_in_common_are_compared():
    a = Answers({"x": True, "y": False, "only a": True}, {"x": "x", "y": "y", "only a": "only a"})
    b = Answers({"x": False, "y": True, "z": True}, {"x": "x", "y": "y", "z": "z"})
    test = compare(a, b)
    assert test is not None
    assert (test.n, test.n_only_a, test.n_only_b, test.difference) == (2, 1, 1, 0.0)
    assert compare(a, Answers({"q": True}, {"q": "q"})) is None


def test_the_p_value_is_of_the_problems_that_one_of_the_two_solved():
    test = compare(answers([False] * 7 + [True, False]), answers([True] * 6 + [False, True, False]))
    assert test is not None
    assert (test.n, test.n_only_a, test.n_only_b) == (9, 0, 6)
    assert test.p_value == 2 / 2**6


def test_the_interval_is_that_of_its_seed():
    draw = random.Random(2)
    groups = [str(draw.randrange(12)) for _ in range(60)]
    differences = [draw.choice([-1, 0, 1]) for _ in groups]
    assert bootstrap(differences, groups, 3) == bootstrap(differences, groups, 3) != bootstrap(differences, groups, 4)


def test_answers_at_each_point_of_a_run():
    def output(*correct: bool) -> list:
        return [{"trial": i, "is_correct": c, "generated_answer": str(c)} for i, c in enumerate(correct, 1)]

    rows = [
        {"id": "a", "group": "story", "answer_type": "choice", "output": output(False, True, False)},
        {"id": "b", "group": "", "answer_type": "choice", "output": output(True, False)},
        {"id": "c", "group": "", "answer_type": "choice", "output": output(False, True)},
    ]
    found = {metric: answers_of(rows, metric) for metric in ("t1", "t2", "t2_ungated")}
    assert {metric: [*of_run.correct.values()] for metric, of_run in found.items()} == {
        "t1": [False, True, False],
        "t2": [True, True, True],
        "t2_ungated": [False, False, True],
    }
    assert found["t1"].group == {"a": "story", "b": "b", "c": "c"}


def test_what_differs_between_runs_beside_their_models():
    run = Manifest(
        "evaluate",
        source=QuestionSource("logiqa", n_problems=500),
        models=RoleModels("base"),
        sampling=RunSampling(temperature=0.0),
        loop=Loop(n_reflections=1),
        prompts=PromptSource("default", "0123"),
    )
    same = replace(
        run, models=RoleModels("trained"), source=QuestionSource("logiqa", n_problems=498), git_revision="f"
    )
    assert settings_that_differ([run, same]) == []
    others = [
        replace(run, source=QuestionSource("math", n_problems=500)),
        replace(run, sampling=RunSampling(temperature=1.0)),
        replace(run, prompts=PromptSource("default", "4567")),
        replace(run, loop=Loop(gate="none", n_reflections=1)),
        replace(run, loop=Loop(n_reflections=2)),
    ]
    expected = ["source", "sampling", "prompts", "gate", "vote"]
    assert [settings_that_differ([run, same, other]) for other in others] == [[name] for name in expected]


def test_holm_keeps_order_and_is_never_below_the_raw_value():
    assert holm([0.2, 0.001, 0.031, 0.03, 0.9]) == pytest.approx([0.4, 0.005, 0.12, 0.12, 0.9])  # 3 * 0.031 < 4 * 0.03
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
