"""Overlap with test questions: the rule at its edges."""

import json
import random

import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.schema import Problem
from reflectevo_data.sources.decontaminate import N, TestQuestions, decontaminate, overlap


def problem(text: str, id: str = "p", group: str = "") -> Problem:
    return Problem(id=id, question=text, answer="x", group=group)


def words(n: int, seed: int = 0) -> str:
    return " ".join(f"word{i}" for i in random.Random(seed).sample(range(10_000), n))


def overlaps(text: str, *tests: str) -> bool:
    found = overlap([problem(text)], [problem(test, id=f"t{i}") for i, test in enumerate(tests)])
    assert (found.n_problems, found.n_against, found.n) == (1, len(tests), 13)
    return found.ids == ["p"]


def test_thirteen_words_in_a_row_overlap_and_twelve_do_not():
    run = words(13)
    assert overlaps(f"Before it. {run} and after.", f"Other words: {run}!")
    shorter = " ".join(run.split()[:12])
    assert not overlaps(f"Before it. {shorter} and after.", f"Other words: {shorter}!")


def test_a_run_does_not_go_over_the_end_of_a_text():
    run = words(13).split()
    tests = [problem("start " + " ".join(run[:6]), "t0"), problem(" ".join(run[6:]) + " end", "t1")]
    assert overlap([problem("x " + " ".join(run) + " y")], tests).ids == []


@pytest.mark.parametrize("text", ["What is left?", "WHAT is\n\n  left", "“What”, is — left!", "what is left\u00a0?"])
def test_short_texts_are_compared_whole_whatever_their_layout(text):
    assert overlaps(text, "Who is it?", "What is left?")
    assert not overlaps(text + " Now?", "Who is it?", "What is left?")


def test_letters_of_every_script_count():
    text = "Какой город столица Перу и где он лежит на карте мира если смотреть с юга"
    assert overlaps(f"Вопрос: {text.upper()}", text)
    assert overlaps("ﬁnd the naïve café", "find the naïve café")  # one letter each, or an old ligature
    assert not overlaps("中文问题", "中文问题二")


def test_boilerplate_of_a_task_does_not_count():
    instruction = words(40)
    tests = [problem(f"{instruction} Claim: {words(5, i)}", f"t{i}") for i in range(1, 12)]
    asked = problem(f"{instruction} Claim: something else entirely")
    assert overlap([asked], tests[:10]).ids == ["p"]
    assert overlap([asked], tests).ids == []
    same = problem(tests[3].question.upper())  # all of its runs but the last few are boilerplate
    assert overlap([same], tests).ids == ["p"]


def test_the_turns_of_one_story_are_one_question():
    story = words(40)
    tests = [problem(f"{story} Question: {words(5, i)}", f"t{i}", group="story") for i in range(50)]
    asked = problem(f"{story} Question: what else?")
    assert overlap([asked], tests).ids == ["p"]
    apart = [problem(test.question, test.id) for test in tests]
    assert overlap([asked], apart).ids == []


def test_ids_come_in_order_over_many_batches():
    tests = [problem(words(30, i), f"t{i}") for i in range(5000)]
    asked = [problem(words(30, i if i % 7 == 0 else 10_000 + i), f"p{i}") for i in range(5000)]
    index = TestQuestions.of(tests)
    found = overlap(iter(asked), index)
    assert found.ids == [f"p{i}" for i in range(0, 5000, 7)]
    assert (found.n_problems, found.n_against) == (5000, 5000)
    assert [q.id for q, hit in index.overlapping(asked) if hit] == found.ids


def test_against_the_plain_rule_on_random_texts():
    rng = random.Random(1)

    def text() -> str:
        return " ".join(rng.choices("ab", k=rng.randint(0, 25)))

    def runs(of: str) -> set[tuple[str, ...]]:
        parts = of.split()
        return {tuple(parts[i : i + N]) for i in range(len(parts) - N + 1)}

    tests, asked = [text() for _ in range(40)], [text() for _ in range(400)]
    index = TestQuestions.of([problem(t, f"t{i}") for i, t in enumerate(tests)], max_common=100)
    expected = [any(runs(a) & runs(t) or a.split() == t.split() for t in tests) for a in asked]
    assert [hit for _, hit in index.overlapping([problem(a, f"p{i}") for i, a in enumerate(asked)])] == expected
    assert 0 < sum(expected) < 400


def test_nothing_to_compare():
    assert overlap([], [problem("a")]).ids == []
    assert overlap([problem("a")], []).ids == []
    assert overlap([problem("")], [problem("b")]).ids == []


def test_problems_are_kept_or_dropped(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": "What is left?", "answer": "4"}), "utf-8")
    problems = [problem("What is left", "a"), problem("Who is right?", "b")]
    kept, found = decontaminate(problems, str(path))
    assert kept == problems
    assert found.ids == ["a"]
    assert str(found) == (
        "1 of 2 problems (50.0%) share a run of 13 words, or the whole text, with one of 1 test questions"
    )
    kept, _ = decontaminate(iter(problems), str(path), drop=True)
    assert [p.id for p in kept] == ["b"]
    with pytest.raises(InputError, match="no-such-source"):
        decontaminate(problems, "no-such-source")
    _, found = decontaminate(problems, "miniature")
    assert found.ids == []
