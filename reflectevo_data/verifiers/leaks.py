"""Whether a reflection states the gold answer: such a one teaches to copy, not to correct.

An answer counts as stated where it is asserted ("the answer is (B)", "should be 12", "choose B"), or, for numbers and
texts, where it stands at all though neither the question nor the failed trial has it. Naming an option while weighing
it is no leak: a reflection has to be able to speak of the options.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from functools import lru_cache

from ..parsing.code_blocks import called_names
from ..parsing.options import options_of, read_option
from ..schema import Problem
from .math_notation import clean, number
from .math_units import split_unit
from .text_metrics import normalize_answer


# Integers up to this one count steps and items in any text; they are a leak only where they are asserted.
_COUNTING = 20
# Shorter texts (characters, normalised) are found in any reflection; they are a leak only where they are asserted.
_MIN_TEXT = 4
_MAX_REFLECTION = 50_000
_MAX_MENTIONS = 200

_HEDGE = (
    r"(?:\s*(?:clearly|actually|indeed|in fact|therefore|thus|hence|then|most likely|likely|probably|simply|just|only"
    r"|definitely|really|of course|instead|the|that|to be|would be|as follows))*"
)
_IS = (
    r"(?:\s*(?:is|was|are|be|being|becomes|equals?|(?:should|must|would|will|can only|has to|ought to|needs to)"
    r"(?:\s+\w+ly)?\s+(?:be|have been|equal|read)|to be|stays|remains|comes (?:out )?to|turns out to be)\b:?|\s*(?:[:=→]|->|=>))"
)
_NOUN = (
    r"(?:answer|option|choice|letter|response|solution|result|value|conclusion|total|sum|product|number|probability"
    r"|output)"
)
_QUALITY = r"(?:correct|right|true|actual|proper|best|final|expected|gold|valid|real|intended)"
_OF = r"(?:\s+(?:of|for|to|here|in|from|on)\b[^.;:\n]{0,60}?)?"
_OPTION = r"\s*(?:(?:option|choice|answer|letter|statement|number)\b)?"
_OPENING = r"[\s*_`\"'“‘(\[$]*\Z"

# What comes right before an answer that is asserted. Searched in its sentence alone: over whole reflections the same
# patterns took 1.3 microseconds a character.
_ASSERTING = [
    rf"\b(?:{_QUALITY}\s+)*{_NOUN}{_OF}{_IS}{_HEDGE}{_OPTION}{_OPENING}",
    rf"\b{_QUALITY}\s+{_NOUN}\s*,?{_OPENING}",
    rf"\b{_QUALITY}\s+(?:ones?)?{_IS}{_HEDGE}{_OPTION}{_OPENING}",
    r"\bfinish(?:ed)?\s*\\?[\[(<{]{1,3}\s*(?:\\boxed\{)?[\s$(\"']*\Z",
    r"\\boxed\s*\{\s*\Z",
    r"\b(?:should|must|ought to|need(?:s|ed)? to|have to|had to|would)\s+(?:\w+ly\s+)?(?:have\s+)?"
    r"(?:be(?:en)?|chosen?|choose|pick(?:ed)?|select(?:ed)?|answer(?:ed)?|g(?:o|one) with|conclude[d]?|give[n]?|get|got"
    rf"|obtain(?:ed)?){_HEDGE}\s*(?:with\b)?{_OPTION}{_OPENING}",
    r"\b(?:change|switch|correct|revise|update|replace)\b[^.;\n]{0,60}?\b(?:to|with|by)"
    rf"{_HEDGE}{_OPTION}{_OPENING}",
]
_ASSERTING_OPTION = [
    *_ASSERTING,
    rf"\b(?:choose|select|pick|go with|answer with|opt for|settle on){_HEDGE}{_OPTION}{_OPENING}",
    rf"\bleav(?:es|ing)\s*(?:us with|only|just|me with)?{_OPTION}{_OPENING}",
]
_ASSERTED = re.compile("|".join(_ASSERTING), re.IGNORECASE)
_OPTION_ASSERTED = re.compile("|".join(_ASSERTING_OPTION), re.IGNORECASE)
_CONCLUDED = re.compile(
    rf"\b(?:therefore|thus|hence|so|consequently)\s*,?\s*(?:it is|it's)?{_OPTION}{_OPENING}", re.IGNORECASE
)
_ONLY = re.compile(rf"\bonly{_OPTION}{_OPENING}", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"[)\]*_`\"'”]*\s*(?:[.!\n]|\Z)")
_HOLDS = re.compile(
    r"[)\]*_`\"']*\s+(?:fits|follows|works|remains|is|matches|satisfies|can|explains|holds|must)\b", re.IGNORECASE
)
_CALLED_CORRECT = re.compile(
    r"[)\]*_`\"'”.:]*\s*(?:is|was|would be|must be|should be|has to be|ought to be|should have been|would have been)"
    rf"{_HEDGE}\s*(?:a\s+)?(?:{_QUALITY}|answer)\b",
    re.IGNORECASE,
)
# A condition, a question or a denial asserts nothing: "check whether B is correct", "do not choose B".
_HYPOTHETICAL = re.compile(
    r"(?:\b(?:whether|if|unless|suppose|supposing|assum\w+|believed?|thought|claimed|imagine|could|never|avoid|without"
    r"|instead of|rather than|before|not)\b|n['’]t\b)[^.;:!?\n]{0,25}\Z",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(r"[.!?;]\s|(?<![:\s])\s*\n")
_GOES_ON = re.compile(r"\s+(?:longer|more|one|matter)\b", re.IGNORECASE)


def leaks_answer(reflection: str, problem: Problem, trial: str) -> bool:
    r"""Whether the reflection on this failed trial states the problem's gold answer.

    >>> problem = Problem(id="1", question="Which?\nA. one\nB. two", answer="b", answer_type="choice")
    >>> leaks_answer("Option B deserves a second look.", problem, ""), leaks_answer("The answer is (B).", problem, "")
    (False, True)
    """
    reflection = reflection[:_MAX_REFLECTION]
    if problem.answer_type == "choice":
        return _states_option(reflection, problem)
    if problem.answer_type == "code":
        return _states_code(reflection, problem, trial)
    if problem.answer_type == "math":
        return _states_expression(reflection, problem, trial)
    return any(
        _states_text(reflection, gold, problem.question, trial) for gold in (problem.answer, *problem.answers) if gold
    )


def _sentence_before(text: str, position: int) -> str:
    """What stands in the same sentence before the position, its last 200 characters at most."""
    before = text[max(0, position - 200) : position]
    start = 0
    for match in _SENTENCE_START.finditer(before):
        start = match.end()
    return before[start:]


def _asserts(text: str, position: int, asserted: re.Pattern[str] = _ASSERTED) -> bool:
    """Whether the text asserts what stands at the position."""
    sentence = _sentence_before(text, position)
    match = asserted.search(sentence)
    return match is not None and not _HYPOTHETICAL.search(sentence[: match.start()])


def _states_option(reflection: str, problem: Problem) -> bool:
    options = options_of(problem)
    letter = read_option(problem.answer, options)
    if letter is None or len(letter) != 1:
        return False
    index = ord(letter) - 65
    mention = _mention(letter, options[index] if index < len(options) else "")
    for match in itertools.islice(mention.finditer(reflection), _MAX_MENTIONS):
        start, end = match.span()
        if match["text"] and _GOES_ON.match(reflection, end):
            continue
        if _asserts(reflection, start, _OPTION_ASSERTED):
            return True
        if _SENTENCE_ENDS.match(reflection, end) and _asserts(reflection, start, _CONCLUDED):
            return True
        if _HOLDS.match(reflection, end) and _asserts(reflection, start, _ONLY):
            return True
        said_of_it = match["letter"] or len(match[0]) > 8
        if said_of_it and _CALLED_CORRECT.match(reflection, end):
            return not _HYPOTHETICAL.search(_sentence_before(reflection, start))
    return False


@lru_cache(maxsize=1024)
def _mention(letter: str, text: str) -> re.Pattern[str]:
    """The option where it is named: by its letter, with or without its text, or by its text."""
    words = _flexible(text)
    # case matters for a letter alone: `a` is an article; in brackets it is a letter
    alone = rf"(?<![\w'’])(?:{letter}|(?<=[(\[]){letter.lower()}(?=[)\]]))(?![\w'’]|\s*[-/]\s*\w)"
    if not words:
        return re.compile(f"(?P<letter>{alone})(?P<text>(?!))?")
    return re.compile(rf"(?P<letter>{alone})(?:[.):\]]*\s*(?i:{words})(?!\w))?|(?P<text>(?<!\w)(?i:{words})(?!\w))")


def _flexible(text: str) -> str:
    """A pattern for the text, whatever its white space and final mark."""
    words = text.strip(" .,;:!?\"'").split()[:60]
    return r"\s+".join(re.escape(word) for word in words)


def _states_text(reflection: str, gold: str, question: str, trial: str) -> bool:
    mentions = _text_mention(gold).finditer(reflection) if gold.strip() else iter(())
    for match in itertools.islice(mentions, _MAX_MENTIONS):
        if not _GOES_ON.match(reflection, match.end()) and _asserts(reflection, match.start()):
            return True
    wanted = normalize_answer(gold)
    if len(wanted) < _MIN_TEXT:
        return False
    return _has(wanted, reflection) and not _has(wanted, question) and not _has(wanted, trial)


@lru_cache(maxsize=1024)
def _text_mention(gold: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){_flexible(gold) or '(?!)'}(?!\w)", re.IGNORECASE)


_CALL_BRACKETS = re.compile(r"[\[\](){}<>]")


def _has(wanted: str, text: str) -> bool:
    return f" {wanted} " in f" {normalize_answer(_CALL_BRACKETS.sub(' ', text))} "


_LIST_MARK = re.compile(
    r"^[ \t>*#-]*\(?\d{1,2}[.):](?=\s)|\b(?:steps?|points?|lines?|parts?|items?)\s+\d+(?:\s*(?:-|to|and|,)\s*\d+)*",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBERS = re.compile(
    r"(?<![\w.)}])-?\\[dt]?frac\s*(?:\{-?[\d.]+\}|\d)\s*(?:\{-?[\d.]+\}|\d)"
    r"|(?:(?<![\w.)}\]])-)?(?<![\w.])\d{1,3}(?:(?:,|\{,\}|\\,|\\!,|,\\!)\d{3})+(?:\.\d+)?(?!\w)"
    r"|(?:(?<![\w.)}\]])-)?(?<![\w.])(?:\d{1,60}(?:\.\d+)?|\.\d+)(?:\s?/\s?\d{1,60})?(?![\w]|\.\d)"
)
_COMPUTED = re.compile(
    r"(?:=|\bequals?|\b(?:gives?|yields?|gets?|got|obtain(?:s|ed)?|is|be|makes?)\b)[\s*_`\"'“‘(\[$]*\Z", re.IGNORECASE
)


def _states_expression(reflection: str, problem: Problem, trial: str) -> bool:
    gold = split_unit(clean(problem.answer)).core
    value = number(gold)
    if value is None:
        mentions = itertools.islice(_text_mention(problem.answer).finditer(reflection), _MAX_MENTIONS)
        if any(_asserts(reflection, match.start()) for match in mentions):
            return True
        wanted = _squeezed(gold)
        return (
            len(wanted) > 2
            and _holds(wanted, reflection)
            and not _holds(wanted, problem.question)
            and not _holds(wanted, trial)
        )
    text = _LIST_MARK.sub(" ", reflection)
    found = [match.start() for match in _NUMBERS.finditer(text) if _value(match[0]) == value][:_MAX_MENTIONS]
    if not found:
        return False
    if any(_asserts(text, start) for start in found):
        return True
    if value in _values(problem.question) or value in _values(trial):
        return False
    if value.denominator > 1 or abs(value) > _COUNTING:
        return True
    return any(_asserts(text, start, _COMPUTED) for start in found)


def _value(text: str) -> Fraction | None:
    return number(clean(text))


def _values(text: str) -> set[Fraction | None]:
    return {_value(match[0]) for match in _NUMBERS.finditer(text)}


def _squeezed(text: str) -> str:
    """Without white space, but for a mark between words and around formulas."""
    return "".join(re.sub(r"(?<=[a-z]{2})\s|\$|\.\s", "\x1f", clean(text)).split(" "))


def _holds(wanted: str, text: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(wanted)}(?![\w])", _squeezed(text)) is not None


def _states_code(reflection: str, problem: Problem, trial: str) -> bool:
    """The reference solution's body, or a whole function of the required name that is not the failed trial's."""
    text, tried = "".join(reflection.split()), "".join(trial.split())
    body = "".join(problem.answer.split())
    if "):" in body:
        body = body.partition("):")[2]
    if len(body) >= 20 and body in text and body not in tried:
        return True
    for name in called_names(problem.test_list):
        pattern = rf"\bdef\s+{name}\s*\([^\n]*\)[^\n:]*:[ \t]*(?:[^\s#.][^\n]*|(?:\n[ \t]*(?:[^\n]*))+)"
        for match in re.finditer(pattern, reflection):
            function = "".join(_indented_block(reflection[match.start() :]).split())
            if "return" in function and function not in tried:
                return True
    return False


def _indented_block(text: str) -> str:
    """The first line and the lines after it that are indented or empty."""
    lines = text.split("\n")
    block = [lines[0]]
    for line in lines[1:]:
        if line.strip() and not line[0].isspace():
            break
        block.append(line)
    return "\n".join(block)
