"""The embedded engine: a transformers model in this process, on CPU or GPU, with LoRA adapters.

Coroutines queue requests; one thread decodes them in batches that rows join and leave (`decoding.py`).
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..schema import Completion
from .base import CompletionFailed, ContinuationLogprob, Sampling, failed
from .chat import chat_ids, chat_text, continuation_ids, cut_at_stop, decode_after, ends_with_stop
from .decoding import Decoder, Decoding, continuation_logprobs, unsupported_cache
from .locate import LocatedModel, published_name


if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True, eq=False)
class _Scoring:
    """A continuation whose log-probability is asked for."""

    ids: list[int]
    n_context: int
    payload: Any = None


@dataclass(slots=True)
class _Lane:
    """What waits for one adapter, or for the model itself."""

    decoder: Decoder
    scoring: list[_Scoring] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.scoring) or self.decoder.busy


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
        self.tokenizer, self.model, end_tokens = _load(base, adapters)
        # a tokenizer must not be used by two threads: it changes its own state while encoding
        self._thread_tokenizer = copy.deepcopy(self.tokenizer)
        config = self.model.config.get_text_config(decoder=True)
        self.context = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        on_gpu = self.model.device.type != "cpu"
        self.slots = slots or (256 if on_gpu else 128)
        room = (max_memory or _memory_to_use(self.model.device)) // _bytes_a_token(config, self.model.dtype)
        self._lanes = {
            adapter: _Lane(
                Decoder(
                    self.model,
                    end_tokens=end_tokens,
                    max_rows=self.slots,
                    max_cached_tokens=max(room // (len(adapters) + 1), 1),
                )
            )
            for adapter in ("", *adapters)
        }
        self._tokens_to_score = 16384 if on_gpu else 4096
        self._active_adapter: str | None = None
        self._wake = threading.Condition()
        self._incoming: list[tuple[str, Decoding | _Scoring]] = []
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

    async def submit(self, adapter: str, works: Sequence[Decoding | _Scoring]) -> list[Any]:
        """Queues work and waits for its results; cancelling the wait takes it off the engine."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in works]
        with self._wake:
            if self._crash is not None:
                raise RuntimeError("the transformers engine has crashed") from self._crash
            if self._stopping:
                raise RuntimeError("the transformers engine is closed")
            for work, future in zip(works, futures, strict=True):
                work.payload = future
                self._open[id(work)] = future
                self._incoming.append((adapter, work))
            self._wake.notify()
        try:
            return await asyncio.gather(*futures)
        except asyncio.CancelledError:
            for work in works:
                if isinstance(work, Decoding):
                    work.cancelled = True
            raise

    def _run(self) -> None:
        try:
            while self._take():
                for adapter, lane in self._lanes.items():
                    if lane.busy:
                        self._activate(adapter)
                        self._turn(lane)
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
            lane = self._lanes[adapter]
            if isinstance(work, Decoding):
                if work.sampling.stop:
                    work.ends = ends_with_stop(self._thread_tokenizer, work.prompt, work.sampling.stop)
                lane.decoder.waiting.append(work)
            else:
                lane.scoring.append(work)
        return True

    def _turn(self, lane: _Lane) -> None:
        if lane.scoring:
            scoring, lane.scoring = lane.scoring, []
            totals = continuation_logprobs(
                self.model, [(work.ids, work.n_context) for work in scoring], self._tokens_to_score
            )
            self._finish(list(zip(scoring, totals, strict=True)))
        if lane.decoder.busy:
            self._finish([(sequence, sequence) for sequence in lane.decoder.step()])

    def _activate(self, adapter: str) -> None:
        if adapter == self._active_adapter or len(self._lanes) == 1:
            return
        if adapter:
            self.model.enable_adapters()
            self.model.set_adapter(_adapter_name(adapter, [*self._lanes]))
        else:
            self.model.disable_adapters()
        self._active_adapter = adapter

    def _finish(self, results: list[tuple[Any, Any]]) -> None:
        with self._wake:
            for work, _ in results:
                self._open.pop(id(work), None)
        self._deliver([(work.payload, result) for work, result in results])

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


