"""The judge: both orders, ties, what resumes, and what the self-judge compares."""

import pytest

from reflectevo_data import Problem
from reflectevo_data.completers.base import CompletionFailed
from reflectevo_data.completers.scripted import ScriptedCompleter
from reflectevo_data.curation.judge import (
    CandidatePair,
    ModelJudge,
    Preference,
    SelfJudge,
    answer_slot,
    judge_run,
    parse_preference,
    preference_row,
    summarise,
)
from reflectevo_data.errors import InputError
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.rollouts.manifest import Manifest
from reflectevo_data.rollouts.store import Preferences, RunDirectory, load_preferences
from reflectevo_data.schema import Completion, Reflection, Rollout, SecondTrial, Trial, Verdict, raw_row


PROMPTS = load_prompts("default")


def row(number=1, reflections=("good notes", "bad notes")):
    problem = Problem(f"q/{number}", f"Question {number}?", "b", "choice", options=["red", "green"])

    def trial(letter):
        text = f"Thought: so.\nAction: Finish[{letter}]"
        status = "correct" if letter == "B" else "incorrect"
        return Trial("prompt", "", Completion(text), text, Verdict(status, letter))

    seconds = tuple(SecondTrial(Reflection("1-1-1", "p", Completion(text)), trial("B")) for text in reflections)
    return raw_row(Rollout(problem, trial("A"), seconds, "tiny", "tiny", "tiny", 0))


PAIR = CandidatePair(row(), 1, 2)


def judge(answer):
    return ModelJudge(ScriptedCompleter(answer, model="big-judge"), PROMPTS)


def prefers_good(request):
    a = request.prompt[request.prompt.index("Notes A:") : request.prompt.index("Notes B:")]
    return "I compared them.\nBetter: A" if "good notes" in a else "I compared them.\nBetter: B"


async def test_a_reflection_that_wins_in_both_orders_is_chosen():
    for pair, outcome in (
        (PAIR, "first"),
        (CandidatePair(row(reflections=("bad notes", "good notes")), 1, 2), "second"),
    ):
        preference = await judge(prefers_good).rank(pair)
        assert preference.outcome == outcome
        assert sorted(preference.positions) == ["A", "B"]


@pytest.mark.parametrize(("place", "positions"), [("A", ("A", "A")), ("B", ("B", "B"))])
async def test_a_verdict_that_flips_with_the_order_is_a_tie(place, positions):
    preference = await judge(lambda request: f"Better: {place}").rank(PAIR)
    assert (preference.outcome, preference.positions) == ("tie", positions)
    assert preference_row(PAIR, preference, "big-judge")["chosen"] is None


async def test_what_cannot_be_read_is_no_preference():
    def answer(request):
        return (
            "Both are lovely."
            if request.prompt.index("good notes") < request.prompt.index("bad notes")
            else "Better: B"
        )

    preference = await judge(answer).rank(PAIR)
    assert (preference.outcome, preference.positions) == ("unparsed", ("B",))


@pytest.mark.parametrize("first_on_the_page", ["good notes", "bad notes"])
async def test_a_failed_request_is_told_apart_in_either_order(first_on_the_page):
    def fails_once(request):
        a = request.prompt[request.prompt.index("Notes A:") : request.prompt.index("Notes B:")]
        return CompletionFailed("engine gone") if first_on_the_page in a else "Better: A"

    preference = await judge(fails_once).rank(PAIR)
    assert (preference.outcome, preference.error) == ("failed", "engine gone")


async def test_every_reading_has_a_seed_of_its_own():
    completer = ScriptedCompleter(prefers_good)
    for second in (2, 3):
        pair = CandidatePair(row(reflections=("good notes", "bad notes", "other notes")), 1, second)
        await ModelJudge(completer, PROMPTS).rank(pair)
    assert len({request.seed for request in completer.requests}) == 4


@pytest.mark.parametrize(
    ("outcome", "chosen", "rejected"),
    [("first", 1, 2), ("second", 2, 1), ("tie", None, None), ("unparsed", None, None)],
)
def test_a_preference_row_has_places_in_the_output(outcome, chosen, rejected):
    assert preference_row(PAIR, Preference(outcome, ("A", "B")), "big-judge") == {
        "id": "q/1",
        "pair": [1, 2],
        "chosen": chosen,
        "rejected": rejected,
        "outcome": outcome,
        "positions": ["A", "B"],
        "judge": "big-judge",
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Better: A", "A"),
        ("A is vague.\n**Better: B**", "B"),
        ("better: b.", "B"),
        ("Better: Notes A", "A"),
        ("Better: A ... no, wait. Better: B", "B"),
        ("The better notes are B", "B"),
        ("Better: Both", ""),
        ("A", ""),
        ("", ""),
    ],
)
def test_parse_preference(text, place):
    assert parse_preference(text) == place


async def test_self_judge_compares_the_gold_answer_under_each_reflection():
    asked = []

    def score(prompt, continuation, prefill):
        asked.append((continuation, prefill))
        return -1.0 if "good notes" in prompt else -3.0

    completer = ScriptedCompleter(lambda request: "", score=score)
    assert (await SelfJudge(completer, PROMPTS).rank(PAIR)).outcome == "first"
    assert set(asked) == {("B]", "Action: Finish[")}
    second_better = SelfJudge(ScriptedCompleter(lambda request: "", score=lambda *a: -score(*a)), PROMPTS)
    assert (await second_better.rank(PAIR)).outcome == "second"


