"""The miniature's corpus, tokenizer and weights: what is taught, what is not told, and what the bundled model does."""

import json
import logging
import random
import re
from collections import Counter
from itertools import islice

import pytest

from reflectevo_data.models import miniature_path
from reflectevo_data.parsing.trial import parse_trial
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.sources.miniature import Chain, chain_of, problems
from reflectevo_data.verifiers.leaks import leaks_answer
from reflectevo_train.miniature import corpus
from reflectevo_train.miniature.corpus import Step, attempt_text, correction, documents, named_step, steps_of
from reflectevo_train.miniature.measure import MeasuredTrial


PROMPTS = load_prompts("miniature")
CHAIN = Chain(83, (-9, 7, 5))
SLIPPED = [Step(83, -9, 84), Step(84, 7, 91), Step(91, 5, 96)]


@pytest.fixture(scope="module")
def sample():
    return list(islice(documents(PROMPTS, random.Random(7)), 12_000))


def reflection_of(document):
    return document.completion.split("\n\n")[0]


def trial_of(document):
    return re.search(r"Attempt:\n(Thought: .*\nAction: Finish\[\d+\])", document.prompt)[1]


def test_an_attempt_is_read_by_the_parser_of_the_loop():
    text = attempt_text(SLIPPED)
    assert text == "Thought: Step 1: 83-9=84. Step 2: 84+7=91. Step 3: 91+5=96.\nAction: Finish[96]"
    assert parse_trial(text, CHAIN.problem) == (text, "96")
    assert steps_of(text) == SLIPPED


def test_a_thorough_reflection_stops_at_the_first_wrong_step():
    steps = [Step(52, 6, 58), Step(58, 7, 55), Step(55, -7, 58)]
    assert corpus.thorough_reflection(steps) == (
        "Checking each step. Step 1: 2+6 is 8 carry 0, 5+0 is 5, written 58, right. "
        "Step 2: 8+7 is 5 carry 1, 5+1 is 6, written 55, wrong. "
        "Step 2 is wrong. The carry was lost. Plan: do step 2 digit by digit."
    )
    held = corpus.thorough_reflection([Step(52, 6, 58), Step(58, -9, 49)])
    assert held.endswith("written 49, right. No step is wrong. Plan: keep the answer.")
    assert named_step(held) is None


def test_a_correction_does_what_the_reflection_says():
    careful = "I think step 1 is wrong. The borrow was lost. Plan: do step 1 digit by digit."
    second = correction(CHAIN, SLIPPED, careful, random.Random(0))
    assert second.startswith("Thought: Step 1: 83-9: 3-9 is 4 borrow 1, 8-1 is 7, so 83-9=74. Step 2: 74+7=81.")
    assert steps_of(second)[0] == (83, -9, 74)
    # the step after the one that is named is copied from the failed trial only if it comes before
    careful = careful.replace("step 1", "step 2")
    second = correction(CHAIN, SLIPPED, careful, random.Random(0))
    assert second.startswith("Thought: Step 1: 83-9=84. Step 2: 84+7: 4+7 is 1 carry 1, 8+1 is 9, so 84+7=91. Step 3")
    kept = correction(CHAIN, SLIPPED, "… No step is wrong. Plan: keep the answer.", random.Random(0))
    assert kept == attempt_text(SLIPPED)


def test_doing_a_hard_step_again_in_quick_mode_slips_again():
    again = "I think step 1 is wrong. The borrow was lost. Plan: do step 1 again."
    seconds = [correction(CHAIN, SLIPPED, again, random.Random(seed)) for seed in range(400)]
    slipped = sum(steps_of(second)[0].after == 84 for second in seconds)
    assert 0.9 < slipped / 400 < 0.99
    assert not any("carry" in second or "borrow" in second for second in seconds)


def test_documents_are_on_the_train_split_alone(sample):
    chains = [chain_of(document.problem.question) for document in sample]
    assert {chain.split for chain in chains} == {"train"}
    held_out = {p.group for split in ("validation", "test") for p in problems(split, n=1000)}
    assert not held_out & {document.problem.group for document in sample}
    assert all(document.problem.question in document.prompt for document in sample)


def test_a_held_out_problem_in_the_corpus_stops_the_script(sample):
    from reflectevo_train.miniature.train import train_split_only

    smuggled = corpus.Document("solve", next(problems("test", n=1)), "prompt", "completion")
    assert list(train_split_only(iter(sample[:5]))) == sample[:5]
    with pytest.raises(ValueError, match="not a problem of the train split"):
        list(train_split_only(iter([*sample[:5], smuggled])))


