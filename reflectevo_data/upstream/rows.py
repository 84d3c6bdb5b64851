"""An upstream row -> `Attempt`s: the one place that knows the field names that upstream used over time.

Four shapes are recognised: raw (`output`, a list of trials), D+ (`first_trial_…`, `second_trial_…`), pairs for D± and
Dpref (`second_trial_…_chosen` and `_rejected`), and the nested pairs of the older files (`trail1`, `trail2_true`,
`trail2_false`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..parsing.options import options_in
from ..schema import ANSWER_TYPES, AnswerType, Problem, stable_hash
from ..sources.files import infer_answer_type, last_boxed


# Ours -> what upstream calls it, in the order in which they are looked for.
_FIELDS: dict[str, tuple[str, ...]] = {
    "reasoning": ("reasoning", "scratchpad", "reason"),
    "answer": ("generated_answer", "answer"),
    "trial": ("trial", "trail"),
    "reflection": ("reflections", "reflection"),
    "reasoning_prompt": ("reasoning_prompt", "reason_prompt"),
    "reflection_prompt": ("reflection_prompt", "reflect_prompt"),
    "first_reasoning": ("first_trial_reasoning", "first_trail_reasoning", "first_reasoning", "first_reason"),
    "first_answer": ("first_trial_answer", "first_trail_answer", "first_answer"),
    "second_reasoning": ("second_trial_reasoning", "second_trail_reasoning", "second_reasoning", "second_reason"),
    "second_answer": ("second_trial_answer", "second_trail_answer", "second_answer"),
}
_NESTED_FIRST = ("trail1", "trial1", "trail_1", "trial_1")
_NESTED_SECOND = re.compile(r"tr(?:ai|ia)l_?2_(true|chosen|false|rejected)")
_PAIR_FIELD = re.compile(r"(.+)_(chosen|rejected)")
_UNKNOWN = ("", "N/A", "n/a", "None", "null")
_LABEL = re.compile(r"\bAnswer is (IN)?CORRECT\b")


class NotRecognisedError(ValueError):
    """A row of none of the four shapes; the message says what was found."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One trial as it was stored.

    Attributes:
        label: Whether it was stored as correct; None where nothing says so.
        prompts: What its prompt fields hold, the answering call's first.
        reflection: What the trial was made from; empty for a first trial.
    """

    reasoning: str
    answer: str
    label: bool | None
    prompts: tuple[str, ...] = ()
    reflection: str = ""
    reflection_prompt: str = ""
    model: str = ""
    reflector: str = ""
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A question, one first trial at it, and second trials that were made from it.

    Attributes:
        is_pair: The first of two second trials is preferred to the other.
    """

    question: str
    answer: str
    answers: tuple[str, ...]
    answer_type: AnswerType
    options: tuple[str, ...]
    test_list: tuple[str, ...]
    test_setup_code: str
    task: str
    source: str
    license: str
    first: Stored
    seconds: tuple[Stored, ...] = ()
    is_pair: bool = False
    n_without_reflection: int = 0

    @property
    def question_id(self) -> str:
        """Equal for equal questions, however their white space was stored."""
        return f"{stable_hash(*(' '.join(t.split()) for t in (self.question, self.answer, *self.test_list))):016x}"

    @property
    def id(self) -> str:
        """Equal for equal first trials at equal questions: what belongs into one record."""
        trial = " ".join(_LABEL.sub("", self.first.reasoning).replace("Observation:", "").split())
        return f"{self.question_id}-{stable_hash(trial, self.first.answer.strip()) & 0xFFFFFFFF:08x}"

    def problem(self, id: str) -> Problem:
        """The problem that it is an attempt at."""
        return Problem(
            id=id,
            question=self.question,
            answer=self.answer,
            answer_type=self.answer_type,
            options=self.options,
            test_list=self.test_list,
            test_setup_code=self.test_setup_code,
            answers=self.answers,
            task=self.task,
            source=self.source,
            license=self.license,
        )


