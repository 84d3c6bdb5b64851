"""EvalReport: the counts against an independent few lines, and what each gate can and cannot say."""

import json
import random

import msgspec
import pytest

from reflectevo_train.evaluation.counts import EvalReport, outcome_of, score_rows
from reflectevo_train.evaluation.intervals import wilson


def trial(answer: str, gold: str, number: int, **extra) -> dict:
    status = "unparsed" if not answer else "correct" if answer == gold else "incorrect"
    return {
        "trial": number,
        "generated_answer": answer,
        "is_correct": status == "correct",
        "status": status,
        "f1": float(status == "correct"),
        "leaks_answer": False,
        "n_completion_tokens": 10,
        "n_reflection_tokens": 5 if number > 1 else 0,
        **extra,
    }


def row(first: str, *seconds: str, gold: str = "A", task: str = "t", source: str = "s", answer_type: str = "choice"):
    """Seconds `X`: round 1; several rounds are written `2:X 3:Y`."""
    output = [trial(first, gold, 1)]
    for second in seconds:
        number, _, answer = second.rpartition(":")
        output.append(trial(answer, gold, int(number or 2)))
    return {"task": task, "source": source, "answer_type": answer_type, "output": output}


def test_counts_equal_an_independent_count_of_the_same_rows():
    draw = random.Random(3)
    letters = ["A", "B", "C", ""]
    rows = [
        row(draw.choice(letters), draw.choice(letters), task=draw.choice("xy"), source=draw.choice("uvw"))
        for _ in range(500)
    ]
    report, tasks, sources = score_rows(rows, gate="none")
    right = [[o["generated_answer"] == "A" for o in r["output"]] for r in rows]
    assert report.n_problems == 500
    assert report.n_correct_t1 == sum(first for first, _ in right)
    assert report.n_correct_t2 == sum(first or second for first, second in right)
    assert report.n_correct_t2_ungated == sum(second for _, second in right)
    assert report.n_wrong_to_right == right.count([False, True]) > 0
    assert report.n_right_to_wrong == right.count([True, False]) > 0
    assert report.n_unparsed_t1 == sum(r["output"][0]["generated_answer"] == "" for r in rows) > 0
    assert report.n_unparsed_t2 == sum(r["output"][1]["generated_answer"] == "" for r in rows) > 0
    assert report.n_tokens == 500 * 25
    assert report.n_correct_t2_ungated == report.n_correct_t1 + report.n_wrong_to_right - report.n_right_to_wrong
    for name, groups in (("task", tasks), ("source", sources)):
        assert sorted(groups) == sorted({r[name] for r in rows})
        for group, part in groups.items():
            mine = [r["output"] for r in rows if r[name] == group]
            assert part.n_problems == len(mine)
            assert part.n_correct_t1 == sum(o[0]["generated_answer"] == "A" for o in mine)
            assert part.n_correct_t2 == sum("A" in (o[0]["generated_answer"], o[1]["generated_answer"]) for o in mine)


def test_a_problem_solved_at_trial_1_carries_into_the_oracle_gated_number_only():
    report = score_rows([row("A", "B"), row("B", "A"), row("B", "B"), row("A", "A")]).total
    assert report.gate == "none"
    assert (report.acc_t1, report.acc_t2, report.acc_t2_ungated) == (0.5, 0.75, 0.5)
    assert (report.delta, report.delta_ungated) == (0.25, 0.0)
    assert "carries" in (EvalReport.__doc__ or "")


@pytest.mark.parametrize(
    ("rows", "gate"),
    [
        ([row("A"), row("B", "A")], "oracle"),
        ([row("A", "A"), row("B", "A")], "none"),
        ([row("A", "B"), row("B"), row("A")], "self"),
    ],
)
def test_the_gate_is_found_out_and_what_it_cannot_say_is_none(rows, gate):
    report = score_rows(rows).total
    assert report.gate == gate
    assert (report.acc_t2 is None) == (gate == "self")
    assert (report.acc_t2_ungated is None) == (gate == "oracle")
    assert (report.acc_t2_interval is None) == (gate == "self")


def test_an_unparsed_answer_stays_in_the_denominator():
    report = score_rows([row("", ""), row("A")], gate="oracle").total
    assert (report.n_problems, report.n_unparsed_t1, report.n_unparsed_t2, report.acc_t2) == (2, 1, 1, 0.5)


def test_an_answer_that_was_not_reflected_on_is_unparsed_once():
    report = score_rows([row(""), row("A", "")], gate="self").total
    assert (report.n_unparsed_t1, report.n_unparsed_t2, report.n_reflected) == (1, 1, 1)


def test_leaks_are_counted_by_second_trial():
    leaky = row("B", "A", "C", "A")
    for place in (1, 3):
        leaky["output"][place]["leaks_answer"] = True
    assert score_rows([leaky, row("B", "A")], gate="oracle").total.n_leaks == 2


