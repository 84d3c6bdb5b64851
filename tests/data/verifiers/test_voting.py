"""The answer that most second trials give: which answers are the same one, and what has no vote."""

import pytest

from reflectevo_data.verifiers.voting import majority


@pytest.mark.parametrize(
    ("answers", "answer_type", "place"),
    [
        (["A", "B", "B"], "choice", 1), (["A", "B"], "choice", 0), (["A", "B", "b"], "choice", 1),
        (["A", "", "", ""], "choice", 0), (["", "A"], "choice", 1), (["", ""], "choice", 0),
        ([r"\frac13", r"\frac12", r"\dfrac12"], "math", 1), ([r"\frac13", r"\frac12", r"\tfrac12"], "math", 1),
        (["12", "(1, 2)", r"\left(1,2\right)"], "math", 1), (["13", "12", r"\text{12}."], "math", 1),
        (["Rome", "the Eiffel Tower", "Eiffel tower."], "text", 1), (["Rome", "...", "..."], "text", 1),
        (["x = 2", "x = 1", "x = 1\n"], "code", 1), (["x = 2", "x = 1", "X = 1"], "code", 0),
    ],
)  # fmt: skip
def test_majority(answers, answer_type, place):
    assert majority(answers, answer_type) == place