def attempts(row: Any) -> Iterator[Attempt]:
    """The attempts of one row, one but for a raw row that holds several first trials.

    Raises:
        NotRecognisedError: It has none of the four shapes.
    """
    if not isinstance(row, Mapping):
        raise NotRecognisedError(f"found {type(row).__name__}, expected an object")
    nested = {match[1]: row[key] for key in row if (match := _NESTED_SECOND.fullmatch(str(key)))}
    pair_fields = {key for key in row if (match := _PAIR_FIELD.fullmatch(str(key))) and match[1].startswith("second")}
    first_key = next((key for key in _NESTED_FIRST if isinstance(row.get(key), Mapping)), "")
    if isinstance(row.get("output"), (list, tuple)):
        yield from _of_raw(row)
    elif first_key and nested:
        yield _of_nested(row, row[first_key], nested)
    elif _get(row, "first_reasoning") is not None and pair_fields:
        yield _of_pair(row)
    elif _get(row, "first_reasoning") is not None and _get(row, "second_reasoning") is not None:
        yield _of_dplus(row)
    else:
        raise NotRecognisedError(f"found the fields {', '.join(map(str, list(row)[:12])) or 'none'}")


def _of_raw(row: Mapping[str, Any]) -> Iterator[Attempt]:
    """Each first trial with the second trials that follow it."""
    trials = [trial for trial in row["output"] if isinstance(trial, Mapping)]
    if not trials:
        raise NotRecognisedError("found an output without trials")
    tests = next((trial["test_list"] for trial in trials if trial.get("test_list")), None)
    first: Stored | None = None
    seconds: list[Stored] = []
    without = 0
    for i, trial in enumerate(trials):
        stored = _stored(trial)
        number = str(_get(trial, "trial") if _get(trial, "trial") is not None else 1 + (i > 0))
        if number == "1" or first is None:
            if number != "1":
                raise NotRecognisedError("found a second trial before the first one")
            if first is not None:
                yield _attempt(row, first, seconds, tests=tests, without=without)
            first, seconds, without = stored, [], 0
        elif stored.reflection.strip():
            seconds.append(stored)
        else:
            without += 1
    if first is not None:
        yield _attempt(row, first, seconds, tests=tests, without=without)


def _of_nested(row: Mapping[str, Any], first: Mapping[str, Any], nested: Mapping[str, Any]) -> Attempt:
    sides = [nested.get(a) or nested.get(b) for a, b in (("true", "chosen"), ("false", "rejected"))]
    seconds = [_stored(side) for side in sides if isinstance(side, Mapping)]
    return _attempt(row, _stored(first), seconds, is_pair=len(seconds) == 2)


def _of_pair(row: Mapping[str, Any]) -> Attempt:
    first = _first_of_columns(row)
    seconds = []
    for side in ("chosen", "rejected"):
        columns = {
            match[1]: row[key] for key in row if (match := _PAIR_FIELD.fullmatch(str(key))) and match[2] == side
        }
        reflect_prompt = (
            columns.get("reflect_prompt") or columns.get("reflection_prompt") or _get(row, "reflection_prompt")
        )
        seconds.append(
            Stored(
                reasoning=_text(_get(columns, "second_reasoning")),
                answer=_text(_get(columns, "second_answer")),
                label=_label(_text(_get(columns, "second_reasoning")), True if side == "chosen" else None),
                reflection=_text(_get(columns, "reflection")),
                reflection_prompt=_text(reflect_prompt),
                model=_model(row.get("corrector")) or first.model,
                reflector=_model(row.get("reflector")),
                instruction=_text(row.get("instruction" if side == "chosen" else "instruction_rejected")),
            )
        )
    return _attempt(row, first, seconds, is_pair=True)


def _of_dplus(row: Mapping[str, Any]) -> Attempt:
    first = _first_of_columns(row)
    reasoning = _text(_get(row, "second_reasoning"))
    prompts = _texts(_get(row, "reasoning_prompt"))
    second = Stored(
        reasoning=reasoning,
        answer=_text(_get(row, "second_answer")),
        label=_label(reasoning, True),
        # upstream: the first trial's prompt, then the second trial's; ours has a column of its own for the latter
        prompts=_texts(row.get("correct_prompt")) or prompts[1:],
        reflection=_text(_get(row, "reflection")),
        reflection_prompt=_text(_get(row, "reflection_prompt")),
        model=_model(row.get("corrector")) or first.model,
        reflector=_model(row.get("reflector")),
        instruction=_text(row.get("instruction")),
    )
    if not row.get("correct_prompt"):
        first = replace(first, prompts=prompts[:1])
    return _attempt(row, first, [second])