@pytest.mark.parametrize(("difference", "outcome"), [(0.0, "tie"), (5e-4, "tie"), (2e-3, "first")])
async def test_self_judge_takes_no_side_within_the_noise_of_a_batch(difference, outcome):
    completer = ScriptedCompleter(
        lambda request: "", score=lambda prompt, *_: -2.0 + difference * ("good notes" in prompt)
    )
    assert (await SelfJudge(completer, PROMPTS).rank(PAIR)).outcome == outcome


async def test_self_judge_has_nothing_to_compare_without_a_gold_text():
    code = PAIR._replace(row=PAIR.row | {"answer": "", "answer_type": "code", "test_list": ["assert f() == 1"]})
    completer = ScriptedCompleter(lambda request: "", score=lambda *_: pytest.fail("asked"))
    assert (await SelfJudge(completer, PROMPTS).rank(code)).outcome == "tie"


@pytest.mark.parametrize(
    ("answer_type", "gold", "text"),
    [
        ("choice", "c", "Action: Finish[C]"),
        ("text", "Vik", "Action: Finish[Vik]"),
        ("math", r"\frac12", r"Action: Finish<<<\frac12>>>"),
        ("code", "x = 1\n", "Action: [BEGIN]\nx = 1\n[END]"),
    ],
)
def test_the_answer_slot_is_written_as_the_model_would(answer_type, gold, text):
    assert "".join(answer_slot(Problem("x", "?", gold, answer_type))) == text


@pytest.fixture
def run(tmp_path):
    with RunDirectory.open(tmp_path / "run", Manifest()) as run:
        run.append(row(1))
        run.append(row(2, reflections=("good notes", "bad notes", "more bad notes")))
        run.append(row(3, reflections=("good notes",)))
    return tmp_path / "run"


async def test_a_run_is_judged_and_a_half_judged_one_is_finished(run):
    def fails_on_2(request):
        return CompletionFailed("gone") if "Question 2?" in request.prompt else prefers_good(request)

    with Preferences(run) as preferences:
        summary = await judge_run(preferences, judge(fails_on_2))
    assert (summary.n_pairs, summary.n_ranked, summary.n_failed) == (1, 1, 3)
    with Preferences(run) as preferences:
        second = judge(prefers_good)
        summary = await judge_run(preferences, second)
    assert second.completer.n_calls == 6  # three pairs in two orders; the one that was ranked is not asked for again
    assert (summary.n_pairs, summary.n_ranked, summary.n_ties, summary.n_failed) == (4, 3, 1, 0)
    assert summary.position_bias == 3 / 8  # two bad ones: the second on the page won both readings
    rows = load_preferences(run)
    assert {(r["id"], r["chosen"], r["rejected"]) for r in rows} == {
        ("q/1", 1, 2),
        ("q/2", 1, 2),
        ("q/2", 1, 3),
        ("q/2", None, None),
    }


async def test_what_could_not_be_read_is_not_asked_for_again(run):
    with Preferences(run) as preferences:
        await judge_run(preferences, judge(lambda request: "Both are lovely."))
    assert {(r["outcome"], r["chosen"]) for r in load_preferences(run)} == {("unparsed", None)}
    again = ScriptedCompleter(lambda request: pytest.fail("asked again"), model="big-judge")
    with Preferences(run) as preferences:
        summary = await judge_run(preferences, ModelJudge(again, PROMPTS))
    assert (summary.n_pairs, summary.n_unparsed) == (4, 4)


async def test_pairs_of_a_question_and_readings_at_once_are_bounded(run):
    slow = ScriptedCompleter(prefers_good, delay=0.005)
    with Preferences(run) as preferences:
        summary = await judge_run(preferences, ModelJudge(slow, PROMPTS), max_pairs=1, in_flight=1)
    assert summary.n_pairs == 2  # one of q/1, one of the three of q/2
    assert slow.n_at_once == 2  # both orders of one pair


def test_a_summary_has_its_rates_and_its_table():
    said = [("first", "AB"), ("second", "BA"), ("tie", "AA"), ("unparsed", "A")]
    summary = summarise([{"outcome": outcome, "positions": [*places]} for outcome, places in said], n_failed=2)
    assert (summary.n_ranked, summary.n_ties, summary.n_unparsed, summary.parse_failure_rate) == (2, 1, 1, 0.25)
    assert (summary.n_readings, summary.n_first_place) == (7, 5)
    assert [value for _, value in summary.table()] == ["4", "2", "1", "1 (25.0 %)", "71.4 % (50 % is no bias)", "2"]
    nothing = summarise([])
    assert (nothing.position_bias, nothing.parse_failure_rate) == (None, 0.0)
    assert [value for _, value in nothing.table()] == ["0", "0", "0", "0 (0.0 %)", "–", "0"]


async def test_one_judge_a_run(run):
    with Preferences(run) as preferences:
        await judge_run(preferences, judge(prefers_good))
    flat = SelfJudge(ScriptedCompleter(lambda request: ""), PROMPTS)
    with Preferences(run) as preferences, pytest.raises(InputError, match="the preferences of big-judge, not of self"):
        await judge_run(preferences, flat)
