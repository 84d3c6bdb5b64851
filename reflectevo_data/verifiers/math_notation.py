"""How math answers are written: one spelling, plain numbers as exact fractions, decimals as fractions."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache


_MAX_DIGITS = 200

_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "×": r"\times ",
        "⋅": r"\cdot ",
        "·": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "θ": r"\theta ",
        "√": r"\sqrt ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "⩽": r"\le ",
        "≥": r"\ge ",
        "⩾": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "∪": r"\cup ",
        "∈": r"\in ",
        "°": r"^\circ ",
        "²": "^2",
        "³": "^3",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "∅": r"\emptyset ",
        "'": "'",
        "’": "'",
    }
)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|displaystyle|textstyle|limits|middle)(?![A-Za-z])\s*\.?", ""),
        (r"(?<!\\)\\!|\\phantom\{[^{}]*\}|\\strut", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~|\\hspace\{[^{}]*\}", " "),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:mbox|textbf|textit|textrm|mathrm|mathbf|operatorname|hbox)\s*\{", r"\\text{"),
        (r"\\leq?(?:slant)?(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq?(?:slant)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\neq?(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\%", "%"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", r"^\\circ "),
        (r"\\bar\{", r"\\overline{"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d|[A-Za-z])", r"\1{\2}"),
        (r"\\frac\s+\{", r"\\frac{"),
        (r"(\\frac\{[^{}]*\})\s+\{", r"\1{"),
        (r"\\sqrt\s*(\d|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\s+", " "),
    ]
]


@lru_cache(maxsize=4096)
def clean(answer: str) -> str:
    """One spelling for what is spelt in many ways; says the same as before."""
    answer = unicodedata.normalize("NFC", answer).translate(_UNICODE)
    answer = re.sub(r"(?i)\A\s*(?:the )?(?:final )?answer(?: is\b:?|:)", "", answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    while True:
        before = answer
        answer = answer.strip().rstrip(".,;").strip()
        for opening, closing in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
            inner = answer[len(opening) : -len(closing)]
            if answer.startswith(opening) and answer.endswith(closing) and inner and opening not in inner:
                answer = inner
        if answer.endswith("\\"):
            answer = answer[:-1]
        if match := re.fullmatch(r"\\boxed\s*(\{.*\})", answer):
            answer = match[1]
        if answer.startswith("{") and closing_bracket(answer, 0) == len(answer) - 1:
            answer = answer[1:-1]
        if answer == before:
            return answer


_TOKEN = re.compile(r"\\begin\{[^{}]*\}|\\end\{[^{}]*\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text))


def closing_bracket(text: str, start: int) -> int:
    """Where the bracket at `start` is closed, -1 if nowhere; kinds may mix, since intervals mix them."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        token = match[0]
        if token in ("(", "[", "{", r"\{") or token.startswith(r"\begin"):
            depth += 1
        elif token in (")", "]", "}", r"\}") or token.startswith(r"\end"):
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def split_top(text: str, separators: re.Pattern[str]) -> list[str]:
    """The parts between the separators that stand in no bracket and no environment."""
    parts: list[str] = []
    depth = last = position = 0
    while position < len(text):
        if depth == 0 and (match := separators.match(text, position)):
            parts.append(text[last : match.start()])
            last = position = match.end()
            continue
        token = _TOKEN.match(text, position)
        assert token is not None  # the last alternative matches any character
        if token[0] in ("(", "[", "{", r"\{") or token[0].startswith(r"\begin"):
            depth += 1
        elif token[0] in (")", "]", "}", r"\}") or token[0].startswith(r"\end"):
            depth -= 1
        position = token.end()
    return [part.strip() for part in [*parts, text[last:]]]


_DIGITS = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
_PLAIN = rf"(?:{_DIGITS})(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]*)\s*(?:"
    rf"(?P<whole>\d+)?\s*(?<=[\d+\- ])(?P<mixed>\\frac\{{(?P<n>\d+)\}}\{{(?P<d>\d+)\}}|(?<=\d )(?P<n2>\d+)\s*/\s*(?P<d2>\d+))"
    rf"|\\frac\{{(?P<top>[+-]?(?:{_PLAIN}))\}}\{{(?P<bottom>[+-]?(?:{_PLAIN}))\}}"
    rf"|(?P<repeating>\d*\.\d*)\\overline\{{(?P<period>\d+)\}}"
    rf"|(?P<plain>{_PLAIN})(?:\s*/\s*(?P<over>{_PLAIN}))?"
    rf"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{{\s*(?P<power>[+-]?\d+)\s*\}}|(?P<power1>\d))|[eE](?P<power2>[+-]?\d{{1,3}}))?"
    rf")"
)


