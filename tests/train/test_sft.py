"""The training scripts in this process: what the loss is over, what is refused, what is left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import concatenate_datasets, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, SFTConfig

from reflectevo_data.errors import InputError
from reflectevo_train import sft
from reflectevo_train.dpo import preference_pairs
from reflectevo_train.sft import example_of, tokenized_rows, with_lengths
from reflectevo_train.training.arguments import parse_arguments
from reflectevo_train.training.collators import ReflectionCollator
from reflectevo_train.training.trainers import ReflectionSFTTrainer


def make_example(row: Any) -> Any:
    return example_of(row, setting="one_stage", prompts="miniature")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def rows(dataset: Path) -> Any:
    return load_dataset(str(dataset), "dplus", split="train")


def config(folder: Path, **options: Any) -> SFTConfig:
    common = {
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": "none",
        "max_length": 2000,
    }
    return SFTConfig(output_dir=str(folder), **(common | options))  # pyright: ignore


def new_trainer(
    rows: Any, tiny_model: Path, tokenizer: Any, args: SFTConfig, collator: Any = None
) -> ReflectionSFTTrainer:
    if collator is not None:
        args.remove_unused_columns = False
        args.dataset_kwargs = {"skip_prepare_dataset": True}
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    return ReflectionSFTTrainer(
        model=model, args=args, data_collator=collator, train_dataset=rows, processing_class=tokenizer
    )


def loss(trainer: ReflectionSFTTrainer, batch: dict[str, Any]) -> float:
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, dict(batch)).item()


def test_weights_scale_the_loss_of_their_segment(rows: Any, tiny_model: Path, tokenizer: Any, tmp_path: Path):
    few = list(rows.select(range(3)))
    collate = ReflectionCollator(tokenizer, make_example)
    trainer = new_trainer(rows, tiny_model, tokenizer, config(tmp_path), collate)
    plain = collate(few)
    n_trained = (plain["labels"] != -100).sum().item()

    def alone(segment: int) -> float:
        """The summed loss of one segment's tokens."""
        labels = plain["labels"].masked_fill(plain["segment_ids"] != segment, -100)
        return loss(trainer, plain | {"labels": labels}) * (labels != -100).sum().item()

    assert alone(1) + alone(2) == pytest.approx(loss(trainer, plain) * n_trained, rel=1e-5)
    for weights in ([1.0, 0.0], [0.25, 2.0]):
        weighted = ReflectionCollator(tokenizer, make_example, segment_weights=weights)(few)
        expected = (weights[0] * alone(1) + weights[1] * alone(2)) / n_trained
        assert loss(trainer, weighted) == pytest.approx(expected, rel=1e-5)


def test_packed_rows_do_not_see_each_other(rows: Any, tiny_model: Path, tokenizer: Any, tmp_path: Path):
    """The loss of a pack is that of its rows, one by one."""
    args = config(tmp_path, packing=True, max_length=4000, per_device_train_batch_size=1)
    few = tokenized_rows(rows.select(range(4)), make_example, tokenizer, args)
    trainer = new_trainer(few, tiny_model, tokenizer, args)
    [pack] = list(trainer.get_train_dataloader())
    assert pack["input_ids"].shape[1] == sum(len(ids) for ids in few["input_ids"])

    summed, n_trained = 0.0, 0
    for row in few:
        labels = torch.tensor([row["labels"]])
        one = {
            "input_ids": torch.tensor([row["input_ids"]]),
            "attention_mask": torch.ones_like(labels),
            "labels": labels,
        }
        summed += loss(trainer, one) * (labels != -100).sum().item()
        n_trained += (labels != -100).sum().item()
    assert loss(trainer, pack) == pytest.approx(summed / n_trained, rel=1e-4)


def test_lengths_group_rows_of_a_kind(rows: Any, tiny_model: Path, tokenizer: Any, tmp_path: Path):
    collate = ReflectionCollator(tokenizer, make_example)
    grouped = with_lengths(rows)
    assert grouped["length"][0] == sum(
        len(rows[0][c]) for c in ("first_trial_reasoning", "reflections", "second_trial_reasoning", "reflect_prompt")
    )
    grouped = concatenate_datasets([grouped] * 8)  # groups are made within fifty batches
    padding = {}
    for strategy in ("random", "group_by_length"):
        args = config(tmp_path, train_sampling_strategy=strategy, per_device_train_batch_size=4, seed=1)
        batches = list(new_trainer(grouped, tiny_model, tokenizer, args, collate).get_train_dataloader())
        padding[strategy] = sum((batch["attention_mask"] == 0).sum().item() for batch in batches)
    assert padding["group_by_length"] < 0.8 * padding["random"]


