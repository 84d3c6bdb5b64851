"""The importer: upstream's shapes become one kind of record, and what is wrong in them is mended and counted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from reflectevo_data.curation.curate import dplus_rows, dpm_rows, dpref_rows
from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.records import fault_of
from reflectevo_data.rollouts.store import load_preferences, load_rows
from reflectevo_data.upstream.importer import ImportReport, import_records, import_run
from reflectevo_data.upstream.repair import cut_prompt, cut_stated_gold, cut_verdict, repair_text
from reflectevo_data.verifiers.pool import VerifierPool
from tests.data.upstream import import_fuzz
from tests.hub import Hub
from tests.reference import REFERENCE, needs_reference


QUESTION = "Which of these is a planet?\nA. Mars\nB. The Moon\nC. The Sun"


def attempt(letter: str, why: str = "it looks right", verdict: bool | None = None) -> str:
    """A trial as upstream stores it, its verdict behind it."""
    text = f"\nThought: I take {letter} because {why}. \nAction: Finish[{letter}]"
    return text if verdict is None else f"{text}\nObservation: Answer is {'CORRECT' if verdict else 'INCORRECT'}"


WRONG = attempt("B", verdict=False)
RIGHT = [attempt("A", f"it orbits, reason {i}", verdict=True) for i in range(3)]
REFLECTIONS = [f"Consider what each body orbits, way {i}." for i in range(3)]


def prompt(history: str, extra: str = "") -> str:
    examples = "Question: 1+1?\nThought: two.\nAction: Finish[2]\n(END OF EXAMPLES)\n"
    return (
        f"Solve it.\n{examples}You are solving: {QUESTION}\n{extra}\nHistory:\n(BEGIN)\n{history}\n(END)\n\xa0\n"
        "Complete the last step (before (END) ). "
    )


def reflect_prompt(n: int = 0) -> str:
    return f"You failed.\nQuestion: {QUESTION}\nYour solution: {WRONG}\n\nReflect on it, way {n}."


def raw_row(**changes: object) -> dict:
    first = {"generated_answer": "B", "reflections": [], "scratchpad": WRONG, "is_correct": False, "trail": 1}
    seconds = [
        {"generated_answer": "A", "reflections": [REFLECTIONS[0]], "scratchpad": RIGHT[0], "is_correct": True},
        {"generated_answer": "C", "reflections": REFLECTIONS[1], "reasoning": attempt("C", verdict=False)}
        | {"is_correct": False, "trial": 2, "reasoning_source": "N/A", "reflection_source": "gpt-4o"},
    ]
    row = {"id": 7, "question": QUESTION, "answer": "a", "output": [first, seconds[0] | {"trail": 2}, seconds[1]]}
    return row | changes


def dplus_row(n: int = 0) -> dict:
    prompts = [prompt(""), prompt(RIGHT[n], f"Reflections:\n- {REFLECTIONS[n]}")]
    return {
        "id": 1,
        "question": QUESTION,
        "answer": "a",
        "first_trial_reasoning": WRONG,
        "first_trial_answer": "B",
        "second_trial_reasoning": RIGHT[n],
        "second_trial_answer": "A",
        "reflections": REFLECTIONS[n],
        "reason_prompt": prompts,
        "reflect_prompt": reflect_prompt(n),
    }


def pair_row(rejected: str, n: int = 1) -> dict:
    return {
        "id": 1,
        "question": QUESTION,
        "answer": "a",
        "first_trial_reasoning": WRONG,
        "first_trial_answer": "B",
        "second_trial_reasoning_chosen": RIGHT[0],
        "second_trial_answer_chosen": "A",
        "reflection_chosen": REFLECTIONS[0],
        "second_trial_reasoning_rejected": rejected,
        "second_trial_answer_rejected": "A" if "Finish[A]" in rejected else "C",
        "reflection_rejected": REFLECTIONS[n],
        "reason_prompt": prompt(WRONG),
        "reflection_prompt": reflect_prompt(),
    }


def nested_row() -> dict:
    trial = {"generated_answer": "B", "reflections": [], "scratchpad": WRONG, "is_correct": False, "trail": 1}
    second = {"generated_answer": "A", "reflections": [REFLECTIONS[0]], "scratchpad": RIGHT[0], "is_correct": True}
    third = {"generated_answer": "C", "reflections": [REFLECTIONS[1]], "scratchpad": attempt("C", verdict=False)}
    row = {"question": QUESTION, "answer": "a", "id": 3, "trail1": trial}
    return row | {"trail2_true": second | {"trail": 2}, "trail2_false": third | {"is_correct": False, "trail": 2}}


def write(folder: Path, *rows: object, name: str = "any.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return str(path)


def run_import(*paths: str, verify: bool = True, **options: Any) -> tuple[list, ImportReport]:
    report = ImportReport()
    with VerifierPool(workers=1) as pool:
        records = list(import_records(paths, verifier=pool if verify else None, report=report, **options))
    assert all(fault_of(record.row) == "" for record in records)
    return records, report


def test_a_raw_row(tmp_path):
    (record,), report = run_import(write(tmp_path, raw_row()))
    row = record.row
    assert (row["question"], row["answer"], row["answer_type"]) == (QUESTION, "a", "choice")
    assert row["options"] == ["Mars", "The Moon", "The Sun"]
    assert [(o["trial"], o["generated_answer"], o["is_correct"], o["status"]) for o in row["output"]] == [
        (1, "B", False, "incorrect"),
        (2, "A", True, "correct"),
        (2, "C", False, "incorrect"),
    ]
    assert [o["reflections"] for o in row["output"]] == [[], [REFLECTIONS[0]], [REFLECTIONS[1]]]
    assert row["output"][1]["reasoning"] == attempt("A", "it orbits, reason 0").strip()
    assert (row["generator"], row["reflector"], row["output"][2]["reflection_source"]) == (
        "unknown",
        "gpt-4o",
        "gpt-4o",
    )
    assert row["group"].startswith("imported/")
    assert record.preferences == []
    assert report.counts["verdicts cut from trials"] == 3
    assert report.counts["labels verified"] == 3
    assert dpm_rows(row)[0]["reflection_chosen"] == REFLECTIONS[0]


def test_a_dplus_row_and_its_recorded_answer(tmp_path):
    (record,), report = run_import(write(tmp_path, dplus_row()))
    first, second = record.row["output"]
    assert first["reasoning_prompt"] == [prompt(""), ""]
    assert second["reasoning_prompt"] == [prompt("", f"Reflections:\n- {REFLECTIONS[0]}"), ""]
    assert second["reflection_prompt"] == reflect_prompt()
    assert report.counts["prompts cut (answer leak)"] == 1
    (row,) = dplus_rows(record.row)
    assert (row["first_trial_answer"], row["second_trial_answer"], row["reflections"]) == ("B", "A", REFLECTIONS[0])
    everything = json.dumps([first["reasoning_prompt"], second["reasoning_prompt"], row["reflect_prompt"]])
    assert "Answer is CORRECT" not in everything
    assert RIGHT[0].strip() not in everything


def test_pairs_of_both_kinds(tmp_path):
    (dpm,), _ = run_import(write(tmp_path, pair_row(attempt("C", verdict=False))))
    assert [o["is_correct"] for o in dpm.row["output"]] == [False, True, False]
    assert dpm.preferences == []
    assert dpm.row["output"][0]["reasoning_prompt"][0] == prompt("")  # the wrong first trial was in it
    (dpref,), report = run_import(write(tmp_path, pair_row(RIGHT[1])))
    assert [o["is_correct"] for o in dpref.row["output"]] == [False, True, True]
    assert dpref.preferences == [{"id": dpref.row["id"], "chosen": 1, "rejected": 2, "judge": "upstream"}]
    assert report.counts["preferences"] == 1
    (row,) = dpref_rows(dpref.row, dpref.preferences)
    assert (row["reflection_chosen"], row["reflection_rejected"]) == (REFLECTIONS[0], REFLECTIONS[1])


def test_the_nested_pairs_of_older_files(tmp_path):
    (nested,), _ = run_import(write(tmp_path, nested_row()))
    (flat,), _ = run_import(write(tmp_path, pair_row(attempt("C", verdict=False))))
    for a, b in zip(nested.row["output"], flat.row["output"], strict=True):
        for name in ("trial", "reasoning", "generated_answer", "is_correct", "reflections"):
            assert a[name] == b[name]
    assert nested.row["id"] == flat.row["id"]


def test_rows_of_one_first_trial_become_one_record(tmp_path):
    paths = [
        write(tmp_path, raw_row(), name="raw.jsonl"),
        write(tmp_path, dplus_row(0), dplus_row(2), name="dplus.jsonl"),
        write(
            tmp_path, pair_row(RIGHT[2], 2), pair_row(attempt("C", verdict=False)), nested_row(), name="pairs.jsonl"
        ),
    ]
    (record,), report = run_import(*paths)
    row = record.row
    assert [o["reflections"] for o in row["output"]] == [[]] + [[REFLECTIONS[i]] for i in (0, 1, 2)]
    assert [o["is_correct"] for o in row["output"]] == [False, True, False, True]
    assert record.preferences == [{"id": row["id"], "chosen": 1, "rejected": 3, "judge": "upstream"}]
    assert row["output"][1]["reflection_prompt"] == reflect_prompt(0)  # the raw row had none
    assert report.counts["rows merged into another's record"] == 5


def test_another_first_trial_at_the_question_is_another_record_of_its_group(tmp_path):
    other = raw_row()
    other["output"][0] = other["output"][0] | {"scratchpad": attempt("C", verdict=False), "generated_answer": "C"}
    records, _ = run_import(write(tmp_path, raw_row(), other))
    assert len({record.row["id"] for record in records}) == 2
    assert len({record.row["group"] for record in records}) == 1


def test_labels_are_verified_anew(tmp_path):
    row = raw_row()
    row["output"][0] |= {"is_correct": True}  # stored as correct, is not
    row["output"][2] |= {
        "reasoning": "Thought: hm. Action: Finish[ a ]",
        "is_correct": False,
        "generated_answer": " a ",
    }
    (record,), report = run_import(write(tmp_path, row))
    assert [o["is_correct"] for o in record.row["output"]] == [False, True, True]
    assert report.counts["labels changed: stored correct, not so"] == 1
    assert report.counts["labels changed: stored wrong, correct"] == 1
    (record,), report = run_import(write(tmp_path, row), verify=False)
    assert [o["is_correct"] for o in record.row["output"]] == [True, True, False]
    assert report.counts["labels kept: cannot be verified"] == 3


def test_a_stored_answer_counts_where_the_text_shows_none(tmp_path):
    row = raw_row()
    row["output"][1] |= {"scratchpad": "Thought: Mars orbits the sun.", "generated_answer": "A"}
    (record,), _ = run_import(write(tmp_path, row))
    assert (record.row["output"][1]["is_correct"], record.row["output"][1]["generated_answer"]) == (True, "A")


def test_a_label_without_a_gold_is_kept_and_counted(tmp_path):
    (record,), report = run_import(write(tmp_path, raw_row(answer="")))
    assert [o["is_correct"] for o in record.row["output"]] == [False, True, False]
    assert report.counts["labels kept: cannot be verified"] == 3


def test_a_dpref_pair_whose_trial_is_not_correct_is_no_preference(tmp_path):
    row = pair_row(RIGHT[1].replace("Finish[A]", "Finish[C]"))  # says it was correct
    (record,), report = run_import(write(tmp_path, row))
    assert record.preferences == []
    assert report.counts["preferences left out: a trial is not correct"] == 1


def test_math_and_text_and_code(tmp_path):
    def row(question: str, answer: str, trial: str, **more: object) -> dict:
        output = [{"trial": 1, "reasoning": trial, "generated_answer": "", "is_correct": True, "reflections": []}]
        return {"question": question, "answer": answer, "output": output} | more

    code = row(
        "Write f.", "def f(): return 1", "[BEGIN]\ndef f():\n    return 1\n[END]", test_list=["assert f() == 1"]
    )
    rows = [
        row("Half?", r"so \boxed{\frac{1}{2}}", "Thought: half.\nAction: Finish<<<0.5>>>"),
        row("Year?", "1990", "Thought: then.\nAction: Finish[1990]"),
    ]
    records, _ = run_import(write(tmp_path, *rows))
    assert [(r.row["answer_type"], r.row["answer"]) for r in records] == [("math", r"\frac{1}{2}"), ("text", "1990")]
    assert [r.row["output"][0]["status"] for r in records] == ["correct", "correct"]
    (record,), _ = run_import(write(tmp_path, code), verify=False)
    assert (record.row["answer_type"], record.row["test_list"]) == ("code", ["assert f() == 1"])
    assert record.row["output"][0]["generated_answer"].startswith("def f()")


def test_mojibake_is_repaired_and_counted(tmp_path):
    row = raw_row(question=QUESTION.replace("planet", "planetâ€™s name, personã person鈥檚, naÃ¯ve"))
    row["output"][1]["reflections"] = ["It\ud83d is \ud83d\ude00"]
    (record,), report = run_import(write(tmp_path, row))
    assert "planet’s name, personã person’s, naïve" in record.row["question"]
    assert record.row["output"][1]["reflections"] == ["It\ufffd is 😀"]
    assert report.counts["texts repaired (mojibake)"] == 2


@pytest.mark.parametrize("text", ["plain", "“quoted” – naïve café", "中文问题", "Ангела", "α ≤ β", "鈥", "茅台"])
def test_sound_text_is_left_alone(text):
    assert repair_text(text) == text


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        ("Action: Finish[A]\nObservation: Answer is INCORRECT\n", "Action: Finish[A]"),
        ("Action: Finish[A] Answer is CORRECT", "Action: Finish[A]"),
        ("The Answer is CORRECT when A holds.", None),
        ("Observation: it rains. Action: Finish[A]", None),
    ],
)
def test_a_verdict_behind_a_trial(trial, expected):
    assert cut_verdict(trial) == ((trial, False) if expected is None else (expected, True))


TRIAL = "Thought: the second one cannot be.\nAction: Finish[A]"
BEFORE = "Thought: the first one cannot be.\nAction: Finish[B]\nObservation: Answer is INCORRECT"


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (
            f"Q: why?\n(BEGIN)\n{TRIAL}\nObservation: Answer is CORRECT\n(END)\nGo on.",
            "Q: why?\n(BEGIN)\n\n(END)\nGo on.",
        ),
        (f"Q: why?\n{TRIAL}\nObservation: Answer is CORRECT", "Q: why?\n"),
        (f"Q: why?\n{TRIAL}", "Q: why?\n"),
        (f"Q: why?\n{' '.join(TRIAL.split())} rest", "Q: why?\n rest"),  # other white space
        ("Q: why?\nThought: retold. Action: Finish[A]\nObservation: Answer is CORRECT", "Q: why?\n"),
        ("Q: why?\nAnswer is INCORRECT", "Q: why?"),
        ("Thought: an example. Answer is CORRECT\nQ: why?\nNow you.", None),
        ("Q: why?\n(BEGIN)\n\n(END)\nThe last step before (END) ).", None),
    ],
)
def test_what_was_written_after_a_first_prompt_is_cut(stored, expected):
    found = cut_prompt(stored, question="why?", later=[TRIAL])
    assert found == ((stored, False) if expected is None else (expected, True))


def test_the_failed_trial_stays_in_a_reflection_prompt():
    stored = f"Q: why?\nYour solution: {BEFORE}\nReflect on it."
    assert cut_prompt(stored, question="why?", later=["My reflection on all of it.", TRIAL], before=[BEFORE]) == (
        stored,
        False,
    )
    leaked = f"{stored}\nMy reflection on all of it.\n{TRIAL}\nObservation: Answer is CORRECT"
    assert cut_prompt(leaked, question="why?", later=["My reflection on all of it.", TRIAL], before=[BEFORE]) == (
        f"{stored}\n\n",
        True,
    )
    same = cut_verdict(BEFORE)[0]  # the second trial repeats the first one
    assert cut_prompt(stored, question="why?", later=[same], before=[BEFORE]) == (stored, False)


def test_a_stated_gold_is_cut():
    stored = "Ground truth answer: a\nQ: why?\nThe correct answer is: A.\nReflect."
    assert cut_stated_gold(stored, question="why?", gold="a") == (
        "Ground truth answer: a\nQ: why?\nReflect.",
        True,
    )
    unstated = "Q: why?\nThe correct answer is another one."
    assert cut_stated_gold(unstated, question="why?", gold="a") == (unstated, False)


@pytest.mark.parametrize("depth", [300, 600, 100_000])
def test_a_row_nested_too_deep_costs_itself_alone(tmp_path, depth):
    path = write(tmp_path, f'{{"output": {"[" * depth}{"]" * depth}}}', raw_row())
    (imported,), report = run_import(path)
    assert imported.row["output"]
    assert report.counts["rows unreadable"] + report.counts["rows not recognised"] == 1


def test_what_is_not_recognised_is_listed(tmp_path):
    other = {"id": 1, "text": "no record"}
    path = write(tmp_path, raw_row(), other, "[1]", "{broken", raw_row(question=""), raw_row(output=[]))
    (_,), report = run_import(path)
    assert report.counts["rows read"] == 6
    assert report.counts["rows not recognised"] == 4
    assert report.counts["rows unreadable"] == 1
    assert f"{path}:2: found the fields id, text" in report.left_out
    assert any(place.startswith(f"{path}:4: found no JSON") for place in report.left_out)
    assert ("rows not recognised", "4") in report.table()
    with pytest.raises(InputError, match=r"no row is recognised \(.*found the fields id, text"):
        run_import(write(tmp_path, other))
    with pytest.raises(InputError, match="no such file"):
        run_import(str(tmp_path / "none.jsonl"))


def test_every_format_gives_the_same_records(tmp_path):
    rows = [dplus_row(0), dplus_row(1), pair_row(RIGHT[2])]
    expected, _ = run_import(write(tmp_path, *rows))
    pretty = write(tmp_path, *(json.dumps(row, indent=4) for row in rows), name="pretty.json")
    array = write(tmp_path, json.dumps(rows, indent=2), name="array.json")
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), tmp_path / "b.parquet")
    assert run_import(pretty)[0] == expected
    assert run_import(array)[0] == expected
    assert run_import(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"))[0] == expected


def test_parts_on_disk_give_the_same_records(tmp_path):
    rows = []
    for i in range(60):
        for row in (raw_row(), dplus_row(), pair_row(RIGHT[1])):
            text = json.dumps(row).replace("a planet", f"planet number {i}")
            rows.append(text)
    path = write(tmp_path, *rows[::2], *rows[1::2])
    whole, whole_report = run_import(path, verify=False)
    parts, report = run_import(path, verify=False, part_bytes=20_000)
    assert len(whole) == 60
    assert sorted(record.row["id"] for record in parts) == sorted(record.row["id"] for record in whole)
    assert {r.row["id"]: r for r in parts} == {r.row["id"]: r for r in whole}
    assert report.counts == whole_report.counts


def test_the_source_comes_from_the_row_the_option_or_the_file_name(tmp_path):
    def source(name: str, **options: Any) -> tuple[str, str, str]:
        (record,), _ = run_import(write(tmp_path, raw_row(**options.pop("row", {})), name=name), **options)
        return record.row["source"], record.row["task"], record.row["license"]

    assert source("logiqa_COT-generated_0_1.jsonl") == ("logiqa", "logical reasoning", "unknown")
    assert source("bigbenchfree_3.jsonl")[0] == "bigbench-free"
    assert source("any.jsonl") == ("", "", "unknown")
    assert source("logiqa.jsonl", source="vitaminc") == ("vitaminc", "reading comprehension", "apache-2.0")
    row = {"source": "exam", "task": "astronomy", "license": "mit"}
    assert source("logiqa.jsonl", row=row) == ("exam", "astronomy", "mit")


def test_a_run_directory_is_written_and_gone_on_with(tmp_path):
    path = write(tmp_path, raw_row(), pair_row(RIGHT[1]))
    run = tmp_path / "RUN"
    with VerifierPool(workers=1) as pool:
        report = import_run([path], run, verifier=pool)
        again = import_run([path], run, verifier=pool)
    assert report.counts["records"] == again.counts["records"] == 1
    (row,) = load_rows(run)
    assert load_preferences(run) == [{"id": row["id"], "chosen": 1, "rejected": 3, "judge": "upstream"}]
    other = write(tmp_path, raw_row(), name="other.jsonl")
    with pytest.raises(InputError, match=r"made with another configuration \(source\.name: .*other\.jsonl' now"):
        import_run([other], run)


@needs_reference
def test_the_upstream_examples():
    records, report = run_import(str(REFERENCE / "example_raw.jsonl"))
    assert [len(record.row["output"]) for record in records] == [3] * 10
    assert report.counts["labels changed: stored correct, not so"] == 0
    assert report.counts["labels changed: stored wrong, correct"] == 0
    assert report.counts["rows not recognised"] == report.counts["rows unreadable"] == 0
    records, report = run_import(str(REFERENCE / "example_dplus.jsonl"))
    assert [[o["is_correct"] for o in record.row["output"]] for record in records] == [[False, True]] * 5
    assert report.counts["prompts cut (answer leak)"] == 5
    for record in records:
        first, second = record.row["output"]
        for text in (*first["reasoning_prompt"], *second["reasoning_prompt"]):
            assert "Answer is" not in text
        assert second["reflections"][0] in second["reasoning_prompt"][0]
        assert first["reasoning"].split()[-1] in second["reflection_prompt"]
        assert "(BEGIN)\n\n(END)\n\xa0\nPlease" in first["reasoning_prompt"][0]
        assert second["reasoning"] not in second["reasoning_prompt"][0]


CLIENT = """
import json, sys
from reflectevo_data.upstream.importer import ImportReport, import_records
from reflectevo_data.errors import InputError
report = ImportReport()
try:
    records = [record.row for record in import_records(["bigai-nlco/ReflectionEvo"], report=report)]
