"""Completions from OpenAI-compatible servers: vLLM above all, several of them balanced.

The client waits long: a server that restarts takes a minute, and comes back to every request that was under way. The
key comes from `OPENAI_API_KEY` and goes nowhere but into the request's header.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai

from ..errors import InputError, one_line
from ..schema import Completion
from .base import CompletionFailed, ContinuationLogprob, Sampling, failed
from .chat import cut_at_stop


logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds
RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# A request that ends in an internal error this often while others are answered is itself the reason.
POISONOUS_TRIES = 5
SLOTS_A_SERVER = 128


@dataclass(slots=True, eq=False)
class _Server:
    """One server.

    Attributes:
        models: Names it serves, with their context in tokens where it says so.
        is_vllm: Takes vLLM's own request fields; others may refuse a request for them.
        n_failed: Times in a row that it failed, requests that were open together counted once.
        warned: Monotonic time of the last warning about it.
        rests_until: Monotonic time before which other servers are asked.
    """

    url: str
    client: openai.AsyncOpenAI
    models: dict[str, int | None] = field(default_factory=dict)
    is_vllm: bool = False
    n_open: int = 0
    n_failed: int = 0
    warned: float = -math.inf
    rests_until: float = 0.0


class OpenAIEngine:
    """Servers behind one door. `open` it, ask, and close it.

    Args:
        base_urls: Such as `http://127.0.0.1:8000/v1`.
        slots: Requests that all servers together work on at once; by default 128 a server.
        patience: Seconds for which a request that fails for the server's reasons is tried again.
        startup_patience: The same for the first question, which models there are.

    Raises:
        InputError: A URL cannot be used.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        *,
        slots: int | None = None,
        patience: float = 300.0,
        startup_patience: float = 5.0,
    ) -> None:
        for url in base_urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise InputError(f"--base-url {_public(url)}: not a URL. Expected http://HOST:PORT/v1.")
            if parts.username or parts.password or parts.query:
                raise InputError(
                    f"--base-url {_public(url)}: holds credentials or a query. Put the key into OPENAI_API_KEY."
                )
        self._key = os.environ.get("OPENAI_API_KEY", "")
        # the engine's own retries: the library's are too few and too soon for a server that restarts
        self.servers = [
            _Server(
                url,
                openai.AsyncOpenAI(
                    base_url=url, api_key=self._key or "none", max_retries=0, timeout=openai.Timeout(1800, connect=10)
                ),
            )
            for url in dict.fromkeys(base_urls)
        ]
        self.slots = slots or SLOTS_A_SERVER * len(self.servers)
        self.patience = patience
        self.startup_patience = startup_patience
        self._places = asyncio.Semaphore(2 * self.slots)  # the servers' queues stay filled, sockets stay bounded
        self._n_answers = 0
        self._down_since: float | None = None  # since when no server has answered anything

    async def open(self) -> None:
        """Asks each server what it serves.

        Raises:
            InputError: A server does not answer, or refuses the key.
        """
        for server in self.servers:
            deadline = time.monotonic() + self.startup_patience
            while True:
                try:
                    listed = await server.client.models.list()
                    break
                except (openai.AuthenticationError, openai.PermissionDeniedError):
                    raise InputError(
                        f"--base-url {server.url}: the server refuses the key. Set OPENAI_API_KEY to one it accepts."
                    ) from None
                except (openai.APIConnectionError, openai.APIStatusError) as error:
                    if time.monotonic() > deadline:
                        raise InputError(
                            f"--base-url {server.url}: no list of models from there ({self._reason(error)}). "
                            "Start the server, or correct the URL (it usually ends in /v1)."
                        ) from None
                    await asyncio.sleep(0.5)
            server.models = {model.id: getattr(model, "max_model_len", None) for model in listed.data}
            server.is_vllm = any(model.owned_by == "vllm" for model in listed.data)

    def check_served(self, flag: str, name: str) -> None:
        """Raises InputError unless a server has a model of this name."""
        served = list(dict.fromkeys(model for server in self.servers for model in server.models))
        if name not in served:
            raise InputError(f"{flag} {name}: not served. Expected one of {', '.join(served) or 'none'}.")

    async def close(self) -> None:
        """Closes the connections."""
        for server in self.servers:
            await server.client.close()

    async def ask(self, model: str, body: dict[str, Any], vllm_only: dict[str, Any]) -> tuple[Any, _Server]:
        """The answer to a chat request, and who gave it; tried again for as long as it is the server's fault.

        Raises:
            CompletionFailed: It was refused, or no server answered in time.
        """
        start = time.monotonic()
        tries = n_poisonous = 0
        n_answers_before = self._n_answers
        while True:
            server = self._choose(model)
            is_probe = server.n_failed > 0
            extra = {**body.get("extra_body", {}), **(vllm_only if server.is_vllm else {})}
            try:
                async with self._places:
                    server.n_open += 1
                    try:
                        answer = await server.client.chat.completions.create(
                            model=model, **{**body, "extra_body": extra}
                        )
                    finally:
                        server.n_open -= 1
            except openai.APIStatusError as error:
                if error.status_code not in RETRIED_STATUSES:
                    raise CompletionFailed(self._reason(error)) from None
                problem, wait = error, _retry_after(error.response.headers)
                # an error of the server's own, after it answered others
                n_poisonous += error.status_code == 500 and self._n_answers > n_answers_before
            except openai.APIConnectionError as error:
                problem, wait = error, None
            else:
                self._n_answers += 1
                server.n_failed, server.rests_until = 0, 0.0
                self._down_since = None
                return answer, server
            tries += 1
            n_answers_before = self._n_answers
            now = time.monotonic()
            server.n_failed = max(server.n_failed + is_probe, 1)
            server.rests_until = max(server.rests_until, now + (wait or _pause(server.n_failed)))
            pause = _pause(tries) if wait is None else max(wait, FIRST_PAUSE)
            if any(other.rests_until <= now for other in self._serving(model)):
                pause = 0.0
            if now - server.warned > 30:
                server.warned = now
                logger.warning("%s: %s; trying again", server.url, self._reason(problem))
            if self._down_since is None:
                self._down_since = now
            if n_poisonous >= POISONOUS_TRIES:
                raise CompletionFailed(f"failed {tries} times while others did not: {self._reason(problem)}")
            # when nothing has answered for that long, later requests need not wait as long again to learn it
            waited = now - min(start, self._down_since)
            if waited + pause > self.patience:
                raise CompletionFailed(f"no answer for {waited:.0f} s: {self._reason(problem)}")
            await asyncio.sleep(pause)

    def _serving(self, model: str) -> list[_Server]:
        return [server for server in self.servers if model in server.models]

    def _choose(self, model: str) -> _Server:
        """The server with the fewest open requests among those that are not resting after a failure."""
        now = time.monotonic()
        serving = self._serving(model)
        if rested := [server for server in serving if server.rests_until <= now]:
            chosen = min(rested, key=lambda server: server.n_open)
        else:
            chosen = min(serving, key=lambda server: server.rests_until)
        if chosen.n_failed:  # one request finds out whether it is back; the others go elsewhere meanwhile
            chosen.rests_until = now + _pause(chosen.n_failed)
        return chosen

    def _reason(self, error: openai.APIError) -> str:
        """One line without the key: servers quote it when they refuse it."""
        status = f"HTTP {error.status_code}: " if isinstance(error, openai.APIStatusError) else ""
        text = status + one_line(error.message)
        if self._key:
            text = text.replace(self._key, "***")
        return re.sub(r"\b(sk|hf)[-_][\w*-]{6,}", "***", text)


