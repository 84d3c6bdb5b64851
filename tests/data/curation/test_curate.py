"""What belongs into D+, D± and Dpref."""

from collections import Counter

import pytest

from reflectevo_data.curation.curate import (
    ORIGINS,
    candidate_pairs,
    contrast_pairs,
    dplus_rows,
    dpm_rows,
    dpref_rows,
    equal_pairs,
    usable,
)
from reflectevo_data.schema import COLUMNS
from tests.data.random_runs import row, trial


def corrected(**changes):
    return trial(2, is_correct=True, status="correct", **changes)


def uncorrected(**changes):
    return trial(2, **changes)


def say(text):
    return {"reflections": [text]}


def named(name):
    """Every text of a second trial that a set publishes, told apart by the name."""
    return {
        "reflections": [f"reflection {name}"],
        "reasoning": f"reasoning {name}",
        "generated_answer": f"answer {name}",
        "reasoning_prompt": [f"prompt {name}", ""],
        "reflection_prompt": f"reflection prompt {name}",
        "instruction": f"instruction {name}",
    }


FIRST = trial(1, reasoning="reasoning first", generated_answer="answer first", reasoning_prompt=["prompt first", ""])


def test_dplus_row_has_the_first_trial_the_reflection_and_the_second_trial_it_led_to():
    [made] = dplus_rows(row(5, [FIRST, uncorrected(**named("wrong")), corrected(**named("right"))]))
    assert made == {
        "id": "q/5",
        "question": "Question 5? Ünïcode.",
        "answer": "c",
        "first_trial_reasoning": "reasoning first",
        "first_trial_answer": "answer first",
        "second_trial_reasoning": "reasoning right",
        "second_trial_answer": "answer right",
        "reflections": "reflection right",
        "reason_prompt": ["prompt first", ""],
        "reflect_prompt": "reflection prompt right",
        "task": "Causal Reasoning",
        "source": "questions",
        "instruction": "instruction right",
        "generator": "tiny",
        "reflector": "tiny-reflector",
        "corrector": "tiny",
        "answer_type": "choice",
        "correct_prompt": ["prompt right", ""],
        "options": ["one", "two", "three"],
        "test_list": [],
    }
    assert list(made) == list(COLUMNS["dplus"])


def test_dpm_row_pairs_a_reflection_that_helped_with_one_that_did_not():
    [made] = dpm_rows(row(0, [FIRST, uncorrected(**named("wrong")), corrected(**named("right"))]))
    assert made == {
        "id": "q/0",
        "question": "Question 0? Ünïcode.",
        "answer": "c",
        "first_trial_reasoning": "reasoning first",
        "first_trial_answer": "answer first",
        "second_trial_reasoning_chosen": "reasoning right",
        "second_trial_answer_chosen": "answer right",
        "reflection_chosen": "reflection right",
        "second_trial_reasoning_rejected": "reasoning wrong",
        "second_trial_answer_rejected": "answer wrong",
        "reflection_rejected": "reflection wrong",
        "reason_prompt": ["prompt first", ""],
        "reflect_prompt": "reflection prompt right",
        "task": "Mathematics",
        "source": "questions",
        "instruction": "instruction right",
        "generator": "tiny",
        "reflector": "tiny-reflector",
        "corrector": "tiny",
        "answer_type": "choice",
        "instruction_rejected": "instruction wrong",
        "reflect_prompt_rejected": "reflection prompt wrong",
    }
    assert list(made) == list(COLUMNS["dpm"])


def test_dpref_rows_follow_the_judge_and_leave_ties_out():
    output = [trial(1), *(corrected(**say(text)) for text in "abc")]
    verdicts = [
        {"chosen": 2, "rejected": 1, "judge": "self"},
        {"chosen": None, "rejected": None, "judge": "self"},
        {"chosen": 2, "rejected": 3, "judge": "self"},
        {"chosen": 3, "rejected": 2, "judge": "judge-model"},  # judged again: the last counts
    ]
    made = dpref_rows(row(0, output), verdicts)
    assert all(list(entry) == list(COLUMNS["dpref"]) for entry in made)
    pairs = {(entry["reflection_chosen"], entry["reflection_rejected"], entry["judge"]) for entry in made}
    assert pairs == {("b", "a", "self"), ("c", "b", "judge-model")}
    assert len(dpref_rows(row(0, output), verdicts, max_pairs=1)) == 1


