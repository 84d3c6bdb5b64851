"""Arbitrary files for the importer: rows of upstream's shapes with anything in their fields, and broken JSON.

`check(content)` is one trial; `tests/data/upstream/test_importer.py` runs some, `python -m tests.benchmarks.fuzz` many.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.records import fault_of
from reflectevo_data.upstream.importer import ImportReport, import_records


_FIELDS = [
    "id",
    "question",
    "answer",
    "answers",
    "options",
    "test_list",
    "test_setup_code",
    "answer_type",
    "task",
    "source",
    "license",
    "group",
    "output",
    "trial",
    "trail",
    "reasoning",
    "scratchpad",
    "reason",
    "generated_answer",
    "is_correct",
    "error",
    "reflections",
    "reflection",
    "reasoning_prompt",
    "reason_prompt",
    "reflection_prompt",
    "reflect_prompt",
    "correct_prompt",
    "reasoning_source",
    "reflection_source",
    "instruction",
    "generator",
    "reflector",
    "first_trial_reasoning",
    "first_trial_answer",
    "second_trial_reasoning",
    "second_trial_answer",
    "first_reason",
    "second_reason",
    "second_trial_reasoning_chosen",
    "second_trial_answer_chosen",
    "reflection_chosen",
    "second_trial_reasoning_rejected",
    "second_trial_answer_rejected",
    "reflection_rejected",
    "trail1",
    "trail2_true",
    "trail2_false",
    "trial1",
    "trial2_chosen",
    "trial2_rejected",
]
_SHAPES = (
    {"question": "q", "output": "trials"},
    {"question": "q", "first_trial_reasoning": "t", "second_trial_reasoning": "t", "reflections": "r"},
    {"question": "q", "first_trial_reasoning": "t", "second_trial_reasoning_chosen": "t", "reflection_chosen": "r"},
    {"question": "q", "trail1": "trial", "trail2_true": "trial", "trail2_false": "trial"},
)
_FRAGMENTS = (
    "Thought: so.\nAction: Finish[A]\nObservation: Answer is CORRECT",
    "Answer is INCORRECT",
    "Finish<<<\\frac{1}{2}>>>",
    "[BEGIN]\ndef f():\n    return 1\n[END]",
    "Which?\nA. x\nB. y",
    "(BEGIN)\n",
    "\n(END)\n",
    "\\boxed{{",
    "the correct answer is a",
    "person鈥檚 personâ€™s",
    "\ud83d",
    "\x00",
    "b",
)
_texts = st.one_of(
    st.sampled_from(_FRAGMENTS), st.text(max_size=40), st.lists(st.sampled_from(_FRAGMENTS)).map("".join)
)
_scalars = st.one_of(_texts, st.none(), st.booleans(), st.integers(), st.floats())
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(_FIELDS), _texts), inner, max_size=4)
    ),
    max_leaves=8,
)
_trials = st.fixed_dictionaries(
    {
        "reasoning": _texts,
        "generated_answer": _scalars,
        "reflections": st.one_of(_texts, st.lists(_texts, max_size=2)),
    },
    optional={
        "trial": st.sampled_from([1, 2, "2", None, 3.5]),
        "is_correct": _values,
        "reasoning_prompt": _values,
        "reflection_prompt": _values,
    },
)


@st.composite
def _rows(draw: st.DrawFn) -> Any:
    """A row of one of the shapes, some of its fields replaced by anything, some added."""
    kinds = {"q": _texts, "t": _texts, "r": _texts, "trial": _trials, "trials": st.lists(_trials, max_size=4)}
    row = {name: draw(kinds[kind]) for name, kind in draw(st.sampled_from(_SHAPES)).items()}
    return row | draw(st.dictionaries(st.sampled_from(_FIELDS), _values, max_size=5))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file's content: JSON lines, pretty-printed or an array, maybe cut or with bytes replaced."""
    rows = draw(st.lists(st.one_of(_rows(), _values), max_size=4))
    form = draw(st.sampled_from(["lines", "pretty", "array"]))
    if form == "array":
        content = json.dumps(rows).encode()
    else:
        content = "\n".join(json.dumps(row, indent=4 if form == "pretty" else None) for row in rows).encode()
    if draw(st.booleans()):
        return content
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    return content[:at] + draw(st.binary(max_size=4)) + content[at + draw(st.integers(0, 3)) :]


def check(content: bytes) -> int:
    """Imports a file of this content; returns how many records, all sound. Anything but `InputError` is a bug."""
    report = ImportReport()
    n_records = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "any.jsonl")
        path.write_bytes(content)
        try:
            for row, preferences in import_records([str(path)], report=report):
                n_records += 1
                assert fault_of(row) == "", (fault_of(row), row)
                json.dumps(row).encode()
                for preference in preferences:
                    assert {preference["chosen"], preference["rejected"]} <= set(range(1, len(row["output"])))
        except InputError:
            assert n_records == 0
    assert report.counts["records"] == n_records
    return n_records
