"""vLLM in this process: `AsyncLLM` with prefix caching and LoRA adapters, and no engine process left behind.

Not vLLM's `LLM`: it works through one batch at a time, and one over-long prompt fails the whole batch.
"""

# vLLM has an environment of its own, which the type checker does not see
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import InputError, one_line
from ..schema import Completion
from .base import CompletionFailed, ContinuationLogprob, Sampling, failed
from .chat import chat_ids, chat_text, continuation_ids, cut_at_stop
from .locate import LocatedModel, published_name


@dataclass(frozen=True, slots=True)
class VLLMCompleter:
    """A model, or a LoRA adapter on it, in an `AsyncLLM`.

    Attributes:
        context: Tokens that prompt and completion may have together.
        gives_logprobs: False where asking for log-probabilities of a prompt ends the engine.
    """

    model: str
    llm: Any  # vllm.v1.engine.async_llm.AsyncLLM
    tokenizer: Any
    slots: int
    context: int
    gives_logprobs: bool
    lora: Any  # vllm.lora.request.LoRARequest | None
    request_ids: itertools.count

    async def complete(
        self, prompt: str, *, sampling: Sampling, seed: int, n: int = 1, prefill: str = ""
    ) -> list[Completion]:
        """N completions; see `Completer`."""
        ids = chat_ids(self.tokenizer, chat_text(self.tokenizer, prompt, prefill))
        if len(ids) >= self.context:
            return failed(n, f"prompt of {len(ids)} tokens leaves no room in the model's context of {self.context}")
        n_different = n if sampling.temperature else 1
        done = await asyncio.gather(*[self._one(ids, sampling, seed + i) for i in range(n_different)])
        return list(done) if n_different == n else list(done) * n

    async def _one(self, ids: list[int], sampling: Sampling, seed: int) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, self.context - len(ids)),
            stop=list(sampling.stop) or None,
            seed=seed & (2**63 - 1) if sampling.temperature else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            output = await self._final(ids, parameters)
        except ValueError as error:  # refused before it reached the engine
            return failed(1, one_line(error))[0]
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            return failed(1, f"the engine ended it with {answer.finish_reason!r}")[0]
        text, stopped = cut_at_stop(answer.text, sampling.stop)
        return Completion(text, "stop" if stopped else answer.finish_reason, len(ids), len(answer.token_ids))

    async def logprob(self, prompt: str, continuation: str, *, prefill: str = "") -> ContinuationLogprob:
        """Log-probability of a continuation; see `Completer`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if not self.gives_logprobs:
            raise InputError(
                "--engine vllm: on a CPU it gives no log-probabilities beside LoRA adapters. Take --engine transformers."
            )
        ids, n_context = continuation_ids(self.tokenizer, chat_text(self.tokenizer, prompt, prefill), continuation)
        if len(ids) >= self.context:
            raise CompletionFailed(f"{len(ids)} tokens do not fit in the model's context of {self.context}")
        if n_context == 0:
            raise CompletionFailed("an empty context gives a continuation no probability")
        output = await self._final(
            ids, SamplingParams(max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY)
        )
        logprobs = [output.prompt_logprobs[i][ids[i]].logprob for i in range(n_context, len(ids))]
        return ContinuationLogprob(sum(logprobs), len(logprobs))

    async def _final(self, ids: list[int], parameters: Any) -> Any:
        request = self.llm.generate(
            {"prompt_token_ids": ids},
            parameters,
            request_id=f"{self.model}-{next(self.request_ids)}",
            lora_request=self.lora,
        )
        output = None
        async for output in request:  # noqa: B007 - one output, the final one
            pass
        return output


@asynccontextmanager
async def open_vllm(
    models: Sequence[LocatedModel], *, slots: int | None = None, prefix_caching: bool = True
) -> AsyncIterator[list[VLLMCompleter]]:
    """A completer for each model, in their order, on ONE engine: a base and LoRA adapters on it.

    Raises:
        InputError: The models have different bases, or the engine does not start with them.
    """
    if len(bases := dict.fromkeys(model.base for model in models)) > 1:
        names = " and ".join(published_name(base) for base in bases)
        raise InputError(
            f"--engine vllm runs one model and LoRA adapters on it, not {names}. "
            "Start a server for each and take --engine openai."
        )
    with _terminated_like_interrupted():
        llm, tokenizer, slots = await _start(models, slots=slots, prefix_caching=prefix_caching)
        try:
            from vllm.platforms import current_platform

            adapters = list(dict.fromkeys(model.adapter for model in models if model.adapter))
            completers = {
                model: VLLMCompleter(
                    model=model.name,
                    llm=llm,
                    tokenizer=tokenizer,
                    slots=slots,
                    context=llm.model_config.max_model_len,
                    # vLLM 0.32: shapes do not fit in the CPU's LoRA logits, and the engine dies
                    gives_logprobs=not (adapters and current_platform.is_cpu()),
                    lora=_lora_request(model, adapters),
                    request_ids=itertools.count(),
                )
                for model in dict.fromkeys(models)
            }
            yield [completers[model] for model in models]
        finally:
            llm.shutdown()


async def _start(models: Sequence[LocatedModel], *, slots: int | None, prefix_caching: bool) -> tuple[Any, Any, int]:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    # what an embedded engine has no use for
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from transformers import AutoTokenizer
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    logging.getLogger("vllm").setLevel(logging.WARNING)
    base = models[0].base
    on_cpu = current_platform.is_cpu()
    slots = slots or (64 if on_cpu else 256)
    adapters = dict.fromkeys(model.adapter for model in models if model.adapter)
    rank = max((model.lora_rank for model in models), default=0)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        arguments = AsyncEngineArgs(
            model=base,
            max_num_seqs=slots,
            # chunked prefill with seeded sampling ends the CPU engine: there a prompt must fit in one batch
            max_num_batched_tokens=16384,
            enable_chunked_prefill=not on_cpu,
            enforce_eager=on_cpu,
            # in 32 bits a sample hardly ever depends on what else is in the batch; a GPU has no time for that
            dtype="float32" if on_cpu else "auto",
            enable_prefix_caching=prefix_caching,
            enable_lora=bool(adapters),
            max_loras=max(len(adapters), 1),
            max_lora_rank=next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank),
            disable_log_stats=True,
        )
        llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"model {published_name(base)}: vLLM does not start with it ({one_line(error)}). "
            "Its log above says more; --engine transformers may run it."
        ) from error
    return llm, tokenizer, slots


def _lora_request(model: LocatedModel, adapters: Sequence[str]) -> Any:
    if not model.adapter:
        return None
    from huggingface_hub import snapshot_download
    from vllm.lora.request import LoRARequest

    folder = model.adapter if os.path.isdir(model.adapter) else snapshot_download(model.adapter)
    return LoRARequest(model.name, adapters.index(model.adapter) + 1, folder)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """While open, SIGTERM raises `KeyboardInterrupt`, unless the program has a handler of its own.

    By default SIGTERM ends this process at once, and the engine's process stays.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
