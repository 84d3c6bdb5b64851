"""Whole literal tensors: what is masked, where segments begin, what is cut and what is left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from reflectevo_data.completers.chat import chat_ids, chat_text
from reflectevo_data.errors import InputError
from reflectevo_train.training.collators import ReflectionCollator
from reflectevo_train.training.examples import SFTExample
from reflectevo_train.training.truncation import (
    completion_ids,
    end_of_turn,
    fit_prompt,
    length_report,
    rows_that_fit,
    tokenize,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token a word; `x` begins a turn of the user, `y` one of the assistant, `z` ends both."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "x", "y", "z", "<unk>", *"abcdefghij"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="z")
    fast.chat_template = (
        "{% for m in messages %}{{ 'x ' if m.role == 'user' else 'y ' }}{{ m.content }} z\n{% endfor %}"
        "{% if add_generation_prompt %}y {% endif %}"
    )
    return fast


def example(prompt: str, *segments: str, trial: str = "", id: str = "q") -> SFTExample:
    return {
        "id": id,
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": "\n\n".join(segments)}],
        "segments": list(segments),
        "failed_trial": trial,
    }


ROWS = [
    {"example": example("a b c", "d e", "f g h", trial="b c")},
    {"example": example("a", "d", "f", id="r")},
]


def collator(tokenizer: Any, **options: Any) -> ReflectionCollator:
    return ReflectionCollator(tokenizer, lambda row: row["example"], **options)


def test_batch(tokenizer: Any):
    batch = collator(tokenizer)(ROWS)
    expected = {
        #               x  a  b  c  z  y | d  e | f   g   h   z
        "input_ids": [[1, 5, 6, 7, 3, 2, 8, 9, 10, 11, 12, 3], [1, 5, 3, 2, 8, 10, 3, 0, 0, 0, 0, 0]],
        "attention_mask": [[1] * 12, [1] * 7 + [0] * 5],
        "labels": [
            [-100, -100, -100, -100, -100, -100, 8, 9, 10, 11, 12, 3],
            [-100, -100, -100, -100, 8, 10, 3, -100, -100, -100, -100, -100],
        ],
        "segment_ids": [[0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 0, 0, 1, 2, 2, 0, 0, 0, 0, 0]],
    }
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(batch[name], torch.tensor(values), msg=name)


def test_weights_and_width(tokenizer: Any):
    batch = collator(tokenizer, segment_weights=[1.0, 0.5], pad_to_multiple_of=8)(ROWS[1:])
    torch.testing.assert_close(batch["loss_weights"], torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.0]]))
    assert batch["input_ids"].shape == (1, 8)


def test_failed_trial_is_cut_from_its_beginning(tokenizer: Any):
    collate = collator(tokenizer, max_length=11)
    batch = collate(ROWS[:1])
    #                                                     x  a  c  z  y | d  e | f   g   h   z
    torch.testing.assert_close(batch["input_ids"], torch.tensor([[1, 5, 7, 3, 2, 8, 9, 10, 11, 12, 3]]))
    assert collate.report() == "1 failed trials are cut to fit into 11 tokens."
    assert collator(tokenizer, max_length=10)(ROWS[:1])["input_ids"].tolist() == [[1, 5, 3, 2, 8, 9, 10, 11, 12, 3]]


def test_row_that_does_not_fit_is_left_out_once(tokenizer: Any, caplog: pytest.LogCaptureFixture):
    collate = collator(tokenizer, max_length=9)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):  # epochs
            batch = collate(ROWS)
    assert batch["input_ids"].tolist() == [[1, 5, 3, 2, 8, 10, 3]]
    assert collate.report() == "1 rows do not fit into 9 tokens and are left out: q. Raise max_length to keep them."
    assert [record.message for record in caplog.records] == ["q does not fit into 9 tokens and is left out"]


def test_batch_of_nothing_teaches_nothing(tokenizer: Any):
    batch = collator(tokenizer, max_length=3)(ROWS)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[0]],
        "attention_mask": [[1]],
        "labels": [[-100]],
        "segment_ids": [[0]],
    }


def test_cut_takes_the_last_place_where_the_trial_stands(tokenizer: Any):
    """Worked examples before it may hold the same text."""
    fitted = fit_prompt(tokenizer, "b c a b c d", "b c", 8)
    assert fitted is not None
    assert (fitted.text, fitted.n_cut) == ("b c a c d", 1)


def test_prompt_without_a_failed_trial_fits_as_it_is_or_not_at_all(tokenizer: Any):
    assert fit_prompt(tokenizer, "a b c", "", 6) == ([1, 5, 6, 7, 3, 2], 0, "a b c")
    assert fit_prompt(tokenizer, "a b c", "", 5) is None
    assert fit_prompt(tokenizer, "a b c", "d", 5) is None  # a trial that is not in the prompt


@pytest.mark.parametrize("room", range(4, 40))
def test_cut_is_as_small_as_it_can_be(room: int, tiny_model: Path):
    """Also where every character is a token, and a cut word a different one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt, trial = "Q: 1+1?\nThought: two.\nReflect.", "Thought: two."
    fitted = fit_prompt(tokenizer, prompt, trial, room)
    shortest = chat_ids(tokenizer, chat_text(tokenizer, prompt.replace(trial, "")))
    if fitted is None:
        assert len(shortest) > room
    else:
        assert len(fitted.ids) <= room
        assert fitted.ids == chat_ids(tokenizer, chat_text(tokenizer, fitted.text))
        kept = fitted.text.removeprefix("Q: 1+1?\n").removesuffix("\nReflect.")
        assert trial.endswith(kept)
        assert len(fitted.ids) == min(room, len(chat_ids(tokenizer, chat_text(tokenizer, prompt))))


