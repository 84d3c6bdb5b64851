r"""Whether two math answers, as strings, are the same answer: what needs no algebra is decided here, exactly.

`same_answer` reads both sides as numbers, units, tuples, sets, intervals, inequalities, matrices, equations or words,
and compares them part by part. Where two parts are expressions it asks `same_expression`, which the worker process
(`math_process.py`) answers with math-verify. The rules exist because math-verify alone errs on them: it takes a rounded
decimal for the exact value, drops units, number bases and what it cannot read, and equates tuples, sets and intervals.

    >>> same_answer(r"1\frac12", r"\frac{3}{2}"), same_answer("0.3333333", r"\frac13"), same_answer("(1,2)", r"\{1,2\}")
    (True, False, False)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeVar

from .math_notation import (
    balanced,
    clean,
    closing_bracket,
    exact,
    number,
    split_top,
    squeezed,
    without_thousands_commas,
)
from .math_units import split_unit


# Longer answers (characters) are compared as strings alone: the longest of 12,500 golds of MATH has 159.
MAX_LENGTH = 1_000
NOT_EQUAL = "not equal to the gold answer"


class NeedsAlgebra(Exception):
    """Two expressions have to be compared, and no one was given who can."""


class Expressions(NamedTuple):
    """How two expressions, equations or inequalities are compared.

    Attributes:
        equal: Of two LaTeX expressions without units, decimals written as fractions.
        proportional: Of two differences `left - right`: their ratio is a constant, 1 if positive, -1 if negative, else 0.
    """

    equal: Callable[[str, str], bool]
    proportional: Callable[[str, str], int]


def _needs_algebra(*_: str) -> bool:
    raise NeedsAlgebra


NO_ALGEBRA = Expressions(_needs_algebra, _needs_algebra)


def same_answer(given: str, gold: str, question: str = "", expressions: Expressions = NO_ALGEBRA) -> bool:
    r"""Whether `given` states the gold answer, nothing less, more or other.

    Args:
        given: The answer to judge, in LaTeX or plain.
        gold: The answer to be met.
        question: Decides what a bare number means: of percent where the question asks for percent, in base b where it
            asks for base b.
        expressions: Compares what needs algebra.

    Raises:
        NeedsAlgebra: The answer depends on two expressions, and `expressions` was not given.
    """
    if squeezed(given) == squeezed(gold) != "":
        return True
    if max(len(given), len(gold)) > MAX_LENGTH:
        return False
    given, gold = clean(given), clean(gold)
    if not given or not gold:
        return False
    return _Comparison(question.casefold(), expressions).same(given, gold)


_BASE = re.compile(r"(?P<digits>[0-9A-F]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*(?P<base>\w+)\s*\}?\s*\}|(?P<base1>\d))")
_NUMERALS = {
    name: str(i)
    for i, name in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
        ]
    )
}
_FUNCTIONS = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|sqrt|frac|gcd|lcm|max|min|mod|deg|det|pi|inf|oo|abs"
)
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_COMMA = re.compile(r"[,;]|\\text\s*\{\s*(?:,?\s*(?:and|or))\s*\}|\b(?:and|or)\b|\\(?:land|lor|vee|wedge)(?![A-Za-z])")
_CUP = re.compile(r"\\cup(?![A-Za-z])|\\text\s*\{\s*or\s*\}|\bor\b|\\lor(?![A-Za-z])|\bU\b")
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|<|>|=")
_MATRIX = re.compile(
    r"\\begin\{(?P<kind>[pbBvV]?matrix|array)\}(?:\{[^{}]*\})?(?P<body>.*)\\end\{(?P=kind)\}", re.DOTALL
)
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\w|\{\w+\}))?'*(?:\([A-Za-z0-9, ]*\))?|\\text\s*\{[^{}]*\}|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)|[A-Za-z ]{3,}"
)


_Part = TypeVar("_Part")


class _Interval(NamedTuple):
    low: str
    low_open: bool
    high: str
    high_open: bool
    variable: str


class _Comparison(NamedTuple):
    """The comparison of one pair; `question` is in lower case."""

    question: str
    expressions: Expressions

    def same(self, given: str, gold: str) -> bool:
        if squeezed(given) == squeezed(gold):
            return True
        if (given_sets := _intervals(given)) is not None and (gold_sets := _intervals(gold)) is not None:
            if self.same_intervals(given_sets, gold_sets):
                return True
            if not (_is_pair(given) and _is_pair(gold)):
                return False
        if _BASE.fullmatch(given) or _BASE.fullmatch(gold):
            return self.same_based(given, gold)
        if _WORDS_ONLY.fullmatch(gold) or _WORDS_ONLY.fullmatch(given) or _is_text(gold) or _is_text(given):
            return self.same_text(given, gold)
        given_kind, given_parts = _parts(given)
        gold_kind, gold_parts = _parts(gold)
        if given_kind == "scalar" and gold_kind != "scalar" and _assignment(given)[0]:
            return self.same(_assignment(given)[1], gold)
        if gold_kind == "scalar" and given_kind != "scalar" and _assignment(gold)[0]:
            return self.same(given, _assignment(gold)[1])
        if given_kind != "scalar" or gold_kind != "scalar":
            return self.same_collection(given_kind, given_parts, gold_kind, gold_parts, given, gold)
        return self.same_scalar(given, gold)

    def same_text(self, given: str, gold: str) -> bool:
        """Words are compared as words: as symbols they would be products, and commute."""
        given, gold = _words(given), _words(gold)
        return _NUMERALS.get(given, given) == _NUMERALS.get(gold, gold) != ""

    def same_intervals(self, given: list[_Interval], gold: list[_Interval]) -> bool:
        return self.same_unordered(
            given,
            gold,
            lambda a, b: (
                (a.low_open, a.high_open) == (b.low_open, b.high_open)
                and (a.variable == b.variable or not a.variable or not b.variable)
                and self.same_scalar(a.low, b.low)
                and self.same_scalar(a.high, b.high)
            ),
        )

    def same_collection(
        self, given_kind: str, given: list[str], gold_kind: str, gold: list[str], given_text: str, gold_text: str
    ) -> bool:
        kinds = {given_kind, gold_kind}
        if kinds == {"list", "scalar"}:  # `100,200` is a number or two
            if number(given_text) is not None and (two := _two_of_thousands(given_text)):
                return self.same_unordered(two, gold, self.same)
            if number(gold_text) is not None and (two := _two_of_thousands(gold_text)):
                return self.same_unordered(given, two, self.same)
            return False
        if kinds == {"set", "scalar"} and len(given) == len(gold) == 1:
            return self.same(given[0], gold[0])
        if kinds <= {"list", "set"}:
            return self.same_unordered(given, gold, self.same)
        if kinds <= {"tuple", "list"} or kinds <= {"tuple", "column"}:
            return len(given) == len(gold) and all(map(self.same, given, gold))
        if given_kind == gold_kind and given_kind.startswith(("matrix", "column")):
            return len(given) == len(gold) and all(map(self.same, given, gold))
        return False

    def same_unordered(self, given: list[_Part], gold: list[_Part], same: Callable[[_Part, _Part], bool]) -> bool:
        if len(given) != len(gold):
            return False
        left = list(gold)
        for item in given:
            found = next((i for i, other in enumerate(left) if same(item, other)), None)
            if found is None:
                return False
            del left[found]
        return True

    def same_scalar(self, given: str, gold: str) -> bool:
        if squeezed(given) == squeezed(gold):
            return True
        given_parts, gold_parts = _relation(given), _relation(gold)
        if given_parts or gold_parts:
            return self.same_relation(given, given_parts, gold, gold_parts)
        if _BASE.fullmatch(given) or _BASE.fullmatch(gold):
            return self.same_based(given, gold)
        given_core, given_unit = split_unit(given)
        gold_core, gold_unit = split_unit(gold)
        if (given_unit or gold_unit) and given_unit != gold_unit:
            return self.same_quantity(given_core, given_unit, gold_core, gold_unit)
        return self.same_value(given_core, gold_core)

    def same_quantity(self, given: str, given_unit: str, gold: str, gold_unit: str) -> bool:
        """A unit may be left out, since the question names it, but not be another one."""
        if given_unit and gold_unit:
            return {given_unit, gold_unit} == {"unit", ""} and self.same_value(given, gold)
        if "%" not in (given_unit, gold_unit):
            return self.same_value(given, gold)
        asks_for_percent = "percent" in self.question or "%" in self.question
        if (asks_for_percent or gold_unit) and self.same_value(given, gold):
            return True
        of_one = rf"\frac{{{given}}}{{100}}" if given_unit else given
        gold_of_one = rf"\frac{{{gold}}}{{100}}" if gold_unit else gold
        values = [_percent(given) if given_unit else number(given), _percent(gold) if gold_unit else number(gold)]
        if None not in values:
            return values[0] == values[1] and not (asks_for_percent and given_unit == "")
        return self.same_value(of_one, gold_of_one)

    def same_based(self, given: str, gold: str) -> bool:
        """The base belongs to the number; it may be left out where the question asks for that base."""
        matches = [_BASE.fullmatch(given), _BASE.fullmatch(gold)]
        digits = [
            match["digits"] if match else "".join(text.split())
            for match, text in zip(matches, (given, gold), strict=True)
        ]
        bases = [_base(match) if match else None for match in matches]
        if digits[0].lstrip("0") != digits[1].lstrip("0"):
            return False
        if None not in bases:
            return bases[0] == bases[1]
        base = bases[0] or bases[1]
        names = [name for name, value in _NUMERALS.items() if value == base]
        return any(re.search(rf"base[- ${{]*{name}\b", self.question) for name in [str(base), *names])

    def same_relation(self, given: str, given_parts: list[str], gold: str, gold_parts: list[str]) -> bool:
        """`x = 5` is 5; two equations are one if their sides' differences are proportional."""
        given_name, given_value = _assignment(given)
        gold_name, gold_value = _assignment(gold)
        if given_value and gold_value:
            if given_name == gold_name or not given_name or not gold_name:
                return self.same(given_value, gold_value)
            if not (given_parts and gold_parts):
                return False
        if not gold_parts and set(given_parts[1::2]) == {"="}:  # 3 \\cdot 4 = 12
            return all(self.same(side, gold) for side in given_parts[::2])
        if len(given_parts) != 3 or len(gold_parts) != 3:
            return False
        (l1, op1, r1), (l2, op2, r2) = given_parts, gold_parts
        if op1 in (">", r"\ge "):
            l1, op1, r1 = r1, _FLIPPED[op1], l1
        if op2 in (">", r"\ge "):
            l2, op2, r2 = r2, _FLIPPED[op2], l2
        if op1 != op2 or not all((l1, r1, l2, r2)):
            return False
        ratio = self.expressions.proportional(f"({exact(l1)})-({exact(r1)})", f"({exact(l2)})-({exact(r2)})")
        return ratio > 0 or (ratio < 0 and op1 in ("=", r"\ne "))

    def same_value(self, given: str, gold: str) -> bool:
        if squeezed(given) == squeezed(gold):
            return True
        values = number(given), number(gold)
        if None not in values:
            return values[0] == values[1]
        if _is_text(given) or _is_text(gold):
            return self.same_text(given, gold)
        if not balanced(given) or not balanced(gold) or _differ_in_case(given, gold):
            return False
        if self.has_wrong_form(given, gold):
            return False
        return self.expressions.equal(exact(given), exact(gold))

    def has_wrong_form(self, given: str, gold: str) -> bool:
        """Whether the answer gives back what the question says is to be factored or expanded."""
        if _ASKS_TO_FACTOR.search(self.question):
            return _n_terms(given) > 1 == _n_terms(gold)
        if _ASKS_TO_EXPAND.search(self.question):
            return "(" in given and "(" not in gold
        return False


