"""Rows of `dplus` -> padded tensors, tokenized on the way with the model's chat template; no pass over the data before.

    prompt     what inference sends, token for token                          label -100, segment 0
    segment 1  the reflection, or the only segment there is                   label = token
    segment 2  the second trial of a one-stage example, and the end of turn   label = token

An example that is too long loses the oldest text of its failed trial, never a word of what is trained. One that is too
long even without its trial is left out, counted and reported by its id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from reflectevo_data.completers.chat import chat_ids, chat_text
from reflectevo_data.schema import Row, stable_hash

from .settings import Example
from .shared_prompts import tries_of_batch


logger = logging.getLogger(__name__)
IGNORED = -100


class Tokenized(NamedTuple):
    """One example as token ids.

    Attributes:
        input_ids: The prompt, then the completion.
        segment_ids: As long: 0 in the prompt, then 1, 2, … for the segments of the completion.
        trial_tokens_cut: Tokens of the failed trial that were left out to make it fit.
    """

    input_ids: list[int]
    segment_ids: list[int]
    trial_tokens_cut: int = 0

    @property
    def prompt_length(self) -> int:
        return self.segment_ids.count(0)

    @property
    def labels(self) -> list[int]:
        return [token if segment else IGNORED for token, segment in zip(*self[:2], strict=True)]


def tokenize(example: Example, tokenizer: Any, *, max_length: int | None) -> Tokenized | None:
    """An example of `settings` as token ids; None when it does not fit even without its failed trial."""
    prompt = example["prompt"][0]["content"]
    completion, segments = completion_ids(tokenizer, prompt, example["completion"][0]["content"], example["segments"])
    room = None if max_length is None else max_length - len(completion)
    fitted = fit_prompt(tokenizer, prompt, example["failed_trial"], room)
    if fitted is None:
        return None
    ids, n_cut, _ = fitted
    return Tokenized(ids + completion, [0] * len(ids) + segments, n_cut)


class FittedPrompt(NamedTuple):
    """A prompt's token ids, how many tokens of its failed trial were cut, and its text."""

    ids: list[int]
    n_cut: int
    text: str


def fit_prompt(tokenizer: Any, prompt: str, failed_trial: str, room: int | None) -> FittedPrompt | None:
    """The prompt as inference sends it, in at most `room` tokens; None when that cannot be.

    The oldest text of the failed trial goes first: the end, where the answer is, is what the reflection speaks of.
    """
    ids = chat_ids(tokenizer, chat_text(tokenizer, prompt))
    if room is None or len(ids) <= room:
        return FittedPrompt(ids, 0, prompt)
    before, found, after = prompt.rpartition(failed_trial) if failed_trial else ("", "", "")
    if not found:
        return None
    offsets = tokenizer(failed_trial, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    n_cut = len(ids) - room
    # a cut can change how the text around it is tokenized, by a token or two
    while n_cut <= len(offsets):
        start = offsets[n_cut][0] if n_cut < len(offsets) else len(failed_trial)
        shortened = before + failed_trial[start:] + after
        ids = chat_ids(tokenizer, chat_text(tokenizer, shortened))
        if len(ids) <= room:
            return FittedPrompt(ids, n_cut, shortened)
        n_cut += max(1, len(ids) - room)
    return None


def completion_ids(tokenizer: Any, prompt: str, content: str, segments: Sequence[str]) -> tuple[list[int], list[int]]:
    """Token ids of the assistant's message to its end of turn, and the number of the segment that each belongs to.

    They are tokenized apart from the prompt: at inference the prompt's tokens are there before the first of these is
    drawn. A token that spans two segments counts to the second one, as does what separates them.
    """
    encoded = tokenizer(
        content + end_of_turn(tokenizer, prompt, content), add_special_tokens=False, return_offsets_mapping=True
    )
    ends = [0]
    for segment in segments[:-1]:
        ends.append(content.index(segment, ends[-1]) + len(segment))
    numbers = [sum(stop > end for end in ends) for _, stop in encoded["offset_mapping"]]
    return list(encoded["input_ids"]), numbers


def end_of_turn(tokenizer: Any, prompt: str, content: str) -> str:
    """What the chat template writes after an assistant's message; the end-of-sequence token where it writes nothing."""
    if not tokenizer.chat_template:
        return tokenizer.eos_token
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)
    return text[text.rindex(content) + len(content) :].rstrip() or tokenizer.eos_token