TEMPLATES = {
    # as Gemma's: strips, names the assistant otherwise
    "stripping": "{% for m in messages %}<s>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>model\n{% endif %}",
    # as Qwen3's: an empty block of thoughts before the answer, which inference puts there too
    "thinking": "{% for m in messages %}<s>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # as Mistral's: nothing opens the assistant's turn
    "bare": "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}",
    # nothing closes the assistant's turn
    "open": "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    "none": None,
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_tokens_before_the_completion_are_those_of_inference(template: str, tiny_model: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = TEMPLATES[template]
    sequence = tokenize(example("What?", "I erred.", "Thought: 2."), tokenizer, max_length=None)
    assert sequence is not None
    n_prompt = sequence.segment_ids.index(1)
    assert sequence.input_ids[:n_prompt] == chat_ids(tokenizer, chat_text(tokenizer, "What?"))
    assert tokenizer.decode(sequence.input_ids[n_prompt:]) == "I erred.\n\nThought: 2.</s>"
    assert sequence.input_ids[-1] == tokenizer.eos_token_id
    trial = [token for token, segment in zip(sequence.input_ids, sequence.segment_ids, strict=True) if segment == 2]
    assert tokenizer.decode(trial).strip() == "Thought: 2.</s>"


def test_completion_whose_segments_repeat(tokenizer: Any):
    ids, segments = completion_ids(tokenizer, "a", "a\n\na", ["a", "a"])
    assert (ids, segments) == ([5, 5, 3], [1, 2, 2])
    ids, segments = completion_ids(tokenizer, "a", "a\n\na\n\nb", ["a", "a", "b"])
    assert (ids, segments) == ([5, 5, 6, 3], [1, 2, 3, 3])
    assert end_of_turn(tokenizer, "a", "a") == " z"


def test_report_of_rows_that_are_too_long():
    assert length_report(0, [], 9) == ""
    names = [f"q{i}" for i in range(21)]
    assert length_report(0, names[:20], 9).count(",") == 19
    assert length_report(1_200, names, 9) == (
        "1,200 failed trials are cut to fit into 9 tokens. 21 rows do not fit into 9 tokens and are left out: "
        f"{', '.join(names[:20])}, …. Raise max_length to keep them."
    )


def test_rows_that_fit_are_kept_and_the_others_said(caplog: pytest.LogCaptureFixture):
    rows = Dataset.from_dict({"id": ["q", "r", "s"], "input_ids": [[5], [], [6]], "cut": [4, 0, 0]})
    with caplog.at_level(logging.WARNING):
        assert rows_that_fit(rows, "input_ids", 9)["id"][:] == ["q", "s"]
        assert rows_that_fit(rows.select([2]), "input_ids", 9)["id"][:] == ["s"]  # nothing to say
    assert [record.message for record in caplog.records] == [
        "1 failed trials are cut to fit into 9 tokens. "
        "1 rows do not fit into 9 tokens and are left out: r. Raise max_length to keep them."
    ]
    with pytest.raises(InputError, match="max_length: no row fits into 9 tokens"):
        rows_that_fit(rows.select([1]), "input_ids", 9)