def _first_of_columns(row: Mapping[str, Any]) -> Stored:
    reasoning = _text(_get(row, "first_reasoning"))
    return Stored(
        reasoning=reasoning,
        answer=_text(_get(row, "first_answer")),
        label=_label(reasoning, False),
        prompts=_texts(_get(row, "reasoning_prompt")),
        model=_model(row.get("generator")) or _model(row.get("reasoning_source")),
    )


def _stored(trial: Mapping[str, Any]) -> Stored:
    reasoning = _text(_get(trial, "reasoning"))
    correct = trial.get("is_correct")
    if isinstance(correct, (list, tuple)) and correct:  # upstream's code verifier returned (bool, error)
        correct = correct[0]
    if isinstance(correct, str):
        correct = {"true": True, "false": False}.get(correct.strip().lower())
    return Stored(
        reasoning=reasoning,
        answer=_text(_get(trial, "answer")),
        label=bool(correct) if isinstance(correct, (bool, int)) else _label(reasoning, None),
        prompts=_texts(_get(trial, "reasoning_prompt")),
        reflection=_text(_get(trial, "reflection")),
        reflection_prompt=_text(_get(trial, "reflection_prompt")),
        model=_model(trial.get("reasoning_source")),
        reflector=_model(trial.get("reflection_source")),
        instruction=_text(trial.get("instruction")),
    )


def _attempt(
    row: Mapping[str, Any],
    first: Stored,
    seconds: list[Stored],
    *,
    tests: Any = None,
    is_pair: bool = False,
    without: int = 0,
) -> Attempt:
    question = _text(row.get("question"))
    if not question.strip():
        raise NotRecognisedError("found no question")
    golds = _texts(row.get("answer"))
    answer = golds[0] if golds else ""
    test_list = tuple(test for test in _texts(row.get("test_list") or tests) if test.strip())
    options = tuple(_texts(row.get("options")))
    answer_type = _answer_type(row, question, answer, options, test_list, (first, *seconds))
    if answer_type == "choice":
        options = options or options_in(question)
    if answer_type == "math" and "\\boxed" in answer:
        answer = last_boxed(answer) or answer
    with_reflection = tuple(second for second in seconds if second.reflection.strip())
    return Attempt(
        question=question,
        answer=answer,
        answers=tuple(dict.fromkeys((*golds[1:], *_texts(row.get("answers"))))),
        answer_type=answer_type,
        options=options,
        test_list=test_list,
        test_setup_code=_text(row.get("test_setup_code")),
        task=_text(row.get("task")),
        source=_text(row.get("source")),
        license=_text(row.get("license")),
        first=first,
        seconds=with_reflection,
        is_pair=is_pair and len(with_reflection) == 2,
        n_without_reflection=without + len(seconds) - len(with_reflection),
    )


def _answer_type(
    row: Mapping[str, Any],
    question: str,
    answer: str,
    options: tuple[str, ...],
    tests: tuple[str, ...],
    trials: tuple[Stored, ...],
) -> AnswerType:
    """As the row states it, else as its trials write their answers: upstream asks for each type in its own form."""
    declared = row.get("answer_type")
    if declared in ANSWER_TYPES:
        return declared
    listed = options or options_in(question)
    inferred = infer_answer_type(answer, options=listed, given=bool(options), has_tests=bool(tests))
    if inferred in ("code", "choice"):
        return inferred
    written = [trial.reasoning for trial in trials]
    if any("Finish<<" in text for text in written):
        return "math"
    if any("Finish[" in text for text in written):
        return "text"
    return "code" if any("[BEGIN]" in text for text in written) else inferred


def _label(reasoning: str, otherwise: bool | None) -> bool | None:
    """What the stored verdict behind the trial says."""
    found = _LABEL.findall(reasoning)
    return found[-1] == "" if found else otherwise


def _get(row: Mapping[str, Any], name: str) -> Any:
    """The first field of this meaning that holds something."""
    return next((row[field] for field in _FIELDS[name] if row.get(field) is not None), None)


def _text(value: Any) -> str:
    """A text; of a list its last text, for upstream's lists of reflections grew."""
    if isinstance(value, (list, tuple)):
        return next((text for text in map(_text, reversed(value)) if text.strip()), "")
    if value is None or isinstance(value, Mapping):
        return ""
    return value if isinstance(value, str) else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(_text(text) for text in value if not isinstance(text, Mapping))
    text = _text(value)
    return (text,) if text.strip() else ()


def _model(value: Any) -> str:
    text = _text(value).strip()
    return "" if text in _UNKNOWN else text
