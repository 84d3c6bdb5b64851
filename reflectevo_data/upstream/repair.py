r"""What the importer mends in stored texts: mojibake, verdicts behind an answer, prompts recorded after the answer.

The upstream prompts were recorded when the trial was over: they hold the answer and "Answer is CORRECT", and a model
trained on them learns to copy. `cut_prompt` takes out what cannot have been in a prompt that was sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import ftfy


# UTF-8 read as another encoding: a lead byte's character before a continuation byte's, in Latin-1 or Windows-1252,
# DOS and Mac. ftfy takes 4 ms a kilobyte of text that is not ASCII: it is given only lines that match.
_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019"
    "\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]|\u0393\u00c7|\u201a\u00c4"
)
# UTF-8 punctuation (E2 80 ..) read as GBK begins with this character, which hardly any Chinese text has. ftfy knows no
# GBK.
_GBK_QUOTE = re.compile("鈥[^\x00-\x7f]+")
_SURROGATE = re.compile("[\ud800-\udfff]")

_VERDICT = r"(?:Observation[ \t]*\d*[ \t]*:?\s*)?\bAnswer is (?:IN)?CORRECT\b\.?"
_OBSERVATION = re.compile(rf"\s*{_VERDICT}")
_ANSWER_IS = re.compile(r"Answer is (?:IN)?CORRECT\b\.?")
_CUE_AT_END = re.compile(r"Observation[ \t]*\d*[ \t]*:?\Z")
_CORRECT = re.compile(r"\s*(?:Observation[ \t]*\d*[ \t]*:?\s*)?\bAnswer is CORRECT\b\.?")
# Where the upstream template shows the attempt so far; its own words mention `(END)` too, within a sentence.
_HISTORY_START = re.compile(r"^\(BEGIN\)[ \t]*$", re.MULTILINE)
_HISTORY_END = re.compile(r"^\(END\)[ \t]*$", re.MULTILINE)
# Shorter texts than this are cut only where they stand at the end of a prompt (characters).
_MIN_TEXT = 20
# A prompt holds a verdict or two; one that holds more is cut in one go.
_MAX_VERDICTS = 8


def repair_text(text: str) -> str:
    """The text with mojibake undone and half surrogates replaced; the same object when there is nothing to repair.

    >>> repair_text("the personâ€™s shoe, a person鈥檚 shoe, 中文, naïve")
    'the person’s shoe, a person’s shoe, 中文, naïve'
    """
    if text.isascii():
        return text
    if _SURROGATE.search(text):
        # a pair written as two escapes is one character; half of one is none
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "鈥" in text:
        text = _GBK_QUOTE.sub(_from_gbk, text)
    if not _MOJIBAKE.search(text):
        return text
    return "".join(_fixed(line) if _MOJIBAKE.search(line) else line for line in text.splitlines(keepends=True))


def cut_verdict(trial: str) -> tuple[str, bool]:
    r"""A trial's text without the `Observation: Answer is …` at its end, and whether there was one.

    >>> cut_verdict("Thought: so.\nAction: Finish[A]\nObservation: Answer is CORRECT")
    ('Thought: so.\nAction: Finish[A]', True)
    """
    text = trial
    while (at := text.rfind("Answer is ")) >= 0:
        found = _ANSWER_IS.match(text, at)
        if found is None or text[found.end() :].strip():
            break
        head = text[:at].rstrip()
        cue = _CUE_AT_END.search(head, max(0, len(head) - 24))
        text = head[: cue.start()].rstrip() if cue else head
    return text, text is not trial


def cut_prompt(prompt: str, *, question: str, later: Sequence[str], before: Sequence[str] = ()) -> tuple[str, bool]:
    r"""A prompt without what was written only after it was sent, and whether there was anything.

    >>> cut_prompt("Examples: …\nSolve: 2+2?\n(BEGIN)\nThought: it is four.\nObservation: Answer is CORRECT\n(END)",
    ...            question="2+2?", later=["Thought: it is four."])
    ('Examples: …\nSolve: 2+2?\n(BEGIN)\n\n(END)', True)

    Args:
        prompt: As it was stored.
        question: What comes before the question's last occurrence (examples) is left as it is.
        later: Texts that did not exist yet: the trial that answers this prompt, the reflection it asks for.
        before: Texts that did: the failed trial in a reflection prompt. What stands in them is not cut.
    """
    at = prompt.rfind(question.strip())
    start = 0 if at < 0 or not question.strip() else at + len(question.strip())
    head, tail = prompt[:start], prompt[start:]
    rest = _without_history(tail)
    for text in later:
        rest = _without(rest, cut_verdict(text)[0].strip(), before)
    rest = _without_verdicts(rest, before)
    return (head + rest, True) if rest != tail else (prompt, False)


def cut_stated_gold(prompt: str, *, question: str, gold: str) -> tuple[str, bool]:
    """A prompt without the lines after the question that state the gold answer as such, and whether there were any."""
    if not gold.strip():
        return prompt, False
    start = prompt.rfind(question.strip()) + len(question.strip())
    stated = re.compile(
        r"^.*\b(?:correct|right|gold|true|reference|ground[- ]truth)\s+(?:answer|solution|option)\s*(?:is\s*:?|:|=)\s*"
        rf"[\s\"'`($\[]*{re.escape(gold.strip())}(?!\w).*(?:\n|\Z)",
        re.IGNORECASE | re.MULTILINE,
    )
    rest = stated.sub("", prompt[start:])
    return (prompt[:start] + rest, True) if rest != prompt[start:] else (prompt, False)


def _without_history(rest: str) -> str:
    begin = max((found.end() for found in _HISTORY_START.finditer(rest)), default=-1)
    end = max((found.start() for found in _HISTORY_END.finditer(rest)), default=-1)
    return f"{rest[:begin]}\n\n{rest[end:]}" if 0 <= begin < end and rest[begin:end].strip() else rest


def _without(rest: str, text: str, before: Sequence[str]) -> str:
    """`rest` without every place where `text` stands, and the verdict behind it."""
    if not text:
        return rest
    if any(text in other or _same(text, other) for other in before):
        return rest  # a second attempt that repeats the first one word by word
    if len(text) < _MIN_TEXT:
        bare = _OBSERVATION.sub("", rest).rstrip() if _OBSERVATION.search(rest) else rest.rstrip()
        return bare[: -len(text)] if bare.endswith(text) else rest
    if text in rest:
        return re.sub(re.escape(text) + rf"(?:\s*{_VERDICT})?", "", rest)
    words = text.split()
    if " ".join(words) not in " ".join(rest.split()):
        return rest
    return re.sub(r"\s+".join(map(re.escape, words)) + rf"(?:\s*{_VERDICT})?", "", rest)


def _without_verdicts(rest: str, before: Sequence[str]) -> str:
    """`rest` without verdicts that were not known yet, and without the attempt in front of one that is still there."""
    if "Answer is " not in rest:
        return rest
    pattern = _CORRECT if before else _OBSERVATION  # that the attempt before was wrong is known
    for _ in range(_MAX_VERDICTS):
        found = pattern.search(rest)
        if found is None:
            return rest
        attempt = rest.rfind("Thought:", 0, found.start())
        attempt = attempt if attempt >= 0 else rest.rfind("Action:", 0, found.start())
        known = attempt < 0 or any(rest[attempt : found.start()].strip() in other for other in before)
        rest = rest[: found.start() if known else attempt] + rest[found.end() :]
    return pattern.sub("", rest)


def _same(one: str, other: str) -> bool:
    return one.split() == cut_verdict(other)[0].split()


def _from_gbk(match: re.Match[str]) -> str:
    """The punctuation that was read as GBK; what is not of this kind stays."""
    run = match.group()
    for end in range(len(run), 1, -1):
        try:
            text = run[:end].encode("gbk").decode("utf-8")
        except UnicodeError:
            continue
        if all(c.isascii() or "\u2010" <= c <= "\u2044" for c in text):
            return text + run[end:]
    return run


@lru_cache(maxsize=4096)
def _fixed(line: str) -> str:
    return ftfy.fix_encoding(line)
