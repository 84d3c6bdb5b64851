r"""Model text -> (reasoning, answer), for each way an answer is written.

The formats asked for are `Action: Finish[…]` (option letter, free text), `Action: Finish<<<…>>>` (math) and
`Action: [BEGIN] … [END]` (code). What models write beside them is read where it says one thing; an answer is never
guessed, and nothing is ever taken by default.

    >>> problem = Problem(id="1", question="Which?\nA. one\nB. two", answer="b", answer_type="choice")
    >>> parse_trial("Thought: B fits. \nAction: \nFinish[b] \nObservation: Answer is CORRECT", problem)
    ParsedTrial(reasoning='Thought: B fits. \nAction: \nFinish[b]', answer='B')
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from ..schema import Problem
from .code_blocks import called_names, find_code, has_code_marks
from .options import options_of, read_option
from .thinking import without_thinking


# An answer longer than this (characters) is none, and the scan for its end stops here.
MAX_ANSWER = 20_000
# Calls, boxes and actions that are looked at, from the last one back: a text of a megabyte may hold nothing else.
_MAX_PLACES = 50

# The patterns begin with a literal, which `re` looks for at memory speed; what has to stand before it is looked at
# afterwards. With the optional parts in front the same scan took 1.3 microseconds a character.
_ACTION = re.compile(r"ction(?<=\b[Aa]ction)[ \t]{0,4}\d{0,3}[ \t]{0,4}[*_`]{0,3}[ \t]{0,4}[:：][ \t]{0,4}[*_`]{0,3}")
_FINISH = re.compile(
    r"inish(?<=\b[Ff]inish)(?:ed)?[*_`]{0,3}(?:\s{0,4}(?P<open>\\?\[|<{1,3}|[({:])|(?P<space>\s{1,4})(?=\S))"
)
_OBSERVATION = re.compile(r"Observation[ \t]{0,4}\d{0,3}[ \t]{0,4}[*_]{0,2}[ \t]{0,4}:")
_QUESTION = re.compile(r"Question[ \t]{0,4}\d{0,3}[ \t]{0,4}[*_]{0,2}[ \t]{0,4}:")
_EXAMPLE = re.compile(r"Example \d")
_LINE_START = re.compile(r"[ \t>*_#`'\"-]{0,8}\Z")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s{0,4}(?:\{|(?P<bare>-?\d+|\\?[A-Za-z]+))")
_BRACKETS = re.compile(r"[\[({\])}]")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)

_STATED = re.compile(
    r"[ \t>*_#-]{0,8}(?:(?:so|thus|therefore|hence),?[ \t]{1,3})?(?:the[ \t]{1,3})?(?:(?:final|correct|right|best)[ \t]{1,3}){0,2}"
    r"answer[*_]{0,3}[ \t]{0,3}(?P<verb>[:：=]|is\b:?)[*_]{0,3}[ \t]{0,3}(?P<answer>\S.*)",
    re.IGNORECASE,
)
# What the prompt shows in the answer's place.
_TEMPLATE = re.compile(
    r"<[^<>]*>|[\W_]*|X|(?:(?:insert|put|write) )?(?:(?:the|your|my|an?|final|correct|right|short|chosen|best) )*"
    r"(?:answer|final result)(?: here)?",
    re.IGNORECASE,
)
_CHOICE_TEMPLATE = re.compile(
    r"(?:(?:the|your|an?|correct|chosen|option|answer|single|capital) )*(?:letter|option|choice|label)"
    r"(?: of (?:(?:the|your|an?|correct|chosen|one) )*(?:option|answer|choice))?",
    re.IGNORECASE,
)
_MATH_TEMPLATE = re.compile(
    r"(?:(?:the|your|an?|final|latex) )*(?:expression|number|result|value|latex)", re.IGNORECASE
)
_END_MARKS = " .!*_`\"'”’"
_OTHER_CALL = re.compile(r"(?:search|lookup|look up)\b", re.IGNORECASE)


class ParsedTrial(NamedTuple):
    """What an attempt says.

    Attributes:
        reasoning: From the attempt's first word to the end of the answer that was taken; all of it, up to a
            hallucinated observation, when no answer was found.
        answer: None when no answer could be read. An option that could be made out is its upper-case letter.
    """

    reasoning: str
    answer: str | None


def parse_trial(text: str | None, problem: Problem) -> ParsedTrial:
    """The reasoning and the answer of one attempt.

    Of several answers the last one counts, calls after `Action:` or at the start of a line before calls within a
    sentence. What follows a hallucinated observation or question is not the model's attempt and is cut; so is a
    reasoning model's hidden block. An answer that means two options at once is unparsed.
    """
    attempt = _AttemptText.read(text)
    if problem.answer_type == "code":
        return _parse_code(attempt, problem)
    for content, end in _answers(attempt, problem):
        answer = _read_answer(content, problem)
        if answer is not _TEMPLATE_ECHOED:
            return ParsedTrial(attempt.text[:end].strip(), answer or None)
    return ParsedTrial(attempt.text.strip(), None)


def has_action(text: str | None, answer_type: str) -> bool:
    """Whether the attempt acts at all, well or badly: if not, it is worth a second call from `Action:`."""
    attempt = _AttemptText.read(text)
    if attempt.actions or attempt.calls:
        return True
    if answer_type == "math":
        return _BOXED.search(attempt.text) is not None
    return answer_type == "code" and has_code_marks(attempt.text)


class _Call(NamedTuple):
    """`Finish` with the start of what it is given; `place` ranks calls after `Action:` (2), in a line of their own (1)."""

    start: int
    opening: str
    content_start: int
    place: int


class _Answer(NamedTuple):
    """What may be the answer, and where it ends in the text."""

    content: str
    end: int


class _AttemptText(NamedTuple):
    """A text up to where the model stops answering, with the `Action:` marks (start, end) and the calls in it."""

    text: str
    actions: list[tuple[int, int]]
    calls: list[_Call]

    @classmethod
    def read(cls, text: str | None) -> _AttemptText:
        text = str(text or "").replace("\x00", "")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = without_thinking(text)
        scanned = text
        for word in ("Action", "Finish", "Observation"):
            scanned = scanned.replace(word.upper(), word)
        actions = [(match.start() - 1, match.end()) for match in _ACTION.finditer(scanned)]
        calls = list(_FINISH.finditer(scanned))
        first_call = next((call.start for call in _calls(scanned, calls, actions)), len(text))
        first = min([start for start, _ in actions[:1]] + [first_call])
        end = _end_of_attempt(scanned, first)
        actions = [action for action in actions if action[0] < end]
        calls = [call for call in calls if call.start() < end][-_MAX_PLACES:]
        return cls(text[:end], actions, list(_calls(scanned, calls, actions)))


def _calls(text: str, matches: list[re.Match[str]], actions: list[tuple[int, int]]) -> Iterator[_Call]:
    for match in matches:
        start = match.start() - 1
        opening = (match["open"] or "").lstrip("\\")
        before = bisect_right(actions, (start, start)) - 1
        if before >= 0 and actions[before][1] <= start and _is_blank(text, actions[before][1], start):
            yield _Call(start, opening, match.end(), 2)
        elif opening == "[" or opening.startswith("<"):
            yield _Call(start, opening, match.end(), 1 if _at_line_start(text, start) else 0)
        # anything else is a sentence: "Finish the count", "finish (as asked)"


def _is_blank(text: str, start: int, stop: int) -> bool:
    return stop - start <= 30 and not text[start:stop].strip(" \t\n>*_`'\"-")


def _end_of_attempt(text: str, first_action: int) -> int:
    """Where the model goes on to play the environment or the next question.

    Before any action, `Observation:` is a word of its reasoning.
    """
    end = len(text)
    for pattern in (_OBSERVATION, _QUESTION, _EXAMPLE):
        for match in pattern.finditer(text, first_action, end):
            if _at_line_start(text, match.start()):
                end = match.start()
                break
    return end


def _at_line_start(text: str, position: int) -> bool:
    line = text.rfind("\n", max(0, position - 9), position) + 1
    return (line > 0 or position < 9) and _LINE_START.fullmatch(text, line, position) is not None


def _answers(attempt: _AttemptText, problem: Problem) -> Iterator[_Answer]:
    """What may be the answer, the best place first."""
    text, answer_type = attempt.text, problem.answer_type
    for call in sorted(attempt.calls, key=lambda call: (call.place > 0, call.start), reverse=True):
        yield _call_content(text, call, attempt.actions)
    if answer_type == "math":
        yield from _last_boxed(text)
    for _, end in attempt.actions[-_MAX_PLACES:][::-1]:
        yield from _bare_action(text, end, answer_type)
    if answer_type == "choice":
        yield from _last_boxed(text)
    yield from _stated_at_the_end(text, problem)


def _call_content(text: str, call: _Call, actions: list[tuple[int, int]]) -> _Answer:
    start = call.content_start
    next_action = bisect_right(actions, (start, start))
    stop = min(len(text), start + MAX_ANSWER, *(action[0] for action in actions[next_action : next_action + 1]))
    if call.opening == "[":
        end, after = _closing_bracket(text, start, stop)
    elif call.opening.startswith("<"):
        end, after = _closing_angles(text, start, stop, len(call.opening))
    else:
        end = after = _line_end(text, start, stop)
        start -= call.opening in ("(", "{")
    return _Answer(text[start:end].removesuffix("\\"), after)


def _line_end(text: str, start: int, stop: int) -> int:
    end = text.find("\n", start, stop)
    return stop if end < 0 else end


def _closing_bracket(text: str, start: int, stop: int) -> tuple[int, int]:
    """End of the content and of the call, for `Finish[` whose content begins at `start`.

    Brackets inside the answer are matched over all kinds, since intervals mix them. Without a match on the line, the
    line's last bracket closes; then a match over a few lines; and at the token limit the line's end.
    """
    line_end = _line_end(text, start, stop)
    if not text[start:line_end].strip():  # `Finish[` and the answer on the next line
        line_end = _line_end(text, min(line_end + 1, stop), stop)
    if (end := _matching_bracket(text, start, line_end)) >= 0:
        return end, end + 1
    if (end := text.rfind("]", start, line_end)) >= 0:
        return end, end + 1
    paragraph_end = text.find("\n\n", line_end, stop)
    if (end := _matching_bracket(text, start, stop if paragraph_end < 0 else paragraph_end)) >= 0:
        return end, end + 1
    return line_end, line_end


def _matching_bracket(text: str, start: int, stop: int) -> int:
    depth = 1
    for match in _BRACKETS.finditer(text, start, stop):
        if match[0] in "[({":
            depth += 1
        elif depth > 1:
            depth -= 1
        elif match[0] == "]":
            return match.start()
    return -1


def _closing_angles(text: str, start: int, stop: int, n_open: int) -> tuple[int, int]:
    """As `_closing_bracket`, for `Finish<<<`: as many `>` as were opened, or fewer at the line's end."""
    paragraph_end = text.find("\n\n", start, stop)
    end = text.find(">" * n_open, start, stop if paragraph_end < 0 else paragraph_end)
    if end >= 0:
        return end, end + n_open
    line_end = _line_end(text, start, stop)
    return start + len(text[start:line_end].rstrip().rstrip(">")), line_end


