"""The completer on a model in training: the contract, the engine's own draws, and nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest


torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from reflectevo_data.completers.base import Completer, Sampling  # noqa: E402
from reflectevo_data.completers.chat import chat_ids, chat_text  # noqa: E402
from reflectevo_data.completers.live import LiveCompleter, undisturbed  # noqa: E402
from reflectevo_data.completers.transformers_engine import TransformersCompleter, TransformersEngine  # noqa: E402
from reflectevo_data.schema import Completion  # noqa: E402
from tests.data.completers.completer_contract import PROMPT, CompleterContract  # noqa: E402
from tests.tiny import save_lora, save_tiny_llama, save_tokenizer  # noqa: E402


GREEDY, SAMPLED = Sampling(temperature=0.0, max_tokens=12), Sampling(temperature=1.0, max_tokens=12)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def live(model: Any, tokenizer: Any) -> LiveCompleter:
    return LiveCompleter(model, tokenizer, "tiny")


class TestContract(CompleterContract):
    @pytest.fixture
    def completer(self, live: LiveCompleter) -> Completer:
        return live


async def _completions(completer: Completer, requests: list[tuple[str, Sampling, int]]) -> list[Completion]:
    done = await asyncio.gather(*(completer.complete(p, sampling=s, seed=seed) for p, s, seed in requests))
    return [completions[0] for completions in done]


def complete(completer: Completer, requests: list[tuple[str, Sampling, int]]) -> list[str]:
    return [completion.text for completion in asyncio.run(_completions(completer, requests))]


def _greedy_alone(model: Any, tokenizer: Any, prompt: str) -> str:
    ids = torch.tensor([chat_ids(tokenizer, chat_text(tokenizer, prompt))])
    alone = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(alone, skip_special_tokens=True)


def test_greedy_text_is_that_of_the_model_alone(model: Any, tokenizer: Any):
    prompts = ["Add 7.", "Start with 5. Add 6. What is left?", "?"]
    together = complete(LiveCompleter(model, tokenizer, "m"), [(prompt, GREEDY, 0) for prompt in prompts])
    assert together == [_greedy_alone(model, tokenizer, prompt) for prompt in prompts]


def test_sample_depends_on_its_seed_alone(model: Any, tokenizer: Any):
    requests = [("Add 7.", SAMPLED, seed) for seed in range(0, 4096, 512)]
    together = complete(LiveCompleter(model, tokenizer, "m"), requests)
    torch.manual_seed(99)
    alone = [complete(LiveCompleter(model, tokenizer, "m", slots=1), [request])[0] for request in requests[:3]]
    assert together[:3] == alone
    assert len(set(together)) == len(together)


def test_samples_follow_the_model(model: Any, tokenizer: Any):
    """The first token of many samples against the model's own distribution."""
    one = Sampling(temperature=1.0, max_tokens=1)
    texts = complete(
        LiveCompleter(model, tokenizer, "m", slots=500), [("Add 7.", one, seed << 8) for seed in range(500)]
    )
    ids = torch.tensor([chat_ids(tokenizer, chat_text(tokenizer, "Add 7."))])
    with torch.no_grad():
        likeliest = model(ids).logits[0, -1].softmax(-1).max(-1)
    expected, found = likeliest.values.item(), texts.count(tokenizer.decode(likeliest.indices)) / 500
    assert abs(found - expected) < 4 * (expected * (1 - expected) / 500) ** 0.5


def test_limits_and_stops(model: Any, tokenizer: Any):
    text = complete(LiveCompleter(model, tokenizer, "m"), [("Add 7.", GREEDY, 0)])[0]
    stop = Sampling(temperature=0.0, max_tokens=12, stop=(text[3:5],))
    short = Sampling(temperature=0.0, max_tokens=4)
    assert complete(LiveCompleter(model, tokenizer, "m"), [("Add 7.", stop, 0), ("Add 7.", short, 0)]) == [
        text[:3],
        text[:4],
    ]
    assert asyncio.run(LiveCompleter(model, tokenizer, "m").complete("x" * 600, sampling=GREEDY, seed=0))[0].error


async def test_max_tokens_beyond_the_context_are_those_that_fit(model: Any, tokenizer: Any):
    prompt = "x" * (512 - 20 - len(chat_ids(tokenizer, chat_text(tokenizer, ""))))
    endless = [(prompt, Sampling(temperature=1.0, max_tokens=10_000), seed << 8) for seed in range(8)]
    done = await _completions(LiveCompleter(model, tokenizer, "m"), endless)
    assert {completion.n_prompt_tokens for completion in done} == {512 - 20}
    assert max(completion.n_completion_tokens for completion in done) == 20
    assert {completion.finish_reason for completion in done if completion.n_completion_tokens == 20} == {"length"}


async def test_draws_are_those_of_the_engine(tiny: Path, model: Any, tokenizer: Any):
    samplings = [
        Sampling(temperature, top_p, max_tokens=n, stop=stop)
        for temperature, top_p in [(1.0, 0.4), (0.7, 0.9), (1.0, 1.0), (0.0, 0.5)]
        for n, stop in [(40, ()), (70, ("a", "Z1"))]
    ]
    requests = [(f"{PROMPT} {'x' * i}", sampling, i << 8) for i, sampling in enumerate(samplings * 4)]
    requests += [(PROMPT, Sampling(1.0, top_p, max_tokens=40), 5) for top_p in (0.4, 1.0)]
    engine = TransformersEngine(str(tiny))
    of_engine = await _completions(TransformersCompleter(engine, "tiny"), requests)
    of_live = await _completions(LiveCompleter(model, tokenizer, "m", slots=10), requests)
    engine.close()
    assert of_live == of_engine
    assert of_live[-2] != of_live[-1]


