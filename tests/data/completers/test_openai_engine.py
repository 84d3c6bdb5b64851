"""The client of OpenAI-compatible servers, against a loopback server that misbehaves.

The contract runs against a real vLLM server in `test_vllm_engine.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest


pytest.importorskip("openai")

from reflectevo_data.completers import openai_engine as engine_module
from reflectevo_data.completers.base import CompletionFailed, RoleCompleters, Sampling
from reflectevo_data.completers.engine import Engine, open_roles
from reflectevo_data.completers.openai_engine import OpenAICompleter, OpenAIEngine
from reflectevo_data.errors import InputError
from tests.data.completers.fake_openai import FakeServer, Reply, chat_body, running


SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=20, stop=("STOP",))
KEY = "sk-very-secret-key"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "FIRST_PAUSE", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@asynccontextmanager
async def opened(*servers: FakeServer, patience: float = 20.0) -> AsyncIterator[OpenAICompleter]:
    engine = OpenAIEngine([server.url for server in servers], patience=patience)
    try:
        await engine.open()
        yield OpenAICompleter(engine, "served")
    finally:
        await engine.close()


def in_turn(*replies: Reply | str) -> Callable[[dict], Reply | str]:
    """Each reply once, the last for ever."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


async def test_a_request_says_all_that_was_asked_for() -> None:
    with running(FakeServer(lambda request: "Thought: so. STOP more")) as server:
        async with opened(server) as completer:
            completions = await completer.complete("Q", sampling=SAMPLING, seed=512, n=3)
    assert [completion.text for completion in completions] == ["Thought: so. "] * 3
    assert {(c.finish_reason, c.n_prompt_tokens, c.n_completion_tokens) for c in completions} == {("stop", 7, 4)}
    assert sorted(request["seed"] for request in server.requests) == [512, 513, 514]
    request = server.requests[0]
    assert request["messages"] == [{"role": "user", "content": "Q"}]
    assert (request["temperature"], request["top_p"], request["max_tokens"]) == (0.7, 0.9, 20)
    assert request["stop"] == ["STOP"]
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    # the server's own defaults for the model must not come on top
    assert (request["top_k"], request["min_p"], request["repetition_penalty"]) == (0, 0.0, 1.0)


async def test_prefill_is_an_open_assistant_message() -> None:
    with running(FakeServer(lambda request: " Finish[4]")) as server:
        async with opened(server) as completer:
            [completion] = await completer.complete("Q", sampling=SAMPLING, seed=0, prefill="Action:")
    request = server.requests[0]
    assert completion.text == " Finish[4]"
    assert request["messages"][-1] == {"role": "assistant", "content": "Action:"}
    assert (request["add_generation_prompt"], request["continue_final_message"]) == (False, True)


async def test_other_servers_are_not_sent_what_vllm_alone_knows() -> None:
    with running(FakeServer(lambda request: "x", owner="someone")) as server:
        async with opened(server) as completer:
            await completer.complete("Q", sampling=Sampling(), seed=0)
            with pytest.raises(InputError, match="no log-probabilities"):
                await completer.logprob("Q", "A")
    assert set(server.requests[0]) == {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}


async def test_greedy_samples_are_asked_for_once() -> None:
    with running(FakeServer(lambda request: "x")) as server:
        async with opened(server) as completer:
            completions = await completer.complete("Q", sampling=Sampling(temperature=0.0), seed=0, n=4)
    assert len(completions) == 4
    assert len(server.requests) == 1


async def test_log_probability_of_what_follows_the_context() -> None:
    def answer(request: dict) -> Reply:
        if "prompt_logprobs" in request:
            entries = [None, *({str(token): {"logprob": -token / 10}} for token in (11, 12, 13))]
            return Reply(body=chat_body("x", prompt_logprobs=entries))
        return Reply(body=chat_body("x", prompt_token_ids=[10, 11, 99]))  # the third differs once text follows it

    with running(FakeServer(answer)) as server:
        async with opened(server) as completer:
            score = await completer.logprob("Q", " 4]", prefill="Finish[")
    assert score.total == pytest.approx(-2.5)
    assert score.n_tokens == 2
    assert server.requests[1]["messages"][-1] == {"role": "assistant", "content": "Finish[ 4]"}