def _last_boxed(text: str) -> Iterator[_Answer]:
    r"""The last `\boxed{…}`; several that are joined by `and`, `or` or a comma are one answer."""
    contents: list[str] = []
    start = last_end = 0
    for match in list(_BOXED.finditer(text))[-_MAX_PLACES:][::-1]:
        if match["bare"]:
            content, end = match["bare"], match.end()
        else:
            closing = _matching_brace(text, match.end())
            content, end = text[match.end() : closing], min(closing + 1, len(text))
        if contents and not re.fullmatch(r"[\s$.,;]*(?:and|or|,)[\s$.,;]*", text[end:start][:30]):
            break
        contents.insert(0, content)
        start, last_end = match.start(), last_end or end
    if contents:
        yield _Answer(", ".join(contents), last_end)


def _matching_brace(text: str, start: int) -> int:
    depth = 1
    for match in _BRACES.finditer(text, start, start + MAX_ANSWER):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return _line_end(text, start, min(len(text), start + MAX_ANSWER))


_BARE_ACTION = {
    "choice": re.compile(r"\[?\(?[A-Za-z]\)?\]?|(?:[Oo]ption |[Cc]hoice )?\(?[A-Z]\)?[.:)] ?.*"),
    "math": re.compile(r"\$[^$]+\$|\[?[-+]?[\d.,/ ]*\d\]?|-?\\frac.*|\\boxed.*"),
    "text": re.compile(r"\[[^\[\]]+\]"),
}


