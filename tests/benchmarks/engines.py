"""What generation costs on each engine, as ratios of one run on the same questions.

    make bench-engines        (or: tests/vllm.sh python -m tests.benchmarks.engines [--problems 256] [--only NAME …])

Every row takes the same problems of the miniature through the loop (k = 2), unless it says otherwise:

- `sequential`: one prompt at a time and two calls a trial (thought, then action), on vLLM, as the reference does: 1.
- `vllm`: ours, in process.  `limit`: the very requests of that run, sent straight to AsyncLLM all at once.
- `http`: ours against a vLLM server on this machine; client and server share the cores.
- `transformers`: ours; `padded generate`: the same requests in sorted padded batches, each run to its longest row.
- `prefix on`, `prefix off`: the bundled few-shot prompts on vLLM with and without prefix caching.
- `client`: the scripted completer: what everything but the model costs, in CPU ms a problem.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reflectevo_data.completers.base import Completer, ContinuationLogprob, Sampling
from reflectevo_data.completers.engine import Engine, open_roles
from reflectevo_data.completers.locate import locate_models
from reflectevo_data.completers.scripted import ScriptedCompleter
from reflectevo_data.models import miniature_path
from reflectevo_data.prompts.templates import PromptSet, load_prompts
from reflectevo_data.rollouts.loop import Role, Roles, run_rollouts
from reflectevo_data.schema import Completion, Problem
from reflectevo_data.sources.load import load_problems
from reflectevo_data.verifiers.pool import VerifierPool
from tests.vllm_server import VLLMServer


REPEATS = 3  # of ours and the limit, in turns
SAMPLING = Sampling(temperature=1.0, max_tokens=256)


class Measured(NamedTuple):
    """A row of the table."""

    name: str
    n_problems: int
    n_tokens: int
    seconds: float
    cpu_seconds: float


class Request(NamedTuple):
    prompt: str
    prefill: str
    sampling: Sampling
    seed: int
    n_tokens: int


@dataclass(slots=True)
class Recorder:
    """A completer that keeps every request with the tokens it gave."""

    inner: Completer
    requests: list[Request] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.inner.model

    @property
    def slots(self) -> int:
        return self.inner.slots

    async def complete(
        self, prompt: str, *, sampling: Sampling, seed: int, n: int = 1, prefill: str = ""
    ) -> list[Completion]:
        completions = await self.inner.complete(prompt, sampling=sampling, seed=seed, n=n, prefill=prefill)
        for i, completion in enumerate(completions):
            if completion.finish_reason == "error":
                raise RuntimeError(completion.error)
            self.requests.append(Request(prompt, prefill, sampling, seed + i, completion.n_completion_tokens))
        return completions

    async def logprob(self, prompt: str, continuation: str, *, prefill: str = "") -> ContinuationLogprob:
        return await self.inner.logprob(prompt, continuation, prefill=prefill)


async def loop(
    name: str, completer: Completer, problems: Sequence[Problem], prompts: PromptSet, verifier: VerifierPool
) -> tuple[Measured, list[Request]]:
    """The problems through our loop."""
    recorder = Recorder(completer)
    role = Role(recorder, SAMPLING)
    start, cpu = time.perf_counter(), time.process_time()
    n = 0
    async for _ in run_rollouts(
        problems,
        Roles(role, role, role),
        prompts=prompts,
        verifier=verifier,
        in_flight=2 * completer.slots,
    ):
        n += 1
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    n_tokens = sum(request.n_tokens for request in recorder.requests)
    return Measured(name, n, n_tokens, seconds, cpu_seconds), recorder.requests


async def sequential(
    completer: Completer, problems: Sequence[Problem], prompts: PromptSet, verifier: VerifierPool
) -> Measured:
    """The reference's way: a request only when the one before it is answered; thought and action are two calls."""
    from reflectevo_data.parsing.trial import parse_trial

    n_tokens = 0

    async def ask(prompt: str, prefill: str, stop: tuple[str, ...], seed: int) -> str:
        nonlocal n_tokens
        sampling = Sampling(SAMPLING.temperature, max_tokens=SAMPLING.max_tokens, stop=stop)
        [completion] = await completer.complete(prompt, sampling=sampling, seed=seed, prefill=prefill)
        n_tokens += completion.n_completion_tokens
        return completion.text

    async def trial(problem: Problem, prompt: str, seed: int) -> tuple[str, bool]:
        thought = await ask(prompt, "", ("Action:",), seed)
        begun = f"{thought.rstrip()}\nAction:"
        text = begun + await ask(prompt, begun, ("\n",), seed + 1)
        parsed = parse_trial(text, problem)
        return parsed.reasoning, (await verifier.judge(parsed, problem)).is_correct

    start, cpu = time.perf_counter(), time.process_time()
    for i, problem in enumerate(problems):
        reasoning, solved = await trial(problem, prompts.solve(problem), i << 8)
        for k, key in enumerate(list(prompts.pool)[:2] if not solved else []):
            reflection = await ask(prompts.reflect(problem, reasoning, key), "", (), (i << 8) + 10 * k + 2)
            await trial(problem, prompts.correct(problem, reasoning, reflection.strip()), (i << 8) + 10 * k + 4)
    return Measured("sequential", len(problems), n_tokens, time.perf_counter() - start, time.process_time() - cpu)


