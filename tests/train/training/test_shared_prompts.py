"""Sequences with shared prompts in one: whole literal layouts, and the loss and gradients of the sequences apart."""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, SFTConfig

from reflectevo_data.errors import InputError
from reflectevo_train.training.collators import ReflectionCollator, SharedPromptPreferences
from reflectevo_train.training.examples import SFTExample
from reflectevo_train.training.shared_prompts import (
    QuestionSampler,
    arrange,
    as_trie,
    attention_bias,
    check_attention,
    tries_of_batch,
)
from reflectevo_train.training.trainers import ReflectionDPOTrainer, ReflectionSFTTrainer
from reflectevo_train.training.truncation import Tokenized
from tests.tiny import save_tiny_llama


def sequence(prompt: list[int], completion: list[int]) -> Tokenized:
    return Tokenized(prompt + completion, [0] * len(prompt) + [1] * len(completion))


def test_equal_prompts_keep_their_last_token() -> None:
    trie = as_trie([sequence([5, 6, 7], [8, 1]), sequence([5, 6, 7], [9, 1])])
    assert trie.input_ids == [5, 6, 7, 8, 1, 7, 9, 1]
    assert trie.position_ids == [0, 1, 2, 3, 4, 2, 3, 4]
    assert trie.ends == [8, 8, 5, 5, 5, 8, 8, 8]
    assert trie.paths == [[0, 1, 2, 3, 4], [0, 1, 5, 6, 7]]


def test_a_prompt_that_another_begins_with() -> None:
    trie = as_trie([sequence([5, 6, 6, 7], [8]), sequence([5, 6], [6, 7]), sequence([5, 6, 6, 7], [9])])
    assert trie.input_ids == [5, 6, 6, 7, 6, 6, 7, 8, 7, 9]
    assert trie.position_ids == [0, 1, 2, 3, 1, 2, 3, 4, 3, 4]
    assert trie.ends == [10, 4, 4, 4, 10, 10, 8, 8, 10, 10]
    assert trie.paths == [[0, 4, 5, 6, 7], [0, 1, 2, 3], [0, 4, 5, 8, 9]]


def test_nothing_to_share() -> None:
    trie = as_trie([sequence([7], [8]), sequence([6, 5], [8])])
    assert trie.input_ids == [7, 8, 6, 5, 8]
    assert trie.ends == [2, 2, 5, 5, 5]
    assert trie.position_ids == [0, 1, 0, 1, 2]


def test_what_a_token_sees() -> None:
    trie = as_trie([sequence([5, 6], [7]), sequence([5, 6], [8])])  # 5 | 6 7 | 6 8
    bias = attention_bias(torch.tensor([[*trie.ends, 6]]), torch.float32)  # and one token of padding
    visible = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]]
    assert (bias[0, 0] == 0).int().tolist() == [*visible, [0, 0, 0, 0, 0, 1]]
    assert bias.shape == (1, 1, 6, 6)
    assert bias.min() == torch.finfo(torch.float32).min


def test_rows_of_a_batch() -> None:
    short = [sequence([9, 4], [1]), sequence([4], [1]), sequence([3] * 5, [1])]  # 3, 2 and 6 tokens
    long = [sequence([5, 6, 7, 8], [n]) for n in (1, 2, 3)]  # of one question: 3 + 3 * 2 tokens
    questions = ["b", "c", "d", "a", "a", "a"]
    assert arrange([*short, *long], questions, None) == [[3, 4, 5], [2, 0], [1]]
    assert arrange([*short, *long], questions, 7) == [[4, 5], [2], [3, 1], [0]]  # 7; 6; 5 and 2; 3 tokens


def test_what_a_model_is_given() -> None:
    sequences = [sequence([5, 6], [7]), sequence([5, 6], [8]), sequence([4], [1])]
    batch = tries_of_batch(sequences, ["a", "a", "b"], width=4, max_length=None)
    expected = {
        "trie_input_ids": [[5, 6, 7, 6, 8], [4, 1, 0, 0, 0]],
        "trie_position_ids": [[0, 1, 2, 1, 2], [0, 1, 0, 0, 0]],
        "trie_ends": [[5, 3, 3, 5, 5], [2, 2, 3, 4, 5]],
        "trie_index": [[0, 1, 2, 0], [0, 3, 4, 0], [5, 6, 0, 0]],
    }
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected


def test_rows_of_a_question_follow_each_other() -> None:
    questions = ["a", "b", "a", "c", "b", "a"]
    sampler = QuestionSampler(questions, seed=1)
    orders = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(6))
        found = [questions[row] for row in orders[-1]]
        assert sum(one != other for one, other in pairwise(found)) == 2
    assert len({tuple(order) for order in orders}) > 5
    sampler.set_epoch(3)
    assert list(sampler) == orders[3]
    assert len(sampler) == 6