@lru_cache(maxsize=4096)
def number(text: str) -> Fraction | None:
    r"""The exact value of a plain number; None for everything else.

    >>> [str(number(clean(text))) for text in ("1 000", r"75,\!075", "1 1/2", r"-\frac12", "0.5", r"0.\overline{3}", "1,00")]
    ['1000', '75075', '3/2', '-1/2', '1/2', '1/3', 'None']
    """
    text = text.strip()
    while text.startswith("(") and closing_bracket(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    if len(text) > _MAX_DIGITS or not (match := _NUMBER.fullmatch(text)):
        return None
    sign = -1 if match["sign"].count("-") % 2 else 1
    try:
        if match["mixed"]:
            n, d = int(match["n"] or match["n2"]), int(match["d"] or match["d2"])
            if match["whole"] is None:
                return sign * Fraction(n, d)
            # 2\frac{3}{4} is a mixed number; 2\frac{4}{3} can only be a product
            return sign * (int(match["whole"]) + Fraction(n, d)) if n < d else None
        if match["top"]:
            return sign * _plain(match["top"]) / _plain(match["bottom"])
        if match["repeating"]:
            start, period = match["repeating"], match["period"]
            decimals = len(start.partition(".")[2])
            repeated = Fraction(int(period), (10 ** len(period) - 1) * 10**decimals)
            return sign * (_plain(start + "0") + repeated)
        value = _plain(match["plain"])
        if match["over"]:
            value /= _plain(match["over"])
        power = int(match["power"] or match["power1"] or match["power2"] or 0)
        return sign * value * Fraction(10) ** power if abs(power) <= _MAX_DIGITS else None
    except ZeroDivisionError:
        return None


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip(".") or "0")


@lru_cache(maxsize=4096)
def squeezed(text: str) -> str:
    """For comparing strings: without white space, and without braces around one character."""
    # a space between digits may separate two numbers, 1 1/2 is not 11/2
    text = re.sub(r"(?<=\d) (?=\d)", "\x1f", text)
    text = "".join(text.replace("\x1f", "\x00").split())
    return re.sub(r"(?<=[_^])\{(\w)\}", r"\1", text)


def balanced(text: str) -> bool:
    """Whether every bracket is closed by one of its kind."""
    stack: list[str] = []
    for token in _tokens(text):
        if token in _OPENING:
            stack.append(_OPENING[token])
        elif token in (")", "]", "}", r"\}") and (not stack or stack.pop() != token):
            return False
    return not stack


_DECIMAL = re.compile(r"(?<![\w.])(\d*)\.(\d+)(?!\d)|(?<=[A-Za-z})])(\d+)\.(\d+)")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d,])")
_IN_DEGREES = re.compile(r"(\d+|\\frac\{\d+\}\{\d+\}|\{[^{}]*\}|\([^()]*\))\s*\^\\circ")
_MIXED_INSIDE = re.compile(r"(?<![\d}.^_])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}")


def exact(text: str) -> str:
    r"""The expression with decimals as fractions, so that no comparison rounds.

    >>> exact("0.5x"), exact("1{,}000"), exact(clean("sin 30°"))
    ('{\\frac{05}{10}}x', '1{,}000', 'sin {\\frac{30\\pi}{180}}')
    """
    text = _DECIMAL.sub(_as_fraction, without_thousands_commas(text))
    text = _MIXED_INSIDE.sub(
        lambda m: rf"{{({m[1]}+\frac{{{m[2]}}}{{{m[3]}}})}}" if int(m[2]) < int(m[3]) else m[0], text
    )
    return _IN_DEGREES.sub(r"{\\frac{\1\\pi}{180}}", text).strip()


def without_thousands_commas(text: str) -> str:
    """`1,000x` as `1000x`."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _as_fraction(match: re.Match[str]) -> str:
    whole, decimals = match[1] or match[3] or "", match[2] or match[4]
    return rf"{{\frac{{{whole}{decimals}}}{{1{'0' * len(decimals)}}}}}"
