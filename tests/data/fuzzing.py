"""Texts that a model could write at its worst, and what must hold for every one of them.

`python -m tests.benchmarks.fuzz` runs the properties on many inputs, the tests on a few.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from reflectevo_data.parsing.trial import has_action, parse_trial
from reflectevo_data.schema import Problem, Verdict
from reflectevo_data.verifiers.leaks import leaks_answer
from reflectevo_data.verifiers.math_answers import NO_ALGEBRA, NeedsAlgebra, same_answer
from reflectevo_data.verifiers.verdicts import judge_in_place
from tests.data.upstream import import_fuzz


PROBLEMS = (
    Problem("c", "Which?\nA. one\nB. the other one\nC. None of the above", "b", "choice"),
    Problem("o", "Which (A) one?", "(A)", "choice", options=("a [b]", "\ud800", "x" * 50)),
    Problem("m", "What percent, in base 5?", r"\frac{3}{4}", "math"),
    Problem("i", "Factor it.", "[0,1) \\cup (2,\\infty)", "math"),
    Problem("t", "Where?", "the Vik", "text", answers=("", "3.5", "...")),
    Problem("p", "Add.", "def add(a, b):\n    return a + b", "code", test_list=("assert add(1, 2) == 3",)),
)
_PIECES = [
    "Action:", "Action: ", "\nAction:\n", "action", "Thought:", "Finish[", "Finish<<<", "]", ">>>", "Finish", "[BEGIN]", "[END]",
    "```python\n", "```", "\nObservation:", "\nQuestion:", "\\boxed{", "{", "}", "(", ")", "[", "<", ">", "\\frac", "\\frac{1}{2}",
    "\\text{", "\\sqrt", "^", "_5", "\\circ", "%", "\\%", "$", "\\$", "\\pm ", "\\le ", "\\cup ", "\\infty", "\\\\", "&", ",", ";", "=", "<",
    "\\begin{pmatrix}", "\\end{pmatrix}", "B", "(b)", "B. ", "one", "the other one", "None of the above", "answer is ", "3", "0.75",
    "1 000", "1,000", "9^{9^9}", "!", "-", "e9", " ", "\n", "\t", "\x00", "\ud800", "π", "½", "Vik", "the", "def add(a, b):\n    return a + b\n",
    "<think>", "</think>", "*", "**", "`", "<answer>", "X", "and", " or ", "cm", "x",
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=6)), max_size=25).map("".join), st.text()
)


def check_parsing(text: str) -> None:
    """Every text is parsed, its reasoning is a part of it, and reading it again changes nothing."""
    for problem in PROBLEMS:
        reasoning, answer = parse_trial(text, problem)
        assert reasoning == reasoning.strip()
        assert answer is None or answer.strip()
        assert reasoning in text.replace("\x00", "").replace("\r\n", "\n").replace("\r", "\n")
        if problem.answer_type != "code":
            assert parse_trial(reasoning, problem).answer == answer
        has_action(text, problem.answer_type)


def check_verifying(text: str) -> None:
    """Every text has a verdict with a reason in one line, or is left to a worker; every reflection leaks or not."""
    for problem in PROBLEMS:
        verdict = judge_in_place(parse_trial(text, problem).answer, problem)
        if verdict is not None:
            assert isinstance(verdict, Verdict)
            assert (verdict.reason == "") is verdict.is_correct
            assert "\n" not in verdict.reason
            assert 0 <= verdict.f1 <= 1
        assert leaks_answer(text, problem, text[:20]) in (True, False)


def check_math_answers(pair: tuple[str, str]) -> None:
    """Two answers are the same, or not, or left to algebra; an answer is itself."""
    given, gold = pair

    def compare(a: str, b: str) -> Any:
        try:
            return same_answer(a, b, "", NO_ALGEBRA)
        except NeedsAlgebra:
            return None

    compare(given, gold)
    assert compare(given, given) in ((True,) if given.strip() else (True, False))


def check_importing(content: bytes) -> None:
    """A file of any content is imported or refused."""
    import_fuzz.check(content)


PROPERTIES: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "parsing": (check_parsing, TEXTS),
    "verifying": (check_verifying, TEXTS),
    "math answers": (check_math_answers, st.tuples(TEXTS, TEXTS)),
    "importing": (check_importing, import_fuzz.files()),
}