def test_rows_that_do_not_fit_are_said(rows: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lengths = [len(ids) for ids in tokenized_rows(rows, make_example, tokenizer, config(tmp_path))["input_ids"]]
    limit = sorted(lengths)[len(lengths) // 2] - 100
    with caplog.at_level(logging.WARNING):
        kept = tokenized_rows(rows, make_example, tokenizer, config(tmp_path, max_length=limit))
    assert max(len(ids) for ids in kept["input_ids"]) == limit
    assert 0 < len(kept) < len(rows)
    assert f"{len(rows) - len(kept)} rows do not fit into {limit} tokens" in caplog.text
    with pytest.raises(InputError, match="no row fits into 20 tokens"):
        tokenized_rows(rows, make_example, tokenizer, config(tmp_path, max_length=20))


def test_pairs_that_are_too_long_lose_their_failed_trial_first(
    dataset: Path, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pairs: Any = load_dataset(str(dataset), "dpm", split="train")
    whole = preference_pairs(pairs, tokenizer, DPOConfig(str(tmp_path), max_length=5000, bf16=False, use_cpu=True))
    assert len(whole) == len(pairs)
    with caplog.at_level(logging.WARNING):
        cut = preference_pairs(pairs, tokenizer, DPOConfig(str(tmp_path), max_length=480, bf16=False, use_cpu=True))
    row_of = {(row["id"], row["reflection_chosen"], row["reflection_rejected"]): row for row in pairs}
    n_shortened = 0
    for pair in cut:
        row = row_of[pair["id"], pair["chosen"][0]["content"], pair["rejected"][0]["content"]]
        before, _, after = row["reflect_prompt"].rpartition(row["first_trial_reasoning"])
        kept = pair["prompt"][0]["content"].removeprefix(before).removesuffix(after)
        assert row["first_trial_reasoning"].endswith(kept)
        n_shortened += kept != row["first_trial_reasoning"]
        for side in ("chosen", "rejected"):
            ids = tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=True, return_dict=True)[
                "input_ids"
            ]
            assert len(ids) <= 480
    assert n_shortened > 0
    assert f"{n_shortened} failed trials are cut to fit into 480 tokens" in caplog.text


def test_no_pairs_are_made_of_rows_that_stream_by(dataset: Path, tokenizer: Any, tmp_path: Path):
    streamed = load_dataset(str(dataset), "dpm", split="train", streaming=True)
    with pytest.raises(InputError, match="dataset_streaming: DPO looks at all rows before training"):
        preference_pairs(streamed, tokenizer, DPOConfig(str(tmp_path), bf16=False, use_cpu=True))


def arguments(dataset: Path, model: Path, output: Path, *more: str) -> Any:
    common = ["--dataset_config", "dplus", "--prompts", "miniature", "--bf16", "false", "--use_cpu", "true"]
    where = ["--dataset_name", str(dataset), "--model_name_or_path", str(model), "--output_dir", str(output)]
    return parse_arguments(SFTConfig, [*common, *where, "--report_to", "none", *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset_train_split", "tests"], r"has no split 'tests'. Expected one of train, validation"),
        (["--dataset_name", "/nowhere"], "dataset_name: /nowhere .dplus. cannot be loaded"),
        (["--packing", "true", "--segment_weights", "1", "2"], "segment_weights: packing does not keep segments"),
        (["--packing", "true", "--share_prompts", "true"], "share_prompts: packing arranges the rows as well"),
        (["--dataset_streaming", "true", "--share_prompts", "true"], "share_prompts: rows that stream by cannot be"),
        (["--dataset_streaming", "true", "--packing", "true"], "dataset_streaming: packing looks at all rows before"),
        (["--dataset_streaming", "true", "--setting", "qa"], "dataset_streaming: setting qa looks at all rows before"),
        (["--push_to_hub", "true", "--use_peft", "true"], "push_to_hub: the adapter's base would be the folder"),
    ],
)
def test_what_cannot_be_trained(more: list[str], message: str, dataset: Path, tiny_model: Path, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        sft.main(*arguments(dataset, tiny_model, tmp_path, *more))


def test_qa_sees_each_question_once(dataset: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []

    class Stop(Exception):
        pass

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(self.train_dataset["id"][:])
        raise Stop

    monkeypatch.setattr(ReflectionSFTTrainer, "train", stop)
    for setting in ("qa", "two_stage_correct"):
        with pytest.raises(Stop):
            sft.main(*arguments(dataset, tiny_model, tmp_path, "--setting", setting))
    qa, correct = seen
    assert len(qa) == len(set(qa)) < len(correct)
    assert set(qa) == set(correct)
