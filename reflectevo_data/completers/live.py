"""A completer over a model that is being trained: prompts in, completions out, in this process and thread.

It decodes with the model's own `generate`, in padded batches of what waits, and leaves nothing behind: no random state is
drawn from, no mode or tokenizer setting is changed for longer than a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ..schema import Completion
from .base import ContinuationLogprob, Sampling
from .chat import chat_ids, chat_text, cut_at_stop, decode_after, ends_with_stop


class _Request(NamedTuple):
    ids: list[int]
    sampling: Sampling
    seed: int
    future: asyncio.Future[Completion]


class LiveCompleter:
    """A `Completer` on a loaded model.

    Args:
        model: Causal language model that `generate` works on; unwrapped.
        tokenizer: Its tokenizer, with a padding token.
        name: The name in the records.
        slots: Sequences in one batch.
        as_model: Entered around each batch, for what makes the model another one: an adapter switched off.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        *,
        slots: int = 64,
        as_model: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._lm, self._tokenizer, self._as_model = model, tokenizer, as_model
        self.model, self.slots = name, slots
        self.context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
        self._waiting: list[_Request] = []
        self._worker: asyncio.Task[None] | None = None

    async def complete(
        self, prompt: str, *, sampling: Sampling, seed: int, n: int = 1, prefill: str = ""
    ) -> list[Completion]:
        """As many completions as asked for; see `Completer`."""
        ids = chat_ids(self._tokenizer, chat_text(self._tokenizer, prompt, prefill))
        if len(ids) >= self.context:
            error = f"prompt of {len(ids)} tokens leaves no room in the model's context of {self.context}"
            return [Completion("", "error", error=error)] * n
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(n)]
        self._waiting += [_Request(ids, sampling, seed + i, future) for i, future in enumerate(futures)]
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await asyncio.gather(*futures)

    async def logprob(self, prompt: str, continuation: str, *, prefill: str = "") -> ContinuationLogprob:
        raise NotImplementedError("a model in training solves, reflects and corrects; it does not judge")

    async def _work(self) -> None:
        while self._waiting:
            n_waiting = -1
            while n_waiting != len(self._waiting):  # let every coroutine that can ask do so first
                n_waiting = len(self._waiting)
                await asyncio.sleep(0)
            # prompts of similar length together, so that little is padded
            self._waiting.sort(key=lambda request: len(request.ids))
            batch, self._waiting = self._waiting[-self.slots :], self._waiting[: -self.slots]
            try:
                completions = self._generate(batch)
            except Exception as error:
                for request in batch:
                    request.future.set_exception(error)
                continue
            for request, completion in zip(batch, completions, strict=True):
                if not request.future.done():
                    request.future.set_result(completion)

    @torch.no_grad()
    def _generate(self, batch: Sequence[_Request]) -> list[Completion]:
        width = max(len(request.ids) for request in batch)
        pad = self._tokenizer.pad_token_id
        padded = [[pad] * (width - len(request.ids)) + request.ids for request in batch]
        mask = [[0] * (width - len(request.ids)) + [1] * len(request.ids) for request in batch]
        limits = [min(request.sampling.max_tokens, self.context - len(request.ids)) for request in batch]
        ends = _end_tokens(self._lm, self._tokenizer)
        config = GenerationConfig(
            max_new_tokens=max(limits), do_sample=False, repetition_penalty=1.0, eos_token_id=ends, pad_token_id=pad
        )
        device = self._lm.device
        with self._as_model():
            generated = self._lm.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
                synced_gpus=False,  # each process generates for itself, and as often as it needs to
                logits_processor=LogitsProcessorList([_SeededDraw(batch)]),
                stopping_criteria=StoppingCriteriaList([_RowStops(batch, limits, self._tokenizer, width)]),
            )[:, width:].tolist()
        return [
            self._completion(request, tokens[:limit], ends)
            for request, tokens, limit in zip(batch, generated, limits, strict=True)
        ]

    def _completion(self, request: _Request, tokens: list[int], ends: Sequence[int]) -> Completion:
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        reason = "length" if end is None else "stop"
        tokens = tokens if end is None else tokens[: end + 1]
        text, stopped = cut_at_stop(decode_after(self._tokenizer, request.ids, tokens), request.sampling.stop)
        return Completion(text, "stop" if stopped else reason, len(request.ids), len(tokens))


class _SeededDraw(LogitsProcessor):
    """Leaves one token of each row: drawn with the row's own seed, whatever else is in the batch."""

    def __init__(self, batch: Sequence[_Request]) -> None:
        if any(request.sampling.top_p < 1 for request in batch):
            raise ValueError("top_p is not supported here: sample with a temperature alone")
        self._temperatures = [request.sampling.temperature for request in batch]
        self._sampled = [row for row, temperature in enumerate(self._temperatures) if temperature > 0]
        self._generators = {row: np.random.default_rng(batch[row].seed) for row in self._sampled}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self._sampled:
            return scores
        rows = torch.tensor(self._sampled, device=scores.device)
        temperatures = torch.tensor([self._temperatures[row] for row in self._sampled], device=scores.device)
        uniforms = torch.tensor([self._generators[row].random() for row in self._sampled], device=scores.device)
        cumulated = (scores[rows].float() / temperatures[:, None]).softmax(-1).cumsum(-1)
        # the last entry is one but for rounding
        tokens = torch.searchsorted(cumulated, uniforms[:, None].float() * cumulated[:, -1:], right=True)
        tokens = tokens.clamp(max=scores.shape[-1] - 1)
        scores = scores.clone()
        scores[rows] = torch.full_like(scores[rows], -torch.inf).scatter_(1, tokens, 0.0)
        return scores


class _RowStops(StoppingCriteria):
    """Ends a row at its own limit, or when its text holds a stop string."""

    def __init__(self, batch: Sequence[_Request], limits: Sequence[int], tokenizer: Any, width: int) -> None:
        self._limits = torch.tensor(limits)
        self._checks = [
            ends_with_stop(tokenizer, request.ids, request.sampling.stop) if request.sampling.stop else None
            for request in batch
        ]
        self._width = width

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> Any:
        tokens = input_ids[:, self._width :].tolist()
        stopped = torch.tensor(
            [check is not None and check(row) for check, row in zip(self._checks, tokens, strict=True)]
        )
        return (stopped | (self._limits <= len(tokens[0]))).to(input_ids.device)


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Chat models often end a turn with another token than the one that ends a text."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Whatever happens inside: the model's mode and every random state are afterwards what they were."""
    import random

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
