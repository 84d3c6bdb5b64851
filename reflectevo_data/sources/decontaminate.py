"""Which problems overlap with test questions: word n-grams, as it is usual for training data.

The rule: texts are compared as lower-case words (Unicode NFKC, letters and digits; punctuation and layout do not count).
A problem overlaps when it shares a run of 13 words with a test question, or when the whole texts are equal, which is how
shorter ones are compared. Runs that are in more than 10 test questions are boilerplate (a task's instruction) and do not
count; turns of one story are one question in this.

Test runs are kept as sorted 64-bit hashes, 8 bytes each: 100,000 questions of 100 words take about 80 MB, and seven times that while they are read.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import InputError
from ..schema import Problem


N = 13
MAX_COMMON = 10
_WORDS = re.compile(r"\w+")
_ASCII_SPACES = {i: " " for i in range(128) if not (chr(i).isalnum() or chr(i) == "_")}
_BATCH = 2000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Question(Protocol):
    """What is compared; a `Problem` is one."""

    @property
    def id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def group(self) -> str: ...


class Overlap(NamedTuple):
    """What was found.

    Attributes:
        ids: Problems that overlap, in their order.
        n_problems: Problems looked at.
        n_against: Test questions compared with.
        n: Words in a run.
    """

    ids: list[str]
    n_problems: int
    n_against: int
    n: int = N

    def __str__(self) -> str:
        share = len(self.ids) / max(self.n_problems, 1)
        return (
            f"{len(self.ids):,} of {self.n_problems:,} problems ({share:.1%}) share a run of {self.n} words, or the whole "
            f"text, with one of {self.n_against:,} test questions"
        )


@dataclass(frozen=True, slots=True)
class TestQuestions:
    """Test questions, made ready for comparing.

    Attributes:
        runs: Sorted hashes of the runs that count.
        marks: A bit a leading part of these hashes: nearly every run of a clean text is told by one look at it.
        texts: Sorted hashes of the whole texts.
    """

    runs: np.ndarray
    marks: np.ndarray
    texts: np.ndarray
    n_questions: int
    n: int

    __test__ = False  # its name begins with Test, and pytest would collect it

    @classmethod
    def of(cls, questions: Iterable[Question], *, n: int = N, max_common: int = MAX_COMMON) -> TestQuestions:
        """The index of these questions, read once."""
        groups: dict[str, int] = {}
        runs, owners, texts = [], [], []
        n_questions = 0
        for batch in _batches(questions):
            hashed = _Hashed.of(batch, n)
            numbers = [groups.setdefault(q.group or q.id, len(groups)) for q in batch]
            runs.append(hashed.runs)
            owners.append(np.asarray(numbers, np.int32)[hashed.owners])
            texts.append(hashed.texts)
            n_questions += len(batch)
        if not n_questions:
            none = np.empty(0, np.uint64)
            return cls(none, none, none, 0, n)
        run, owner = np.concatenate(runs), np.concatenate(owners)
        del runs, owners
        kept, counts = np.unique(run, return_counts=True)
        # only a run that is found often can be in many questions: the rest need not be looked at by question
        often = kept[counts > max_common]
        if len(often):
            places = np.flatnonzero(_is_in(run, often))
            pairs = np.unique(np.stack([run[places], owner[places].astype(np.uint64)]), axis=1)
            common, n_owners = np.unique(pairs[0], return_counts=True)
            kept = kept[~_is_in(kept, common[n_owners > max_common])]
        return cls(kept, _marks(kept), np.unique(np.concatenate(texts)), n_questions, n)

    def overlapping(self, questions: Iterable[Question]) -> Iterator[tuple[Question, bool]]:
        """Each question, and whether it overlaps with a test question."""
        for batch in _batches(questions):
            hashed = _Hashed.of(batch, self.n)
            found = _is_in(hashed.texts, self.texts)
            places = np.flatnonzero(_is_marked(hashed.runs, self.marks))
            places = places[_is_in(hashed.runs[places], self.runs)]
            found[hashed.owners[places]] = True
            yield from zip(batch, found.tolist(), strict=True)


def overlap(problems: Iterable[Question], against: Iterable[Question] | TestQuestions, *, n: int = N) -> Overlap:
    """The problems that overlap with test questions, see the head of this module for the rule.

    >>> test = [Problem(id="t", question="What is the capital of Peru?", answer="Lima")]
    >>> overlap([Problem(id="p", question="what is the capital of Peru", answer="Lima")], test).ids
    ['p']
    """
    index = against if isinstance(against, TestQuestions) else TestQuestions.of(against, n=n)
    ids: list[str] = []
    n_problems = 0
    for question, overlaps in index.overlapping(problems):
        n_problems += 1
        if overlaps:
            ids.append(question.id)
    return Overlap(ids, n_problems, index.n_questions, index.n)


def decontaminate(
    problems: Iterable[Problem], against: str, *, split: str = "test", drop: bool = False, n: int = N
) -> tuple[list[Problem], Overlap]:
    """The problems, and their overlap with a file or the test split of a named source; with `drop` without it.

    Raises:
        InputError: `against` cannot be read.
    """
    from .load import load_problems

    problems = list(problems)
    found = overlap(problems, load_problems(against, split=split), n=n)
    if not drop:
        return problems, found
    overlapping = set(found.ids)
    return [problem for problem in problems if problem.id not in overlapping], found


def evaluation_sets(sources: Iterable[str], against: Iterable[str] = ()) -> dict[str, TestQuestions | str]:
    """The evaluation sets that a build reports on: the test split of each named source, then `against`.

    A source whose test split cannot be had (no network, say) comes with the reason instead of an index.

    Raises:
        InputError: One of `against` cannot be read.
    """
    from .load import load_problems, source_names

    sets: dict[str, TestQuestions | str] = {}
    for name in sources:
        if name in source_names() and f"{name}, split test" not in sets:
            try:
                sets[f"{name}, split test"] = TestQuestions.of(load_problems(name, split="test"))
            except InputError as error:
                sets[f"{name}, split test"] = str(error)
    return sets | {Path(name).name: TestQuestions.of(load_problems(name, split="test")) for name in against}


class _Hashed(NamedTuple):
    """Runs of a batch of texts, the place of the text that each is of, and one hash a whole text."""

    runs: np.ndarray
    owners: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, questions: list[Question], n: int) -> _Hashed:
        words = [_words(q.question) for q in questions]
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        texts = np.fromiter((hash(tuple(text)) for text in words), np.int64, len(words)).view(np.uint64)
        hashes = np.fromiter(map(hash, itertools.chain.from_iterable(words)), np.int64, int(lengths.sum()))
        hashes = hashes.view(np.uint64)
        n_runs = max(len(hashes) - n + 1, 0)
        runs = np.zeros(n_runs, np.uint64)
        for i in range(n):  # wraps around at 64 bits
            runs = runs * _MULTIPLIER + hashes[i : i + n_runs]
        runs ^= runs >> np.uint64(29)
        owners = np.repeat(np.arange(len(words)), lengths)
        within = owners[:n_runs] == owners[n - 1 :] if n_runs else np.zeros(0, bool)
        return cls(runs[within], owners[:n_runs][within], texts)


def _words(text: str) -> list[str]:
    if text.isascii():  # the same words, four times as fast
        return text.lower().translate(_ASCII_SPACES).split()
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def _batches(questions: Iterable[Question]) -> Iterator[list[Question]]:
    questions = iter(questions)
    while batch := list(itertools.islice(questions, _BATCH)):
        yield batch


def _marks(runs: np.ndarray) -> np.ndarray:
    """A bitmap of at least eight bits a run, at most 32 MB."""
    n_bits = min(max((8 * len(runs)).bit_length(), 3), 28)
    marked = np.zeros(1 << n_bits, bool)
    marked[runs >> np.uint64(64 - n_bits)] = True
    return np.packbits(marked, bitorder="little")


def _is_marked(runs: np.ndarray, marks: np.ndarray) -> np.ndarray:
    if not len(marks):
        return np.zeros(len(runs), bool)
    places = runs >> np.uint64(64 - (8 * len(marks)).bit_length() + 1)
    return (marks[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)) & np.uint8(1) == 1


def _is_in(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    if not len(among):
        return np.zeros(len(values), bool)
    places = np.searchsorted(among, values)
    places[places == len(among)] = 0
    return among[places] == values