def test_rows_without_a_task_or_a_source_count_in_the_total_alone():
    scores = score_rows([row("A", task="", source=""), row("B", "A", task="t", source="s")], gate="oracle")
    assert (scores.total.n_problems, list(scores.tasks), list(scores.sources)) == (2, ["t"], ["s"])


def test_failed_problems_are_counted_beside_the_denominator():
    report = score_rows([row("A")], gate="oracle", n_failed=3).total
    assert (report.n_problems, report.n_failed) == (1, 3)


def test_second_trials_of_one_round_vote_and_unparsed_ones_have_no_vote():
    report = score_rows([row("B", "C", "A", "A"), row("B", "", "", "A"), row("B", "C", "A")], gate="oracle").total
    assert report.n_correct_t2 == 2  # the tie goes to the first, C
    assert (report.n_second_trials, report.n_second_trials_correct, report.corrected) == (8, 4, 0.5)


def test_the_oracle_stops_at_the_first_correct_round_and_the_ungated_number_is_the_last():
    report = score_rows([row("B", "2:A", "3:C"), row("B", "2:C", "3:A"), row("A", "2:A", "3:B")], gate="none").total
    assert (report.n_correct_t1, report.n_correct_t2, report.n_correct_t2_ungated) == (1, 3, 1)
    assert (report.n_wrong_to_right, report.n_right_to_wrong, report.n_reflected) == (1, 1, 3)
    assert (report.acc_t2_ungated, report.acc_t2_ungated_interval) == (1 / 3, wilson(1, 3))
    assert (report.acc_t2, report.acc_t2_interval) == (1.0, wilson(3, 3))


@pytest.mark.parametrize(
    ("made", "rounds", "oracle", "last"),
    [
        (row("A"), (), 0, 0),
        (row("A", "2:B"), (1,), 0, 1),
        (row("B", "2:C", "3:C"), (1, 2), 2, 2),
        (row("B", "2:A", "3:A"), (1, 2), 1, 2),  # the first correct one
        (row("B", "3:A", "2:C"), (2, 1), 1, 1),  # rounds by number, wherever they stand
        (row("B", "2:C", "2:A", "2:A", "3:B"), (2, 4), 2, 4),
    ],
)
def test_which_answers_stand(made, rounds, oracle, last):
    outcome = outcome_of(made)
    assert (outcome.rounds, outcome.oracle, outcome.last) == (rounds, oracle, last)


def test_free_text_has_exact_match_and_f1_over_its_own_problems():
    text = row("B", "A", answer_type="text")
    text["output"][0]["f1"] = 0.5
    report = score_rows([text, row("", "A", answer_type="text"), row("A", "A")], gate="none").total
    assert (report.n_text, report.em_t1, report.em_t2, report.em_t2_ungated) == (2, 0.0, 1.0, 1.0)
    assert (report.f1_t1, report.f1_t2, report.f1_t2_ungated) == (0.25, 1.0, 1.0)
    assert report.n_f1_improved == 2
    assert score_rows([row("A")], gate="oracle").total.f1_t1 is None


def test_sums_of_f1_do_not_depend_on_the_order_of_rows():
    rows = [row("B", answer_type="text") for _ in range(10)]
    for each in rows:
        each["output"][0]["f1"] = 0.1
    assert score_rows(rows, gate="oracle").total.f1_sum_t1 == 1.0  # one by one 0.1 adds up to 0.9999999999999999


def test_counts_survive_json():
    report = score_rows([row("A", "B"), row("B", "A", answer_type="text")], gate="none").total
    assert msgspec.convert(json.loads(json.dumps(report.to_dict())), EvalReport) == report


def test_counts_of_an_earlier_or_a_later_version_are_read():
    assert msgspec.convert({"gate": "self", "n_problems": 3, "n_placebo": 1}, EvalReport) == EvalReport(
        "self", n_problems=3
    )


def test_no_rows_have_no_rates():
    report = score_rows([]).total
    assert (report.n_problems, report.acc_t1, report.acc_t2, report.acc_t1_interval) == (0, None, None, None)


@pytest.mark.parametrize(
    ("n_correct", "n", "low", "high"),
    # scipy.stats.binomtest(x, n).proportion_ci(method="wilson")
    [
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (10, 10, 0.7224672, 1.0),
        (484, 1000, 0.4531466, 0.5149758),
    ],
)
def test_wilson_interval(n_correct, n, low, high):
    interval = wilson(n_correct, n)
    assert interval is not None
    assert interval == pytest.approx((low, high), abs=1e-6)


def test_a_wilson_interval_is_one_of_shares():
    ends = [end for n in range(1, 200) for n_correct in (0, n) for end in wilson(n_correct, n) or ()]
    assert (len(ends), min(ends), max(ends)) == (4 * 199, 0.0, 1.0)