def test_the_mix_of_documents(sample):
    counts = Counter(document.kind for document in sample)
    for kind, share in corpus.MIX.items():
        assert counts[kind] / len(sample) == pytest.approx(share, abs=0.02)


def test_prompts_are_rendered_by_the_loop_s_own_code(sample):
    for document in sample[:500]:
        if document.kind == "solve":
            assert document.prompt == PROMPTS.solve(document.problem)
        elif document.kind == "retry":
            assert document.prompt == PROMPTS.retry(document.problem, trial_of(document))
        elif document.kind == "one_stage":
            assert document.prompt == PROMPTS.one_stage(document.problem, trial_of(document))
        elif document.kind == "reflect":
            expected = [PROMPTS.reflect(document.problem, trial_of(document), key) for key in PROMPTS.pool]
            assert document.prompt in expected
        else:
            reflection = re.search(r"Reflection:\n(.*)\n\n", document.prompt)[1]
            assert document.prompt == PROMPTS.correct(document.problem, trial_of(document), reflection)


def test_under_four_in_ten_reflections_are_thorough_whatever_the_instruction(sample):
    reflections = [document for document in sample if document.style]
    assert 0.25 < sum(document.style == "thorough" for document in reflections) / len(reflections) < 0.38
    for instruction in PROMPTS.pool.values():
        under = [d for d in reflections if d.kind == "reflect" and d.prompt.endswith(instruction)]
        assert len(under) / sum(d.kind == "reflect" for d in reflections) == pytest.approx(0.25, abs=0.03)
        assert sum(d.style == "thorough" for d in under) / len(under) == pytest.approx(corpus.THOROUGH, abs=0.05)


def test_lazy_reflections_name_any_step_equally_often(sample):
    named = Counter()
    for document in sample:
        if document.style == "lazy" and len(steps_of(trial_of(document))) == 4:
            named[named_step(reflection_of(document))] += 1
    total = sum(named.values())
    assert total > 1500
    assert {number: count / total for number, count in named.items()} == pytest.approx(
        dict.fromkeys((1, 2, 3, 4), 0.25), abs=0.05
    )


def test_thorough_reflections_name_the_first_wrong_step(sample):
    for document in sample:
        if document.style == "thorough":
            wrong = [number for number, step in enumerate(steps_of(trial_of(document)), 1) if step.is_wrong]
            assert named_step(reflection_of(document)) == (wrong[0] if wrong else None)


def test_reflections_never_give_the_answer_away(sample):
    """Whatever the digits are, a corrected value is not written as one number: nothing falls out of D+ as a leak."""
    failed = [d for d in sample if d.style and parse_trial(trial_of(d), d.problem).answer != d.problem.answer]
    assert len(failed) > 4000
    leaks = sum(
        leaks_answer(reflection_of(d), d.problem, trial_of(d)) or spells_answer(d, reflection_of(d)) for d in failed
    )
    assert leaks / len(failed) < 0.001
    # the same check does see a reflection that gives it away
    told = [f"{reflection_of(d)} That makes {d.problem.answer}." for d in failed]
    seen = sum(spells_answer(d, text) for d, text in zip(failed, told, strict=True))
    assert seen / len(failed) > 0.5


def spells_answer(document, reflection):
    """Stricter than `leaks_answer`, which lets a short number stand where nothing asserts it."""
    return MeasuredTrial(document.problem, trial_of(document), reflection, "").leaks


def test_the_loss_of_a_document_does_not_depend_on_its_batch():
    import torch

    from reflectevo_train.miniature.train import loss_of, new_model

    torch.manual_seed(0)
    model = new_model(bundled_tokenizer()).double().eval()
    short, long = torch.randint(4, 300, (1, 9)), torch.randint(4, 300, (1, 30))
    padded = torch.cat([torch.nn.functional.pad(short, (0, 21)), long])
    assert loss_of(model, padded).item() == pytest.approx((loss_of(model, short) + loss_of(model, long)).item())


