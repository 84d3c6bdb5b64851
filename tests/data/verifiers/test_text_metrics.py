"""SQuAD's measures: equal to the official script's, but where it loses the answer."""

import pytest

from reflectevo_data.verifiers.text_metrics import exact_match, f1, leave_one_out, normalize_answer


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Eiffel-Tower!", "eiffeltower"), ("a dog and the cat", "dog and cat"), ("A", "a"), ("the", "the"),
        ("1,000,000", "1000000"), ("5", "5"), ("3.5", "3.5"), ("35", "35"), ("-5", "-5"), ("−5", "-5"), ("96.", "96"), ("$5.00", "5.00"),
        ("U.S.", "us"), ("“Æsop’s”", "æsops"), ("Ｖｉｋ", "vik"), ("2010–2015", "20102015"), ("  ", ""), ("...", ""),
        ("version 1.2.3", "version 123"), ("snake_case", "snakecase"), ("+5", "5"), ("an Owl", "owl"), ("Straße", "strasse"),
    ],
)  # fmt: skip
def test_normalize(text, normalized):
    assert normalize_answer(text) == normalized


def test_exact_match():
    assert exact_match("Vik", ["Sund", "the vik."])
    assert not exact_match("35", ["3.5"])
    assert not exact_match("...", ["!"])
    assert not exact_match("Vik", [])


def test_f1():
    assert f1("the cat sat", ["cat"]) == pytest.approx(2 / 3)
    assert f1("cat cat", ["cat"]) == pytest.approx(2 / 3)
    assert f1("dog", ["cat"]) == 0
    assert f1("dog", ["cat", "big dog"]) == pytest.approx(2 / 3)
    assert f1("...", ["!"]) == 0


def test_leave_one_out():
    assert leave_one_out("red", ["red"]) == (1.0, 1.0)
    assert leave_one_out("red", ["red", "blue"]) == (0.5, 0.5)
    assert leave_one_out("red", ["red", "red", "blue"]) == (1.0, 1.0)
