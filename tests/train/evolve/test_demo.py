"""The reproduction: what its table says of the runs it finds, and one whole run of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.models import miniature_path
from reflectevo_data.rollouts.manifest import Manifest
from reflectevo_data.rollouts.store import RunDirectory
from reflectevo_data.schema import COLUMNS as SCHEMA
from reflectevo_data.schema import Row
from reflectevo_train.evaluation.evaluate import write_results
from reflectevo_train.evolve import demo
from reflectevo_train.evolve.plan import FULL, PROMPTING, QUICK, REFLECTOR, RETRY, TWO_STAGE, Plan
from reflectevo_train.evolve.results import collect, report, table_row, trainings
from reflectevo_train.evolve.steps import Clock, available_cores
from reflectevo_train.report.plots import learning_curves
from reflectevo_train.training.checkpoints import is_whole
from tests.vllm_server import session_members


def output(trial: int, correct: bool) -> Row:
    empty: dict[str, Any] = {"string": "", "bool": False, "int32": 1, "float32": 0.0}
    [fields] = SCHEMA["raw"]["output"]
    row = {name: [] if isinstance(kind, list) else empty[kind] for name, kind in fields.items()}
    status = "correct" if correct else "incorrect"
    return row | {
        "trial": trial,
        "is_correct": correct,
        "status": status,
        "generated_answer": status,
        "reflections": ["r"] * (trial - 1),
        "reasoning_prompt": ["p", ""],
    }


def raw(name: str, *correct: bool) -> Row:
    row = dict.fromkeys(SCHEMA["raw"], "") | {"options": [], "test_list": [], "answers": [], "instruction": []}
    return row | {
        "id": name,
        "answer_type": "text",
        "seed": 0,
        "output": [output(min(i, 1) + 1, c) for i, c in enumerate(correct)],
    }


def write_evaluation(folder: Path, *rows: Row) -> None:
    with RunDirectory.open(folder, Manifest("evaluate")) as run:
        for row in rows:
            run.append(row)
    write_results(folder, gate="oracle")


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Two seeds of two problems that drew one problem in common."""
    for seed, problems in enumerate([("a", "b"), ("b", "c")]):
        evaluations = tmp_path / f"seed-{seed}" / "round-1" / "eval"
        first, second = problems
        write_evaluation(evaluations / "retry", raw(first, True), raw(second, False, False))
        write_evaluation(evaluations / "prompting", raw(first, True), raw(second, False, False))
        write_evaluation(evaluations / "two_stage", raw(first, False, False), raw(second, False, True))
        later = tmp_path / f"seed-{seed}" / "round-2" / "eval"
        write_evaluation(later / "two_stage", raw(first, True), raw(second, False, True))
    return tmp_path


SETTINGS = (RETRY, PROMPTING, TWO_STAGE)
PLAN = Plan(SETTINGS, seeds=2, rounds=2, problems=4, reflections=2, test_problems=2)


def test_table(evaluated: Path):
    results = list(collect(PLAN, evaluated))
    counts = [(r.title, r.report.n_problems, r.report.n_correct_t1, r.report.n_correct_t2) for r in results]
    assert counts == [
        (RETRY.title, 4, 2, 2),
        (PROMPTING.title, 4, 2, 2),
        ("two-stage SFT, round 1", 4, 0, 2),
        ("two-stage SFT, round 2", 4, 2, 4),
    ]
    # problems of several seeds are paired with themselves, also one that both drew
    [retry, prompting, first, second] = [result.against for result in results]
    assert prompting is None
    assert retry is not None
    assert first is not None
    assert second is not None
    assert [(t.n, t.n_only_a, t.n_only_b) for t in (retry, first, second)] == [(4, 0, 0), (4, 2, 2), (4, 0, 2)]
    assert table_row(results[3])[:4] == (
        "two-stage SFT, round 2",
        "50.0 % [15.0, 85.0]",
        "100.0 % [51.0, 100.0]",
        "+50.0",
    )
    assert table_row(results[1])[4:] == ("–", "–")


