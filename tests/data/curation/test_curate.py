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


def test_dplus_row_has_the_first_trial_the_reflection_and_the_second_trial_it_led_to():
    output = [trial(1), uncorrected(**say("wrong")), corrected(**say("right"))]
    [made] = dplus_rows(row(5, output))
    assert made == {
        "id": "q/5",
        "question": "Question 5? Ünïcode.",
        "answer": "c",
        "first_trial_reasoning": output[0]["reasoning"],
        "first_trial_answer": output[0]["generated_answer"],
        "second_trial_reasoning": output[2]["reasoning"],
        "second_trial_answer": output[2]["generated_answer"],
        "reflections": "right",
        "reason_prompt": output[0]["reasoning_prompt"],
        "reflect_prompt": output[2]["reflection_prompt"],
        "task": "Causal Reasoning",
        "source": "questions",
        "instruction": output[2]["instruction"],
        "generator": "tiny",
        "reflector": "tiny-reflector",
        "corrector": "tiny",
        "answer_type": "choice",
        "correct_prompt": output[2]["reasoning_prompt"],
        "options": ["one", "two", "three"],
        "test_list": [],
    }
    assert list(made) == list(COLUMNS["dplus"])


def test_dpm_row_pairs_a_reflection_that_helped_with_one_that_did_not():
    output = [trial(1), uncorrected(**say("wrong")), corrected(**say("right"))]
    [made] = dpm_rows(row(0, output))
    assert list(made) == list(COLUMNS["dpm"])
    for side, i in (("chosen", 2), ("rejected", 1)):
        assert made[f"reflection_{side}"] == output[i]["reflections"][0]
        assert made[f"second_trial_reasoning_{side}"] == output[i]["reasoning"]
        assert made[f"second_trial_answer_{side}"] == output[i]["generated_answer"]
    assert made["reflect_prompt"] == output[2]["reflection_prompt"]
    assert made["reflect_prompt_rejected"] == output[1]["reflection_prompt"]
    assert (made["instruction"], made["instruction_rejected"]) == (output[2]["instruction"], output[1]["instruction"])


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
    for config, origins in ORIGINS.items():
        assert set(origins) == set(COLUMNS[config])