async def test_cancelled_sequences_leave_the_model(model: Any, tokenizer: Any):
    completer = LiveCompleter(model, tokenizer, "m", slots=4)
    endless = Sampling(temperature=1.0, max_tokens=400)
    task = asyncio.create_task(completer.complete(PROMPT, sampling=endless, seed=0, n=12))
    other = asyncio.create_task(completer.complete(PROMPT, sampling=GREEDY, seed=0))
    while not completer._decoder._batches:
        await asyncio.sleep(0)
    rows = [row for batch in completer._decoder._batches for row in batch.rows]
    task.cancel()
    [completion] = await other
    assert task.cancelled()
    assert completion.text == _greedy_alone(model, tokenizer, PROMPT)
    await asyncio.wait_for(completer._worker, timeout=30)
    assert not completer._decoder.busy
    assert not completer._open
    assert max(len(row.tokens) for row in rows) < 100


async def test_a_bug_reaches_everyone_who_waits(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    completer = LiveCompleter(model, tokenizer, "m", slots=4)

    def broken(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", broken)
        waiting = [completer.complete(PROMPT, sampling=SAMPLED, seed=i << 8, n=2) for i in range(6)]
        waiting.append(completer.logprob(PROMPT, "7"))
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=30)
    assert [type(result) for result in results] == [ZeroDivisionError] * 7
    assert not completer._decoder.busy
    [completion] = await completer.complete(PROMPT, sampling=GREEDY, seed=0)
    assert completion.text == _greedy_alone(model, tokenizer, PROMPT)


async def test_an_adapter_and_its_base_take_turns_on_one_model(tiny: Path, model: Any, tokenizer: Any, tmp_path: Path):
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    adapted = PeftModel.from_pretrained(base, str(save_lora(tmp_path, tiny)), is_trainable=True).eval()
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    inside = itertools.count()

    @contextmanager
    def without_adapter() -> Iterator[None]:
        next(inside)
        with adapted.disable_adapter():
            yield

    with_adapter = LiveCompleter(adapted, tokenizer, "adapter")
    without = LiveCompleter(adapted, tokenizer, "base", as_model=without_adapter)
    requests = [(f"{PROMPT} {'x' * i}", Sampling(1.0, max_tokens=50), i << 8) for i in range(8)]
    of_adapter, of_base = await asyncio.gather(_completions(with_adapter, requests), _completions(without, requests))
    assert next(inside) > 1
    assert of_base == await _completions(LiveCompleter(model, tokenizer, "alone"), requests)
    assert of_adapter == await _completions(with_adapter, requests)
    assert of_adapter != of_base
    assert [name for name, parameter in adapted.named_parameters() if parameter.requires_grad] == trainable


def test_nothing_of_the_model_counts_or_changes(model: Any, tokenizer: Any):
    requests = [("Add 7.", GREEDY, 0), ("Add 8.", SAMPLED, 256), ("Add 9.", SAMPLED, 512)]
    expected = complete(LiveCompleter(model, tokenizer, "m"), requests)
    usual = model.generation_config
    own = transformers.GenerationConfig(
        num_beams=2, repetition_penalty=9.0, no_repeat_ngram_size=1, min_new_tokens=9, eos_token_id=2
    )
    settings = own.to_dict()
    model.generation_config = own
    tokenizer_state, states = repr(tokenizer), (random.getstate(), np.random.get_state()[1].tolist())
    torch_state = torch.get_rng_state()
    try:
        assert complete(LiveCompleter(model, tokenizer, "m"), requests) == expected
        assert model.generation_config is own
        assert own.to_dict() == settings
    finally:
        model.generation_config = usual
    assert repr(tokenizer) == tokenizer_state
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert torch.equal(torch.get_rng_state(), torch_state)


async def test_training_goes_on(tokenizer: Any):
    """Also on a model that keeps tensors of its forward pass: the rotary frequencies of long texts."""
    rotary = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [2.0] * 16, "rope_theta": 1e4}
    config = transformers.Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_parameters=rotary,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = transformers.Phi3ForCausalLM(config).eval()
    completer = LiveCompleter(model, tokenizer, "m")
    await completer.complete(PROMPT, sampling=Sampling(1.0, max_tokens=40), seed=0)
    await completer.logprob(PROMPT, "7" * 40)
    assert not model.model.rotary_emb.long_inv_freq.is_inference()
    ids = torch.tensor([chat_ids(tokenizer, PROMPT * 2)])
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


async def test_a_state_space_model_in_training_is_served(tmp_path: Path):
    n_tokens = save_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    config = transformers.MambaConfig(
        vocab_size=n_tokens, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.5, eos_token_id=2
    )
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config).eval()
    completer = LiveCompleter(model, tokenizer, "mamba", slots=2)
    prompts = ["Add 7.", "Start with 5. Add 6. What is left?", "?"]
    texts = [c.text for c in await _completions(completer, [(prompt, GREEDY, 0) for prompt in prompts])]
    assert texts == [_greedy_alone(model, tokenizer, prompt) for prompt in prompts]
    assert (await completer.logprob("Add 7.", texts[0])).mean > (await completer.logprob("Add 7.", "never")).mean


def test_undisturbed(model: Any):
    model.train()
    model.lm_head.eval()  # a part that is frozen keeps its mode
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    with undisturbed(model):
        assert not model.training
        torch.rand(3), random.random(), np.random.rand()
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected
    assert (model.training, model.model.training, model.lm_head.training) == (True, True, False)
    model.eval()
