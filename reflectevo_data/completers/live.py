"""A completer over a model that is being trained: prompts in, completions out, in this process and thread.

It leaves nothing behind: no random state is drawn from, nothing on model or tokenizer is changed for longer than a step
of decoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from .chat import Tokenizer
from .decoding import Decoder, Work, end_tokens
from .transformers_engine import LocalCompleter, context_of, tokens_that_fit


class LiveCompleter(LocalCompleter):
    """A `Completer` on a loaded model. Its steps run in the event loop: two on one model take turns.

    Args:
        model: Causal language model that `generate` works on; unwrapped, and in evaluation mode while it is asked.
        tokenizer: Its tokenizer.
        name: The name in the records.
        slots: Sequences decoded at once.
        as_model: Entered around each step, for what makes the model another one: an adapter switched off.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        name: str,
        *,
        slots: int = 64,
        as_model: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__(name, tokenizer, tokenizer, context=context_of(model), slots=slots)
        self._as_model = as_model
        self._decoder = Decoder(
            model,
            end_tokens=end_tokens(model, tokenizer),
            max_rows=slots,
            max_cached_tokens=tokens_that_fit(model),
        )
        self._open: set[Work] = set()
        self._worker: asyncio.Task[None] | None = None

    def _queue(self, works: Sequence[Work]) -> None:
        for work in works:
            self._open.add(work)
            self._decoder.add(work)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        await self._everyone_has_asked()
        while self._decoder.busy:
            try:
                with self._as_model():
                    done = self._decoder.step()
            except Exception as error:
                self._decoder.clear()
                for work in self._open:
                    if not work.payload.done():
                        work.payload.set_exception(error)
                self._open.clear()
            else:
                for work in done:
                    if not work.payload.done():
                        work.payload.set_result(work)
                self._open.difference_update(done)
            await self._everyone_has_asked()

    async def _everyone_has_asked(self) -> None:
        """Lets every coroutine that can ask do so: batches are larger then."""
        n_open = -1
        while n_open != len(self._open):
            n_open = len(self._open)
            await asyncio.sleep(0)


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
