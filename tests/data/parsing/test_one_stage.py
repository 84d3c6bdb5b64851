"""One-stage messages: what is joined for training is what is split after sampling."""

import pytest

from reflectevo_data.parsing.one_stage import join_one_stage, split_one_stage


@pytest.mark.parametrize(
    ("text", "reflection", "trial"),
    [
        ("Step 2 slipped.\n\nThought: 9-3=6.\nAction: Finish[6]", "Step 2 slipped.", "Thought: 9-3=6.\nAction: Finish[6]"),
        ("Step 2 slipped.\n\n**Thought:** so.\nAction: Finish[6]", "Step 2 slipped.", "**Thought:** so.\nAction: Finish[6]"),
        ("Step 2 slipped.\nAction: Finish[6]", "Step 2 slipped.", "Action: Finish[6]"),
        ("Action: was cut.\nThought: so.\nAction: Finish[6]", "Action: was cut.", "Thought: so.\nAction: Finish[6]"),
        ("My Thought: was hasty, my Action: too.", "My Thought: was hasty, my Action: too.", ""),
        ("Thought: so.\nAction: Finish[6]", "", "Thought: so.\nAction: Finish[6]"),
        ("  Step 2 slipped. \n", "Step 2 slipped.", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_split(text, reflection, trial):
    assert split_one_stage(text) == (reflection, trial)


def test_what_is_joined_is_split_again():
    joined = join_one_stage(" Step 2 slipped.\n", "\nThought: so.\nAction: Finish[6] ")
    assert joined == "Step 2 slipped.\n\nThought: so.\nAction: Finish[6]"
    assert split_one_stage(joined) == ("Step 2 slipped.", "Thought: so.\nAction: Finish[6]")