@dataclass(frozen=True, slots=True)
class TransformersCompleter:
    """A model or adapter on a `TransformersEngine`."""

    engine: TransformersEngine
    model: str
    adapter: str = ""

    @property
    def slots(self) -> int:
        return self.engine.slots

    async def complete(
        self, prompt: str, *, sampling: Sampling, seed: int, n: int = 1, prefill: str = ""
    ) -> list[Completion]:
        """N completions; see `Completer`."""
        engine = self.engine
        ids = chat_ids(engine.tokenizer, chat_text(engine.tokenizer, prompt, prefill))
        if len(ids) >= engine.context:
            return failed(n, f"prompt of {len(ids)} tokens leaves no room in the model's context of {engine.context}")
        room = min(sampling.max_tokens, engine.context - len(ids))
        limited = Sampling(sampling.temperature, sampling.top_p, room, sampling.stop)
        # greedy samples are all the same one
        n_different = n if sampling.temperature else 1
        sequences = [Decoding(ids, limited, seed + i) for i in range(n_different)]
        done = [self._completion(sequence) for sequence in await engine.submit(self.adapter, sequences)]
        return done if n_different == n else done * n

    def _completion(self, sequence: Decoding) -> Completion:
        if sequence.finish_reason == "error":
            return failed(1, sequence.error)[0]
        text = decode_after(self.engine.tokenizer, sequence.prompt, sequence.tokens)
        text, stopped = cut_at_stop(text, sequence.sampling.stop)
        reason = "stop" if stopped else sequence.finish_reason or "stop"
        return Completion(text, reason, len(sequence.prompt), len(sequence.tokens))

    async def logprob(self, prompt: str, continuation: str, *, prefill: str = "") -> ContinuationLogprob:
        """Log-probability of a continuation; see `Completer`."""
        engine = self.engine
        ids, n_context = continuation_ids(engine.tokenizer, chat_text(engine.tokenizer, prompt, prefill), continuation)
        if len(ids) > engine.context:
            raise CompletionFailed(f"{len(ids)} tokens do not fit in the model's context of {engine.context}")
        if n_context == 0:
            raise CompletionFailed("an empty context gives a continuation no probability")
        [total] = await engine.submit(self.adapter, [_Scoring(ids, n_context)])
        return ContinuationLogprob(total, len(ids) - n_context)


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


def _load(base: str, adapters: Sequence[str]) -> tuple[Any, PreTrainedModel, list[int]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
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
            f"model {name}: cannot be loaded ({_one_line(error)}). Check the folder or the Hub id."
        ) from None
    if strange := unsupported_cache(model):
        raise InputError(f"model {name}: its cache ({strange}) is not one this engine batches. Use --engine vllm.")
    for adapter in adapters:
        try:
            model.load_adapter(adapter, adapter_name=_adapter_name(adapter, ["", *adapters]))
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise InputError(
                f"adapter {published_name(adapter)}: cannot be loaded on {name} ({_one_line(error)}). Check the folder."
            ) from None
    if on_gpu:
        torch.nn.Module.to(model, "cuda")
    end_tokens = _end_tokens(model, tokenizer)
    # a model's own defaults (top_k, penalties, lengths) would come on top of the sampling that was asked for
    model.generation_config = GenerationConfig(pad_token_id=0)
    return tokenizer, model.eval(), end_tokens


def _adapter_name(adapter: str, lanes: Sequence[str]) -> str:
    return f"adapter_{lanes.index(adapter)}"  # a module's name may hold no dots


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Chat models often end a turn with another token than the one that ends a text."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return [token for token in {*ends, tokenizer.eos_token_id} if token is not None]


def _bytes_a_token(config: Any, dtype: torch.dtype) -> int:
    """Memory that a token of a batch takes: keys and values, kept, and its activations in the pass over the prompt."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    feed_forward = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # concatenation holds one layer's keys and values twice
    cached = 2 * (config.num_hidden_layers + 1) * heads * size
    return (cached + 6 * config.hidden_size + 3 * feed_forward) * dtype.itemsize


def _memory_to_use(device: torch.device) -> int:
    """Bytes for batches in the making."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.7)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 2 << 30
    available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return min(int(available.split()[1]) * 1024 // 8, 8 << 30)
