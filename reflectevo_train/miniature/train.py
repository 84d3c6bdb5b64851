"""Corpus -> the bundled model's folder: weights, tokenizer, chat template, and how they were made.

    python -m reflectevo_train.miniature.train --output DIR [--seed 0] [--tokens 6500000]

One core and about twenty minutes. `python -m reflectevo_train.miniature.measure DIR` then measures the result.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.schema import stable_hash
from reflectevo_data.sources.miniature import chain_of

from .corpus import Document, documents
from .tokenizer import CONTEXT, PAD_ID, train_tokenizer


if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH = 16
# The loss of a batch is divided by a constant. Divided by the batch's own token count, a short reflection's first token,
# where the style is chosen, would weigh less in a batch of long documents.
TOKENS_PER_DOCUMENT = 95
TOKENIZER_DOCUMENTS = 10_000
SHUFFLE_BATCHES = 64
LEARNING_RATE = 2e-3
CONSTANT_SHARE = 0.6
WARM_UP_STEPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the model, made if need be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=6_500_000, help="length of training, prompts included")
    args = parser.parse_args()
    os.environ.setdefault(
        "GOMP_SPINCOUNT", "0"
    )  # threads that spin while idle cost more than they save on shared cores
    import torch

    torch.set_num_threads(1)
    made = train(args.output, seed=args.seed, tokens=args.tokens)
    print(json.dumps(made, indent=2))  # noqa: T201


def train(output: Path, *, seed: int, tokens: int) -> dict[str, int | float | str]:
    """Trains and saves the model; returns what is also written to `training.json`."""
    import torch

    torch.manual_seed(seed)
    prompts = load_prompts("miniature")
    corpus = train_split_only(documents(prompts, random.Random(stable_hash("miniature corpus", str(seed)))))
    first = list(islice(corpus, TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(text for document in first for text in (document.prompt, document.completion))
    model = new_model(tokenizer)

    steps = tokens // (BATCH * TOKENS_PER_DOCUMENT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    started, seen, running = time.time(), 0, 0.0
    model.train()
    for step, input_ids in enumerate(islice(batches(corpus, tokenizer, random.Random(seed)), steps)):
        loss = loss_of(model, input_ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seen += int(input_ids.ne(PAD_ID).sum())
        running += loss.item()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(  # noqa: T201
                f"step {step + 1}/{steps}  loss {running / (step % 100 + 1):.4f}  {seen / (time.time() - started):.0f} tokens/s",
                flush=True,
            )
            running = 0.0

    model.eval()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    made = {
        "seed": seed,
        "documents": steps * BATCH,
        "tokens": seen,
        "seconds": round(time.time() - started),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "torch": torch.__version__,
    }
    (output / "training.json").write_text(json.dumps(made, indent=2) + "\n", "utf-8")
    return made


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of about a million parameters that fits the tokenizer; vLLM loads its head size of 32."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **special)
    return model


def train_split_only(corpus: Iterator[Document]) -> Iterator[Document]:
    """The documents as they come; raises on one whose problem belongs to another split."""
    for document in corpus:
        chain = chain_of(document.problem.question)
        if chain is None or chain.split != "train":
            raise ValueError(f"{document.problem.id}: not a problem of the train split, and in the corpus.")
        yield document


def batches(
    corpus: Iterator[Document], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[torch.Tensor]:
    """input_ids: (BATCH, T), padded on the right; documents of similar length share a batch."""
    import torch

    while True:
        texts = [
            str(tokenizer.apply_chat_template(document.messages, tokenize=False))
            for document in islice(corpus, BATCH * SHUFFLE_BATCHES)
        ]
        rows = sorted(tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
        starts = list(range(0, len(rows), BATCH))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + BATCH]
            width = len(batch[-1])
            yield torch.tensor([row + [PAD_ID] * (width - len(row)) for row in batch])


def loss_of(model: LlamaForCausalLM, input_ids: torch.Tensor) -> torch.Tensor:
    """Summed loss of every token but the first and the padding, over a constant."""
    from torch.nn.functional import cross_entropy

    # right padding and causal attention: no real token sees a pad, so no mask is needed
    logits = model(input_ids=input_ids[:, :-1], use_cache=False).logits
    total = cross_entropy(
        logits.flatten(0, 1).float(), input_ids[:, 1:].flatten(), ignore_index=PAD_ID, reduction="sum"
    )
    return total / (BATCH * TOKENS_PER_DOCUMENT)


def _rate(step: int, steps: int) -> float:
    """Learning rate over its peak: a short warm-up, constant, then linear to zero."""
    decay = max(1, round(steps * (1 - CONSTANT_SHARE)))
    return min(1.0, (step + 1) / WARM_UP_STEPS, (steps - step) / decay)


if __name__ == "__main__":
    main()
