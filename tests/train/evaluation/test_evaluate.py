"""`reflectevo-train evaluate`: what lands in the folder and on the screen, and what happens the second time."""

import json
from contextlib import asynccontextmanager
from typing import get_args

import orjson
import pyarrow.parquet as pq
import pytest

from reflectevo_data.completers import engine as engine_module
from reflectevo_data.completers.base import CompletionFailed, RoleCompleters
from reflectevo_data.completers.scripted import ScriptedCompleter
from reflectevo_data.rollouts.manifest import load_manifest
from reflectevo_data.rollouts.records import RAW_SCHEMA
from reflectevo_data.rollouts.store import load_rows
from reflectevo_train.cli import main
from reflectevo_train.evaluation.counts import score_rows
from reflectevo_train.evaluation.evaluate import load_evaluation
from reflectevo_train.settings import LOOP_SETTINGS, TrainSetting


N = 12


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "id": f"q/{i}",
            "question": f"Question number {i}?",
            "answer": "b",
            "options": ["no", "yes"],
            "task": f"t{i % 2}",
        }
        for i in range(N)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number_in(prompt: str) -> int:
    return int(prompt.rsplit("Question number ", 1)[1].split("?")[0])


def script(request):
    """Right at trial 1: 0 to 5. The second trial corrects 6 to 8 and loses 0 and 1; 11 is never readable."""
    number = number_in(request.prompt)
    if request.prompt.endswith("Notes:"):
        return "Check: I may have misread it.\nPlan: read again."
    if "You judge your own attempt" in request.prompt:
        return "Verdict: right" if number < 4 else "Verdict: wrong"
    if number == 11:
        return "Thought: hm.\nAction: I give up."
    right = number < 6
    if "for the second time" in request.prompt:
        right = 2 <= number <= 8
    return f"Thought: so.\nAction: Finish[{'B' if right else 'A'}]"


@pytest.fixture
def engine(monkeypatch):
    """A scripted engine behind the command line."""
    completer = ScriptedCompleter(script, model="scripted")

    @asynccontextmanager
    async def open_roles(engine):
        yield RoleCompleters(completer, completer, completer)

    monkeypatch.setattr(engine_module, "open_roles", open_roles)
    monkeypatch.setattr(engine_module.Engine, "check", lambda self: [])
    return completer


def evaluate(questions, folder, *flags) -> int:
    return main(["evaluate", "--source", str(questions), "--model", "scripted", "--output", str(folder), *flags])


def test_a_run_without_a_gate_gives_both_numbers(questions, tmp_path, engine, capsys):
    assert evaluate(questions, tmp_path / "eval") == 0
    report = load_evaluation(tmp_path / "eval").scores.total
    assert (report.n_problems, report.n_correct_t1, report.n_correct_t2, report.n_correct_t2_ungated) == (12, 6, 9, 7)
    assert (report.n_wrong_to_right, report.n_right_to_wrong) == (3, 2)
    assert (report.n_unparsed_t1, report.n_unparsed_t2) == (1, 1)
    shown = capsys.readouterr().out
    for text in ("50.0 % [25.4, 74.6]", "75.0 % [46.8, 91.1]", "+25.0", "58.3 %", "+8.3"):
        assert text in shown
    assert "t0" in shown
    assert "t1" in shown


def test_an_oracle_run_leaves_the_ungated_number_empty_and_says_so(questions, tmp_path, engine, capsys):
    assert evaluate(questions, tmp_path / "eval", "--gate", "oracle") == 0
    report = load_evaluation(tmp_path / "eval").scores.total
    assert (report.n_correct_t2, report.n_correct_t2_ungated, report.n_reflected) == (9, None, 6)
    assert "an oracle run has none: --gate none measures both" in capsys.readouterr().out


def test_a_self_gated_run_reflects_on_what_the_model_rejects(questions, tmp_path, engine):
    assert evaluate(questions, tmp_path / "eval", "--gate", "self") == 0
    report = load_evaluation(tmp_path / "eval").scores.total
    # 0 to 3 are kept, right; 4 and 5 stay right, 6 to 8 are corrected
    assert (report.n_correct_t2, report.n_correct_t2_ungated, report.n_reflected) == (None, 9, 8)


