"""Sequences with shared prompts in one: whole literal layouts, and the loss and gradients of the sequences apart."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from reflectevo_train.collators import ReflectionCollator, Tokenized, labels_of
from reflectevo_train.settings import Example
from reflectevo_train.shared_prompts import QuestionSampler, as_trie, attention_bias, in_tries
from tests.tiny import save_tiny_llama


def sequence(prompt: list[int], completion: list[int]) -> Tokenized:
    return Tokenized(prompt + completion, [0] * len(prompt) + [1] * len(completion))


def test_equal_prompts_keep_their_last_token() -> None:
    trie = as_trie([sequence([5, 6, 7], [8, 1]), sequence([5, 6, 7], [9, 1])])
    assert trie.input_ids == [5, 6, 7, 8, 1, 7, 9, 1]
    assert trie.position_ids == [0, 1, 2, 3, 4, 2, 3, 4]
    assert trie.ends == [8, 8, 5, 5, 5, 8, 8, 8]
    assert labels_of(trie) == [-100, -100, -100, 8, 1, -100, 9, 1]


def test_a_prompt_that_another_begins_with() -> None:
    trie = as_trie([sequence([5, 6], [6, 7]), sequence([5, 6, 6, 7], [8]), sequence([5, 6, 6, 7], [9])])
    assert trie.input_ids == [5, 6, 6, 7, 6, 6, 7, 8, 7, 9]
    assert trie.position_ids == [0, 1, 2, 3, 1, 2, 3, 4, 3, 4]
    assert trie.ends == [10, 4, 4, 4, 10, 10, 8, 8, 10, 10]


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
    long = [("a", sequence([5, 6, 7, 8], [n])) for n in (1, 2, 3)]  # 3 + 3 * 2 tokens
    short = [("b", sequence([9, 4], [1])), ("c", sequence([4], [1])), ("d", sequence([3] * 5, [1]))]  # 3, 2, 6 tokens
    tries = in_tries([*short, *long], max_length=None)
    assert [len(trie.ends) for trie in tries] == [9, 9, 2]  # a; d and b; c
    tries = in_tries([*short, *long], max_length=7)
    assert max(len(trie.ends) for trie in tries) == 7  # two of a, and one
    assert sum(trie.segment_ids.count(1) for trie in tries) == 6


def test_rows_of_a_question_follow_each_other() -> None:
    questions = ["a", "b", "a", "c", "b", "a"]
    sampler = QuestionSampler(questions, seed=1)
    orders = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(6))
        found = [questions[row] for row in orders[-1]]
        assert sum(one != other for one, other in itertools.pairwise(found)) == 2
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
            example: Example = {
                "id": str(number),
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": f"{reflection}\n\n{trial}"}],
                "segments": [reflection, trial],
                "failed_trial": "",
            }
            rows.append({"example": example})
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("weights", [None, [1.0, 0.25]])
def test_loss_and_gradients_are_those_of_the_sequences_apart(
    tmp_path: Path, attention: str, weights: list[float] | None
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig

    from reflectevo_train.sft import ReflectionSFTTrainer

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
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            data_collator=collator,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        batch = collator(rows)
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        gradient = torch.cat(
            [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        )
        found[share] = (loss.item(), gradient, batch["input_ids"].numel(), (batch["labels"] != -100).sum().item())
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-3, atol=1e-6)
    assert found[True][3] == found[False][3]  # as many tokens are trained
    assert found[True][2] < 0.75 * found[False][2]  # in a smaller batch
