"""Verdicts: for every answer type, for anything at all, many at once and without blocking."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from reflectevo_data import Problem, VerifierPool, verify
from reflectevo_data.errors import InputError
from reflectevo_data.parsing.trial import ParsedTrial, parse_trial
from tests.reference import reference_rows


CHOICE = Problem("c", "Does it follow?\nA. entailment\nB. no-entailment", "b", "choice")
MATH = Problem("m", "How much?", r"2\sqrt{3}-2", "math")
TEXT = Problem("t", "Where?", "the Eiffel Tower", "text", answers=("Paris, France", "3.5 km"))
CODE = Problem("p", "Add.", "", "code", test_list=("assert add(1, 2) == 3",))

# Where the upstream label is wrong: (file, id, trial) -> what the trial says.
STORED_WRONGLY = {("example_raw.jsonl", 25, 0): ("", "C")}  # `Finish[C]` was refused as an invalid action


def test_reference_transcripts_are_read_as_they_were():
    differing, n_trials = {}, 0
    for row in reference_rows("example_raw.jsonl"):
        problem = Problem(str(row["id"]), row["question"], row["answer"], "choice")
        for i, output in enumerate(row["output"]):
            n_trials += 1
            verdict = verify(output["reasoning"], problem)
            if verdict.answer != output["generated_answer"]:
                differing["example_raw.jsonl", row["id"], i] = output["generated_answer"], verdict.answer
            assert verdict.is_correct is output["is_correct"]
    for row in reference_rows("example_dplus.jsonl"):
        problem = Problem(str(row["id"]), row["question"], row["answer"], "choice")
        for i, name in enumerate(("first", "second")):
            n_trials += 1
            verdict = verify(row[f"{name}_trial_reasoning"], problem)
            if verdict.answer != row[f"{name}_trial_answer"]:
                differing["example_dplus.jsonl", row["id"], i] = row[f"{name}_trial_answer"], verdict.answer
            assert verdict.is_correct is (name == "second")
    assert n_trials == 40
    assert differing == STORED_WRONGLY


@pytest.mark.parametrize(
    ("text", "status", "answer", "reason"),
    [
        ("Action: Finish[b]", "correct", "B", ""),
        ("Action: Finish[no-entailment]", "correct", "B", ""),
        ("Action: Finish[A]", "incorrect", "A", "not the correct option"),
        ("Action: Finish[C]", "incorrect", "C", "'C' is not one of the options A to B"),
        ("Action: Finish[None of the above]", "incorrect", "None of the above", "'None of the above' is not one of"),
        ("Action: Finish[An idea]", "incorrect", "An idea", "'An idea' is not one of the options A to B"),
        ("I am not sure.", "unparsed", "", "no answer found"),
        ("Action: Finish[B. entailment]", "unparsed", "", "no answer found"),
    ],
)
def test_choice(text, status, answer, reason):
    verdict = verify(text, CHOICE)
    assert (verdict.status, verdict.answer) == (status, answer)
    assert verdict.reason.startswith(reason)
    assert (verdict.reason == "") is (status == "correct")
    assert verdict.f1 == float(status == "correct")


@pytest.mark.parametrize("gold", ["b", "B", "(B)", "no-entailment", "B. no-entailment"])
def test_a_gold_option_however_it_is_stored(gold):
    problem = Problem("c", CHOICE.question, gold, "choice")
    assert verify("Action: Finish[B]", problem).is_correct
    assert verify("Action: Finish[A]", problem).status == "incorrect"


def test_articles_are_letters_where_letters_are_asked_for():
    problem = Problem("c", "Which?", "a", "choice", options=("one", "two"))
    assert verify("Action: Finish[A]", problem).is_correct
    assert verify("Action: Finish[the]", problem).status == "incorrect"


@pytest.mark.parametrize(
    ("answer", "status", "f1"),
    [
        ("Eiffel Tower", "correct", 1.0),
        ("the “Eiffel Tower”.", "correct", 1.0),
        ("paris France", "correct", 1.0),
        ("tower", "incorrect", 2 / 3),
        ("Rome", "incorrect", 0.0),
        ("35 km", "incorrect", 0.5),
        ("-3.5 km", "incorrect", 0.5),
        ("the", "incorrect", 0.0),
    ],
)
def test_text(answer, status, f1):
    verdict = verify(f"Action: Finish[{answer}]", TEXT)
    assert (verdict.status, verdict.f1) == (status, pytest.approx(f1))


def test_numbers_as_text_are_exact():
    problem = Problem("n", "What is left?", "96", "text")
    assert verify("Action: Finish[96]", problem).is_correct
    for other in ("9", "6", "960", "9.6", "-96", "96.5", "97"):
        assert verify(f"Action: Finish[{other}]", problem).status == "incorrect"


def test_blank_golds_count_for_nothing():
    coqa = Problem("q", "?", "red", "text", source="coqa", answers=("", "blue", " "))
    assert verify("Action: Finish[red]", coqa).f1 == 0.5  # against (red) and (blue)


def test_coqa_f1_leaves_one_gold_out():
    golds = {"answer": "red", "answers": ("red", "dark red")}
    coqa, other = (Problem("q", "?", answer_type="text", source=source, **golds) for source in ("coqa", "mine"))
    # against (red, dark red), (red, dark red), (red, red): 1, 1, 2/3
    assert verify("Action: Finish[dark red]", coqa).f1 == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert verify("Action: Finish[dark red]", other).f1 == 1.0
    assert verify("Action: Finish[dark red]", coqa).is_correct


def test_math():
    assert verify(r"Action: Finish<<<2(\sqrt3-1)>>>", MATH).is_correct
    assert verify(r"so \boxed{-2+2\sqrt{3}}", MATH).is_correct
    wrong = verify("Action: Finish<<<1.4641>>>", MATH)
    assert (wrong.status, wrong.answer, wrong.f1) == ("incorrect", "1.4641", 0.0)
    assert verify("no idea", MATH).status == "unparsed"


def test_a_long_math_answer_is_correct_only_as_it_is_stored():
    long = "+".join(["x"] * 600)  # 1,199 characters
    problem = Problem("m", "?", long, "math")
    assert verify(f"Action: Finish<<<{long}>>>", problem).is_correct
    verdict = verify(f"Action: Finish<<<{long}+0>>>", problem)
    assert (verdict.status, verdict.reason) == ("incorrect", "the answer has 1201 characters, more than 1000")


def test_code():
    with VerifierPool(workers=1) as pool:
        pool.preflight([CODE])
        texts = [
            "[BEGIN]\ndef add(a, b):\n    return a + b\n[END]",
            "[BEGIN]\ndef add(a, b):\n    return 4\n[END]",
            "",
        ]
        verdicts = pool.verify_many(texts, [CODE] * 3)
    assert [verdict.status for verdict in verdicts] == ["correct", "incorrect", "unparsed"]
    assert verdicts[0].f1 == 1.0
    assert "returned 4" in verdicts[1].reason


ANYTHING = [
    None, "", " \n", "\x00\xff\x1b[0m", "\ud800\udfff", "Action: Finish[\ud800]", "Action: Finish<<<\ud800>>>", "[BEGIN]\n\ud800def f(): 1\n[END]",
    "Finish[" * 1000, "Finish<<<" * 1000, "[BEGIN]" * 1000, "\\boxed{" * 1000, "Action:" * 1000, "x" * 1_000_000,
    "Action: Finish[" + "y" * 1_000_000, "Action: Finish[" + "(" * 30_000 + "]", "Action: Finish<<<" + "{" * 30_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def shared_pool():
    with VerifierPool(workers=1, math_seconds=2) as pool:
        yield pool


@pytest.mark.parametrize("text", ANYTHING, ids=lambda text: repr(text)[:30])
@pytest.mark.parametrize("problem", [CHOICE, MATH, TEXT, CODE], ids=lambda problem: problem.answer_type)
def test_a_verdict_for_anything(text, problem, shared_pool):
    verdict = shared_pool.verify_many([text], [problem])[0]
    assert verdict.status in ("incorrect", "unparsed")
    assert verdict.reason
    assert "\n" not in verdict.reason


def test_many_in_order():
    texts = [f"Action: Finish<<<{n}+0x>>>" for n in range(40)]
    problems = [Problem(str(n), "?", str(n if n % 3 else n + 1), "math") for n in range(40)]
    with VerifierPool(workers=2) as pool:
        verdicts = pool.verify_many(texts, problems)
    assert [verdict.is_correct for verdict in verdicts] == [n % 3 > 0 for n in range(40)]


def test_texts_and_problems_must_match():
    with VerifierPool(workers=1) as pool, pytest.raises(ValueError, match="shorter"):
        pool.verify_many(["a", "b"], [CHOICE])


async def test_the_event_loop_is_not_blocked():
    with VerifierPool(workers=1, math_seconds=2) as pool:
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        parsed = parse_trial("Action: Finish<<<9^{9^{9^9}}>>>", MATH)
        verdict = await pool.judge(parsed, MATH)
        ticking.cancel()
        assert verdict.reason == "not comparable within 2 s"
        assert ticks > 20
        assert (await pool.verify("Action: Finish[B]", CHOICE)).is_correct
        assert await pool.judge(ParsedTrial("", None), CODE) == verify("", CODE)


def test_preflight_refuses_what_no_answer_can_meet():
    with VerifierPool(workers=1) as pool:
        pool.preflight([CHOICE, MATH, TEXT, Problem("good", "Who?", "", "text", answers=("Ann",))])
        for problem, message in (
            (
                Problem("bad/1", "Which?\nA. x\nB. y", "C", "choice"),
                "bad/1: answer 'C' is not one of the options A to B",
            ),
            (
                Problem("bad/1", "Which?\nA. x\nB. y", "neither of the two, \n" + "y" * 40, "choice"),
                "bad/1: answer 'neither of the two, yyyyyyyyyyyyyyyyy…' is not one",
            ),
            (Problem("bad/2", "?", " ", "text"), "bad/2: the gold answer is empty"),
            (Problem("bad/3", "?", "", "math"), "bad/3: the gold answer is empty"),
            (Problem("bad/4", "?", "x = 1", "code"), "bad/4: a code problem without test_list"),
        ):
            with pytest.raises(InputError, match=message):
                pool.preflight([problem])


def test_preflight_refuses_code_where_there_is_no_sandbox(monkeypatch):
    from reflectevo_data.sandbox.code_sandbox import CodeSandbox

    def refuse(self):
        raise InputError("code verification: no sandbox")

    monkeypatch.setattr(CodeSandbox, "preflight", refuse)
    with VerifierPool(workers=1) as pool:
        pool.preflight([CHOICE])
        with pytest.raises(InputError, match="no sandbox"):
            pool.preflight([CHOICE, CODE])


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["while it starts", "while it works"])
def test_close_while_a_comparison_runs(seconds):
    pool = VerifierPool(workers=1, math_seconds=600)
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(pool.judge_now(ParsedTrial("", "9^{9^{9^9}}"), MATH)))
    thread.start()
    time.sleep(seconds)
    pool.close()
    thread.join(timeout=60)
    assert [verdict.reason for verdict in verdicts] == ["not compared: the verifiers were closed"]


def _verify_in_child(queue):
    queue.put(verify(r"\boxed{2(\sqrt3-1)}", MATH).status)


def test_a_forked_process_has_workers_of_its_own():
    assert verify(r"\boxed{2(\sqrt3-1)}", MATH).is_correct
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_verify_in_child, args=(queue,))
    child.start()
    child.join(60)
    assert queue.get() == "correct"
    assert verify(r"\boxed{-2+2\sqrt3}", MATH).is_correct


def test_workers_end_with_their_parent():
    program = (
        "from reflectevo_data.verifiers.math_process import MathProcess; import os; worker = MathProcess(); worker.compare('x', 'y');"
        "print(worker._process.pid, flush=True); os._exit(1)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    group = int(result.stdout)
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the math worker outlives its parent")


def test_importing_verify_loads_no_heavy_library():
    program = (
        "import sys; from reflectevo_data import Problem, Verdict, verify, VerifierPool;"
        "print([name for name in ('torch', 'sympy', 'math_verify', 'datasets') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
