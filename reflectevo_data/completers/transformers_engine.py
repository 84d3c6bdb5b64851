"""The embedded engine: a transformers model in this process, on CPU or GPU, with LoRA adapters.

Coroutines queue requests; one thread decodes them in batches that rows join and leave (`decoding.py`). What
`LocalCompleter` does with text is also done for a model in training (`live.py`), which has no thread of its own.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, one_line
from ..schema import Completion
from .base import CompletionFailed, ContinuationLogprob, Sampling, failed
from .chat import Tokenizer, chat_ids, chat_text, continuation_ids, cut_at_stop, decode_after, ends_with_stop
from .decoding import Decoder, Decoding, Scoring, Work, end_tokens, unsupported_cache
from .locate import LocatedModel, published_name


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LocalCompleter(ABC):
    """A completer on a model in this process: text becomes token ids, and tokens become text.

    Args:
        model: The name in the records.
        tokenizer: The model's.
        thread_tokenizer: The same one, or its copy for the thread that decodes.
        context: Tokens that prompt and completion may have together.
        slots: Sequences decoded at once.
    """

    def __init__(
        self, model: str, tokenizer: Tokenizer, thread_tokenizer: Tokenizer, *, context: int, slots: int
    ) -> None:
        self.model, self.tokenizer, self.context, self.slots = model, tokenizer, context, slots
        self._thread_tokenizer = thread_tokenizer

    @abstractmethod
    def _queue(self, works: Sequence[Work]) -> None:
        """Has works done; each one's `payload` is the future that gets it when it is."""

    async def complete(
        self, prompt: str, *, sampling: Sampling, seed: int, n: int = 1, prefill: str = ""
    ) -> list[Completion]:
        """N completions; see `Completer`."""
        ids = chat_ids(self.tokenizer, chat_text(self.tokenizer, prompt, prefill))
        if len(ids) >= self.context:
            return failed(n, f"prompt of {len(ids)} tokens leaves no room in the model's context of {self.context}")
        limited = replace(sampling, max_tokens=min(sampling.max_tokens, self.context - len(ids)))
        # greedy samples are all the same one
        n_different = n if sampling.temperature else 1
        sequences = [Decoding(ids, limited, seed + i, self._ends(ids, sampling.stop)) for i in range(n_different)]
        await self._done(sequences)
        completions = [self._completion(sequence) for sequence in sequences]
        return completions if n_different == n else completions * n

    def _ends(self, ids: list[int], stop: Sequence[str]) -> Callable[[list[int]], bool] | None:
        return ends_with_stop(self._thread_tokenizer, ids, stop) if stop else None

    def _completion(self, sequence: Decoding) -> Completion:
        if sequence.finish_reason == "error":
            return failed(1, sequence.error)[0]
        text = decode_after(self.tokenizer, sequence.prompt, sequence.tokens)
        text, stopped = cut_at_stop(text, sequence.sampling.stop)
        reason = "stop" if stopped else sequence.finish_reason or "stop"
        return Completion(text, reason, len(sequence.prompt), len(sequence.tokens))

    async def logprob(self, prompt: str, continuation: str, *, prefill: str = "") -> ContinuationLogprob:
        """Log-probability of a continuation; see `Completer`."""
        ids, n_context = continuation_ids(self.tokenizer, chat_text(self.tokenizer, prompt, prefill), continuation)
        if len(ids) > self.context:
            raise CompletionFailed(f"{len(ids)} tokens do not fit in the model's context of {self.context}")
        if n_context == 0:
            raise CompletionFailed("an empty context gives a continuation no probability")
        scoring = Scoring(ids, n_context)
        await self._done([scoring])
        return ContinuationLogprob(scoring.total, len(ids) - n_context)

    async def _done(self, works: Sequence[Work]) -> None:
        """Waits for works; whoever stops waiting takes them off the model."""
        loop = asyncio.get_running_loop()
        for work in works:
            work.payload = loop.create_future()
        self._queue(works)
        try:
            await asyncio.gather(*(work.payload for work in works))
        except asyncio.CancelledError:
            for work in works:
                work.cancelled = True
            raise


