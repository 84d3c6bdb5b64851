"""Real vLLM, in process and over HTTP: the contract, adapters, shutting down, a server that dies and comes back.

Runs in the environment that `make test-vllm` makes; some minutes, most of them vLLM starting.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio


pytest.importorskip("vllm", reason="needs the vLLM environment: make test-vllm")

from reflectevo_data.completers.base import Completer, RoleCompleters
from reflectevo_data.completers.engine import Engine, open_roles
from reflectevo_data.errors import InputError
from reflectevo_data.models import miniature_path
from tests.data.completers.completer_contract import GREEDY, PROMPT, CompleterContract
from tests.tiny import save_lora, save_tiny_llama
from tests.vllm_server import VLLMServer, session_members


pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]
PATIENCE = 900  # seconds for vLLM to start or stop; half a minute on an idle machine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return save_lora(tmp_path_factory.mktemp("models") / "tiny-lora", tiny)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def in_process(tiny: Path) -> AsyncIterator[RoleCompleters]:
    async with open_roles(Engine("vllm", str(tiny))) as roles:
        yield roles


class TestInProcess(CompleterContract):
    @pytest.fixture
    def completer(self, in_process: RoleCompleters) -> Completer:
        return in_process.generator

    async def test_it_says_what_transformers_says(self, in_process: RoleCompleters, tiny: Path) -> None:
        async with open_roles(Engine("transformers", str(tiny))) as roles:
            for i in range(3):
                [ours] = await roles.generator.complete(f"{PROMPT}{i}", sampling=GREEDY, seed=0)
                [vllms] = await in_process.generator.complete(f"{PROMPT}{i}", sampling=GREEDY, seed=0)
                assert vllms == ours
            of_ours, of_vllm = [await r.logprob(PROMPT, "42") for r in (roles.generator, in_process.generator)]
            assert of_vllm.total == pytest.approx(of_ours.total, abs=1e-2)
            assert of_vllm.n_tokens == of_ours.n_tokens


async def test_two_bases_are_refused(tiny: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other")
    with pytest.raises(InputError, match="--engine vllm runs one model and LoRA adapters on it, not tiny and other"):
        async with open_roles(Engine("vllm", str(tiny), reflector=str(other))):
            pass


INTERRUPTED = """
import asyncio, signal, sys
from reflectevo_data.completers.base import Sampling
from reflectevo_data.completers.engine import Engine, open_roles
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
async def main():
    async with open_roles(Engine("vllm", sys.argv[1])) as roles:
        endless = Sampling(temperature=1.0, max_tokens=400)
        work = [roles.generator.complete("Q", sampling=endless, seed=i << 8, n=8) for i in range(200)]
        asyncio.get_running_loop().call_later(1, lambda: print("READY", flush=True))
        await asyncio.gather(*work)
        print("not reached")
if __name__ == "__main__":
    asyncio.run(main())
"""

RAISING = """
import asyncio, sys
from reflectevo_data.completers.base import Sampling
from reflectevo_data.completers.engine import Engine, open_roles
from reflectevo_data.errors import InputError
async def main():
    async with open_roles(Engine("vllm", sys.argv[1], reflector=sys.argv[2])) as (generator, reflector, corrector):
        assert generator is corrector and generator.llm is reflector.llm
        assert (generator.model, reflector.model) == ("tiny", "tiny-lora")
        greedy = Sampling(temperature=0.0, max_tokens=24)
        both = await asyncio.gather(*[c.complete("Q", sampling=greedy, seed=0) for c in (generator, reflector)])
        texts = [completion.text for [completion] in both]
        assert all(texts) and texts[0] != texts[1], texts
        if not generator.gives_logprobs:  # on a CPU
            try:
                await generator.logprob("Q", "A")
            except InputError:
                pass
        print("READY", flush=True)
        raise ZeroDivisionError
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("way_out", ["SIGTERM", "SIGINT", "exception"])
def test_no_process_is_left_behind(tiny: Path, lora: Path, tmp_path: Path, way_out: str) -> None:
    """Interrupted amid its work; and after an exception, on an engine with an adapter beside its base."""
    script = tmp_path / "script.py"
    script.write_text(RAISING if way_out == "exception" else INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tiny), str(lora)],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert "READY\n" in process.stdout, (tmp_path / "log").read_text()[-3000:]  # reads up to there
        if way_out != "exception":
            assert len(session_members(process.pid)) > 1  # the engine has a process of its own
            process.send_signal(getattr(signal, way_out))
        output, _ = process.communicate(timeout=PATIENCE)
        assert "not reached" not in output
        assert process.returncode != 0
        assert _gone(process.pid)
    finally:
        for process_id in session_members(process.pid):
            os.kill(process_id, signal.SIGKILL)


def _gone(session: int) -> bool:
    """Whether all of a session's processes have ended, a moment allowed."""
    for _ in range(100):
        if not session_members(session):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    with VLLMServer(miniature_path(), tmp_path_factory.mktemp("server") / "log", name="miniature") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def over_http(server: VLLMServer) -> AsyncIterator[RoleCompleters]:
    async with open_roles(Engine("openai", "miniature", base_urls=(server.url,))) as roles:
        yield roles


class TestOverHTTP(CompleterContract):
    @pytest.fixture
    def completer(self, over_http: RoleCompleters) -> Completer:
        return over_http.generator

    async def test_it_says_what_transformers_says(self, over_http: RoleCompleters) -> None:
        async with open_roles(Engine("transformers", "miniature")) as roles:
            for i in range(3):
                [ours] = await roles.generator.complete(f"{PROMPT}{i}", sampling=GREEDY, seed=0)
                [theirs] = await over_http.generator.complete(f"{PROMPT}{i}", sampling=GREEDY, seed=0)
                assert theirs == ours


def test_a_server_killed_in_the_middle_costs_nothing(server: VLLMServer, tmp_path: Path) -> None:
    """Kill -9 in the middle of a generation, and a restart: no problem lost, none doubled, none failed."""
    n_problems, run = 300, tmp_path / "run"
    command = [
        *(
            sys.executable,
            "-m",
            "reflectevo_data.cli",
            "generate",
            "--source",
            "miniature",
            "--limit",
            str(n_problems),
        ),
        *("--model", "miniature", "--prompts", "miniature", "--engine", "openai", "--base-url", server.url),
        *("--temperature", "1", "--concurrency", "32", "--output", str(run)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while _n_records(run) < n_problems // 4:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        server.kill()
        at_kill = _n_records(run)
        server.start()
        server.wait_until_healthy()
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert at_kill < n_problems
    ids = [json.loads(line)["id"] for line in (run / "records.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == n_problems
    assert not (run / "failures.jsonl").exists() or not (run / "failures.jsonl").read_text()


def _n_records(run: Path) -> int:
    records = run / "records.jsonl"
    return records.read_bytes().count(b"\n") if records.exists() else 0
