"""Lettered options: which ones a problem has, and which one an answer means."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ..schema import Problem


_WRAPPERS = "*_`\"'“”‘’$ \t\n"
_WRAPPED = re.compile(
    r"\\(?:boxed|fbox|text|textbf|mbox|mathrm|mathbf)\s{0,3}\{(?P<in_command>[^{}]*)\}|\\\((?P<in_math>[^()]*)\\\)"
)
_NOUN = r"(?:(?:option|choice|answer|letter)[ \t]{0,3}:?[ \t]{0,3})?"
_LETTER = r"[\[(]?(?P<letter>[A-Za-z])[\])]?"
_LETTER_ALONE = re.compile(rf"{_NOUN}{_LETTER}[.:,;)]*", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    rf"{_NOUN}{_LETTER}(?P<separator>[.:)\]]|[ \t]*[-–—,=][ \t]|\s+\(?)\s*(?P<text>\S.*)", re.IGNORECASE | re.DOTALL
)
_OTHER_LETTER = re.compile(r"\A(?:and|or|&|/|,)?\s*\(?[A-Z]\b\)?(?![.'’]\w)")
OPTION_LINE = re.compile(r"^[ \t]{0,8}\(?(?P<letter>[A-Z])[.):：][ \t]*(?P<text>\S[^\n]*)$", re.MULTILINE)
_INLINE_OPTION = re.compile(r"\((?P<letter>[A-Z])\)[ \t]*(?P<text>[^()\n]+)")


def options_of(problem: Problem) -> tuple[str, ...]:
    """The option texts: the problem's own, or those that its question lists as `A. …` or `(A) …`."""
    return problem.options or options_in(problem.question) or _inline_options(problem.question)


@lru_cache(maxsize=4096)
def options_in(question: str) -> tuple[str, ...]:
    r"""The options listed last in a question, one lettered line each, in the order of their letters.

    >>> options_in("Which one?\nA. red\nC. blue\nB. green")
    ('red', 'green', 'blue')
    """
    found: dict[str, str] = {}
    listed: dict[str, str] = {}
    for line in reversed(list(OPTION_LINE.finditer(question))):
        if line["letter"] in found:
            break  # a list in the passage stands before the one that is asked about
        found[line["letter"]] = line["text"].strip()
        if len(found) > 1 and set(found) == {chr(65 + i) for i in range(len(found))}:
            listed = dict(found)
    return tuple(listed[letter] for letter in sorted(listed))


@lru_cache(maxsize=4096)
def _inline_options(question: str) -> tuple[str, ...]:
    inline = list(_INLINE_OPTION.finditer(question))
    options = tuple(match["text"].strip(" \t,;") for i, match in enumerate(inline) if ord(match["letter"]) == 65 + i)
    return options if len(options) > 1 else ()


def read_option(content: str, options: tuple[str, ...]) -> str | None:
    """The upper-case letter of the option that is meant; the text itself if it is none; None if it may be several.

    >>> read_option("B. no-entailment", ("entailment", "no-entailment"))
    'B'
    >>> read_option("entailment", ("entailment", "no-entailment"))
    'A'
    >>> read_option("B. entailment", ("entailment", "no-entailment")) is None
    True
    >>> read_option("None of the above", ("entailment", "no-entailment"))
    'None of the above'
    """
    content = _unwrapped(content)
    if match := _LETTER_ALONE.fullmatch(content):
        return match["letter"].upper()
    named = _letters_with_text(content, options)
    if named:
        return named[0] if len(named) == 1 else None
    if match := _LETTER_AND_TEXT.fullmatch(content):
        letter, text = match["letter"].upper(), match["text"]
        named = _letters_with_text(text, options) or _letters_with_text(text.rstrip(")"), options)
        if named:  # the letter of one option with the text of another means neither
            return letter if letter in named else None
        by_itself = match["separator"].strip() not in ("", "(", ",", "=") or match["separator"].startswith("\n")
        if by_itself and not _OTHER_LETTER.search(text):
            return letter
    return " ".join(content.split())


def _unwrapped(content: str) -> str:
    content = content.strip(_WRAPPERS).rstrip(_WRAPPERS + ".")
    while match := _WRAPPED.fullmatch(content):
        content = (match["in_command"] or match["in_math"] or "").strip(_WRAPPERS).rstrip(_WRAPPERS + ".")
    return content


def _letters_with_text(content: str, options: tuple[str, ...]) -> list[str]:
    plain = _plain(content)
    return [chr(65 + i) for i, option in enumerate(options) if plain and _plain(option) == plain]


@lru_cache(maxsize=8192)
def _plain(text: str) -> str:
    """Case, white space and the marks around it aside; articles and signs within stay."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(" .,;:!?*_`\"'“”‘’")
