"""A parsed answer and its problem -> `Verdict`, where no other process is needed: choice, text and plain math.

`check_gold` says before a run starts whether some answer to a problem can be judged correct at all.
"""

from __future__ import annotations

import contextlib

from ..errors import InputError
from ..parsing.options import options_of, read_option
from ..schema import Problem, Verdict
from . import text_metrics
from .math_answers import MAX_LENGTH, NOT_EQUAL, NeedsAlgebra, same_answer


UNPARSED = "no answer found in the text"


def judge_in_place(answer: str | None, problem: Problem) -> Verdict | None:
    """The verdict on a parsed answer where no worker is needed, else None."""
    if answer is None:
        return Verdict("unparsed", reason=UNPARSED)
    if problem.answer_type == "choice":
        return judge_choice(answer, problem)
    if problem.answer_type == "text":
        return judge_text(answer, problem)
    if problem.answer_type == "math":
        if len(answer) > MAX_LENGTH and answer != problem.answer:
            return verdict_of(False, answer, f"the answer has {len(answer)} characters, more than {MAX_LENGTH}")
        with contextlib.suppress(NeedsAlgebra):
            return verdict_of(same_answer(answer, problem.answer, problem.question), answer, NOT_EQUAL)
    return None


def judge_choice(answer: str, problem: Problem) -> Verdict:
    """Letters are compared without case; an answer that is no option is wrong."""
    options = options_of(problem)
    gold = read_option(problem.answer, options)
    last = chr(64 + len(options)) if options else "Z"
    if not (len(answer) == 1 and "A" <= answer <= last):
        return verdict_of(False, answer, f"{_short(answer)} is not one of the options A to {last}")
    return verdict_of(answer == gold, answer, "not the correct option")


def judge_text(answer: str, problem: Problem) -> Verdict:
    """Exact match after SQuAD's normalisation with any gold; F1 is against the best gold, for CoQA leave-one-out."""
    golds = [gold for gold in (problem.answer, *problem.answers) if gold.strip()]
    f1 = text_metrics.leave_one_out(answer, golds)[1] if problem.source == "coqa" else text_metrics.f1(answer, golds)
    if text_metrics.exact_match(answer, golds):
        return Verdict("correct", answer, f1=f1)
    return Verdict("incorrect", answer, f"no exact match with a gold answer (F1 {f1:.2f})", f1=f1)


def check_gold(problem: Problem) -> None:
    """Makes sure that some answer to the problem can be judged correct.

    Raises:
        InputError: None can.
    """
    if problem.answer_type == "choice":
        options = options_of(problem)
        gold = read_option(problem.answer, options)
        if gold is None or len(gold) != 1 or (options and ord(gold) - 65 >= len(options)):
            last = chr(64 + len(options)) if options else "Z"
            raise InputError(
                f"{problem.id}: answer {_short(problem.answer)} is not one of the options A to {last}. Correct the row."
            )
    elif problem.answer_type == "code":
        if not problem.test_list:
            raise InputError(f"{problem.id}: a code problem without test_list. Add its tests.")
    elif not problem.answer.strip() and not any(answer.strip() for answer in problem.answers):
        raise InputError(f"{problem.id}: the gold answer is empty. Correct the row.")


def verdict_of(correct: bool, answer: str, reason: str) -> Verdict:
    """Correct, or incorrect with the reason in one line."""
    if correct:
        return Verdict("correct", answer, f1=1.0)
    return Verdict("incorrect", answer, " ".join(reason.split()) or "incorrect")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "…")