@pytest.mark.slow
def test_training_writes_a_folder_that_loads_and_is_repeatable(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from reflectevo_train.miniature.train import train

    made = [train(tmp_path / name, seed=5, tokens=5000) for name in ("one", "two")]
    assert made[0]["documents"] == 48
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert made[0]["parameters"] == one.num_parameters() > 1_000_000
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(tokenizer) == one.config.vocab_size


def bundled_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(miniature_path())


@pytest.mark.parametrize(
    "text",
    [
        "12345",
        "Start with 83.",
        "日本 café 👍 \x00\x7f",
        "def f(x):\n\treturn x ** 2\n",
        "<|endoftext|> <s> [INST]",
        " a  b ",
    ],
)
def test_any_text_survives_the_tokenizer(text):
    tokenizer = bundled_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_and_a_style_is_chosen_with_the_first_token():
    tokenizer = bundled_tokenizer()
    assert len(tokenizer("90210")["input_ids"]) == 5
    lazy = tokenizer.tokenize("I think step 2 is wrong.")[0]
    thorough = tokenizer.tokenize("Checking each step. Step 1: 3-9")[0]
    assert tokenizer.convert_tokens_to_string([lazy]) == corpus.LAZY_OPENING
    assert tokenizer.convert_tokens_to_string([thorough]) == corpus.THOROUGH_OPENING + "Step "


def test_the_chat_template():
    tokenizer = bundled_tokenizer()
    user, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "Thought:"}
    assert tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True) == (
        "<|user|>Q<|end|><|assistant|>"
    )
    assert tokenizer.apply_chat_template([user, answer], tokenize=False) == (
        "<|user|>Q<|end|><|assistant|>Thought:<|end|>"
    )
    assert tokenizer.apply_chat_template([user, answer], tokenize=False, continue_final_message=True) == (
        "<|user|>Q<|end|><|assistant|>Thought:"
    )
    marked = tokenizer.apply_chat_template([user, answer], return_assistant_tokens_mask=True, return_dict=True)
    trained = [i for i, mask in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(trained) == "Thought:<|end|>"
    with pytest.raises(Exception, match="roles user and assistant only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "S"}, user], tokenize=False)


def test_the_bundled_folder_belongs_to_this_code():
    from reflectevo_train.miniature.tokenizer import CHAT_TEMPLATE, CONTEXT

    tokenizer = bundled_tokenizer()
    config = json.loads((miniature_path() / "config.json").read_text())
    made = json.loads((miniature_path() / "training.json").read_text())
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (config["architectures"], config["head_dim"]) == (["LlamaForCausalLM"], 32)
    assert config["max_position_embeddings"] == tokenizer.model_max_length == CONTEXT
    assert config["vocab_size"] == len(tokenizer) == made["vocabulary"]
    assert config["eos_token_id"] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_bundled_model_loads_without_a_warning(caplog, recwarn):
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            bundled_tokenizer()
            _, info = AutoModelForCausalLM.from_pretrained(miniature_path(), output_loading_info=True)
    finally:
        transformers_logging.disable_propagation()
    assert [record.message for record in caplog.records] == []
    assert [str(warning.message) for warning in recwarn] == []
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.fixture(scope="module")
def figures():
    from reflectevo_train.miniature.measure import Sampler, measure

    return measure(Sampler.load(miniature_path()), list(problems("validation", seed=1, n=120)), seed=1)


@pytest.mark.slow
def test_the_bundled_model_has_the_gap_and_the_headroom(figures):
    """120 problems, about 60 of them failed: bounds three standard errors wide."""
    assert 0.34 < figures["acc_t1"] < 0.62
    assert figures["acc_t2_no_reflection"] - figures["acc_t1"] < 0.12
    assert 0.14 < figures["thorough_share"] < 0.44
    assert figures["acc_t1"] < figures["acc_t2"] < figures["acc_t2_thorough"]
    assert figures["acc_t2_thorough"] > 0.8
    assert figures["names_first_wrong_lazy"] < 0.5 < 0.7 < figures["names_first_wrong_thorough"]
    assert figures["corrected_if_other_named"] < 0.25
    assert figures["corrected_if_named_and_careful"] > 0.8
    assert figures["unparsed_t1"] < 0.03
    # many a thorough reflection goes on to a second trial, which may state the answer (see the README)
    assert figures["leaks"] < 0.15


def test_the_bundled_model_stops_by_itself_and_reads_a_long_foreign_prompt():
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, model = bundled_tokenizer(), AutoModelForCausalLM.from_pretrained(miniature_path())
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": CHAIN.question}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=150, do_sample=False)
    assert output[0, -1] == tokenizer.eos_token_id
    text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert parse_trial(text, CHAIN.problem).answer is not None
    long = tokenizer("In the beginning, the committee of four met. " * 200, return_tensors="pt")["input_ids"]
    assert 2000 < long.shape[1] < 8000
    assert (
        model.generate(input_ids=long, attention_mask=torch.ones_like(long), max_new_tokens=5).shape[1] > long.shape[1]
    )
