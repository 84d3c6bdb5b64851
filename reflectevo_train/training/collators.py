"""Rows of the dataset -> padded tensors, tokenized on the way with the model's chat template; no pass over the data before.

prompt     what inference sends, token for token                          label -100, segment 0
segment 1  the reflection, or the only segment there is                   label = token
segment 2  the second trial of a one-stage example, and the end of turn   label = token
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase
from trl.trainer.dpo_trainer import DataCollatorForPreference

from reflectevo_data.schema import DPlusRow, stable_hash

from .examples import SFTExample
from .shared_prompts import tries_of_batch
from .truncation import IGNORED, Tokenized, length_report, tokenize


logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ReflectionCollator:
    """Batches of rows -> padded tensors; used as a trainer's `data_collator`, over the rows as they are.

    Attributes:
        tokenizer: A fast tokenizer with a padding token.
        make_example: A row's example: one of `examples`.
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

    tokenizer: PreTrainedTokenizerBase
    make_example: Callable[[DPlusRow], SFTExample]
    max_length: int | None = None
    segment_weights: Sequence[float] | None = None
    share_prompts: bool = False
    pad_to_multiple_of: int | None = None
    shortened: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)

    def __call__(self, rows: Sequence[DPlusRow]) -> dict[str, torch.Tensor]:
        """`input_ids, attention_mask, labels, segment_ids` and, with weights, `loss_weights`: each (B, T)."""
        tokenized = [pair for row in rows if (pair := self._tokenized(row)) is not None]
        pad = cast(int, self.tokenizer.pad_token_id)  # special tokens come through an untyped `__getattr__`
        # every rank has to take its step: a single padding token, with nothing to learn
        questions, sequences = zip(*tokenized or [("", Tokenized([pad], [0]))], strict=True)
        width = max(len(sequence.input_ids) for sequence in sequences)
        if self.pad_to_multiple_of:
            width += -width % self.pad_to_multiple_of
        segment_ids = _padded([sequence.segment_ids for sequence in sequences], width, 0)
        batch = {
            "input_ids": _padded([sequence.input_ids for sequence in sequences], width, pad),
            "attention_mask": _padded([[1] * len(sequence.input_ids) for sequence in sequences], width, 0),
            "labels": _padded([sequence.labels for sequence in sequences], width, IGNORED),
            "segment_ids": segment_ids,
        }
        if self.share_prompts:
            batch |= tries_of_batch(sequences, questions, width, self.max_length)
        if self.segment_weights is not None:
            batch["loss_weights"] = torch.tensor([0.0, *self.segment_weights])[segment_ids]
        return batch

    def _tokenized(self, row: DPlusRow) -> tuple[str, Tokenized] | None:
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


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


@dataclass
class SharedPromptPreferences(DataCollatorForPreference):
    """TRL's batch, chosen sequences before rejected ones, and what `shared_prompts.read_prompts_once` takes."""

    share_prompts: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = zip(batch["input_ids"].tolist(), batch["completion_mask"].tolist(), lengths, strict=True)
        sequences = [Tokenized(ids[:length], mask[:length]) for ids, mask, length in rows]
        questions = [example["id"] for example in examples] * 2
        return batch | tries_of_batch(sequences, questions, batch["input_ids"].shape[1], self.max_length)