_ASKS_TO_FACTOR = re.compile(
    r"(?:\A|[.!?:]\s+|please )(?:completely |fully )?factor(?:ise|ize)?\b(?! of)(?!s)", re.IGNORECASE
)
_ASKS_TO_EXPAND = re.compile(r"(?:\A|[.!?:]\s+|please )(?:completely |fully )?expand\b", re.IGNORECASE)
_SIGN = re.compile(r"(?<=[\w)}\]])\s*[+-]")


def _n_terms(text: str) -> int:
    return len(split_top(text, _SIGN))


def _differ_in_case(given: str, gold: str) -> bool:
    """Whether the two would be one expression if x were X: math-verify reads letters without case at times."""
    letters = [frozenset(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text)) for text in (given, gold)]
    return letters[0] != letters[1] and {x.lower() for x in letters[0]} == {x.lower() for x in letters[1]}


_FLIPPED = {">": "<", r"\ge ": r"\le "}
_WORDS_ONLY = re.compile(r"\(?\s*\\text\s*\{[^{}]*\}\s*\)?")


def _percent(text: str) -> Fraction | None:
    value = number(text)
    return None if value is None else value / 100


def _base(match: re.Match[str]) -> str:
    base = match["base"] or match["base1"]
    return _NUMERALS.get(base.casefold(), base)