def test_report_files(evaluated: Path, capsys: pytest.CaptureFixture[str]):
    models = evaluated / "seed-0" / "round-2" / "models" / "two_stage_reflect"
    models.mkdir(parents=True)
    log = [{"step": 0, "eval_acc_t2": 0.5}, {"step": 4, "loss": 1.0}, {"step": 4, "eval_acc_t2": 0.75}]
    (models / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    clock = Clock(evaluated / "seconds.json", {"train": 61.2})
    report(PLAN, evaluated, clock)

    printed = capsys.readouterr().out
    assert "two-stage SFT, round 2" in printed
    assert "100.0 % [51.0, 100.0]" in (evaluated / "table.md").read_text()
    content = json.loads((evaluated / "results.json").read_text())
    assert content["seconds"] == {"train": 61.2}
    assert content["results"]["two-stage SFT, round 2"]["n_correct_t2"] == 4
    assert trainings(evaluated) == {"two_stage_reflect, round-2 (seed-0)": models}
    page = (evaluated / "report.html").read_text()
    assert "two_stage_reflect, round-2 (seed-0): accuracy" in page
    assert all(entry.title in page for entry in PLAN.entries)


def test_other_plan_in_the_same_folder_is_refused(tmp_path: Path):
    path = tmp_path / "demo.json"
    for plan in (PLAN, Plan(SETTINGS, seeds=3, rounds=1, problems=4, reflections=2, test_problems=2)):
        demo._refuse_other_plan(path, plan.manifest())  # more seeds and rounds only add to it
    other = Plan(FULL, seeds=2, rounds=2, problems=5, reflections=2, test_problems=2)
    with pytest.raises(InputError, match=r"entries: .* there, .* now; problems: 4 there, 5 now"):
        demo._refuse_other_plan(path, other.manifest())


def test_plans(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[Plan, int]] = []
    monkeypatch.setattr(demo, "demo", lambda plan, output, jobs: calls.append((plan, jobs)) or 0)
    for flags in (["--rounds", "2"], ["--full", "--seeds", "3"], ["--problems", "9", "--split", "validation"]):
        parser = argparse.ArgumentParser()
        demo.add_arguments(parser)
        assert demo.run(parser.parse_args(flags)) == 0
    plans = [plan for plan, _ in calls]
    quick, full, small = plans
    assert (quick.entries, quick.seeds, quick.rounds, quick.split) == (QUICK, 1, 2, "test")
    assert (full.entries, full.seeds, full.test_problems) == (FULL, 3, 500)
    assert (small.problems, small.split) == (9, "validation")
    assert (quick.n_steps, full.n_steps, small.n_steps) == (5, 24, 3)
    assert [jobs for _, jobs in calls] == [1, available_cores(), 1]
    assert [plan.goes_on.name for plan in plans] == ["reflector", "two_stage", "reflector"]
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    nowhere = parser.parse_args(["--dataset", "nowhere"])
    with pytest.raises(InputError, match="not a folder that `reflectevo-data build` made"):
        demo.run(nowhere)
    trained = {training.name for entry in FULL for training in entry.trainings}
    assert trained == {"one_stage", "two_stage_reflect", "two_stage_correct", "qa", "dpo_dpm", "dpo_dpref"}


@pytest.mark.slow
@pytest.mark.skipif(
    not miniature_path().is_dir(), reason="the bundled model is not there: run reflectevo_train.miniature.train"
)
def test_whole_run_goes_on_where_it_was_killed(tmp_path: Path):
    """Killed while it trains; the same command makes nothing twice, and its two processes end with it."""
    output = tmp_path / "demo"
    command = [
        *(str(Path(sys.executable).with_name("reflectevo-train")), "demo", "--rounds", "2", "--jobs", "2"),
        *("--problems", "160", "--reflections", "3", "--test-problems", "40", "--output", str(output)),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    models = output / "seed-0/round-1/models"
    with subprocess.Popen(command, env=environment, start_new_session=True) as first:
        deadline = time.monotonic() + 300
        while not any(is_whole(checkpoint) for checkpoint in models.glob("*/checkpoint-*")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first.kill()
    assert not list(models.glob("*/trainer_state.json"))
    records = (output / "seed-0/round-1/run/records.jsonl").read_bytes()
    while session_members(first.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (output / "seed-0/round-1/run/records.jsonl").read_bytes() == records
    said = (output / "seed-0/round-1/log/reflector.txt").read_text().splitlines()
    # an epoch that is in the checkpoint is not trained again
    assert len([line for line in said if "eval_acc_t2" in line and "'epoch': '1'" in line]) == 1
    results = json.loads((output / "results.json").read_text())["results"]
    assert [*results] == [PROMPTING.title, f"{REFLECTOR.title}, round 1", f"{REFLECTOR.title}, round 2"]
    assert {result["n_problems"] for result in results.values()} == {40}
    assert results[PROMPTING.title]["n_correct_t2"] >= results[PROMPTING.title]["n_correct_t1"] > 8
    curves = [curve for curve in learning_curves(trainings(output)) if "accuracy" in curve.title]
    assert [curve.first for curve in curves] == [0, 0]
    assert [len(curve.series[-1].points.split()) for curve in curves] == [3, 2]
