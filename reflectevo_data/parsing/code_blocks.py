"""Where the program stands in a model's text: between `[BEGIN]` and `[END]`, in a Markdown fence, or plain."""

from __future__ import annotations

import builtins
import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple


# Blocks that are looked at, from the last one back: a text of a megabyte may hold nothing else.
_MAX_BLOCKS = 50

_BEGIN = re.compile(r"\[\s{0,3}BEGIN\s{0,3}\]", re.IGNORECASE)
_END = re.compile(r"\[\s{0,3}/?\s{0,3}(?:END|DONE)\s{0,3}\]", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]{0,8}(?:`{3,20}|~{3,20})[ \t]{0,8}(?P<language>[\w+.-]{0,20})[^\n`]*$", re.MULTILINE)
_PYTHON = ("", "python", "python3", "py", "py3")
_DEFINITION = re.compile(
    r"^[ \t]{0,40}(?:async[ \t]+def|def|class)[ \t]+\w|^[ \t]{0,40}\w+[ \t]{0,9}=[ \t]{0,9}lambda\b", re.MULTILINE
)
_FIRST_LINE = re.compile(
    r"^(?:from[ \t]+[\w.]+[ \t]+import\b|import[ \t]+\w|(?:async[ \t]+)?def[ \t]+\w|class[ \t]+\w|@\w)", re.MULTILINE
)
_CODE_LINE = re.compile(
    r"\s|#|@|[)\]}]|(?:from|import|def|async|class|if|elif|else|for|while|try|except|finally|with|return|assert|global"
    r"|del|raise|pass|print)\b|[\w.\[\]'\", ]{1,80}[-+*/%&|^]?=|[\w.]{1,80}\("
)


class CodeBlock(NamedTuple):
    """A program and where its block ends in the text."""

    code: str
    end: int


def find_code(text: str, plain_from: int, wanted: tuple[str, ...]) -> CodeBlock | None:
    """The block to be judged; None when there is none.

    Of several the last one that defines a wanted name, else the last that defines anything, else the last.

    Args:
        text: The attempt, without what follows a hallucinated observation.
        plain_from: Where unmarked code may begin.
        wanted: Names that the tests call.
    """
    for blocks in (_marked(text), _fenced(text), _plain(text, plain_from)):
        found = [block for block in blocks if not _is_placeholder(block.code)][::-1]
        defining = [block for block in found if _DEFINITION.search(block.code)]
        called = [block for block in defining if any(re.search(rf"\b{name}\b", block.code) for name in wanted)]
        if found:
            return (called or defining or found)[0]
    return None


def has_code_marks(text: str) -> bool:
    """Whether the text has a block at all, good or bad."""
    return _BEGIN.search(text) is not None or (_FENCE.search(text) is not None and "def " in text)


@lru_cache(maxsize=1024)
def called_names(test_list: tuple[str, ...]) -> tuple[str, ...]:
    """The names that the tests call, builtins aside.

    >>> called_names(("assert second([3, 1]) == max(0, 1)",))
    ('second',)
    """
    names = (name for test in test_list for name in re.findall(r"\b([A-Za-z_]\w*)[ \t]{0,4}\(", test[:2000]))
    return tuple(dict.fromkeys(name for name in names if not hasattr(builtins, name) and name != "assert"))


def _is_placeholder(code: str) -> bool:
    code = code.strip()
    return code in ("", "X", "...", "…", "code", "your code", "# your code here") or (
        code.startswith("<") and code.endswith(">") and "\n" not in code
    )


def _marked(text: str) -> list[CodeBlock]:
    """`[BEGIN] … [END]`; without its end, up to the next block or the end of the text."""
    begins = list(_BEGIN.finditer(text))[-_MAX_BLOCKS:]
    stops = [*(following.start() for following in begins), len(text)][1:]
    blocks: list[CodeBlock] = []
    for begin, stop in zip(begins, stops, strict=True):
        end = _END.search(text, begin.end(), stop)
        content = text[begin.end() : end.start() if end else stop]
        fenced = [block.code for block in _fenced(content)]
        blocks.append(CodeBlock(_clean("\n\n".join(fenced) if fenced else content), end.end() if end else stop))
    return blocks


def _fenced(text: str) -> list[CodeBlock]:
    """Markdown code blocks in Python or in no stated language; the last may lack its end."""
    blocks: list[CodeBlock] = []
    fences = list(_FENCE.finditer(text))[-2 * _MAX_BLOCKS :]
    while fences:
        opening = fences.pop(0)
        closed = bool(fences) and not fences[0]["language"]
        stop = fences[0].start() if fences else len(text)
        end = fences.pop(0).end() if closed else stop
        if opening["language"].lower() in _PYTHON:
            content = _END.split(_BEGIN.split(text[opening.end() : stop])[-1])[0]
            blocks.append(CodeBlock(_clean(content), end))
    return blocks


def _plain(text: str, start: int) -> list[CodeBlock]:
    """Code without any marks: from its first line to the first that is a sentence."""
    first = _FIRST_LINE.search(text, start)
    if not first:
        return []
    end = first.start()
    for line in _lines(text[first.start() :]):
        if line.strip() and not _CODE_LINE.match(line):
            break
        end += len(line)
    code = text[first.start() : end]
    return [CodeBlock(_clean(code), first.start() + len(code.rstrip()))]


def _lines(text: str) -> Iterator[str]:
    """Lines as Python sees them: `splitlines` would also cut at characters that a string literal may hold."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def _clean(code: str) -> str:
    """Without stray fences and common indentation."""
    code = _FENCE.sub("", code) if "```" in code or "~~~" in code else code
    return textwrap.dedent(code.strip("\n").rstrip()).strip("\n")