@lru_cache(maxsize=4096)
def _is_text(text: str) -> bool:
    """Whether an answer without its unit is words rather than an expression."""
    core = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", split_unit(text).core)
    core = re.sub(r"\\(?:begin|end)\{[^{}]*\}|\\[A-Za-z]+", " ", core)
    return "=" not in text and any(not _FUNCTIONS.fullmatch(word) and word != "and" for word in _WORDS.findall(core))


@lru_cache(maxsize=4096)
def _words(text: str) -> str:
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"[{}$\\\"'.,;:!?]", " ", text.casefold())
    text = " ".join(text.split())
    match = re.fullmatch(r"\(\s*(\w+)\s*\)", text)
    return match[1] if match else text


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[str, list[str]]:
    """The kind of an answer (`tuple`, `set`, `list`, `matrix…`, `column`, `scalar`) and its parts in order."""
    text = text.strip()
    if match := _MATRIX.fullmatch(text):
        rows = [split_top(row, re.compile("&")) for row in split_top(match["body"], re.compile(r"\\\\|\\cr"))]
        rows = [row for row in rows if row != [""]]
        cells = [cell for row in rows for cell in row]
        determinant = match["kind"] in ("vmatrix", "Vmatrix")
        if not determinant and rows and all(len(row) == 1 for row in rows):
            return "column", cells
        shape = "x".join(str(len(row)) for row in rows)
        return f"matrix{'|' if determinant else ''} {shape}", cells
    for opening in (r"\{", "(", "["):
        if text.startswith(opening) and (end := closing_bracket(text, 0)) >= 0:
            closing = text[end:]
            if closing not in (")", "]", r"\}"):
                continue
            inner = text[len(opening) : end].strip()
            items = list(_expanded(split_top(inner, _COMMA)))
            if opening == r"\{":
                return ("set", items if inner else []) if closing == r"\}" else ("scalar", [text])
            if len(items) > 1 and all(items):
                if opening + closing in ("()", "[]") and not (opening == "[" and len(items) == 2):
                    return "tuple", items
                return "interval", items
    if number(split_unit(text).core) is not None:
        return "scalar", [text]
    items = list(_expanded([item for item in split_top(without_thousands_commas(text), _COMMA) if item]))
    return ("list", items) if len(items) > 1 else ("scalar", [text])