@dataclass(slots=True)
class ReflectionCollator:
    """Batches of rows -> padded tensors; used as a trainer's `data_collator`, over the rows as they are.

    Attributes:
        tokenizer: A fast tokenizer with a padding token.
        make_example: A row's example: one of `settings`.
        max_length: Tokens that a sequence may have; None for no limit.
        segment_weights: Loss weight of each segment; None gives every token the same, and no `loss_weights`.
        share_prompts: Give what `shared_prompts.read_prompts_once` takes as well.
        shortened: Rows whose failed trial was cut, with the number of tokens.
        dropped: Rows that did not fit, with their ids. With dataloader workers each worker has its own, and what it
            drops stands in the log alone.

    Example:
        >>> from reflectevo_data.models import miniature_path
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained(miniature_path())
        >>> example = {"id": "q", "prompt": [{"content": "Add 7."}], "completion": [{"content": "a b"}]}
        >>> collate = ReflectionCollator(tokenizer, lambda row: {**example, "segments": ["a", "b"], "failed_trial": ""})
        >>> batch = collate([{}])
        >>> sorted(batch), batch["segment_ids"].max().item()
        (['attention_mask', 'input_ids', 'labels', 'segment_ids'], 2)
    """

    tokenizer: Any
    make_example: Callable[[Row], Example]
    max_length: int | None = None
    segment_weights: Sequence[float] | None = None
    share_prompts: bool = False
    pad_to_multiple_of: int | None = None
    shortened: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """`input_ids, attention_mask, labels, segment_ids` and, with weights, `loss_weights`: each (B, T)."""
        tokenized = [pair for row in rows if (pair := self._tokenized(row)) is not None]
        # every rank has to take its step: a single padding token, with nothing to learn
        questions, sequences = zip(*tokenized or [("", Tokenized([self.tokenizer.pad_token_id], [0]))], strict=True)
        width = max(len(sequence.input_ids) for sequence in sequences)
        if self.pad_to_multiple_of:
            width += -width % self.pad_to_multiple_of
        segment_ids = _padded([sequence.segment_ids for sequence in sequences], width, 0)
        batch = {
            "input_ids": _padded([sequence.input_ids for sequence in sequences], width, self.tokenizer.pad_token_id),
            "attention_mask": _padded([[1] * len(sequence.input_ids) for sequence in sequences], width, 0),
            "labels": _padded([sequence.labels for sequence in sequences], width, IGNORED),
            "segment_ids": segment_ids,
        }
        if self.share_prompts:
            batch |= tries_of_batch(sequences, questions, width, self.max_length)
        if self.segment_weights is not None:
            batch["loss_weights"] = torch.tensor([0.0, *self.segment_weights])[segment_ids]
        return batch

    def _tokenized(self, row: Row) -> tuple[str, Tokenized] | None:
        """The id of a row's question, and the row as tokens; None when it does not fit."""
        example = self.make_example(row)
        sequence = tokenize(example, self.tokenizer, max_length=self.max_length)
        # a question has several rows, and every epoch sees them again
        key = stable_hash(example["id"], *example["segments"])
        if sequence is None:
            if key not in self.dropped:
                logger.warning("%s does not fit into %s tokens and is left out", example["id"], self.max_length)
                self.dropped[key] = example["id"]
            return None
        if sequence.trial_tokens_cut:
            self.shortened[key] = sequence.trial_tokens_cut
        return example["id"], sequence

    def report(self) -> str:
        """One line on what was cut and left out so far; empty when nothing was."""
        return length_report(len(self.shortened), list(self.dropped.values()), self.max_length)


def length_report(n_shortened: int, dropped: Sequence[str], max_length: int | None) -> str:
    """One line on rows that were too long; empty when none was.

    >>> length_report(0, ["q1", "q2"], 512)
    '2 rows do not fit into 512 tokens and are left out: q1, q2. Raise max_length to keep them.'
    """
    parts = []
    if n_shortened:
        parts.append(f"{n_shortened:,} failed trials are cut to fit into {max_length} tokens.")
    if dropped:
        shown = ", ".join(dropped[:20]) + (", …" if len(dropped) > 20 else "")
        parts.append(
            f"{len(dropped):,} rows do not fit into {max_length} tokens and are left out: {shown}. "
            "Raise max_length to keep them."
        )
    return " ".join(parts)


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
