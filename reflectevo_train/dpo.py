r"""Direct preference optimization of reflections, on `dpm` or `dpref`.

    accelerate launch --config_file reflectevo_train/recipes/accelerate_configs/zero3.yaml \
        -m reflectevo_train.dpo --config reflectevo_train/recipes/llama-3-8b-instruct/dpo/config_dpref_full.yaml \
        --dataset_name ReflectEvo-460K --output_dir out/llama-3-8b-dpo

`model_name_or_path` may be the folder that `reflectevo_train.sft` wrote, whole model or adapter: training goes on from it,
and compares with it. With `loss_type: [sigmoid, sft]` the chosen reflections are trained on as well; without, a model can
forget how to answer (watch `eval_own_acc_t1`).
"""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, cast

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, ModelConfig

from reflectevo_data.schema import PairRow, Row

from .training.arguments import ReflectionArguments
from .training.checkpoints import resume_point
from .training.collators import SharedPromptPreferences
from .training.examples import dpo
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
from .training.trainers import ReflectionDPOTrainer
from .training.truncation import completion_ids, fit_prompt, rows_that_fit


if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


def main(script_args: ReflectionArguments, training_args: DPOConfig, model_args: ModelConfig) -> None:
    set_up_logging(training_args)
    push = take_push(training_args, model_args)
    train_rows, eval_rows = load_training_rows(script_args, with_evaluation=training_args.eval_strategy != "no")
    tokenizer = load_tokenizer(model_args, trust_remote_code=training_args.trust_remote_code)
    train_pairs = preference_pairs(train_rows, tokenizer, training_args)
    eval_pairs = eval_rows and preference_pairs(eval_rows, tokenizer, training_args)

    collator = None
    if script_args.share_prompts:
        training_args.remove_unused_columns = False
        pad = cast(int, tokenizer.pad_token_id)  # special tokens come through an untyped `__getattr__`
        collator = SharedPromptPreferences(pad, training_args.max_length)

    model, peft_config, quantization_config = model_and_peft(model_args, training_args)
    trainer = ReflectionDPOTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=train_pairs,
        eval_dataset=eval_pairs,
        processing_class=tokenizer,
        peft_config=peft_config,
        quantization_config=quantization_config,
    )
    add_callbacks(trainer, script_args, model_args)
    trainer.train(resume_from_checkpoint=resume_point(training_args))
    if "ref" in getattr(trainer.model, "peft_config", {}):  # the frozen copy of the adapter is not part of the result
        cast("PeftModel", trainer.model).delete_adapter("ref")
    finish(trainer, script_args, model_args, push=push)


def preference_pairs(
    rows: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, training_args: DPOConfig
) -> Dataset:
    """TRL's `prompt`, `chosen` and `rejected` of every row that fits whole; what was cut and left out is logged.

    TRL cuts a long pair at its end until both sides may be the same text: here the failed trial in the prompt is cut
    instead, oldest text first, by as much as the longer side needs.
    """
    max_length = training_args.max_length
    rows = all_at_hand(rows, "DPO")

    def pair(row: PairRow) -> Row:
        example = dpo(row)
        prompt = example["prompt"][0]["content"]
        sides = [example[side][0]["content"] for side in ("chosen", "rejected")]
        longest = max(len(completion_ids(tokenizer, prompt, side, [side])[0]) for side in sides)
        # TRL leaves the end of a turn as the template writes it, which may be a token longer: a line's end
        room = None if max_length is None else max_length - longest - 1
        fitted = fit_prompt(tokenizer, prompt, example["failed_trial"], room)
        return {
            "id": example["id"],
            "prompt": [] if fitted is None else [{"role": "user", "content": fitted.text}],
            "chosen": example["chosen"],
            "rejected": example["rejected"],
            # as inference does: the trial's own `Thought:` is the reasoning
            "chat_template_kwargs": {"enable_thinking": False},
            "cut": 0 if fitted is None else fitted.n_cut,
        }

    with training_args.main_process_first(local=False, desc="pairs"):
        pairs = rows.map(pair, remove_columns=rows.column_names, num_proc=training_args.dataset_num_proc)
    return rows_that_fit(pairs, "prompt", max_length).remove_columns(["cut"])


if __name__ == "__main__":
    sys.exit(run(main, DPOConfig))
