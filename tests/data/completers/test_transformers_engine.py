"""The embedded engine: the contract, and what is its own: batching, memory, adapters, a thread that never hangs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest


torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from reflectevo_data.completers.base import Completer, Sampling  # noqa: E402
from reflectevo_data.completers.decoding import Decoder, Decoding, draw, unsupported_cache  # noqa: E402
from reflectevo_data.completers.engine import Engine, open_roles  # noqa: E402
from reflectevo_data.completers.transformers_engine import TransformersCompleter, TransformersEngine  # noqa: E402
from reflectevo_data.errors import InputError  # noqa: E402
from tests.data.completers.completer_contract import GREEDY, PROMPT, SAMPLED, CompleterContract  # noqa: E402
from tests.tiny import save_lora, save_tiny_llama, save_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return save_lora(tmp_path_factory.mktemp("models") / "tiny-lora", tiny)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(str(tiny))
    yield engine
    engine.close()


class TestContract(CompleterContract):
    @pytest.fixture
    def completer(self, engine: TransformersEngine) -> Completer:
        return TransformersCompleter(engine, "tiny")


def _prompts(n: int = 13, *, n_shared: int = 0) -> list[list[int]]:
    shared = [3 + 5 * j % 90 for j in range(n_shared)]
    return [shared + [3 + (7 * i + j * j) % 90 for j in range(5 + 11 * i % 60)] for i in range(n)]


def _run(decoder: Decoder, sequences: list[Decoding]) -> list[list[int]]:
    decoder.waiting.extend(sequences)
    while decoder.busy:
        decoder.step()
    assert {sequence.finish_reason for sequence in sequences} <= {"stop", "length"}
    return [sequence.tokens for sequence in sequences]


def _decoder(model, **changes) -> Decoder:
    limits = {"end_tokens": [2], "max_rows": 4, "max_cached_tokens": 10**6, **changes}
    return Decoder(model, **limits)


def _generated(model, prompt: list[int], n: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, eos_token_id=2
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("n_shared", [0, 70])
@pytest.mark.parametrize("kind", ["llama", "mistral-sliding", "gemma3-mixed", "qwen3"])
def test_rows_that_join_and_leave_say_what_generate_says(kind: str, n_shared: int) -> None:
    import transformers

    small = {
        "vocab_size": 99,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "intermediate_size": 96,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "initializer_range": 0.3,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
    }
    torch.manual_seed(0)
    config = {
        "llama": lambda: transformers.LlamaConfig(**small),
        "mistral-sliding": lambda: transformers.MistralConfig(**small, sliding_window=16),
        "gemma3-mixed": lambda: transformers.Gemma3TextConfig(**small, sliding_window=16, sliding_window_pattern=2),
        "qwen3": lambda: transformers.Qwen3Config(**small),
    }[kind]()
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    limits = [3 + 17 * i % 90 for i in range(13)]
    prompts = _prompts(n_shared=n_shared)
    sequences = [Decoding(p, Sampling(0.0, max_tokens=n), 0) for p, n in zip(prompts, limits, strict=True)]
    together = _run(_decoder(model), sequences)
    assert together == [_generated(model, p, n) for p, n in zip(prompts, limits, strict=True)]
    assert len({len(tokens) for tokens in together}) > 3


@pytest.mark.parametrize("kind", ["mamba", "openai-gpt", "qwen-vl", "prefix-tuning"])
def test_rows_that_cannot_leave_say_what_generate_says(kind: str) -> None:
    import peft
    import transformers

    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 96}
    small = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3, **heads}
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
    torch.manual_seed(0)
    model = {
        "mamba": lambda: transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, initializer_range=0.3)
        ),
        "openai-gpt": lambda: transformers.OpenAIGPTLMHeadModel(
            transformers.OpenAIGPTConfig(vocab_size=99, n_embd=64, n_layer=2, n_head=2, initializer_range=0.3)
        ),
        "qwen-vl": lambda: transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(text_config={**small, "rope_parameters": rope}, vision_config=vision)
        ),
        "prefix-tuning": lambda: peft.get_peft_model(
            transformers.LlamaForCausalLM(transformers.LlamaConfig(**small)),
            peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        ),
    }[kind]().eval()
    limits = [3 + 17 * i % 90 for i in range(13)]
    sequences = [Decoding(p, Sampling(0.0, max_tokens=n), 0) for p, n in zip(_prompts(), limits, strict=True)]
    assert unsupported_cache(model)
    together = _run(_decoder(model, max_rows=8), sequences)
    assert together == [_generated(model, p, n) for p, n in zip(_prompts(), limits, strict=True)]


def test_little_memory_means_small_batches_and_the_same_tokens(engine: TransformersEngine) -> None:
    def sequences() -> list[Decoding]:
        return [Decoding(p, Sampling(1.0, max_tokens=50), i << 8) for i, p in enumerate(_prompts())]

    plenty = _run(_decoder(engine.model, max_rows=13), sequences())
    tight = _decoder(engine.model, max_rows=13, max_cached_tokens=300)
    tight.waiting.extend(waiting := sequences())
    sizes = []
    while tight.busy:
        tight.step()
        sizes.append(sum(batch.ids.numel() for batch in tight._batches))
    assert [sequence.tokens for sequence in waiting] == plenty
    assert 100 < max(sizes) <= 300


def test_what_prompts_share_is_computed_once(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    few_shot, other = [5, 6, 7] * 50, [8, 9] * 60
    prompts = [few_shot + prompt for prompt in _prompts(8)] + [other + prompt for prompt in _prompts(6)]
    sequences = [Decoding(prompt, Sampling(1.0, max_tokens=20), i << 8) for i, prompt in enumerate(prompts)]
    alone = [_run(_decoder(engine.model), [Decoding(s.prompt, s.sampling, s.seed)])[0] for s in sequences]
    forward, shapes = engine.model.forward, []

    @functools.wraps(forward)  # `generate` looks at the signature
    def counting(*args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", counting)
    assert _run(_decoder(engine.model, max_rows=16), sequences) == alone
    assert sorted(shape for shape in shapes if shape[0] == 1 and shape[1] > 100) == [(1, 120), (1, 150)]
    assert max(rows * columns for rows, columns in shapes if rows > 1) <= 8 * 65


def test_running_out_of_memory_halves_the_batch(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [Decoding(p, Sampling(1.0, max_tokens=20), i << 8) for i, p in enumerate(_prompts())]
    expected = _run(_decoder(engine.model, max_rows=8), [Decoding(s.prompt, s.sampling, s.seed) for s in sequences])
    forward, refused = engine.model.forward, []

    @functools.wraps(forward)
    def small_device(*args, **kwargs):
        if len(kwargs["input_ids"]) > 3:
            refused.append(tuple(kwargs["input_ids"].shape))
            raise torch.OutOfMemoryError("made up")
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", small_device)
    decoder = _decoder(engine.model, max_rows=8)
    assert _run(decoder, sequences) == expected
    assert refused
    assert decoder.max_rows <= 3


def test_a_prompt_too_large_for_memory_fails_alone(engine: TransformersEngine) -> None:
    decoder = _decoder(engine.model, max_cached_tokens=200)
    sequences = [Decoding([5] * n, GREEDY, 0) for n in (20, 300, 20)]
    decoder.waiting.extend(sequences)
    while decoder.busy:
        decoder.step()
    assert [sequence.finish_reason for sequence in sequences] == ["length", "error", "length"]
    assert "300 tokens" in sequences[1].error


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().repeat(1000, 1)
    uniforms = [(i + 0.5) / 1000 for i in range(1000)]
    drawn = draw(logits, temperatures=[1.0] * 1000, top_ps=[1.0] * 1000, uniforms=uniforms)
    assert [drawn.tolist().count(token) for token in range(4)] == [100, 200, 300, 400]
    # the nucleus of 0.6 is {3, 2}: the token that passes the limit belongs to it
    drawn = draw(logits, temperatures=[1.0] * 1000, top_ps=[0.6] * 1000, uniforms=uniforms)
    assert [drawn.tolist().count(token) for token in range(4)] == pytest.approx([0, 0, 428, 572], abs=1)
    # squared and scaled anew: 1, 4, 9, 16 of 30
    drawn = draw(logits, temperatures=[0.5] * 1000, top_ps=[1.0] * 1000, uniforms=uniforms)
    assert [drawn.tolist().count(token) for token in range(4)] == pytest.approx([33, 133, 300, 533], abs=1)
    mixed = draw(logits[:2], temperatures=[0.0, 1.0], top_ps=[1.0, 1.0], uniforms=[0.0, 0.0])
    assert mixed.tolist() == [3, 0]


async def test_a_bug_in_the_thread_is_raised_where_it_is_awaited(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(str(tiny))

    def broken(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine.model, "forward", broken)
    completer = TransformersCompleter(engine, "tiny")
    waiting = [completer.complete(PROMPT, sampling=SAMPLED, seed=i) for i in range(3)]
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=30)
    assert all(isinstance(result, RuntimeError) for result in results)
    assert isinstance(results[0].__cause__, ZeroDivisionError)
    with pytest.raises(RuntimeError, match="crashed"):
        await completer.complete(PROMPT, sampling=SAMPLED, seed=0)
    engine.close()


async def test_closing_ends_the_thread_and_cancels_who_waits(tiny: Path) -> None:
    engine = TransformersEngine(str(tiny))
    completer = TransformersCompleter(engine, "tiny")
    endless = Sampling(1.0, max_tokens=400)
    waiting = [asyncio.create_task(completer.complete(PROMPT, sampling=endless, seed=i << 8)) for i in range(8)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(engine.close)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=30)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)
    assert not engine._thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        await completer.complete(PROMPT, sampling=SAMPLED, seed=0)


async def test_cancelled_sequences_leave_the_engine(engine: TransformersEngine) -> None:
    completer = TransformersCompleter(engine, "tiny")
    endless = Sampling(1.0, max_tokens=400)
    task = asyncio.create_task(completer.complete(PROMPT, sampling=endless, seed=0, n=2 * engine.slots))
    while not engine._open:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(60):
        while engine._open or any(lane.busy for lane in engine._lanes.values()):
            await asyncio.sleep(0.01)
    [completion] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
    assert completion.finish_reason != "error"


@pytest.fixture
async def roles(tiny: Path, lora: Path) -> AsyncIterator[tuple]:
    async with open_roles(Engine("transformers", str(tiny), reflector=str(lora))) as roles:
        yield roles


async def test_an_adapter_and_its_base_share_one_model(roles: tuple, tiny: Path, lora: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    generator, reflector, corrector = roles
    assert generator is corrector
    assert generator.engine is reflector.engine
    assert [role.model for role in roles] == ["tiny", "tiny-lora", "tiny"]
    mixed = await asyncio.gather(
        *[role.complete(f"{PROMPT}{i}", sampling=GREEDY, seed=0) for i in range(6) for role in (generator, reflector)]
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), str(lora)).eval()
    for i in range(6):
        text = f"<s>user\n{PROMPT}{i}</s>\n<s>assistant\n"
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        of_adapter = _generated(adapted, prompt, GREEDY.max_tokens)
        with adapted.disable_adapter():
            of_base = _generated(adapted, prompt, GREEDY.max_tokens)
        assert mixed[2 * i][0].text == tokenizer.decode(of_base, skip_special_tokens=True)
        assert mixed[2 * i + 1][0].text == tokenizer.decode(of_adapter, skip_special_tokens=True)
        assert of_base != of_adapter


async def test_an_adapter_alone_brings_its_base(tiny: Path, lora: Path) -> None:
    async with open_roles(Engine("transformers", str(lora))) as roles:
        [completion] = await roles.generator.complete(PROMPT, sampling=GREEDY, seed=0)
    async with open_roles(Engine("transformers", str(tiny))) as bare:
        [without] = await bare.generator.complete(PROMPT, sampling=GREEDY, seed=0)
    assert completion.text != without.text
    assert {role.model for role in roles} == {"tiny-lora"}


async def test_a_model_without_a_chat_template_gets_the_plain_prompt(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny_llama(tmp_path / "base-model", chat_template=None)
    async with open_roles(Engine("transformers", str(folder))) as roles:
        [completion] = await roles.generator.complete(PROMPT, sampling=GREEDY, seed=0)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    expected = _generated(model, tokenizer(f"{PROMPT}\n")["input_ids"], GREEDY.max_tokens)
    assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)


async def test_weights_that_cannot_be_read_are_said_in_one_line(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    save_tokenizer(folder)
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    with pytest.raises(InputError, match="model broken: cannot be loaded") as raised:
        async with open_roles(Engine("transformers", str(folder))):
            pass
    assert "\n" not in str(raised.value)


async def test_a_state_space_model_is_refused(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    n_tokens = save_tokenizer(tmp_path)
    config = MambaConfig(vocab_size=n_tokens, hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="--engine vllm"):
        async with open_roles(Engine("transformers", str(tmp_path))):
            pass