def examples(n_questions: int, rows_each: int) -> list[dict[str, Any]]:
    rng = random.Random(0)

    def text(longest: int) -> str:
        return "".join(rng.choices("abcdefg ", k=rng.randint(1, longest)))

    rows = []
    for number in range(n_questions):
        question = text(60)
        for _ in range(rows_each):
            prompt = f"Think. {question} {text(20)}"
            reflection, trial = text(40), text(40)
            example: SFTExample = {
                "id": str(number),
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": f"{reflection}\n\n{trial}"}],
                "segments": [reflection, trial],
                "failed_trial": "",
            }
            rows.append({"example": example})
    rng.shuffle(rows)
    return rows


def tokens_computed(model: Any) -> list[int]:
    """Filled with the tokens of each forward pass of the backbone's first layer, a repeated one included."""
    seen: list[int] = []
    # hooks of the layer itself are outside of what checkpointing repeats
    model.base_model.layers[0].input_layernorm.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[:2].numel())
    )
    return seen


COMMON = {"use_cpu": True, "bf16": False, "report_to": "none", "remove_unused_columns": False}


def gradient(model: Any) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("weights", [None, [1.0, 0.25]])
def test_sft_is_that_of_the_sequences_apart(
    tmp_path: Path, attention: str, weights: list[float] | None, checkpointing: bool
) -> None:
    folder = save_tiny_llama(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = examples(3, 3)
    found = {}
    for share in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
        collator = ReflectionCollator(
            tokenizer, lambda row: row["example"], max_length=512, segment_weights=weights, share_prompts=share
        )
        trainer = ReflectionSFTTrainer(
            model=model,
            args=SFTConfig(
                str(tmp_path),
                activation_checkpointing=checkpointing,
                dataset_kwargs={"skip_prepare_dataset": True},
                **COMMON,
            ),
            data_collator=collator,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if checkpointing:  # as the trainer does when training begins
            model.activation_checkpointing_enable()
        model.train()
        seen = tokens_computed(model)
        loss = trainer.compute_loss(trainer.model, collator(rows))
        loss.backward()
        assert len(seen) == (2 if checkpointing else 1)
        found[share] = loss.item(), gradient(model), seen[0]
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-3, atol=1e-6)
    assert found[True][2] < 0.75 * found[False][2]


@pytest.mark.parametrize("adapter", [False, True])
def test_dpo_is_that_of_the_sequences_apart(tmp_path: Path, adapter: bool) -> None:
    folder = save_tiny_llama(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [row["example"] for row in examples(3, 4)]
    message = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    pairs = Dataset.from_list(
        [
            {"id": row["id"], "prompt": row["prompt"], "chosen": message(good), "rejected": message(bad)}
            for row in rows
            for good, bad in [row["segments"]]
        ]
    )
    found = {}
    for share in (False, True):
        torch.manual_seed(0)
        trainer = ReflectionDPOTrainer(
            model=str(folder),
            args=DPOConfig(
                str(tmp_path), loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0], max_length=512, **COMMON
            ),
            data_collator=SharedPromptPreferences(tokenizer.pad_token_id, 512) if share else None,
            train_dataset=pairs,
            processing_class=tokenizer,
            peft_config=LoraConfig(target_modules=["q_proj"], init_lora_weights=False) if adapter else None,
        )
        if not adapter:  # else both sides are the same model
            with torch.no_grad():
                trainer.ref_model.lm_head.weight *= 1.5
        models = [model for model in (trainer.model, trainer.ref_model) if model is not None]
        seen = [tokens_computed(model.get_base_model() if adapter else model) for model in models]
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
        loss = trainer.compute_loss(trainer.model.train(), batch)
        loss.backward()
        found[share] = loss.item(), gradient(trainer.model), sum(map(sum, seen))
        metrics = trainer._metrics["train"]
        assert abs(metrics["rewards/margins"][0]) > 1e-4
        found[share] += ({name: value[0] for name, value in metrics.items()},)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-3, atol=1e-6)
    assert found[True][2] < 0.7 * found[False][2]
    assert found[True][3] == pytest.approx(found[False][3], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "max_length", "message"),
    [
        ({"_attn_implementation": "flash_attention_2"}, 100, "attn_implementation flash_attention_2 takes no mask"),
        ({"output_router_logits": False}, 100, "a mixture of experts balances the tokens of a batch"),
        ({"sliding_window": 64}, 100, "sees 64 tokens back, expected max_length of at most as many, found 100"),
        ({"sliding_window": 64}, None, "found None"),
        ({"sliding_window": 64, "use_sliding_window": False}, 100, None),
        ({"sliding_window": 64}, 64, None),
        ({}, None, None),
    ],
)
def test_attention_that_takes_no_mask_is_refused(config: dict[str, Any], max_length: int | None, message: str | None):
    attention = SimpleNamespace(**{"_attn_implementation": "sdpa"} | config)
    if message is None:
        check_attention(attention, max_length)
    else:
        with pytest.raises(InputError, match=message):
            check_attention(attention, max_length)
