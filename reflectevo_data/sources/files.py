r"""A file of one's own questions -> problems, every row checked before any model is loaded.

A row has `question` and `answer`, and optionally `id, options, test_list, test_setup_code, answers, answer_type, task,
source, license, group`. The rows of the usual test files are recognised as they are: MATH (`problem`, `solution` whose
last `\boxed{…}` is the gold), MBPP (`text`, `code`, `test_list`, `task_id`), LogiQA and BIG-bench (`question` with
lettered lines, `answer` a letter or a text).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..parsing.options import OPTION_LINE, options_in
from ..schema import ANSWER_TYPES, AnswerType, Problem, stable_hash
from .reading import read_records


_SHOWN_ERRORS = 5
_TEXT_FIELDS = ("task", "source", "license", "group", "test_setup_code")
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_NUMBER = re.compile(r"[-+−]?\$?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?([eE][-+]?\d+)?( ?/ ?\d+)?%?")
_LATEX = re.compile(
    r"\\(?:[dt]?frac|sqrt|boxed|pi|infty|left|right|cdot|times|pm|[lg]eq?|neq?|in|cup|cap|sin|cos|tan|log|ln|text|math[a-z]+"
    r"|begin|circ|alpha|beta|theta)(?![a-zA-Z])|^\s*\$[^$]+\$\s*$|[\w)}]\s*\^\s*[\w({\\]"
)


def load_file(path: str | Path, *, limit: int | None = None) -> list[Problem]:
    """The problems of a file in their order, the first `limit` of them.

    Raises:
        InputError: A row cannot be used (file, line, what was found, what was expected), an id occurs twice, or there
            is no row at all. Only rows within the limit are looked at.
    """
    path = Path(path)
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    errors: list[str] = []
    for line, row, error in read_records(path):
        if limit is not None and len(problems) + len(errors) >= limit:
            break
        if not error:
            try:
                problem = problem_of_file_row(row, name=path.stem)
            except ValueError as found:
                error = str(found)
            else:
                first = lines.setdefault(problem.id, line)
                if first == line:
                    problems.append(problem)
                    continue
                what = f"the id {problem.id!r}" if _has_id(row) else "the same question and answer"
                error = f"found {what} of line {first} again, expected each problem once"
        errors.append(f"{path}:{line}: {error}.")
    if errors:
        rest = len(errors) - _SHOWN_ERRORS
        more = f"\nand {rest} more bad lines" if rest > 0 else ""
        advice = " Correct the line." if len(errors) == 1 else f"{more}\nCorrect the lines ({len(errors)} in all)."
        raise InputError("\n".join(errors[:_SHOWN_ERRORS]) + advice)
    if not problems:
        raise InputError(f"{path}: found no problems, expected a JSON object with `question` and `answer` a line.")
    return problems


def problem_of_file_row(row: Any, *, name: str) -> Problem:
    r"""The problem of one row; `name` stands for the file in its id and source.

    >>> problem_of_file_row({"problem": "1+1?", "solution": r"It is $\boxed{2}$."}, name="mine").answer
    '2'

    Raises:
        ValueError: `found …, expected …`.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"found {_kind(row)}, expected a JSON object with `question` and `answer`")
    question = _question(row)
    given_options = _options(row)
    tests = _texts(row, "test_list")
    declared = _text(row, "answer_type")
    if declared and declared not in ANSWER_TYPES:
        raise ValueError(f"found answer_type {declared!r}, expected {', '.join(ANSWER_TYPES[:-1])} or text")
    answer, answers = _answer(row, has_tests=bool(tests) or declared == "code")
    options = given_options or options_in(question)
    inferred = infer_answer_type(answer, options=options, given=bool(given_options), has_tests=bool(tests))
    if isinstance(row.get("problem"), str) and isinstance(row.get("solution"), str):
        inferred = "math"
    answer_type = declared or inferred
    if answer_type == "choice":
        answer = _gold_letter(answer, options)
    else:
        options = given_options
    if answer_type == "code" and not tests:
        raise ValueError("found answer_type 'code' without tests, expected `test_list`, assert statements")
    texts = {field: _text(row, field) for field in _TEXT_FIELDS}
    given = row.get("id", row.get("task_id"))
    return Problem(
        id=_id(given, question, answer, tests, name=name),
        question=question,
        answer=answer,
        answer_type=answer_type,  # pyright: ignore[reportArgumentType]  # checked against ANSWER_TYPES above
        options=options,
        test_list=tests,
        answers=answers,
        **{**texts, "source": texts["source"] or name},
    )


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}` of a solution, braces balanced; None when there is none.

    >>> last_boxed(r"so $\boxed{\frac{1}{2}}$")
    '\\frac{1}{2}'
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not rest.startswith("{"):  # `\boxed 4`
        match = re.match(r"[^\s$.]+", rest)
        return match.group() if match else None
    depth = 0
    for i, character in enumerate(rest):
        if character in "{}" and (i == 0 or rest[i - 1] != "\\"):
            depth += 1 if character == "{" else -1
            if depth == 0:
                return rest[1:i].strip()
    return None


def infer_answer_type(answer: str, *, options: tuple[str, ...], given: bool, has_tests: bool) -> AnswerType:
    r"""How an answer is written where nothing states it.

    >>> [infer_answer_type(a, options=(), given=False, has_tests=False) for a in ("Lima", "1,250", r"\sqrt{2}")]
    ['text', 'math', 'math']

    Args:
        answer: The gold.
        options: Options of the question, a field of the row or lettered lines of the question.
        given: They are a field: the gold may be an option's text.
        has_tests: The row has tests for code.
    """
    if has_tests:
        return "code"
    text = answer.strip()
    if given or (options and _LETTER.fullmatch(text)):
        return "choice"
    if any(character.isdigit() for character in text) and _NUMBER.fullmatch(text):
        return "math"
    return "math" if _LATEX.search(text) else "text"


def _question(row: Mapping[str, Any]) -> str:
    for field in ("question", "problem", "text"):
        if row.get(field) is not None:
            value = row[field]
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"found {field} {_kind(value)}, expected a text")
            _refuse_surrogates(field, value)
            return value
    found = ", ".join(map(str, list(row)[:8])) or "no field"
    raise ValueError(f"found {found[:200]}, expected `question` and `answer`")


def _answer(row: Mapping[str, Any], *, has_tests: bool) -> tuple[str, tuple[str, ...]]:
    """The gold and further accepted golds."""
    answers = _texts(row, "answers")
    value = row.get("answer")
    if isinstance(value, (list, tuple)):
        answers = (*_texts(row, "answer"), *answers)
        value = None
    if value is None and has_tests:
        return _text(row, "code"), answers
    if value is None and answers:
        value = answers[0]
    if value is None and isinstance(row.get("solution"), str):
        value = last_boxed(row["solution"])
        if not value:
            raise ValueError("found no \\boxed{…} in `solution`, expected the answer in one, or `answer`")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None or (value == "" and not has_tests):
        raise ValueError(f"found {'no' if value is None else 'an empty'} `answer`, expected the gold answer as a text")
    if not isinstance(value, str) or not (value.strip() or has_tests):
        raise ValueError(f"found answer {_kind(value)}, expected a text")
    _refuse_surrogates("answer", value)
    return value, tuple(answer for answer in answers if answer != value)


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The row's options without their letters, in order."""
    value = row.get("options")
    if isinstance(value, Mapping) and set(value) == {chr(65 + i) for i in range(len(value))}:
        value = [value[letter] for letter in sorted(value)]
    options = _texts({"options": value}, "options")
    lettered = [OPTION_LINE.fullmatch(option) for option in options]
    if options and all(match and match["letter"] == chr(65 + i) for i, match in enumerate(lettered)):
        options = tuple(match["text"].strip() for match in lettered if match)
    if len(options) == 1 or len(options) > 26:
        raise ValueError(f"found {len(options)} options, expected 2 to 26")
    return options


def _gold_letter(answer: str, options: tuple[str, ...]) -> str:
    """The gold as the row has it when that is a letter, else the letter of the option with this text."""
    text = answer.strip()
    same = [i for i, option in enumerate(options) if option.strip().casefold() == text.casefold()]
    letter = _LETTER.fullmatch(text)
    if letter and (not options or ord(letter.group(1).upper()) - 65 < len(options)):
        return letter.group(1)
    if len(same) == 1:
        return chr(65 + same[0])
    letters = f"a letter from A to {chr(64 + len(options))} or one option's text" if options else "an option letter"
    raise ValueError(f"found answer {answer[:80]!r}, expected {letters}")


def _id(given: Any, question: str, answer: str, tests: tuple[str, ...], *, name: str) -> str:
    if given is None or given == "":
        return f"{name}/{stable_hash(question, answer, *tests):016x}"
    if isinstance(given, bool) or not isinstance(given, (int, str)):
        raise ValueError(f"found id {_kind(given)}, expected a text or a whole number")
    text = str(given).strip()
    if not text or not text.isprintable():
        raise ValueError(f"found id {given!r}, expected printable characters")
    # a bare number counts rows of one file and would meet another file's numbers in a later build
    return f"{name}/{text}" if text.isdigit() else text


def _has_id(row: Mapping[str, Any]) -> bool:
    return row.get("id", row.get("task_id")) not in (None, "")


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"found {field} {_kind(value)}, expected a text")
    _refuse_surrogates(field, value)
    return value


def _texts(row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    values = _texts_of(row.get(field))
    if values is None:
        raise ValueError(f"found {field} {_kind(row.get(field))}, expected a list of texts")
    for value in values:
        _refuse_surrogates(field, value)
    return values


def _texts_of(value: Any) -> tuple[str, ...] | None:
    """A list of texts, () for none, None for anything else. A CSV cell may hold the list as JSON."""
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, (list, tuple)):
        return None
    texts = [str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for v in value]
    good = tuple(text for text in texts if isinstance(text, str) and text.strip())
    return good if len(good) == len(texts) else None


def _refuse_surrogates(field: str, value: str) -> None:
    """Half of a surrogate pair is no character and cannot be stored as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"found a lone surrogate at character {error.start + 1} of {field}, expected text") from None


def _kind(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:60] + '…'}"