def _expanded(items: list[str]) -> Iterator[str]:
    """Each item, and both readings of one with a plus-minus sign."""
    for item in items:
        if r"\pm" in item or r"\mp" in item:
            for pm, mp in (("+", "-"), ("-", "+")):
                signed = re.sub(r"\\pm(?![A-Za-z])", pm, item)
                signed = re.sub(r"\\mp(?![A-Za-z])", mp, signed)
                yield re.sub(r"(\A|[=({])\s*\+", r"\1", signed).strip()
        else:
            yield item


def _two_of_thousands(text: str) -> list[str]:
    items = text.split(",")
    return items if len(items) > 1 and not any(re.match(r"0\d", item) for item in items) else []


def _is_pair(text: str) -> bool:
    return _parts(text)[0] == "tuple"


@lru_cache(maxsize=4096)
def _relation(text: str) -> list[str]:
    """`[left, sign, right, sign, …]`, empty when there is no relation sign outside brackets."""
    sides = split_top(text, _RELATION)
    if len(sides) < 2:
        return []
    signs: list[str] = []
    position = 0
    for side in sides[:-1]:
        position = text.index(side, position) + len(side)
        match = _RELATION.search(text, position)
        if match is None:
            return []
        signs.append(match[0] if match[0] in "<>=" else match[0].strip() + " ")
        position = match.end()
    return [part for pair in zip(sides, [*signs, ""], strict=True) for part in pair][:-1]


