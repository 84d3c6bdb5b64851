"""Training throughput: the reference's way against ours, on the same rows and the same random model.

    python -m tests.benchmarks.training [--rows 96] [--per-question 3] [--batch 8] [--hidden 512] [--layers 2] [--repeats 3]

The reference pads each batch of a fixed size to its longest row, rows in random order. Ours: rows grouped by length,
packing, and shared prompts, where rows of one question read their prompt once. Counted are the tokens of the rows, as they
are apart and without padding, so that every way has the same number of them to get through. Ways take turns, and the median
over the turns is shown.

Lengths are drawn from a log-normal distribution (median and spread can be set), as those of questions from many sources
are; rows of one source differ less, and gain less. On a GPU the share of its bf16 peak is shown (`--peak-tflops`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import SFTConfig

from reflectevo_data.console import print_table
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_train.sft import tokenized_rows, with_lengths
from reflectevo_train.training.collators import ReflectionCollator
from reflectevo_train.training.examples import sft_example
from reflectevo_train.training.trainers import ReflectionSFTTrainer
from tests.tiny import save_tokenizer


MAX_LENGTH = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--per-question", type=int, default=3, help="rows of a question, as k reflections give")
    parser.add_argument("--setting", default="two_stage_reflect", choices=["one_stage", "two_stage_reflect"])
    parser.add_argument("--batch", type=int, default=8, help="rows in a batch; packing takes as many tokens")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--median", type=int, default=100, help="median length of each of a row's texts, in tokens")
    parser.add_argument("--spread", type=float, default=0.8, help="standard deviation of the logarithm of the length")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak of the GPU")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizer_in(Path(folder))
        rows = Dataset.from_list(draw_rows(args.rows, args.per_question, args.median, args.spread))
        ways = {name: [] for name in ("padded, as the reference", "grouped by length", "packed", "shared prompts")}
        for _ in range(args.repeats):
            for name, speeds in ways.items():
                speeds.append(tokens_per_second(name, rows, tokenizer, args, Path(folder)))
    median = {name: statistics.median(speeds) for name, speeds in ways.items()}
    reference = median["padded, as the reference"]
    model = new_model(len(tokenizer), args.hidden, args.layers)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    columns = ["", "tokens/s", "ratio"]
    table = [[name, f"{speed:,.0f}", f"{speed / reference:.2f}"] for name, speed in median.items()]
    if torch.cuda.is_available():
        columns.append("share of the bf16 peak")
        for line, speed in zip(table, median.values(), strict=True):
            line.append(f"{6 * n_parameters * speed / args.peak_tflops / 1e12:.1%}")
    print_table(f"{args.rows} rows, {n_parameters / 1e6:.1f}M parameters, batch {args.batch}", columns, table)


def tokenizer_in(folder: Path) -> Any:
    """Every character is a token."""
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def draw_rows(n: int, per_question: int, median: int, spread: float) -> list[dict[str, Any]]:
    """Rows of `dplus` whose texts have log-normal lengths."""
    rng = random.Random(0)

    def text() -> str:
        length = int(median * rng.lognormvariate(0.0, spread))
        return (
            "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=max(4, min(length, MAX_LENGTH // 4)))).strip() + "."
        )

    rows = []
    for i in range(n):
        if i % per_question == 0:
            question, trial = text(), text()
        rows.append(
            {
                "id": str(i // per_question),
                "question": question,
                "answer": "0",
                "answer_type": "math",
                "task": "",
                "source": "",
                "options": [],
                "test_list": [],
                "first_trial_reasoning": trial,
                "reflections": text(),
                "second_trial_reasoning": text(),
                "reflect_prompt": f"{question}\n{trial}\nNotes, way {rng.randrange(24)}:",
            }
        )
    return rows


def new_model(vocabulary: int, hidden: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=hidden * 3,
        num_attention_heads=max(hidden // 64, 1),
        num_key_value_heads=max(hidden // 128, 1),
        max_position_embeddings=MAX_LENGTH,
    )
    return LlamaForCausalLM(config)


class Stopwatch(TrainerCallback):
    """Seconds from the end of the first step, which warms up, to the end of the last."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == 1:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started
        self.share = (state.global_step - 1) / state.max_steps


def tokens_per_second(name: str, rows: Any, tokenizer: Any, args: argparse.Namespace, folder: Path) -> float:
    """Tokens of the rows, in one epoch, by the seconds that it takes."""
    prompts = load_prompts("miniature")
    make = lambda row: sft_example(row, args.setting, prompts)  # noqa: E731
    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(folder / "out"),
        num_train_epochs=1,
        per_device_train_batch_size=1 if name == "packed" else args.batch,
        max_length=MAX_LENGTH,
        packing=name == "packed",
        train_sampling_strategy="group_by_length" if name == "grouped by length" else "random",
        bf16=on_gpu,
        use_cpu=not on_gpu,
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=10_000,
        disable_tqdm=True,
    )
    tokenized = tokenized_rows(rows, make, tokenizer, config)
    n_tokens = sum(len(ids) for ids in tokenized["input_ids"])
    collator = None
    if name in ("grouped by length", "shared prompts"):
        collator = ReflectionCollator(tokenizer, make, max_length=MAX_LENGTH, share_prompts=name == "shared prompts")
        config.remove_unused_columns = False
        config.dataset_kwargs = {"skip_prepare_dataset": True}
        tokenized = with_lengths(rows) if name == "grouped by length" else rows
    watch = Stopwatch()
    trainer = ReflectionSFTTrainer(
        model=new_model(len(tokenizer), args.hidden, args.layers),
        args=config,
        data_collator=collator,
        train_dataset=tokenized,
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.train()
    return n_tokens * watch.share / watch.seconds


if __name__ == "__main__":
    main()
