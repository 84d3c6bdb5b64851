"""Sequences that begin alike are trained as one, in which the model reads what they share once.

The reflections on one failed trial have the same prompt but for its last words, and prompts of one source the same
examples before the question. A batch's sequences are laid out as tries in depth-first order,

    tokens     question and failed trial | instruction 1, reflection 1 | instruction 2, reflection 2
    positions  0 …                     n | n + 1 …                     | n + 1 …
    ends       end of all                | end of reflection 1         | end of reflection 2

and a token sees those before it whose subtree it stands in: exactly those of its own sequence. Each sequence keeps the
last token of its prompt, which predicts its completion's first. The model's backbone runs on the tries; its hidden states
are then put where the batch has them, so that a trainer's loss, masks and figures are those of the sequences apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import wraps
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from peft import PeftModel
from torch.utils.data import Sampler
from transformers import PretrainedConfig, PreTrainedModel, Trainer

from reflectevo_data.errors import InputError

from .truncation import Tokenized


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers.modeling_outputs import BaseModelOutput


class Trie(NamedTuple):
    """Sequences in one, without what they share. The first three are as long.

    Attributes:
        ends: For each token the index after the last one that sees it.
        paths: For each sequence where its tokens stand.
    """

    input_ids: list[int]
    position_ids: list[int]
    ends: list[int]
    paths: list[list[int]]


def as_trie(sequences: Sequence[Tokenized]) -> Trie:
    """Sequences laid out as a trie; several, one after the other, where they begin differently.

    >>> from reflectevo_train.training.truncation import Tokenized
    >>> first = Tokenized([5, 6, 7, 8], [0, 0, 0, 1])  # the prompt 5 6 7
    >>> second = Tokenized([5, 6, 9, 8], [0, 0, 0, 1])
    >>> trie = as_trie([first, second])
    >>> trie.input_ids, trie.ends, trie.paths
    ([5, 6, 7, 8, 9, 8], [6, 6, 4, 4, 6, 6], [[0, 1, 2, 3], [0, 1, 4, 5]])
    """
    trie = Trie([], [], [], [[] for _ in sequences])

    def place(members: list[int], start: int) -> None:
        first = sequences[members[0]].input_ids
        stop = len(first) if len(members) == 1 else start + _n_shared([sequences[i] for i in members], start)
        begin, length = len(trie.ends), stop - start
        trie.input_ids.extend(first[start:stop])
        trie.position_ids.extend(range(start, stop))
        trie.ends.extend([0] * length)
        for member in members:
            trie.paths[member].extend(range(begin, begin + length))
        if len(members) > 1:
            branch_out(members, stop)
        trie.ends[begin : begin + length] = [len(trie.ends)] * length

    def branch_out(members: list[int], start: int) -> None:
        at_their_end = [member for member in members if start >= sequences[member].prompt_length - 1]
        for member in at_their_end:
            place([member], start)
        next_token = {member: sequences[member].input_ids[start] for member in members if member not in at_their_end}
        for _, alike in groupby(sorted(next_token, key=next_token.__getitem__), key=next_token.__getitem__):
            place(list(alike), start)

    branch_out(list(range(len(sequences))), 0)
    return trie


def _n_shared(members: list[Tokenized], start: int) -> int:
    """How many tokens from `start` on are the same in all, the last one of each prompt left out."""
    stop = min(member.prompt_length for member in members) - 1
    prompts = [member.input_ids[start:stop] for member in members]
    # what the first and the last of a sorted list share, all share
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False)))


def arrange(sequences: Sequence[Tokenized], questions: Sequence[str], max_length: int | None) -> list[list[int]]:
    """Which sequences of a batch go into one trie.

    Those of one question go together. The largest of these groups says how wide the batch is, and others fill up what is
    left beside smaller ones, so that little is padded and no row is longer than it has to be.

    Args:
        sequences: Those of the batch.
        questions: For each of them the id of its question.
        max_length: Tokens that no trie may exceed, as long as its sequences do not.
    """

    def size(members: list[int]) -> int:
        return len(as_trie([sequences[member] for member in members]).ends)

    def that_fit(members: list[int]) -> Iterator[list[int]]:
        if max_length is None or len(members) == 1 or size(members) <= max_length:
            yield members
        else:
            half = len(members) // 2
            yield from that_fit(members[:half])
            yield from that_fit(members[half:])

    by_question: dict[str, list[int]] = {}
    for member, question in enumerate(questions):
        by_question.setdefault(question, []).append(member)
    groups = [(size(group), group) for members in by_question.values() for group in that_fit(members)]
    groups.sort(key=lambda pair: -pair[0])
    rows: list[list[int]] = []
    room: list[int] = []
    for length, group in groups:  # first fit, the largest first
        row = next((row for row, left in enumerate(room) if left >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(groups[0][0])
        rows[row] += group
        room[row] -= length
    return rows


def tries_of_batch(
    sequences: Sequence[Tokenized], questions: Sequence[str], width: int, max_length: int | None
) -> dict[str, torch.Tensor]:
    """What `read_prompts_once` takes beside a batch of these sequences, which are padded to `width` at their end.

    Returns:
        `trie_input_ids, trie_position_ids, trie_ends`: (tries, tokens), and `trie_index`: (B, T), the place of each of the
        batch's tokens in the flattened tries, 0 for padding.
    """
    rows = arrange(sequences, questions, max_length)
    tries = [as_trie([sequences[member] for member in members]) for members in rows]
    length = max(len(trie.ends) for trie in tries)
    index = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, (members, trie) in enumerate(zip(rows, tries, strict=True)):
        for member, path in zip(members, trie.paths, strict=True):
            index[member, : len(path)] = torch.tensor(path) + row * length
    padded = {
        "trie_input_ids": [trie.input_ids + [0] * (length - len(trie.ends)) for trie in tries],
        "trie_position_ids": [trie.position_ids + [0] * (length - len(trie.ends)) for trie in tries],
        # of a padding token its own index + 1: it sees itself and nothing else sees it
        "trie_ends": [[*trie.ends, *range(len(trie.ends) + 1, length + 1)] for trie in tries],
    }
    return {name: torch.tensor(values) for name, values in padded.items()} | {"trie_index": index}


def read_prompts_once(model: PreTrainedModel | PeftModel, max_length: int | None) -> None:
    """Have a causal language model run on the tries of a batch that has them: its backbone's `forward` takes them.

    Raises:
        InputError: Its attention does not take the mask of tries.
    """
    check_attention(model.config, max_length)
    backbone = cast(PreTrainedModel, (model.get_base_model() if isinstance(model, PeftModel) else model).base_model)
    forward_apart = backbone.forward

    @wraps(forward_apart)
    def forward(*args: Any, trie_index: torch.Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        if trie_index is None:
            return forward_apart(*args, **kwargs)
        tries = {name: kwargs.pop(f"trie_{name}") for name in ("input_ids", "position_ids", "ends")}
        bias = attention_bias(tries.pop("ends"), backbone.dtype)
        output = forward_apart(*args, **kwargs | tries | {"attention_mask": bias})
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[trie_index]
        return output

    backbone.forward = forward


def check_attention(config: PretrainedConfig, max_length: int | None) -> None:
    """Refuses a model whose attention does not take the mask of tries.

    Raises:
        InputError: Says what to change.
    """
    if config._attn_implementation not in ("sdpa", "eager"):
        raise InputError(
            f"share_prompts: attn_implementation {config._attn_implementation} takes no mask of ours, expected sdpa or "
            "eager. Change it or drop share_prompts."
        )
    if hasattr(config, "output_router_logits"):
        raise InputError("share_prompts: a mixture of experts balances the tokens of a batch. Drop share_prompts.")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window and (max_length is None or max_length > window):
        raise InputError(
            f"share_prompts: the model's attention sees {window} tokens back, expected max_length of at most as many, "
            f"found {max_length}. Lower it or drop share_prompts."
        )


def attention_bias(ends: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores: 0 where a token sees another, else the least number.

    Args:
        ends: (B, T).
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


def prepare_sharing(trainer: Trainer, max_length: int | None) -> None:
    """Have a trainer's models, the reference too, read prompts once where its collator shares them."""
    if getattr(trainer.data_collator, "share_prompts", False):
        for model in filter(None, (trainer.model, getattr(trainer, "ref_model", None))):
            # DeepSpeed has wrapped the reference already
            unwrapped = cast(PreTrainedModel | PeftModel, trainer.accelerator.unwrap_model(model))
            read_prompts_once(unwrapped, max_length)


def question_sampler(trainer: Trainer, rows: torch.utils.data.Dataset | None = None) -> QuestionSampler | None:
    """The sampler of a trainer whose collator shares prompts."""
    if not getattr(trainer.data_collator, "share_prompts", False):
        return None
    seed = trainer.args.seed if trainer.args.data_seed is None else trainer.args.data_seed
    ours = cast("Dataset", trainer.train_dataset if rows is None else rows)
    return QuestionSampler(ours["id"], seed)