@dataclass(frozen=True, slots=True)
class OpenAICompleter:
    """A served model or adapter."""

    engine: OpenAIEngine
    model: str

    @property
    def slots(self) -> int:
        return self.engine.slots

    async def complete(
        self, prompt: str, *, sampling: Sampling, seed: int, n: int = 1, prefill: str = ""
    ) -> list[Completion]:
        """N completions; see `Completer`."""
        # one request a sample: n > 1 is refused at temperature 0, and servers differ in how they seed the samples
        n_different = n if sampling.temperature else 1
        done = await asyncio.gather(*[self._one(prompt, sampling, seed + i, prefill) for i in range(n_different)])
        return list(done) if n_different == n else list(done) * n

    async def _one(self, prompt: str, sampling: Sampling, seed: int, prefill: str) -> Completion:
        body, vllm_only = _chat(prompt, prefill)
        body |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed & (2**63 - 1),
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        # a served model's own sampling defaults would come on top of what was asked for
        vllm_only |= {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        try:
            try:
                answer, _ = await self.engine.ask(self.model, body, vllm_only)
            except CompletionFailed as failure:
                # prompt and max_tokens together are too long: what room there is will do, as for the other engines
                if "context length" not in str(failure):
                    raise
                del body["max_tokens"]
                answer, _ = await self.engine.ask(self.model, body, vllm_only)
        except CompletionFailed as failure:
            return failed(1, str(failure))[0]
        if not answer.choices:
            return failed(1, "the server sent an answer without a choice")[0]
        choice, usage = answer.choices[0], answer.usage
        if choice.finish_reason not in ("stop", "length"):
            return failed(1, f"the server ended it with {choice.finish_reason!r}")[0]
        text, stopped = cut_at_stop(choice.message.content or "", sampling.stop)
        return Completion(
            text,
            "stop" if stopped else choice.finish_reason,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )

    async def logprob(self, prompt: str, continuation: str, *, prefill: str = "") -> ContinuationLogprob:
        """Log-probability of a continuation; see `Completer`. vLLM servers alone give it."""
        engine = self.engine
        if not any(server.is_vllm for server in engine.servers if self.model in server.models):
            raise InputError(
                "--base-url: this server gives no log-probabilities of a given text (vLLM's do). "
                "Take another --engine, or a judge model instead of self."
            )
        asked = {"temperature": 0.0, "max_tokens": 1}
        body, vllm_only = _chat(prompt, prefill)
        context, _ = await engine.ask(self.model, body | asked, vllm_only | {"return_token_ids": True})
        body, vllm_only = _chat(prompt, prefill + continuation)
        whole, _ = await engine.ask(self.model, body | asked, vllm_only | {"prompt_logprobs": 0})
        ids, entries = context.model_extra.get("prompt_token_ids"), whole.model_extra.get("prompt_logprobs")
        if ids is None or entries is None:
            raise InputError(
                "--base-url: this vLLM server is too old for log-probabilities. Update it to 0.11 or later."
            )
        tokens = [next(iter(entry.items()), None) if entry else None for entry in entries]
        n_context = 1
        while n_context < min(len(ids), len(tokens) - 1) and _token_id(tokens[n_context]) == ids[n_context]:
            n_context += 1
        logprobs = [token[1]["logprob"] for token in tokens[n_context:] if token is not None]
        return ContinuationLogprob(sum(logprobs), len(logprobs))


def _chat(prompt: str, prefill: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request's messages, and what vLLM alone is told."""
    messages = [{"role": "user", "content": prompt}]
    vllm_only: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
    if not prefill:
        return {"messages": messages}, vllm_only
    messages.append({"role": "assistant", "content": prefill})
    # not vLLM's alone: SGLang and others know them, and a server that does not would answer something else
    return {
        "messages": messages,
        "extra_body": {"add_generation_prompt": False, "continue_final_message": True},
    }, vllm_only


def _token_id(token: tuple[str, Any] | None) -> int | None:
    return None if token is None else int(token[0])


def _pause(n_failed: int) -> float:
    """Seconds to wait after so many failures, not the same for all who wait."""
    return min(FIRST_PAUSE * 2 ** min(n_failed - 1, 10), LONGEST_PAUSE) * random.uniform(0.75, 1.25)


def _retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, min(float(value), 600.0))
    except ValueError:
        pass
    try:
        return max(0.0, min(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 600.0))
    except ValueError:
        return None


def _public(url: str) -> str:
    """A URL for a message: without what may be a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else "(no scheme)"
