r"""Supervised fine-tuning on `dplus`: one_stage, two_stage_reflect, two_stage_correct or the baseline qa.

    accelerate launch --config_file reflectevo_train/recipes/accelerate_configs/zero3.yaml \
        -m reflectevo_train.sft --config reflectevo_train/recipes/llama-3-8b-instruct/sft/config_one_stage_full.yaml \
        --dataset_name ReflectEvo-460K --output_dir out/llama-3-8b-one-stage

The same command goes on where it was stopped, from the newest whole checkpoint in `output_dir`.
"""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import cast

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, SFTConfig

from reflectevo_data.errors import InputError
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.schema import DPlusRow, Row

from .settings import SFTSetting
from .training.arguments import ReflectionArguments
from .training.checkpoints import resume_point
from .training.collators import ReflectionCollator
from .training.examples import SFTExample, first_of_each_question, sft_example
from .training.setup import (
    add_callbacks,
    all_at_hand,
    finish,
    load_tokenizer,
    load_training_rows,
    model_and_peft,
    run,
    set_up_logging,
    take_push,
)
from .training.trainers import ReflectionSFTTrainer
from .training.truncation import Tokenized, rows_that_fit, tokenize


logger = logging.getLogger(__name__)


def main(script_args: ReflectionArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    set_up_logging(training_args)
    push = take_push(training_args, model_args)
    train_rows, eval_rows = load_training_rows(script_args, with_evaluation=training_args.eval_strategy != "no")
    if script_args.share_prompts:
        training_args.train_sampling_strategy = "random"  # of questions; lengths are evened out in each batch
    tokenizer = load_tokenizer(model_args, trust_remote_code=training_args.trust_remote_code)
    setting = cast(SFTSetting, script_args.setting)  # a text for the parser, checked there
    make_example = partial(example_of, setting=setting, prompts=script_args.prompts)

    if setting == "qa":
        train_rows = all_at_hand(train_rows, "setting qa")
        train_rows = train_rows.select(first_of_each_question(train_rows["id"]))
    # the first row shows a prompt that holds the answer before a model is loaded
    make_example(cast(DPlusRow, next(iter(train_rows))))

    collator = None
    if training_args.packing:
        # packing has to know every length before it starts, and so tokenizes everything first
        if script_args.segment_weights is not None:
            raise InputError("segment_weights: packing does not keep segments. Drop one of the two.")
        train_rows = tokenized_rows(train_rows, make_example, tokenizer, training_args)
        eval_rows = eval_rows and tokenized_rows(eval_rows, make_example, tokenizer, training_args)
    else:
        collator = ReflectionCollator(
            tokenizer,
            make_example,
            max_length=training_args.max_length,
            segment_weights=script_args.segment_weights,
            share_prompts=script_args.share_prompts,
        )
        training_args.remove_unused_columns = False
        training_args.dataset_kwargs = {"skip_prepare_dataset": True}
        if training_args.train_sampling_strategy == "group_by_length":
            train_rows = with_lengths(train_rows)
            eval_rows = eval_rows and with_lengths(eval_rows)

    model, peft_config, quantization_config = model_and_peft(model_args, training_args)
    trainer = ReflectionSFTTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        quantization_config=quantization_config,
    )
    add_callbacks(trainer, script_args, model_args)
    trainer.train(resume_from_checkpoint=resume_point(training_args))
    if collator is not None and (report := collator.report()):
        logger.warning(report)
    finish(trainer, script_args, model_args, push=push)


def example_of(row: DPlusRow, *, setting: SFTSetting, prompts: str) -> SFTExample:
    """`sft_example` with a prompt set by name: compiled templates cannot be sent to another process."""
    return sft_example(row, setting, _prompts(prompts))


_prompts = cache(load_prompts)


def tokenized_rows(
    rows: Dataset | IterableDataset,
    make_example: Callable[[DPlusRow], SFTExample],
    tokenizer: PreTrainedTokenizerBase,
    training_args: SFTConfig,
) -> Dataset:
    """`input_ids` and `labels` of every row that fits; what was cut and left out is logged."""
    max_length = training_args.max_length
    rows = all_at_hand(rows, "packing")

    def tokenized(row: DPlusRow) -> Row:
        sequence = tokenize(make_example(row), tokenizer, max_length=max_length) or Tokenized([], [])
        return {
            "id": row["id"],
            "input_ids": sequence.input_ids,
            "labels": sequence.labels,
            "cut": sequence.trial_tokens_cut,
        }

    with training_args.main_process_first(local=False, desc="tokenizing"):
        rows = rows.map(tokenized, remove_columns=rows.column_names, num_proc=training_args.dataset_num_proc)
    return rows_that_fit(rows, "input_ids", max_length).select_columns(["input_ids", "labels"])


def with_lengths(rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The rows with a `length` that grows with their tokens: characters, which need no tokenizer."""
    columns = [
        rows[name] for name in ("first_trial_reasoning", "reflections", "second_trial_reasoning", "reflect_prompt")
    ]
    return rows.add_column("length", [sum(map(len, texts)) for texts in zip(*columns, strict=True)])


if __name__ == "__main__":
    sys.exit(run(main, SFTConfig))