async def limit(llm: Any, tokenizer: Any, requests: Sequence[Request], n_problems: int) -> Measured:
    """The requests of a run, every token count as it was, sent to the engine all at once."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from reflectevo_data.completers.chat import chat_ids, chat_text

    async def one(i: int, request: Request) -> int:
        ids = chat_ids(tokenizer, chat_text(tokenizer, request.prompt, request.prefill))
        parameters = SamplingParams(
            temperature=request.sampling.temperature,
            seed=request.seed,
            max_tokens=request.n_tokens,
            ignore_eos=True,  # as min_tokens would, but that costs the sampler a pass over the logits
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        answer = llm.generate({"prompt_token_ids": ids}, parameters, request_id=f"limit-{i}")
        [output] = [output async for output in answer]
        return len(output.outputs[0].token_ids)

    start, cpu = time.perf_counter(), time.process_time()
    n_tokens = sum(await asyncio.gather(*[one(i, request) for i, request in enumerate(requests)]))
    return Measured("limit", n_problems, n_tokens, time.perf_counter() - start, time.process_time() - cpu)


def padded_generate(requests: Sequence[Request], n_problems: int, n_rows: int) -> Measured:
    """The requests of a run in sorted, padded batches of `generate`, each as long as its longest row."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from reflectevo_data.completers.chat import chat_ids, chat_text
    from reflectevo_data.completers.decoding import left_padded

    tokenizer = AutoTokenizer.from_pretrained(miniature_path())
    model = AutoModelForCausalLM.from_pretrained(miniature_path(), dtype=torch.float32).eval()
    start, cpu = time.perf_counter(), time.process_time()
    rows = [(chat_ids(tokenizer, chat_text(tokenizer, r.prompt, r.prefill)), r.n_tokens) for r in requests]
    rows.sort(key=lambda row: len(row[0]))
    for i in range(0, len(rows), n_rows):
        batch = rows[i : i + n_rows]
        ids, mask = left_padded([prompt for prompt, _ in batch], model.device)
        longest = max(n for _, n in batch)
        # tokens drawn do not matter here, their number does
        model.generate(
            ids, attention_mask=mask, do_sample=True, max_new_tokens=longest, min_new_tokens=longest, pad_token_id=0
        )
    n_tokens = sum(n for _, n in rows)
    seconds = time.perf_counter() - start
    return Measured("padded generate", n_problems, n_tokens, seconds, time.process_time() - cpu)


async def client(n_problems: int, prompts: PromptSet, verifier: VerifierPool, folder: Path) -> tuple[Measured, float]:
    """`generate` with a model that costs nothing: into a run directory, as ever; also the peak memory in MB."""
    from reflectevo_data.rollouts.generate import generate_run
    from reflectevo_data.rollouts.manifest import Manifest
    from reflectevo_data.rollouts.store import RunDirectory

    def answer(request: Any) -> str:
        if "Finish" not in request.prompt and request.seed % 3:
            return "Thought: I looked at step 2, where the carry was forgotten. Plan: add the carry, then go on."
        return f"Thought: Step 1: 8+7=15. Step 2: 15+4=19.\nAction: Finish[{request.seed % 50}]"

    problems = [
        Problem(f"client/{i}", f"Start with {i % 90}. Add 7. Add 4. What is left?", str(i % 50))
        for i in range(n_problems)
    ]
    role = Role(ScriptedCompleter(answer, record=False), SAMPLING)
    start, cpu = time.perf_counter(), time.process_time()
    with RunDirectory.open(folder / "client", Manifest()) as run:
        report = await generate_run(problems, Roles(role, role, role), run, prompts=prompts, verifier=verifier)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    assert report.counts.n_problems == n_problems
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured("client", n_problems, report.counts.n_tokens, seconds, cpu_seconds), peak