def _assignment(text: str) -> tuple[str, str]:
    """The name and the value of `x = 5` (of `a = b = 5`: a and 5); without a name if it is a value alone."""
    parts = _relation(text)
    if not parts:
        return "", text
    if set(parts[1::2]) == {"="} and _NAME.fullmatch(parts[0]):
        return re.sub(r"\s", "", parts[0]), parts[-1]
    return "", ""


@lru_cache(maxsize=4096)
def _intervals(text: str) -> list[_Interval] | None:
    """The intervals of a union, of inequalities in one variable or of `x ≠ a`; None if it is something else."""
    pieces = split_top(text, _CUP)
    found: list[_Interval] = []
    for piece in pieces:
        intervals = _interval_of_brackets(piece) or _intervals_of_inequality(piece)
        if not intervals:
            return None
        found.extend(intervals)
    return found


def _interval_of_brackets(text: str) -> list[_Interval]:
    variable = ""
    if match := re.fullmatch(r"(?P<variable>[A-Za-z]|\\[a-z]+)\s*\\in(?![A-Za-z])\s*(?P<set>.*)", text, re.DOTALL):
        variable, text = match["variable"], match["set"].strip()
    if not text or text[0] not in "([" or (end := closing_bracket(text, 0)) != len(text) - 1 or text[end] not in ")]":
        return []
    ends = split_top(text[1:-1], re.compile(","))
    if len(ends) != 2 or not all(ends):
        return []
    return [_Interval(_infinity(ends[0]), text[0] == "(", _infinity(ends[1]), text[-1] == ")", variable)]


def _intervals_of_inequality(text: str) -> list[_Interval]:
    if match := re.fullmatch(r"\\\{\s*(?P<v>[A-Za-z])\s*(?:\||\\mid|:)\s*(?P<condition>.*)\\\}", text, re.DOTALL):
        text = match["condition"].strip()
    parts = _relation(text)
    signs = parts[1::2]
    if not parts or "=" in signs or not all(parts):
        return []
    variable = re.compile(r"[A-Za-z]|\\(?:theta|alpha|beta|lambda|phi)")
    if len(parts) == 3:
        left, sign, right = parts
        if variable.fullmatch(right) and not variable.fullmatch(left):
            flipped = {"<": ">", ">": "<", r"\le ": r"\ge ", r"\ge ": r"\le "}
            left, sign, right = right, flipped.get(sign, sign), left
        if not variable.fullmatch(left) or left in right.replace("\\", ""):
            return []
        if sign == r"\ne ":
            return [_Interval(r"-\infty", True, right, True, left), _Interval(right, True, r"\infty", True, left)]
        is_open = sign in "<>"
        if sign in ("<", r"\le "):
            return [_Interval(r"-\infty", True, right, is_open, left)]
        return [_Interval(right, is_open, r"\infty", True, left)]
    if len(parts) == 5 and variable.fullmatch(parts[2]):
        low, sign_1, name, sign_2, high = parts
        if {sign_1, sign_2} <= {">", r"\ge "}:
            low, sign_1, sign_2, high = high, _FLIPPED[sign_2], _FLIPPED[sign_1], low
        if {sign_1, sign_2} <= {"<", r"\le "}:
            return [_Interval(_infinity(low), sign_1 == "<", _infinity(high), sign_2 == "<", name)]
    return []


def _infinity(text: str) -> str:
    return re.sub(
        r"\A\+?\s*(?:\\infty|oo|inf(?:inity)?)\s*\Z",
        r"\\infty",
        re.sub(r"\A-\s*(?:\\infty|oo|inf(?:inity)?)\s*\Z", r"-\\infty", text),
    )
