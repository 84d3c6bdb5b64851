"""Sequences that begin alike are trained as one, in which the model reads what they share once.

The reflections on one failed trial have the same prompt but for its last words, and prompts of one source the same
examples before the question. A batch's sequences are laid out as tries in depth-first order,

    tokens     question and failed trial | instruction 1, reflection 1 | instruction 2, reflection 2
    positions  0 …                     n | n + 1 …                     | n + 1 …
    ends       end of all                | end of reflection 1         | end of reflection 2

and a token sees those before it whose subtree it stands in: exactly those of its own sequence. Each sequence keeps the
last token of its prompt, which predicts its completion's first. So every logit and the loss are those of the sequences
apart, while the computation is that of the tokens which differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler


if TYPE_CHECKING:
    from .collators import Tokenized


class Trie(NamedTuple):
    """Sequences in one, without what they share. All lists are as long.

    Attributes:
        ends: For each token the index after the last one that sees it.
    """

    input_ids: list[int]
    segment_ids: list[int]
    position_ids: list[int]
    ends: list[int]


def as_trie(sequences: Sequence[Tokenized]) -> Trie:
    """Sequences laid out as a trie; several, one after the other, where they begin differently.

    >>> from reflectevo_train.collators import Tokenized
    >>> first = Tokenized([5, 6, 7, 8], [0, 0, 0, 1])  # the prompt 5 6 7
    >>> second = Tokenized([5, 6, 9, 8], [0, 0, 0, 1])
    >>> as_trie([first, second])
    Trie(input_ids=[5, 6, 7, 8, 9, 8], segment_ids=[0, 0, 0, 1, 0, 1], position_ids=[0, 1, 2, 3, 2, 3], ends=[6, 6, 4, 4, 6, 6])
    """
    trie = Trie([], [], [], [])

    def place(members: list[Tokenized], start: int) -> None:
        first = members[0]
        stop = len(first.input_ids) if len(members) == 1 else start + _n_shared(members, start)
        begin, length = len(trie.ends), stop - start
        trie.input_ids.extend(first.input_ids[start:stop])
        trie.segment_ids.extend(first.segment_ids[start:stop])
        trie.position_ids.extend(range(start, stop))
        trie.ends.extend([0] * length)
        if len(members) > 1:
            branch_out(members, stop)
        trie.ends[begin : begin + length] = [len(trie.ends)] * length

    def branch_out(members: list[Tokenized], start: int) -> None:
        for member in members:
            if start >= member.prompt_length - 1:
                place([member], start)
        going_on = [member for member in members if start < member.prompt_length - 1]
        going_on.sort(key=lambda member: member.input_ids[start])
        for _, alike in groupby(going_on, key=lambda member: member.input_ids[start]):
            place(list(alike), start)

    branch_out(list(sequences), 0)
    return trie


def _n_shared(members: list[Tokenized], start: int) -> int:
    """How many tokens from `start` on are the same in all, the last one of each prompt left out."""
    stop = min(member.prompt_length for member in members) - 1
    prompts = [member.input_ids[start:stop] for member in members]
    # what the first and the last of a sorted list share, all share
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False)))


def in_tries(sequences: Sequence[tuple[str, Tokenized]], max_length: int | None) -> list[Trie]:
    """The sequences of a batch in few tries of about the same size.

    Sequences of one question go together. The largest of these groups says how wide the batch is, and others fill up
    what is left beside smaller ones, so that little is padded and no row is longer than it has to be.

    Args:
        sequences: Each with the id of its question.
        max_length: Tokens that no trie may exceed, as long as its sequences do not.
    """
    by_question: dict[str, list[Tokenized]] = {}
    for question, sequence in sequences:
        by_question.setdefault(question, []).append(sequence)
    groups = [group for members in by_question.values() for group in _that_fit(members, max_length)]
    sized = sorted(((len(as_trie(group).ends), group) for group in groups), key=lambda pair: -pair[0])
    rows: list[list[Tokenized]] = []
    room: list[int] = []
    for size, group in sized:  # first fit, the largest first
        row = next((row for row, left in enumerate(room) if left >= size), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(sized[0][0])
        rows[row] += group
        room[row] -= size
    return [as_trie(members) for members in rows]


def _that_fit(members: list[Tokenized], max_length: int | None) -> Iterator[list[Tokenized]]:
    if max_length is None or len(members) == 1 or len(as_trie(members).ends) <= max_length:
        yield members
    else:
        half = len(members) // 2
        yield from _that_fit(members[:half], max_length)
        yield from _that_fit(members[half:], max_length)


def attention_bias(ends: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores: 0 where a token sees another, else the least number.

    Args:
        ends: (B, T); of a padding token its own index + 1, so that it sees itself and nothing else sees it.
        dtype: That of the scores.

    Returns:
        (B, 1, T, T): query, key.
    """
    index = torch.arange(ends.shape[1], device=ends.device)
    query, key = index[:, None], index[None, :]
    visible = (key <= query) & (query < ends[:, None, None, :])
    bias = torch.zeros(visible.shape, dtype=dtype, device=ends.device)
    return bias.masked_fill_(~visible, torch.finfo(dtype).min)


class QuestionSampler(Sampler[int]):
    """Rows in a random order in which those of one question follow each other; another order in each epoch."""

    def __init__(self, questions: Sequence[str], seed: int) -> None:
        self._rows: dict[str, list[int]] = {}
        for row, question in enumerate(questions):
            self._rows.setdefault(question, []).append(row)
        self._n_rows = len(questions)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch, a resumed one too."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        questions = list(self._rows.values())
        for number in random.permutation(len(questions)):
            yield from random.permutation(questions[number]).tolist()