except InputError as error:
    records = str(error)
print("RESULT" + json.dumps([records, report.table(), report.left_out]))
"""


def test_a_dataset_on_the_hub(tmp_path):
    def client(**options: bool) -> list:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            env=os.environ | hub.environment(tmp_path / "cache", **options),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.split("RESULT")[1])

    pq.write_table(pa.Table.from_pylist([pair_row(RIGHT[2], 2)]), tmp_path / "dpref.parquet")
    with Hub() as hub:
        missing, _, _ = client()
        content = {
            "README.md": b"---\n---\n",
            "logiqa/raw/part1.jsonl": json.dumps(raw_row()).encode(),
            "math/D+.json": json.dumps([dplus_row(2)], indent=2).encode(),
            "Dpref/data.parquet": (tmp_path / "dpref.parquet").read_bytes(),
            "other/notes.jsonl": b'{"note": 1}\n',
            "archive.zip": b"PK",
        }
        hub.commit("bigai-nlco/ReflectionEvo", content)
        online = client()
        offline = client(offline=True)
    assert missing.startswith("bigai-nlco/ReflectionEvo: no such file, and the dataset cannot be read from the Hub")
    (row,), table, left_out = online
    assert offline[0] == [row]
    assert sorted(o["reflections"][0] for o in row["output"][1:]) == REFLECTIONS  # of three files, one record
    assert dict(map(tuple, table))["files read"] == "4"
    assert "archive.zip: no JSON, JSON lines or Parquet" in left_out
    assert "bigai-nlco/ReflectionEvo/other/notes.jsonl:1: found the fields note" in left_out


def test_any_file_is_imported_or_refused():
    n_records = []

    @settings(max_examples=150, deadline=None)
    @given(import_fuzz.files())
    def import_one(content):
        n_records.append(import_fuzz.check(content))

    import_one()
    n_imported = sum(n > 0 for n in n_records)
    assert 10 < n_imported < len(n_records) - 10  # about half: the files are neither all sound nor all broken
