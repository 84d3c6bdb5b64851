"""Shards on datatrove's local executor: two workers, an interruption, and `build` on all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reflectevo_data.scale_out import GenerateShard, main
from tests.data.completers.fake_openai import FakeServer, Reply, running


pytest.importorskip("openai")
datatrove = pytest.importorskip("datatrove", reason="needs the extra: pip install 'reflectevo[datatrove]'")

N_QUESTIONS = 21


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(N_QUESTIONS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _flags(server: FakeServer, questions: Path) -> list[str]:
    return [
        *("--source", str(questions), "--engine", "openai", "--base-url", server.url, "--model", "served"),
        *("--n-reflections", "1", "--verifier-workers", "1"),
    ]


def _ids(run: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (run / "records.jsonl").read_text().splitlines()]


def test_two_workers_make_all_shards_and_build_takes_them(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    with running(FakeServer(lambda request: "Thought: so.\nAction: Finish[7]")) as server:
        arguments = ["--tasks", "3", "--workers", "2", "--output", str(output), "--", *_flags(server, questions)]
        command = [sys.executable, "-m", "reflectevo_data.scale_out", *arguments]
        subprocess.run(command, check=True, capture_output=True)
        n_requests = len(server.requests)
        assert main(arguments) == 0
        assert len(server.requests) == n_requests  # what is done is not done again
    shards = sorted(output.glob("shard-*"))
    assert [shard.name for shard in shards] == ["shard-00000", "shard-00001", "shard-00002"]
    ids = [_ids(shard) for shard in shards]
    assert [len(some) for some in ids] == [7, 7, 7]
    assert {id_.rpartition("/")[2] for some in ids for id_ in some} == {f"q{i}" for i in range(N_QUESTIONS)}
    command = [
        sys.executable,
        "-m",
        "reflectevo_data.cli",
        "build",
        *map(str, shards),
        "--output",
        str(tmp_path / "set"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    import pyarrow.parquet

    files = list((tmp_path / "set" / "raw").glob("*.parquet"))
    assert sum(pyarrow.parquet.read_metadata(file).num_rows for file in files) == N_QUESTIONS


def test_a_shard_that_fails_is_made_again(questions: Path, tmp_path: Path) -> None:
    healthy = []

    def answer(request: dict) -> Reply | str:
        return "Thought: so.\nAction: Finish[7]" if healthy else Reply(400)

    with running(FakeServer(answer)) as server:
        arguments = ["--tasks", "1", "--workers", "1", "--output", str(tmp_path / "runs")]
        arguments += ["--", *_flags(server, questions)]
        with pytest.raises(RuntimeError, match="shard 0/1 ended with exit code 1"):
            main(arguments)
        healthy.append(True)
        assert main(arguments) == 0
    assert len(_ids(tmp_path / "runs" / "shard-00000")) == N_QUESTIONS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tasks", "2", "--output", "x"], "no flags for generate"),
        (["--tasks", "2", "--output", "x", "--", "--model", "m", "--output", "y"], "--output after `--`"),
        (["--tasks", "4", "--gpus", "2", "--output", "x", "--", "--model", "m"], "Give --workers 2"),
    ],
)
def test_flags_are_checked(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err


def test_each_task_gets_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command, env, **kwargs) -> subprocess.CompletedProcess:
        calls.append((command[command.index("--shard") + 1], env["CUDA_VISIBLE_DEVICES"]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    step = GenerateShard(("--model", "m"), "runs", gpus=4)
    for rank in range(6):
        assert step("data", rank, 6) == "data"
    assert calls == [("0/6", "0"), ("1/6", "1"), ("2/6", "2"), ("3/6", "3"), ("4/6", "0"), ("5/6", "1")]


def test_the_slurm_script_runs_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor writes an sbatch script and submits it, here to a stand-in."""
    stand_in = tmp_path / "bin" / "sbatch"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "Submitted batch job 1"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
    own = [
        *("--tasks", "16", "--workers", "4", "--partition", "gpu", "--time", "02:00:00"),
        *("--output", str(tmp_path / "runs"), "--env-command", "source venv/bin/activate"),
    ]
    assert main([*own, "--", "--model", "m"]) == 0
    script = (tmp_path / "runs" / "logs" / "launch_script.slurm").read_text()
    assert "--partition=gpu" in script
    assert "--array=0-15%4" in script
    assert "source venv/bin/activate" in script
