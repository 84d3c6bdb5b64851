"""The published columns: what the literal lists here say is what datasets on the Hub have."""

import pytest

from reflectevo_data.schema import COLUMNS, CONFIGS, RankedPair, ranked_pair


PAIR = [
    *("id", "question", "answer", "first_trial_reasoning", "first_trial_answer"),
    *("second_trial_reasoning_chosen", "second_trial_answer_chosen", "reflection_chosen"),
    *("second_trial_reasoning_rejected", "second_trial_answer_rejected", "reflection_rejected"),
    *("reason_prompt", "reflect_prompt"),
    # ours
    *("task", "source", "instruction", "generator", "reflector", "corrector", "answer_type"),
    *("instruction_rejected", "reflect_prompt_rejected"),
]
NAMES = {
    "raw": [
        *("id", "question", "answer", "task", "source", "options", "test_list", "output"),
        # ours
        *("instruction", "generator", "reflector", "corrector", "answer_type", "answers", "test_setup_code"),
        *("license", "group", "seed"),
    ],
    "dplus": [
        *("id", "question", "answer", "first_trial_reasoning", "first_trial_answer"),
        *("second_trial_reasoning", "second_trial_answer", "reflections", "reason_prompt", "reflect_prompt"),
        # ours
        *("task", "source", "instruction", "generator", "reflector", "corrector", "answer_type"),
        *("correct_prompt", "options", "test_list"),
    ],
    "dpm": PAIR,
    "dpref": [*PAIR, "judge"],
}
OUTPUT_NAMES = [
    *("trial", "generated_answer", "reasoning", "is_correct", "error", "reflections", "reasoning_prompt"),
    *("reflection_prompt", "reasoning_source", "reflection_source", "instruction"),
    # ours
    *("status", "f1", "leaks_answer", "finish_reason", "n_prompt_tokens", "n_completion_tokens"),
    *("reflection_finish_reason", "n_reflection_tokens"),
]
LISTS = {"options", "test_list", "answers", "reason_prompt", "correct_prompt", "reflections", "reasoning_prompt"}
TYPES = {
    "trial": "int32",
    "is_correct": "bool",
    "f1": "float32",
    "leaks_answer": "bool",
    "n_prompt_tokens": "int32",
    "n_completion_tokens": "int32",
    "n_reflection_tokens": "int32",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_names_and_order_of_the_published_columns(config: str):
    assert list(COLUMNS[config]) == NAMES[config]


def test_names_order_and_types_of_a_trial():
    [output] = COLUMNS["raw"]["output"]
    assert list(output) == OUTPUT_NAMES
    assert output == {name: ["string"] if name in LISTS else TYPES.get(name, "string") for name in OUTPUT_NAMES}


@pytest.mark.parametrize("config", ["dplus", "dpm", "dpref"])
def test_columns_of_the_sets_are_texts_and_lists_of_texts(config: str):
    lists = LISTS - {"reflections"}  # one text in D+
    assert COLUMNS[config] == {name: ["string"] if name in lists else "string" for name in NAMES[config]}


def test_types_of_a_raw_row():
    columns = {name: column for name, column in COLUMNS["raw"].items() if name != "output"}
    lists = LISTS | {"instruction"}
    expected = {name: ["string"] if name in lists else "string" for name in columns}
    assert columns == expected | {"seed": "int64"}


def test_a_preference_without_a_winner_ranks_no_pair():
    preference = {"id": "q/1", "chosen": 2, "rejected": 1, "judge": "self"}
    assert ranked_pair(preference) == RankedPair(chosen=2, rejected=1, judge="self")
    assert ranked_pair({**preference, "chosen": None, "rejected": None}) is None