async def measure(args: argparse.Namespace, folder: Path, show: Callable[[Measured, str], None]) -> None:
    problems = load_problems("miniature", split="test", limit=args.problems, seed=0)
    # thousands of tokens each for a byte-level tokenizer
    with_long_prompts = problems[: max(len(problems) // 16, 8)]
    miniature, few_shot = load_prompts("miniature"), load_prompts("default")
    wanted = set(args.only)

    def want(*names: str) -> bool:
        return not wanted or bool(wanted & set(names))

    async with AsyncExitStack() as stack:
        verifier = stack.enter_context(VerifierPool(workers=1))
        if want("client"):
            measured, peak = await client(args.client_problems, miniature, verifier, folder)
            show(
                measured,
                f"{1000 * measured.cpu_seconds / measured.n_problems:.2f} CPU ms a problem, peak {peak:,.0f} MB",
            )
        requests: list[Request] = []
        if want("transformers", "padded generate"):
            async with open_roles(Engine("transformers", "miniature")) as roles:
                await loop("warm-up", roles.generator, problems[:16], miniature, verifier)
                ours, requests = await loop("transformers", roles.generator, problems, miniature, verifier)
                ours_rows = roles.generator.slots
            show(ours, "")
            padded = padded_generate(requests, len(problems), ours_rows)
            show(padded, f"ours is {padded.seconds / ours.seconds:.2f} times as fast")
        if want("sequential", "vllm", "limit", "prefix on", "prefix off", "http"):
            from reflectevo_data.completers.vllm_engine import open_vllm

            located = locate_models([("--model", "miniature")])
            in_process = one_by_one = on = None
            if want("sequential", "vllm", "limit", "prefix on"):
                async with open_vllm(located) as [completer]:
                    await loop("warm-up", completer, problems[:64], miniature, verifier)
                    if want("sequential"):
                        few = problems[: max(len(problems) // 8, 8)]
                        one_by_one = await sequential(completer, few, miniature, verifier)
                        show(one_by_one, f"{len(few)} problems")
                    if want("vllm", "limit", "http"):
                        turns: list[tuple[Measured, Measured]] = []
                        for _ in range(REPEATS):
                            await completer.llm.reset_prefix_cache()
                            ours, requests = await loop("vllm", completer, problems, miniature, verifier)
                            await completer.llm.reset_prefix_cache()
                            straight = await limit(completer.llm, completer.tokenizer, requests, len(problems))
                            turns.append((ours, straight))
                        # the median turn of ours: a run of seconds is noisy
                        turns.sort(key=lambda turn: turn[0].seconds)
                        in_process, straight = turns[len(turns) // 2]
                        shares = sorted(limited.seconds / ours.seconds for ours, limited in turns)
                        show(in_process, times_as_fast(in_process, one_by_one, "sequential"))
                        show(
                            straight, "ours has " + ", ".join(f"{share:.2f}" for share in shares) + " of its tokens/s"
                        )
                    if want("prefix on"):
                        on, _ = await loop("prefix on", completer, with_long_prompts, few_shot, verifier)
                        show(on, "few-shot prompts")
            if want("prefix off"):
                async with open_vllm(located, prefix_caching=False) as [completer]:
                    off, _ = await loop("prefix off", completer, with_long_prompts, few_shot, verifier)
                    show(off, f"prefix caching is {times_as_fast(on, off, 'this')}" if on else "")
            if want("http"):
                with VLLMServer(miniature_path(), folder / "server.log", name="miniature") as server:
                    async with open_roles(Engine("openai", "miniature", base_urls=(server.url,), slots=64)) as roles:
                        await loop("warm-up", roles.generator, problems[:64], miniature, verifier)
                        over_http, _ = await loop("http", roles.generator, problems, miniature, verifier)
                show(over_http, times_as_fast(over_http, in_process, "in process"))


def times_as_fast(row: Measured, other: Measured | None, name: str) -> str:
    """The ratio of two rows' problems/s, in words; nothing when there is no other."""
    if other is None:
        return ""
    ratio = (row.n_problems / row.seconds) / (other.n_problems / other.seconds)
    return f"{ratio:.2f} times as fast as {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--client-problems", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="rows of the table (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    args = parser.parse_args()
    rows = []
    print(f"{'':<16} {'problems/s':>11} {'tokens/s':>9} {'seconds':>8}")

    def show(row: Measured, note: str) -> None:
        rows.append({**row._asdict(), "note": note})
        per_second, tokens = row.n_problems / row.seconds, row.n_tokens / row.seconds
        print(f"{row.name:<16} {per_second:>11.2f} {tokens:>9,.0f} {row.seconds:>8.1f}  {note}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(args, Path(folder), show))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