class TransformersEngine:
    """A loaded model and the thread that runs it. Close it; a bug in the thread is raised in every waiting coroutine.

    Args:
        base: Folder or Hub id.
        adapters: Folders or Hub ids of LoRA adapters on it.
        slots: Sequences decoded at once; by default 128 on a CPU and 256 on a GPU.
        max_memory: Bytes for batches; by default 70 % of a GPU's free memory, or an eighth of the machine's.

    Raises:
        InputError: The model cannot be had, or is of a kind that this engine does not run.
    """

    def __init__(
        self, base: str, adapters: Sequence[str] = (), *, slots: int | None = None, max_memory: int | None = None
    ) -> None:
        self.tokenizer, self.model = _load(base, adapters)
        # a tokenizer must not be used by two threads: it changes its own state while encoding
        self.thread_tokenizer = copy.deepcopy(self.tokenizer)
        self.context = context_of(self.model)
        self.slots = slots or (128 if self.model.device.type == "cpu" else 256)
        room = tokens_that_fit(self.model, max_memory) // (len(adapters) + 1)
        ends = end_tokens(self.model, self.tokenizer)
        self._lanes = {
            adapter: Decoder(self.model, end_tokens=ends, max_rows=self.slots, max_cached_tokens=max(room, 1))
            for adapter in ("", *adapters)
        }
        self._active_adapter: str | None = None
        self._wake = threading.Condition()
        self._incoming: list[tuple[str, Work]] = []
        self._stopping = False
        self._crash: BaseException | None = None
        self._open: dict[int, asyncio.Future] = {}
        self._thread = threading.Thread(target=self._run, name="transformers-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the step it is in; requests still waiting are cancelled."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def queue(self, adapter: str, works: Sequence[Work]) -> None:
        """Has works done with an adapter, or none; each one's `payload` is the future that gets it when it is."""
        with self._wake:
            if self._crash is not None:
                raise RuntimeError("the transformers engine has crashed") from self._crash
            if self._stopping:
                raise RuntimeError("the transformers engine is closed")
            for work in works:
                self._open[id(work)] = work.payload
                self._incoming.append((adapter, work))
            self._wake.notify()

    def _run(self) -> None:
        try:
            while self._take():
                for adapter, lane in self._lanes.items():
                    if lane.busy:
                        self._activate(adapter)
                        with torch.inference_mode():
                            done = lane.step()
                        self._finish(done)
        except BaseException as error:
            with self._wake:
                self._crash = error
        finally:
            with self._wake:
                crash, waiting = self._crash, list(self._open.values())
                self._open.clear()
                self._stopping = True
            self._deliver([(future, crash) for future in waiting])

    def _take(self) -> bool:
        """Moves new requests to their lanes, waiting for some when there is nothing to do; False when closed."""
        with self._wake:
            while not (self._incoming or self._stopping or any(lane.busy for lane in self._lanes.values())):
                self._wake.wait()
            incoming, self._incoming = self._incoming, []
            if self._stopping:
                return False
        for adapter, work in incoming:
            self._lanes[adapter].add(work)
        return True

    def _activate(self, adapter: str) -> None:
        if adapter == self._active_adapter or len(self._lanes) == 1:
            return
        if adapter:
            self.model.enable_adapters()
            self.model.set_adapter(_adapter_name(adapter, [*self._lanes]))
        else:
            self.model.disable_adapters()
        self._active_adapter = adapter

    def _finish(self, works: list[Work]) -> None:
        with self._wake:
            for work in works:
                self._open.pop(id(work), None)
        self._deliver([(work.payload, work) for work in works])

    @staticmethod
    def _deliver(results: list[tuple[asyncio.Future, Any]]) -> None:
        """Hands results to the event loops that wait for them; None cancels."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future, Any]]] = {}
        for future, result in results:
            by_loop.setdefault(future.get_loop(), []).append((future, result))

        def resolve(some: list[tuple[asyncio.Future, Any]]) -> None:
            for future, result in some:
                if future.done():
                    continue
                if result is None:
                    future.cancel()
                elif isinstance(result, BaseException):
                    bug = RuntimeError("the transformers engine has crashed")
                    bug.__cause__ = result
                    future.set_exception(bug)
                else:
                    future.set_result(result)

        for loop, some in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(resolve, some)


class TransformersCompleter(LocalCompleter):
    """A model or adapter on a `TransformersEngine`."""

    def __init__(self, engine: TransformersEngine, model: str, adapter: str = "") -> None:
        super().__init__(model, engine.tokenizer, engine.thread_tokenizer, context=engine.context, slots=engine.slots)
        self.engine, self.adapter = engine, adapter

    def _queue(self, works: Sequence[Work]) -> None:
        self.engine.queue(self.adapter, works)


def open_transformers(
    models: Sequence[LocatedModel], *, slots: int | None = None
) -> tuple[list[TransformersEngine], list[TransformersCompleter]]:
    """A completer for each model, in their order; a base is loaded once, with all its adapters."""
    engines: dict[str, TransformersEngine] = {}
    try:
        for base in dict.fromkeys(model.base for model in models):
            adapters = dict.fromkeys(model.adapter for model in models if model.base == base and model.adapter)
            engines[base] = TransformersEngine(base, list(adapters), slots=slots)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    completers: dict[LocatedModel, TransformersCompleter] = {}
    for model in models:
        completers.setdefault(model, TransformersCompleter(engines[model.base], model.name, model.adapter))
    return list(engines.values()), [completers[model] for model in models]


def _load(base: str, adapters: Sequence[str]) -> tuple[Any, PreTrainedModel]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = published_name(base)
    on_gpu = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        # in 32 bits a sample hardly ever depends on what else is in the batch; a GPU has no time for that
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16 if on_gpu else torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {name}: cannot be loaded ({one_line(error)}). Check the folder or the Hub id."
        ) from None
    if strange := unsupported_cache(model):
        raise InputError(f"model {name}: its cache ({strange}) is not one this engine batches. Use --engine vllm.")
    for adapter in adapters:
        try:
            model.load_adapter(adapter, adapter_name=_adapter_name(adapter, ["", *adapters]))
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise InputError(
                f"adapter {published_name(adapter)}: cannot be loaded on {name} ({one_line(error)}). Check the folder."
            ) from None
    if on_gpu:
        torch.nn.Module.to(model, "cuda")
    return tokenizer, model.eval()


def _adapter_name(adapter: str, lanes: Sequence[str]) -> str:
    return f"adapter_{lanes.index(adapter)}"  # a module's name may hold no dots


def context_of(model: PreTrainedModel) -> int:
    """Tokens that prompt and completion may have together."""
    length = _number(model.config.get_text_config(decoder=True), "max_position_embeddings")
    return length if length > 0 else 1 << 30


def tokens_that_fit(model: PreTrainedModel, memory: int | None = None) -> int:
    """Tokens, padding included, that batches on the model may have in this many bytes, or in those that can be spared."""
    config = model.config.get_text_config(decoder=True)
    queries = _number(config, "num_attention_heads")
    heads = _number(config, "num_key_value_heads") or queries
    size = _number(config, "head_dim") or config.hidden_size // max(queries, 1)
    feed_forward = _number(config, "intermediate_size") or 4 * config.hidden_size
    # keys and values, kept, where concatenation holds one layer's twice; activations in the pass over the prompt
    cached = 2 * (config.num_hidden_layers + 1) * heads * size
    bytes_a_token = (cached + 6 * config.hidden_size + 3 * feed_forward) * model.dtype.itemsize
    return (memory or _spare_memory(model.device)) // bytes_a_token


def _number(config: Any, name: str) -> int:
    """A config's value, the largest where layers differ; 0 where it has none."""
    value = getattr(config, name, None) or 0
    return max(value) if isinstance(value, (list, tuple)) else int(value)


def _spare_memory(device: torch.device) -> int:
    """Bytes for batches in the making."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps what a training step needed, for the next one
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + kept) * 0.7)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 2 << 30
    available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return min(int(available.split()[1]) * 1024 // 8, 8 << 30)