async def test_a_context_too_short_for_max_tokens_gives_what_room_there_is() -> None:
    def answer(request: dict) -> Reply | str:
        if "max_tokens" in request:
            return Reply(400, {"error": {"message": "This model's maximum context length is 512 tokens."}})
        return Reply(body=chat_body("cut", finish_reason="length"))

    with running(FakeServer(answer)) as server:
        async with opened(server) as completer:
            [completion] = await completer.complete("Q", sampling=SAMPLING, seed=0)
    assert (completion.text, completion.finish_reason) == ("cut", "length")


async def test_a_refused_request_fails_alone_and_at_once() -> None:
    def answer(request: dict) -> Reply | str:
        return Reply(400, {"error": {"message": "too\nlong"}}) if request["messages"][0]["content"] == "bad" else "ok"

    with running(FakeServer(answer)) as server:
        async with opened(server) as completer:
            [[bad], [good]] = await asyncio.gather(
                *[completer.complete(prompt, sampling=SAMPLING, seed=0) for prompt in ("bad", "good")]
            )
    assert (bad.finish_reason, bad.text) == ("error", "")
    assert "too long" in bad.error
    assert "HTTP 400" in bad.error
    assert good.text == "ok"
    assert len(server.requests) == 2


@pytest.mark.parametrize("trouble", [Reply(503), Reply(500), Reply(drop=True)], ids=["503", "500", "dropped"])
async def test_the_servers_trouble_is_waited_out(trouble: Reply) -> None:
    with running(FakeServer(in_turn(trouble, trouble, trouble, "at last"))) as server:
        async with opened(server) as completer:
            [completion] = await completer.complete("Q", sampling=SAMPLING, seed=0)
    assert completion.text == "at last"
    assert len(server.requests) == 4


async def test_retry_after_is_honoured() -> None:
    with running(FakeServer(in_turn(Reply(429, headers={"Retry-After": "1"}), "ok"))) as server:
        async with opened(server) as completer:
            start = time.monotonic()
            [completion] = await completer.complete("Q", sampling=SAMPLING, seed=0)
    assert completion.text == "ok"
    assert time.monotonic() - start >= 1.0


async def test_a_server_that_restarts_loses_nothing() -> None:
    slow = threading.Event()

    def answer(request: dict) -> str:
        slow.wait(0.05)
        return request["messages"][0]["content"]

    with running(FakeServer(answer)) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        engine = OpenAIEngine([server.url], patience=20)
        await engine.open()
        completer = OpenAICompleter(engine, "served")
        tasks = [asyncio.create_task(completer.complete(f"Q{i}", sampling=SAMPLING, seed=0)) for i in range(300)]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    n_before = sum(task.done() for task in tasks)
    with running(FakeServer(answer), port=port):
        completions = [completion for [completion] in await asyncio.gather(*tasks)]
    await engine.close()
    assert 0 < n_before < 300
    assert [completion.text for completion in completions] == [f"Q{i}" for i in range(300)]


async def test_a_server_that_never_comes_back_fails_requests_and_soon() -> None:
    with running(FakeServer(lambda request: "ok")) as server:
        engine = OpenAIEngine([server.url], patience=3)
        await engine.open()
    completer = OpenAICompleter(engine, "served")
    [first] = await completer.complete("Q", sampling=SAMPLING, seed=0)
    start = time.monotonic()
    later = await asyncio.gather(*[completer.complete("Q", sampling=SAMPLING, seed=i) for i in range(20)])
    await engine.close()
    assert first.finish_reason == "error"
    assert "no answer for" in first.error
    assert {completion.finish_reason for [completion] in later} == {"error"}
    assert time.monotonic() - start < 3  # those who come later do not wait as long again


async def test_one_poisonous_request_gives_up_while_others_succeed() -> None:
    def answer(request: dict) -> Reply | str:
        return Reply(500) if request["messages"][0]["content"] == "poison" else "ok"

    with running(FakeServer(answer)) as server:
        async with opened(server, patience=1000) as completer:
            poison = asyncio.create_task(completer.complete("poison", sampling=SAMPLING, seed=0))
            while not poison.done():
                await completer.complete("fine", sampling=SAMPLING, seed=0)
    [completion] = await poison
    assert "times while others did not: HTTP 500" in completion.error