def test_predictions_are_raw_records_and_the_report_has_counts_alone(questions, tmp_path, engine):
    folder = tmp_path / "eval"
    evaluate(questions, folder)
    table = pq.read_table(folder / "predictions.parquet")
    assert table.schema.equals(RAW_SCHEMA)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == sorted(f"q/{i}" for i in range(N))
    assert sorted(load_rows(folder), key=lambda row: row["id"]) == rows
    assert score_rows(rows, gate="none") == load_evaluation(folder).scores
    report = orjson.loads((folder / "report.json").read_bytes())
    assert report.keys() == {"kind", "format", "total", "tasks", "sources"}
    assert {type(value) for value in report["total"].values()} <= {int, float, str}
    assert not [name for name in report["total"] if name.startswith(("acc", "delta", "em_"))]


def test_the_same_command_resumes_and_another_one_is_refused(questions, tmp_path, engine, capsys):
    folder = tmp_path / "eval"
    evaluate(questions, folder, "--limit", "5")
    n_asked = len(engine.requests)
    assert evaluate(questions, folder) == 0
    numbers = {number_in(request.prompt) for request in engine.requests[n_asked:]}
    assert numbers == set(range(5, N))
    uninterrupted = tmp_path / "whole"
    evaluate(questions, uninterrupted)
    for name in ("predictions.parquet", "report.json"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes()
    capsys.readouterr()
    assert evaluate(questions, folder, "--gate", "oracle") == 2
    assert "gate: 'none' there, 'oracle' now" in capsys.readouterr().err


def test_failed_requests_are_counted_beside_the_denominator_and_made_again(questions, tmp_path, engine, capsys):
    def failing(request):
        return CompletionFailed("engine gone") if number_in(request.prompt) in (0, 7) else script(request)

    engine.answer = failing
    assert evaluate(questions, tmp_path / "eval") == 0
    report = load_evaluation(tmp_path / "eval").scores.total
    assert (report.n_problems, report.n_failed) == (10, 2)
    assert "2 failed: engine gone" in capsys.readouterr().err
    engine.answer = script
    assert evaluate(questions, tmp_path / "eval") == 0
    report = load_evaluation(tmp_path / "eval").scores.total
    assert (report.n_problems, report.n_failed, report.n_correct_t2_ungated) == (12, 0, 7)


def test_a_setting_has_the_names_that_its_training_has(questions, tmp_path, engine):
    assert set(get_args(TrainSetting)) <= set(LOOP_SETTINGS)
    for name, loops in (("two_stage_reflect", "two_stage"), ("one_stage", "one_stage"), ("retry", "retry")):
        assert evaluate(questions, tmp_path / name, "--setting", name) == 0
        assert load_manifest(tmp_path / name).loop.setting == loops
    assert evaluate(questions, tmp_path / "two_stage_reflect", "--setting", "two_stage") == 0, "the same run goes on"


def test_a_refused_run_names_the_flag(questions, tmp_path, engine, capsys):
    assert evaluate(questions, tmp_path / "eval", "--temperature", "0.8", "--vote", "3") == 0
    capsys.readouterr()
    assert evaluate(questions, tmp_path / "eval", "--temperature", "0.8", "--vote", "2", "--instruction", "all") == 2
    assert "(instructions: ['random'] there, ['all'] now; vote: 3 there, 2 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vote", "3"], "--vote 3: at temperature 0 all second trials are the same"),
        (["--setting", "one_stage", "--corrector", "x"], "--corrector: a one-stage model"),
        (["--setting", "retry", "--reflector", "x"], "--reflector: a retry has no reflection"),
        (["--instruction", "9-9-9"], "--instruction 9-9-9: not in the pool"),
        (["--prompts", "nowhere"], "--prompts nowhere"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(questions, tmp_path, engine, capsys, flags, message):
    assert evaluate(questions, tmp_path / "eval", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not engine.requests


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "reflectevo-evaluation"}'])
def test_a_folder_without_a_readable_report_is_refused(tmp_path, content):
    from reflectevo_data.errors import InputError

    with pytest.raises(InputError, match=r"no report\.json"):
        load_evaluation(tmp_path)
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=r"report\.json: no evaluation report"):
        load_evaluation(tmp_path)


def test_help_is_quick_and_loads_no_torch():
    import subprocess
    import sys

    code = "import sys; from reflectevo_train.cli import main\ntry: main(['{}', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(' '.join(sorted({{'torch', 'transformers', 'datasets', 'numpy'}} & set(sys.modules))) or None)"
    for command in ("evaluate", "score", "report", "push"):
        done = subprocess.run([sys.executable, "-c", code.format(command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--" in done.stdout
