"""An example -> token ids that fit: its failed trial is cut, never a word of what is trained.

An example that is too long loses the oldest text of its failed trial. One that is too long even without its trial is left
out, counted and reported by its id.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from reflectevo_data.completers.chat import chat_ids, chat_text
from reflectevo_data.errors import InputError

from .examples import SFTExample


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

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


def tokenize(example: SFTExample, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None) -> Tokenized | None:
    """An example of `examples` as token ids; None when it does not fit even without its failed trial."""
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


def fit_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, failed_trial: str, room: int | None
) -> FittedPrompt | None:
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


def completion_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, content: str, segments: Sequence[str]
) -> tuple[list[int], list[int]]:
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


def end_of_turn(tokenizer: PreTrainedTokenizerBase, prompt: str, content: str) -> str:
    """What the chat template writes after an assistant's message; the end-of-sequence token where it writes nothing."""
    end_of_sequence = cast(str, tokenizer.eos_token)  # special tokens come through an untyped `__getattr__`
    if not tokenizer.chat_template:
        return end_of_sequence
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": content}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False))
    return text[text.rindex(content) + len(content) :].rstrip() or end_of_sequence


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


def rows_that_fit(rows: Dataset, column: str, max_length: int | None) -> Dataset:
    """The rows whose `column` is not empty; the others, and those with a `cut`, are logged.

    Raises:
        InputError: None is left.
    """
    dropped = [row_id for row_id, content in zip(rows["id"], rows[column], strict=True) if not content]
    if report := length_report(sum(cut > 0 for cut in rows["cut"]), dropped, max_length):
        logger.warning(report)
    if len(dropped) == len(rows):
        raise InputError(f"max_length: no row fits into {max_length} tokens. Raise it.")
    return rows.filter(lambda content: bool(content), input_columns=[column]) if dropped else rows