async def test_a_failed_log_probability_is_raised() -> None:
    with running(FakeServer(lambda request: Reply(400))) as server:
        async with opened(server) as completer:
            with pytest.raises(CompletionFailed, match="HTTP 400"):
                await completer.logprob("Q", "A")


@pytest.mark.parametrize(
    ("body", "expected"),
    [(chat_body("x", finish_reason="abort"), "ended it with 'abort'"), ({"choices": []}, "without a choice")],
)
async def test_answers_that_are_none_are_failures(body: dict, expected: str) -> None:
    with running(FakeServer(lambda request: Reply(body=body))) as server:
        async with opened(server) as completer:
            [completion] = await completer.complete("Q", sampling=SAMPLING, seed=0)
    assert completion.finish_reason == "error"
    assert expected in completion.error


async def test_servers_share_the_work_and_a_dead_one_is_passed_over() -> None:
    def slow(request: dict) -> str:
        time.sleep(0.02)
        return "ok"

    with running(FakeServer(slow)) as first, running(FakeServer(slow)) as second:
        async with opened(first, second) as completer:
            await asyncio.gather(*[completer.complete("Q", sampling=SAMPLING, seed=i) for i in range(60)])
            assert min(len(first.requests), len(second.requests)) >= 20
    with running(FakeServer(lambda request: "ok")) as alive, running(FakeServer(lambda request: "ok")) as dead:
        engine = OpenAIEngine([dead.url, alive.url])
        await engine.open()
        completer = OpenAICompleter(engine, "served")
    with running(FakeServer(lambda request: "ok"), port=int(alive.url.split(":")[2].split("/")[0])):
        several = [completer.complete("Q", sampling=SAMPLING, seed=i) for i in range(40)]
        completions = [completion for [completion] in await asyncio.gather(*several)]
    await engine.close()
    assert {completion.text for completion in completions} == {"ok"}


async def test_roles_are_served_models() -> None:
    with running(FakeServer(lambda request: request["model"], models=("base", "refl"))) as server:
        async with open_roles(Engine("openai", "base", reflector="refl", base_urls=(server.url,))) as roles:
            texts = [(await role.complete("Q", sampling=SAMPLING, seed=0))[0].text for role in roles]
            assert texts == ["base", "refl", "base"]
            assert roles == RoleCompleters(roles.corrector, roles.reflector, roles.generator)
        with pytest.raises(InputError, match=r"--reflector other: not served\. Expected one of base, refl"):
            async with open_roles(Engine("openai", "base", reflector="other", base_urls=(server.url,))):
                pass


async def test_no_server_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OpenAIEngine(["http://127.0.0.1:9/v1"], startup_patience=0.1)
    with pytest.raises(InputError, match=r"no list of models from there .*Start the server") as raised:
        await engine.open()
    await engine.close()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x/v1", "http://me:sk-secret-1234@host/v1", "http://h/v1?key=sk-1"]
)
def test_urls_that_cannot_be_used_are_refused_without_quoting_a_key(url: str) -> None:
    with pytest.raises(InputError) as raised:
        OpenAIEngine([url])
    assert "sk-" not in str(raised.value)


async def test_the_key_is_sent_and_never_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    quoting = Reply(503, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    refusing = Reply(400, {"error": {"message": f"bad {KEY}"}})
    with running(FakeServer(in_turn(quoting, refusing), key=KEY)) as server:
        async with opened(server) as completer:
            [completion] = await completer.complete("Q", sampling=SAMPLING, seed=0)
    with running(FakeServer(lambda request: "ok", key="another")) as server:
        engine = OpenAIEngine([server.url])
        with pytest.raises(InputError, match="refuses the key") as raised:
            await engine.open()
        await engine.close()
    assert "bad ***" in completion.error
    assert KEY not in f"{completion} {raised.value} {caplog.text} {completer!r}"
