"""Batched decoding with a transformers model: sequences in, finished sequences out, finished rows leaving as they go.

`generate` does the work, a few tokens a call: between the calls finished rows are taken out of the cache and, when
half the places are free, a new batch starts beside the running one. A beginning that the prompts of a batch share
(few-shot examples) is computed once. A row's random numbers are its own.

The model may be one in training. It is left as it was: whoever wants inference mode, whose tensors would stay in the
model's buffers, enters it around a step.
"""

from __future__ import annotations

import math
import os.path
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, StoppingCriteria
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from ..schema import FinishReason
from .base import Sampling


SHORTEST_SHARED = 48  # tokens: prompts that begin with as many equal ones go into one batch
TOKENS_A_CALL = 32  # more keeps finished rows longer, less pays the overhead of `generate` more often


@dataclass(slots=True, eq=False)
class Decoding:
    """One sequence on its way.

    Attributes:
        prompt: Token ids.
        ends: Says whether the tokens so far end with the completion's end (a stop string).
        tokens: What was generated, an end-of-sequence token included.
        finish_reason: None until done.
        cancelled: Set by whoever no longer wants it.
        payload: The caller's own.
    """

    prompt: list[int]
    sampling: Sampling
    seed: int
    ends: Callable[[list[int]], bool] | None = None
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str = ""
    cancelled: bool = False
    payload: Any = None
    _uniforms: numpy.ndarray | None = None

    def uniform(self) -> float:
        """The random number that draws the next token: it depends on the seed and the token's place alone."""
        if self.finish_reason or not self.sampling.temperature:
            return 0.0
        if self._uniforms is None:
            self._uniforms = numpy.random.default_rng(self.seed).random(self.sampling.max_tokens)
        return float(self._uniforms[len(self.tokens)])

    def append(self, token: int, end_tokens: frozenset[int]) -> None:
        """Takes the next token, unless done, and sees whether it is the last."""
        if self.finish_reason:
            return
        self.tokens.append(token)
        if self.cancelled:
            self.fail("cancelled")
        elif token in end_tokens or (self.ends is not None and self.ends(self.tokens)):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.sampling.max_tokens:
            self.finish_reason = "length"

    def fail(self, error: str) -> None:
        """Ends it without a completion."""
        self.finish_reason, self.error = "error", error

    def restart(self) -> Decoding:
        """Forgets what was generated; the same draws will come to the same tokens."""
        self.tokens = []
        self.finish_reason = None
        return self


@dataclass(slots=True, eq=False)
class Scoring:
    """A continuation whose log-probability is asked for.

    Attributes:
        total: In nats, once it is done.
        cancelled, payload: As those of `Decoding`.
    """

    ids: list[int]
    n_context: int
    total: float = math.nan
    cancelled: bool = False
    payload: Any = None


Work = Decoding | Scoring