def test_the_cap_of_dpref_counts_the_pairs_that_were_ranked():
    output = [trial(1), *(corrected(**say(text)) for text in "abcd")]
    pairs = candidate_pairs(row(0, output))
    assert len(pairs) == 6
    verdicts = [{"chosen": i, "rejected": j, "judge": "self"} for i, j in pairs[-2:]]  # the others are ties
    [made] = dpref_rows(row(0, output), verdicts, max_pairs=1)
    texts = dict(enumerate("abcd", 1))
    assert (made["reflection_chosen"], made["reflection_rejected"]) == tuple(texts[i] for i in pairs[-2])


def test_dpref_needs_two_usable_reflections_that_both_led_to_a_correct_trial():
    output = [trial(1), corrected(**say("a")), uncorrected(**say("b")), corrected(leaks_answer=True, **say("c"))]
    verdicts = [{"chosen": 1, "rejected": i, "judge": "self"} for i in (2, 3)]
    assert dpref_rows(row(0, output), verdicts) == []
    [leaky] = dpref_rows(row(0, output), verdicts, include_leaks=True)
    assert leaky["reflection_rejected"] == "c"


@pytest.mark.parametrize(
    ("second", "used"),
    [
        (corrected(), True),
        (uncorrected(status="unparsed"), True),
        (corrected(finish_reason="length"), True),
        (corrected(finish_reason="error"), False),
        (corrected(reflection_finish_reason="error"), False),
        (corrected(leaks_answer=True), False),
        (corrected(**say(" \n")), False),
        (trial(3, is_correct=True), False),
    ],
)
def test_which_reflections_take_part(second, used):
    assert usable(row(0, [trial(1), second])) == ([1] if used else [])


def test_nothing_is_taken_from_a_first_trial_that_was_correct_or_failed():
    assert usable(row(0, [trial(1, is_correct=True), corrected()])) == []
    assert usable(row(0, [trial(1, finish_reason="error"), corrected()])) == []


def test_of_reflections_that_say_the_same_the_first_that_may_take_part_stays():
    texts = ["Check step 2.", "Check  step\n2. ", "check step 2."]
    assert usable(row(0, [trial(1), *(corrected(**say(text)) for text in texts)])) == [1, 3]
    leaky = [corrected(leaks_answer=True, **say("a")), corrected(**say("a"))]
    assert usable(row(0, [trial(1), *leaky])) == [2]
    assert usable(row(0, [trial(1), *leaky]), include_leaks=True) == [1]


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("m", range(1, 7))
@pytest.mark.parametrize("max_pairs", [1, 3, 4, 99])
def test_contrast_pairs_are_different_capped_and_use_every_reflection_about_equally(n, m, max_pairs):
    correct, wrong = range(n), range(10, 10 + m)
    pairs = contrast_pairs(f"q/{n}-{m}", correct, wrong, max_pairs=max_pairs)
    assert len(set(pairs)) == len(pairs) == min(max_pairs, n * m)
    assert pairs == contrast_pairs(f"q/{n}-{m}", correct, wrong, max_pairs=max_pairs)
    for side, members in ((0, correct), (1, wrong)):
        uses = Counter(pair[side] for pair in pairs)
        assert set(uses) <= set(members)
        assert max(uses.values()) - min(uses[i] for i in members) <= 1


@pytest.mark.parametrize("n", range(7))
@pytest.mark.parametrize("max_pairs", [1, 3, 4, None])
def test_equal_pairs_are_different_capped_and_use_every_reflection_about_equally(n, max_pairs):
    pairs = equal_pairs(f"q/{n}", range(1, n + 1), max_pairs=max_pairs)
    every = n * (n - 1) // 2
    assert len(set(pairs)) == len(pairs) == (every if max_pairs is None else min(every, max_pairs))
    assert all(a < b for a, b in pairs)
    uses = Counter(i for pair in pairs for i in pair)
    assert not uses or max(uses.values()) - min(uses[i] for i in range(1, n + 1)) <= 1


def test_capped_pairs_are_not_always_those_of_the_first_reflections():
    starts = {contrast_pairs(f"q/{i}", [1, 2, 3], [4, 5, 6], max_pairs=1)[0] for i in range(60)}
    assert len(starts) == 9
    assert len({equal_pairs(f"q/{i}", [1, 2, 3, 4], max_pairs=1)[0] for i in range(60)}) >= 4


def test_candidate_pairs_are_what_a_judge_can_rank():
    output = [trial(1), corrected(**say("a")), uncorrected(**say("b")), corrected(**say("c"))]
    assert candidate_pairs(row(0, output)) == [(1, 3)]
    assert candidate_pairs(row(0, output[:3])) == []


def test_every_published_column_has_an_origin():
    assert ORIGINS.keys() == {"dplus", "dpm", "dpref"}
    for config, origins in ORIGINS.items():
        assert set(origins) == set(COLUMNS[config])
