"""`reflectevo-train score`: hand-counted upstream examples, our own files, and what cannot be scored."""

import json
import re

import orjson
import pyarrow.parquet as pq
import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.store import load_rows
from reflectevo_train.cli import main
from reflectevo_train.evaluation.counts import score_rows
from reflectevo_train.evaluation.evaluate import load_evaluation
from reflectevo_train.evaluation.rescore import load_predictions
from tests.reference import REFERENCE, needs_reference
from tests.train.evaluations import make_evaluation


@needs_reference
def test_upstream_raw_example_has_its_hand_counted_numbers(capsys):
    # counted by hand: of the questions 2, 4, 5, 6, 10, 13, 16, 20, 25, 26 none is right at trial 1; the first second
    # trial corrects 2, 6 and 10, whose other one is right, right and wrong; 25 has no answer at trial 1
    path = REFERENCE / "example_raw.jsonl"
    report = score_rows(load_predictions(path).rows).total
    assert (report.n_problems, report.n_correct_t1, report.n_correct_t2) == (10, 0, 3)
    assert (report.n_second_trials, report.n_second_trials_correct) == (20, 5)
    assert (report.n_unparsed_t1, report.n_unparsed_t2) == (1, 0)
    assert report.gate == "oracle"
    assert main(["score", str(path)]) == 0
    assert "30.0 % [10.8, 60.3]" in capsys.readouterr().out


@needs_reference
def test_upstream_raw_example_counted_by_an_independent_few_lines():
    text = (REFERENCE / "example_raw.jsonl").read_text()
    labels = re.findall(r'"is_correct": (true|false)', text)
    trials = re.findall(r'"trial": (\d)', text)
    first = second = n = 0
    for place, number in enumerate(trials):
        if number == "1":
            n += 1
            first += labels[place] == "true"
            second += labels[place] != "true" and labels[place + 1] == "true"
    report = score_rows(load_predictions(REFERENCE / "example_raw.jsonl").rows).total
    assert (n, first, first + second) == (report.n_problems, report.n_correct_t1, report.n_correct_t2)


@needs_reference
def test_upstream_dplus_example_is_judged_anew():
    path = REFERENCE / "example_dplus.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first = sum(row["first_trial_answer"].strip().lower() == row["answer"].lower() for row in rows)
    second = sum(row["second_trial_answer"].strip().lower() == row["answer"].lower() for row in rows)
    report = score_rows(load_predictions(path).rows).total
    assert (report.n_problems, report.n_correct_t1, report.n_correct_t2) == (len(rows), first, second) == (5, 0, 5)


def test_free_text_counts_of_the_upstream_format(tmp_path):
    def trial(number, answer, right, **extra):
        return {"trail": number, "generated_answer": answer, "is_correct": right, "scratchpad": "Finish[x]", **extra}

    rows = [
        {"question": "Which tower?", "answer": "the Eiffel tower", "output": [trial(1, "Eiffel tower", True)]},
        {
            "question": "Which river runs there?",
            "answer": "the river Seine",
            "output": [trial(1, "the Thames", False), trial(2, "Seine", False, reflections=["look again"])],
        },
        {
            "question": "Who wrote it?",
            "answer": "Ann Lee",
            "output": [
                trial(1, "Bo", False, scratchpad="Finish[Bo] F1 Score: 0.25"),
                trial(2, "Cy", False, F1_score=0.5, reflections=["look again"]),
            ],
        },
    ]
    path = tmp_path / "free_text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = score_rows(load_predictions(path).rows).total
    assert (report.n_problems, report.n_text, report.n_text_correct_t1, report.n_f1_improved) == (3, 3, 1, 2)
    # river Seine against Seine: 2 * 1 / (2 + 1)
    assert report.f1_sum_t1 == pytest.approx(1 + 0 + 0.25)
    assert report.f1_sum_t2 == pytest.approx(1 + 2 / 3 + 0.5)
    assert report.em_t1 == pytest.approx(1 / 3)  # of what is there, not of 500


def test_our_files_have_the_numbers_of_their_evaluation(tmp_path, capsys):
    scores = make_evaluation(tmp_path / "eval", seed=4)
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in load_rows(tmp_path / "eval")))
    for place in (tmp_path / "eval", tmp_path / "eval" / "predictions.parquet", lines):
        assert score_rows(load_predictions(place).rows).total == scores.total
    assert len(pq.read_table(tmp_path / "eval" / "predictions.parquet")) == scores.total.n_problems
    make_evaluation(tmp_path / "other", seed=5)
    files = [str(tmp_path / "eval"), str(tmp_path / "other")]
    assert main(["score", *files, "--output", str(tmp_path / "counts.json")]) == 0
    assert "all files" in capsys.readouterr().out
    counts = json.loads((tmp_path / "counts.json").read_text())
    both = [load_evaluation(file).scores.total.n_correct_t1 for file in files]
    assert counts["all files"]["total"]["n_correct_t1"] == sum(both)
    assert counts["all files"]["total"]["n_problems"] == 120


def test_the_gate_of_a_run_is_the_manifests(tmp_path):
    make_evaluation(tmp_path / "oracle", gate="oracle", acc_t1=0.0)
    predictions = load_predictions(tmp_path / "oracle")
    assert predictions.gate == "oracle"
    assert score_rows(predictions.rows, gate=predictions.gate).total.acc_t2_ungated is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"output": [{"trial": 1, "generated_answer": "A"}]}\n', r"bad\.jsonl:1: output\[0\] has no is_correct"),
        ('{"question": "?", "answer": "a", "output": []}\n', r"bad\.jsonl:1: output has no first trial"),
        ('{"question": "?", "answer": "a"}\n', r"bad\.jsonl:1: no predictions"),
        ("[1, 2]\n", r"bad\.jsonl:1: no predictions"),
        ('{"output": \n{"output": 3}\n', "bad.jsonl"),
        ("", "bad.jsonl"),
    ],
)
def test_what_is_no_prediction_is_refused_with_its_line(tmp_path, content, message, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    assert main(["score", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_preference_pair_is_no_prediction(tmp_path):
    names = ("second_trial_reasoning", "second_trial_answer", "reflection")
    row = {"question": "Q?", "answer": "x", "first_trial_reasoning": "Finish[y]", "first_trial_answer": "y"}
    row |= {f"{name}_{side}": "Finish[x]" for name in names for side in ("chosen", "rejected")}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match="a preference pair, which is no prediction"):
        load_predictions(path)