def unsupported_cache(model: PreTrainedModel) -> str:
    """Why rows of this model's cache cannot be taken out between calls of `generate`; empty when they can."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "an adapter's columns in it"
    layers = DynamicCache(config=model.config).layers
    strange = {
        type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)
    }
    if strange:
        return ", ".join(sorted(strange))
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not any("past_key_values" in signature(part.forward).parameters for part in parts):
        return "not passed in"
    if any(hasattr(part, "rope_deltas") for part in parts):
        return "row positions outside of it"
    return ""


class _RoomyLayer(DynamicLayer):
    """Keys and values with room for columns to come.

    The library's own layer concatenates, and so copies the whole cache, at every token: with prompts of 1,500 tokens
    that is most of a step on a CPU.
    """

    length = 0
    keys: Any  # tensors (rows, heads, columns, head size) from the first update on
    values: Any

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        end = self.length + key_states.shape[-2]
        if not self.is_initialized or end > self.keys.shape[-2]:
            self.keys = self._with_room(self.keys, key_states, end + 2 * TOKENS_A_CALL)
            self.values = self._with_room(self.values, value_states, end + 2 * TOKENS_A_CALL)
            self.is_initialized = True
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _with_room(self, old: torch.Tensor | None, like: torch.Tensor, n_columns: int) -> torch.Tensor:
        new = like.new_empty(*like.shape[:2], n_columns, like.shape[-1])
        if old is not None:
            new[:, :, : self.length] = old[:, :, : self.length]
        return new

    def get_seq_length(self) -> int:
        return self.length


@dataclass(slots=True)
class _Batch:
    """Rows that began together, with their part of the cache.

    Attributes:
        ids: `(rows, columns)`: what all prompts share, padding, the rest of each prompt, what was generated.
        n_shared: Columns that all prompts share.
    """

    rows: list[Decoding]
    ids: torch.Tensor
    mask: torch.Tensor
    n_shared: int
    cache: Cache | None = None


class Decoder:
    """Decodes and scores many sequences at once on one model (and the adapter that is active when it is called).

    Args:
        model: Causal language model in evaluation mode. One whose cache rows cannot leave is decoded in whole batches.
        end_tokens: Ids that end a sequence; see `end_tokens`.
        max_rows: Sequences decoded at once; halved whenever memory runs out.
        max_cached_tokens: Rows x columns that the caches may have.
    """

    def __init__(
        self, model: PreTrainedModel, *, end_tokens: Sequence[int], max_rows: int, max_cached_tokens: int
    ) -> None:
        self.model = model
        self.end_tokens = frozenset(end_tokens)
        self.max_rows = max_rows
        self.max_cached_tokens = max_cached_tokens
        self.tokens_to_score = 4096 if model.device.type == "cpu" else 16384
        self.waiting: deque[Decoding] = deque()
        self._scoring: list[Scoring] = []
        self._batches: deque[_Batch] = deque()
        self._rows_leave = not unsupported_cache(model)
        layers = DynamicCache(config=model.config).layers if self._rows_leave else []
        # a sliding window counts columns: padding amid a prompt would be in its way
        self._n_plain_layers = len(layers) if all(type(layer) is DynamicLayer for layer in layers) else 0

    @property
    def busy(self) -> bool:
        return bool(self._scoring or self.waiting or self._batches)

    def add(self, work: Work) -> None:
        """Takes work for the steps to come."""
        if isinstance(work, Decoding):
            self.waiting.append(work)
        else:
            self._scoring.append(work)

    def clear(self) -> None:
        """Forgets all work."""
        self.waiting.clear()
        self._scoring.clear()
        self._batches.clear()

    def step(self) -> list[Work]:
        """Scores what waits, goes on by a few tokens with the batch whose turn it is; returns what is done."""
        done: list[Work] = [*self._score()]
        n_active = sum(len(batch.rows) for batch in self._batches)
        if self.waiting and self.max_rows - n_active >= max(1, self.max_rows // 2):
            done += self._start_batch(self.max_rows - n_active)
        if self._batches:
            batch = self._batches.popleft()
            try:
                self._generate(batch)
            except torch.OutOfMemoryError as error:
                return done + self._retreat(batch, error)
            done += [row for row in batch.rows if row.finish_reason]
            if self._drop_finished(batch):
                self._batches.append(batch)
        return done

    def _score(self) -> list[Scoring]:
        scoring, self._scoring = self._scoring, []
        sequences = [(work.ids, work.n_context) for work in scoring]
        totals = continuation_logprobs(self.model, sequences, self.tokens_to_score)
        for work, total in zip(scoring, totals, strict=True):
            work.total = total
        return scoring

    def _start_batch(self, n_places: int) -> list[Decoding]:
        """A batch of what waits longest, as much as fits; returns what can never fit."""
        refused: list[Decoding] = []
        rows: list[Decoding] = []
        widest = 0
        room = self.max_cached_tokens - sum(_expected_tokens(batch.rows) for batch in self._batches)
        while self.waiting and len(rows) < n_places:
            row = self.waiting[0]
            wider = max(widest, len(row.prompt) + row.sampling.max_tokens)
            if not row.cancelled and (len(rows) + 1) * wider > room:
                if rows or self._batches:
                    break
                if len(row.prompt) + TOKENS_A_CALL > room:
                    row.fail(
                        f"a prompt of {len(row.prompt)} tokens needs more memory than there is (room for {room} tokens)"
                    )
            self.waiting.popleft()
            if row.cancelled:
                row.fail("cancelled")
            if row.finish_reason:
                refused.append(row)
            else:
                rows.append(row)
                widest = wider
        self._batches.extendleft(self._batch(group) for group in self._groups(rows))
        return refused

    def _groups(self, rows: list[Decoding]) -> list[list[Decoding]]:
        """Rows whose prompts begin alike, and in one batch all that have few of their kind."""
        by_start: dict[tuple[int, ...], list[Decoding]] = {}
        for row in rows:
            by_start.setdefault(tuple(row.prompt[:SHORTEST_SHARED]), []).append(row)
        large = [group for group in by_start.values() if len(group) * 8 >= len(rows) and len(group) > 1]
        others = [row for group in by_start.values() if not any(group is one for one in large) for row in group]
        return [*large, others] if others else large

    def _batch(self, rows: list[Decoding]) -> _Batch:
        prompts = [row.prompt for row in rows]
        # every prompt keeps a token of its own, whose logits draw the first new one
        n_shared = len(os.path.commonprefix([prompt[:-1] for prompt in prompts]))  # noqa: RUF071 - no paths
        if n_shared < SHORTEST_SHARED or len(rows) == 1 or not self._n_plain_layers:
            n_shared = 0
        ids, mask = left_padded([prompt[n_shared:] for prompt in prompts], self.model.device)
        head = torch.tensor(prompts[0][:n_shared], dtype=ids.dtype, device=ids.device).expand(len(rows), -1)
        return _Batch(rows, torch.cat([head, ids], 1), torch.cat([torch.ones_like(head), mask], 1), n_shared)

    def _new_cache(self, batch: _Batch) -> Cache | None:
        if not self._rows_leave:
            return None  # `generate` makes the model's own
        if not self._n_plain_layers:
            return DynamicCache(config=self.model.config)
        cache = Cache(layers=[_RoomyLayer() for _ in range(self._n_plain_layers)])
        if batch.n_shared:
            # the token that it gives is not in the cache, and of no use
            self._call(batch.ids[:1, : batch.n_shared], batch.mask[:1, : batch.n_shared], cache, 1)
            cache.batch_repeat_interleave(len(batch.rows))
        return cache

    def _generate(self, batch: _Batch) -> None:
        if batch.cache is None:
            batch.cache = self._new_cache(batch)
        batch.ids = self._call(
            batch.ids,
            batch.mask,
            batch.cache,
            TOKENS_A_CALL if self._rows_leave else max(row.sampling.max_tokens for row in batch.rows),
            logits_processor=[_SeededDraw(batch.rows)],
            stopping_criteria=[_RowsDone(batch.rows, self.end_tokens)],
        )
        n_new = batch.ids.shape[1] - batch.mask.shape[1]
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), n_new)], dim=1)

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache | None, n: int, **more: Any) -> torch.Tensor:
        """The ids and up to `n` new ones."""
        with _own_defaults_aside(self.model):
            return self.model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                do_sample=False,  # the processor draws, and leaves nothing to choose
                max_new_tokens=n,
                synced_gpus=False,  # each process of a training generates on its own, as often as it needs to
                **more,
            )

    def _drop_finished(self, batch: _Batch) -> bool:
        """Takes finished rows out; False when none is left."""
        alive = [i for i, row in enumerate(batch.rows) if not row.finish_reason]
        if alive and len(alive) < len(batch.rows):
            assert batch.cache is not None  # a whole batch is done at once
            index = torch.tensor(alive, device=self.model.device)
            batch.cache.batch_select_indices(index)
            batch.ids, batch.mask = batch.ids[index], batch.mask[index]
            batch.rows = [batch.rows[i] for i in alive]
        return bool(alive)

    def _retreat(self, batch: _Batch, error: torch.OutOfMemoryError) -> list[Decoding]:
        """After running out of memory: everything waits again, with half the room; a row that was alone fails."""
        rows = [row for one in (batch, *self._batches) for row in one.rows]
        self._batches.clear()
        del batch
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            rows[0].fail(f"out of memory on a prompt of {len(rows[0].prompt)} tokens: {str(error)[:200]}")
            return rows
        self.max_rows = max(1, len(rows) // 2)
        self.waiting.extendleft(row.restart() for row in reversed(rows))
        return []


@contextmanager
def _own_defaults_aside(model: torch.nn.Module) -> Iterator[None]:
    """A model's own defaults (top_k, penalties, lengths) would come on top of the sampling that was asked for."""
    # a model with adapters and the one inside may each have some
    own: dict[Any, Any] = {m: m.generation_config for m in model.modules() if "generation_config" in vars(m)}
    for module in own:
        module.generation_config = GenerationConfig(pad_token_id=0)
    try:
        yield
    finally:
        for module, config in own.items():
            module.generation_config = config


