r"""Which math answers are the same: the hard pairs, the rules one by one, and what must not hang."""

import os
import signal
import time

import pytest

from reflectevo_data.parsing.trial import parse_trial
from reflectevo_data.schema import Problem
from reflectevo_data.verifiers.math_answers import NeedsAlgebra, same_answer
from reflectevo_data.verifiers.math_notation import clean, exact, number
from reflectevo_data.verifiers.math_process import MathProcess
from reflectevo_data.verifiers.math_units import split_unit
from reflectevo_data.verifiers.pool import VerifierPool
from tests.benchmarks.math_pairs import read_pairs
from tests.reference import reference_rows


# Complex values of real-looking expressions; math-verify reads e and i as symbols there.
KNOWN_FALSE_REJECTS = {(r"e^{i\pi}", "-1"), (r"\sqrt{-1}", "i")}
HANGING = {r"9^{9^{9^9}}", "((9!)!)!", r"10^{10^{10}}", r"\int_0^{10^{10}} \sin(x^x) dx"}
PAIRS = [pair for pair in read_pairs() if pair.given not in HANGING and not pair.given.startswith(r"\sum")]


@pytest.fixture(scope="module")
def worker():
    worker = MathProcess()
    yield worker
    worker.close()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.kind}: {pair.gold} | {pair.given}")
def test_hard_pairs(pair, worker):
    try:
        same = same_answer(pair.given, pair.gold, pair.question)
    except NeedsAlgebra:
        same = worker.compare(pair.given, pair.gold, pair.question) == ""
    assert same is (pair.same and (pair.gold, pair.given) not in KNOWN_FALSE_REJECTS)


def test_the_table_has_every_rule():
    kinds = {pair.kind for pair in read_pairs()}
    assert len(read_pairs()) >= 100
    assert kinds >= {
        "rounding",
        "unit",
        "base",
        "tuple or set",
        "number",
        "mixed number",
        "interval",
        "percent",
        "words",
    }
    for kind in kinds - {"hostile"}:  # a rule is shown from both sides
        assert {pair.same for pair in read_pairs() if pair.kind == kind} == {True, False}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 000", "1000"), ("1,00", None), (r"\frac{1}{0}", None), ("1e999", None), ("9" * 300, None), ("x", None), ("", None)],
)  # fmt: skip
def test_number(text, value):
    assert (None if number(text) is None else str(number(text))) == value


def test_decimals_become_fractions_before_any_algebra():
    assert exact("0.25x") == r"{\frac{025}{100}}x"
    assert "." not in exact(r"1.5\pi+.5-2.75^{0.5}")


def test_units():
    assert split_unit(clean(r"60 \text{ miles per hour}")) == split_unit("60 mph") == ("60", "mi/h")
    assert split_unit("5x").unit == ""
    assert split_unit(r"19 \text{ and }43").unit == ""


@pytest.mark.parametrize("given", [r"9^{9^{9^9}}", "((9!)!)!"])
def test_a_comparison_that_does_not_end_is_killed(given):
    worker = MathProcess(seconds=0.5, megabytes=1024)
    try:
        assert worker.compare("x+1", "1+x") == ""
        assert worker.compare(given, "5").startswith("not comparable within")
        assert worker.compare("x+1", "1+x") == ""
    finally:
        worker.close()


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(workers=1, math_seconds=2) as pool:
        yield pool


@pytest.mark.parametrize(
    "given", ["9" * 10_000, "(" * 10_000, "{" * 900, "}" * 900, r"\frac{" * 150, "x^" * 400, "\\", "1" * 999, "\ud800", "$"]
)  # fmt: skip
def test_long_and_broken_answers(given, pool):
    verdict = pool.verify_many([f"Action: Finish<<<{given}>>>"], [Problem("1", "", "5", "math")])[0]
    assert verdict.status in ("incorrect", "unparsed")
    assert "\n" not in verdict.reason
    assert verdict.reason


def test_a_worker_killed_from_outside_is_started_again(worker):
    assert worker.compare("x+1", "1+x") == ""
    os.killpg(worker._process.pid, signal.SIGKILL)
    assert worker.compare("x+1", "1+x") == ""


def test_the_worker_takes_no_module_from_the_working_directory(tmp_path, monkeypatch):
    for name in ("reflectevo_data", "sympy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('another program')")
    monkeypatch.chdir(tmp_path)
    worker = MathProcess()
    try:
        assert worker.compare("x+1", "1+x") == ""
    finally:
        worker.close()


def test_close_leaves_no_process():
    worker = MathProcess()
    worker.compare("x+1", "1+x")
    assert worker._process is not None
    group = worker._process.pid
    worker.close()
    for _ in range(100):  # its fork is init's to reap
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the math worker outlives close()")


def test_math_golds_equal_themselves(worker):
    rows = reference_rows("math_sample.jsonl")
    assert len(rows) == 150
    by_algebra = 0
    for row in rows:
        problem = Problem("1", row["problem"], "", "math")
        gold = parse_trial(row["solution"], problem).answer
        assert gold
        assert same_answer(gold, gold)
        # in another spelling, and as a sum that only algebra can compare
        spelt = "$ " + gold.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)") + r" $."
        for given in (spelt, f"{gold} + 0") if number(clean(gold)) is not None else (spelt,):
            try:
                assert same_answer(given, gold), (given, gold)
            except NeedsAlgebra:
                by_algebra += 1
                assert worker.compare(given, gold) == "", (given, gold)
    assert by_algebra > 100