def _bare_action(text: str, start: int, answer_type: str) -> Iterator[_Answer]:
    """`Action: B`: what stands behind `Action:` without a call, where it can be told from a sentence."""
    while start < len(text) and text[start].isspace():
        start += 1
    end = _line_end(text, start, len(text))
    content = text[start : min(end, start + 300)].strip("*_`\"' .")
    if content and not _OTHER_CALL.match(content) and _BARE_ACTION[answer_type].fullmatch(content):
        yield _Answer(content.removeprefix("[").removesuffix("]") if content[0] == "[" else content, end)


def _stated_at_the_end(text: str, problem: Problem) -> Iterator[_Answer]:
    """`The answer is (B).` as the attempt's last line, and nothing after it."""
    text = text.rstrip()
    start = text.rfind("\n") + 1
    if len(text) - start > 400 or not (match := _STATED.fullmatch(text, start)):
        return
    content = match["answer"]
    if problem.answer_type == "choice" and len(content) > 12:
        said = content.casefold().rstrip(_END_MARKS)
        if not any(said.endswith(option.casefold().rstrip(_END_MARKS)) for option in options_of(problem)):
            return  # "The answer is B, unless …" goes on
    if problem.answer_type == "text" and match["verb"].startswith("is"):
        return  # "The answer is that …" is a sentence
    yield _Answer(content, len(text))