def _expected_tokens(rows: Sequence[Decoding]) -> int:
    return len(rows) * max(len(row.prompt) + row.sampling.max_tokens for row in rows)


class _SeededDraw(LogitsProcessor):
    """Leaves one token a row: the one that the row's own random number draws."""

    def __init__(self, rows: Sequence[Decoding]) -> None:
        self.rows = rows
        self.temperatures = [row.sampling.temperature for row in rows]
        self.top_ps = [row.sampling.top_p for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        if not any(self.temperatures):
            return scores
        drawn = draw(
            scores,
            temperatures=self.temperatures,
            top_ps=self.top_ps,
            uniforms=[row.uniform() for row in self.rows],
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


class _RowsDone(StoppingCriteria):
    """Hands each row its new token, and says which rows are done."""

    def __init__(self, rows: Sequence[Decoding], end_tokens: frozenset[int]) -> None:
        self.rows = rows
        self.end_tokens = end_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            row.append(token, self.end_tokens)
        done = [row.finish_reason is not None for row in self.rows]
        return torch.tensor(done, device=input_ids.device)  # pyright: ignore[reportReturnType]


def draw(
    logits: torch.Tensor, *, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]
) -> torch.Tensor:
    """One token a row: the likeliest where the temperature is 0, else drawn by inverting the distribution at `uniforms`.

    One uniform number a token, fixed by the row's seed, gives the same token whatever else is in the batch.

    Args:
        logits: `(rows, vocabulary)`.
        temperatures: One a row.
        top_ps: One a row; 1 keeps the whole vocabulary.
        uniforms: One a row, in [0, 1).
    """
    device = logits.device
    temperature = torch.tensor(temperatures, device=device)
    uniform = torch.tensor(uniforms, device=device)
    probabilities = (logits.float() / temperature.clamp(min=1e-4)[:, None]).softmax(-1)
    order = None
    if min(top_ps) < 1:
        probabilities, order = probabilities.sort(-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        nucleus = torch.tensor(top_ps, device=device)[:, None]
        # a row without a limit keeps everything, rounding notwithstanding; the likeliest token always stays
        probabilities = probabilities.masked_fill((before > nucleus) & (nucleus < 1), 0.0)
    total = probabilities.cumsum(-1)
    drawn = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True).clamp(max=logits.shape[-1] - 1)
    if order is not None:
        drawn = order.gather(-1, drawn)
    return torch.where(temperature > 0, drawn[:, 0], logits.argmax(-1))


@torch.no_grad()
def continuation_logprobs(
    model: PreTrainedModel, sequences: Sequence[tuple[list[int], int]], max_tokens: int
) -> list[float]:
    """Log-probability, in nats, of each sequence's tokens after its first `n_context`.

    Args:
        model: Causal language model in evaluation mode.
        sequences: Token ids and `n_context`, which is at least 1.
        max_tokens: Tokens, padding included, in one forward pass; halved when memory runs out.
    """
    totals = [0.0] * len(sequences)
    order = deque(sorted(range(len(sequences)), key=lambda i: len(sequences[i][0])))
    while order:
        batch = [order.popleft()]
        while order and (len(batch) + 1) * len(sequences[order[0]][0]) <= max_tokens:
            batch.append(order.popleft())
        # right-aligned, so that the continuations lie in the last columns of every row
        ids, mask = left_padded([sequences[i][0] for i in batch], model.device)
        n_last = max(len(sequences[i][0]) - sequences[i][1] for i in batch)
        try:
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=n_last + 1,
            ).logits
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            order.extendleft(reversed(batch))
            max_tokens //= 2
            continue
        targets = ids[:, -n_last:]
        logprobs = logits[:, :-1].float().log_softmax(-1).gather(-1, targets[:, :, None])[:, :, 0]
        for row, i in enumerate(batch):
            n = len(sequences[i][0]) - sequences[i][1]
            totals[i] = float(logprobs[row, -n:].sum())
    return totals


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Ids that end a completion: chat models often end a turn with another token than the one that ends a text."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})


def left_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `(rows, columns)`, padded on the left with 0, and their mask."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.tensor([[0] * (width - len(sequence)) + list(sequence) for sequence in sequences], device=device)
    pads = torch.tensor([width - len(sequence) for sequence in sequences], device=device)
    return ids, (torch.arange(width, device=device) >= pads[:, None]).long()