def _parse_code(attempt: _AttemptText, problem: Problem) -> ParsedTrial:
    plain_from = attempt.actions[-1][1] if attempt.actions else 0
    block = find_code(attempt.text, plain_from, called_names(problem.test_list))
    if block is None:
        return ParsedTrial(attempt.text.strip(), None)
    return ParsedTrial(attempt.text[: block.end].strip(), block.code)


_TEMPLATE_ECHOED = "\x00template"  # no answer has it: zero characters are dropped first


def _read_answer(content: str, problem: Problem) -> str:
    """The answer as it is published; empty when it says two things; `_TEMPLATE_ECHOED` for a copy of the prompt."""
    if problem.answer_type == "choice":
        return _read_choice(content, problem)
    if problem.answer_type == "math":
        answer = unwrap_math(content)
        echoed = _TEMPLATE.fullmatch(answer) and answer != "x" and not any(char.isdigit() for char in answer)
        return _TEMPLATE_ECHOED if echoed or _MATH_TEMPLATE.fullmatch(answer) else answer
    answer = " ".join(content.strip("*_` \t\n").split())
    if len(answer) > 1 and answer[0] + answer[-1] in ('""', "''", "“”"):
        answer = answer[1:-1].strip()
    return _TEMPLATE_ECHOED if _TEMPLATE.fullmatch(answer) else answer


def _read_choice(content: str, problem: Problem) -> str:
    options = options_of(problem)
    answer = read_option(content, options)
    if answer is None:
        return ""
    if len(answer) == 1 and answer.isalpha():
        return _TEMPLATE_ECHOED if answer == "X" and len(options) < 24 else answer
    letters = re.findall(r"\b[A-Z]\b", answer)
    lists_all = len(letters) > 1 and len(letters) >= len(options) and not re.search(r"[a-z]{4}", answer)
    if lists_all or _TEMPLATE.fullmatch(answer) or _CHOICE_TEMPLATE.fullmatch(answer):
        return _TEMPLATE_ECHOED
    return answer


def unwrap_math(content: str) -> str:
    r"""Without the dollars, `\( \)`, `\[ \]`, `\boxed{}` and Markdown around the whole of it.

    >>> unwrap_math(r"**$\boxed{\frac34}$**.")
    '\\frac34'
    """
    before = None
    while content != before:
        before = content
        content = content.strip().strip("*`").strip()
        for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
            inner = content[len(opening) : -len(closing)]
            if inner and content.startswith(opening) and content.endswith(closing) and opening not in inner:
                content = inner
        match = _BOXED.match(content)
        if match and not match["bare"] and _matching_brace(content, match.end()) == len(content) - 1:
            content = content[match.end() : -1]
        if content[-1:] == "." and content[-2:-1] not in ("", ".", " ", "\\"):
            content = content[:-1]
    return content
