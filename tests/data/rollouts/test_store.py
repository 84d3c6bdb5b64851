"""The run directory: what survives a death, what is refused."""

import io
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import orjson
import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.rollouts import store
from reflectevo_data.rollouts.manifest import Loop, Manifest, QuestionSource, RoleModels, load_manifest
from reflectevo_data.rollouts.store import (
    Preferences,
    RunDirectory,
    load_failed_ids,
    load_preferences,
    load_rows,
)
from reflectevo_data.schema import Completion, FailedRollout, Problem, Rollout, Trial, Verdict, raw_row


CONFIGURATION = Manifest(models=RoleModels("tiny"), loop=Loop(), source=QuestionSource("s", n_problems=9))


def row(number: int) -> dict:
    problem = Problem(f"p/{number}", "2+2?", "4")
    trial = Trial("prompt", "", Completion("Finish[4]"), "Finish[4]", Verdict("correct", "4", f1=1.0))
    return raw_row(Rollout(problem, trial, (), "tiny", "tiny", "tiny", 0))


def open_run(path, configuration=CONFIGURATION):
    return RunDirectory.open(path, configuration)


def test_what_is_appended_is_read_back_in_order(tmp_path):
    with open_run(tmp_path / "run") as run:
        for number in range(3):
            run.append(row(number))
    assert [r["id"] for r in load_rows(tmp_path / "run")] == ["p/0", "p/1", "p/2"]
    assert list(load_rows(tmp_path / "run"))[1] == row(1)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".lock", "manifest.json", "records.jsonl", "failures.jsonl"}


def test_the_manifest_has_the_versions_and_the_revision_that_run_now(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "running_versions", lambda: {"python": "3.99"})
    for revision in ("0123456789ab", "ba9876543210"):
        monkeypatch.setattr(store, "git_revision", lambda revision=revision: revision)
        with open_run(tmp_path):
            pass
        expected = replace(CONFIGURATION, versions={"python": "3.99"}, git_revision=revision)
        assert load_manifest(tmp_path) == expected


def test_a_manifest_is_never_seen_half_written(tmp_path, monkeypatch):
    with open_run(tmp_path):
        pass
    before = (tmp_path / "manifest.json").read_bytes()
    monkeypatch.setattr(store.os, "fsync", lambda descriptor: os.kill(os.getpid(), signal.SIGKILL))
    writer = multiprocessing.get_context("fork").Process(target=open_run, args=(tmp_path,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert (tmp_path / ".manifest.json.part").exists()


def test_a_run_that_died_before_its_manifest_is_begun_anew(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.part").write_bytes(b'{"format"')
    with open_run(tmp_path) as run:
        run.append(row(0))
    assert [r["id"] for r in load_rows(tmp_path)] == ["p/0"]


def test_a_write_that_is_cut_short_is_finished():
    class Slow(io.BytesIO):
        def write(self, content):
            return super().write(content[:7])

    file = Slow()
    store._write_line(file, row(0))
    assert file.getvalue() == orjson.dumps(row(0)) + b"\n"


def test_half_written_last_line_is_dropped_and_its_problem_made_again(tmp_path):
    with open_run(tmp_path) as run:
        run.append(row(0))
        run.append(row(1))
    whole = (tmp_path / "records.jsonl").read_bytes()
    for cut in (1, 50, len(orjson.dumps(row(1)))):  # the newline alone, a part, all but the first byte
        (tmp_path / "records.jsonl").write_bytes(whole[:-cut])
        assert [r["id"] for r in load_rows(tmp_path)] == ["p/0"]
        with open_run(tmp_path) as run:
            assert run.done == {"p/0"}
            run.append(row(1))
        assert (tmp_path / "records.jsonl").read_bytes() == whole


@pytest.mark.parametrize("length", [65_534, 65_535, 65_536, 200_000])  # the file is looked through in blocks of 65,536
def test_a_long_half_line_is_dropped_whole(tmp_path, length):
    with open_run(tmp_path) as run:
        run.append(row(0))
    whole = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "records.jsonl").write_bytes(whole + b"x" * length)
    with open_run(tmp_path):
        pass
    assert (tmp_path / "records.jsonl").read_bytes() == whole


def test_an_id_is_never_written_twice(tmp_path):
    with open_run(tmp_path) as run:
        run.append(row(0))
        with pytest.raises(ValueError, match="p/0 has a record already"):
            run.append(row(0))
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="p/0 has a record already"):
        run.append(row(0))


def test_another_configuration_is_refused_with_the_differences(tmp_path):
    with open_run(tmp_path):
        pass
    other = replace(CONFIGURATION, loop=Loop(seed=7), models=RoleModels("big"))
    with pytest.raises(
        InputError, match=r"models\.generator: 'tiny' there, 'big' now; seed: 0 there, 7 now"
    ) as refusal:
        open_run(tmp_path, other)
    assert "\n" not in str(refusal.value)
    with open_run(tmp_path, replace(CONFIGURATION, source=QuestionSource("s", n_problems=99))):
        pass  # more of the same problems


def test_two_writers_are_refused_and_a_dead_one_is_not(tmp_path):
    def write_and_die():
        run = open_run(tmp_path)
        run.append(row(0))
        os.kill(os.getpid(), signal.SIGKILL)

    with open_run(tmp_path), pytest.raises(InputError, match="another process is writing"):
        open_run(tmp_path)
    writer = multiprocessing.get_context("fork").Process(target=write_and_die)
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    with open_run(tmp_path) as run:
        assert run.done == {"p/0"}


@pytest.mark.parametrize("moment", range(6))
def test_killed_while_writing_loses_and_doubles_nothing(tmp_path, moment):
    def write(ready):
        with open_run(tmp_path) as run:
            for number in range(1_000_000):
                run.append(row(number))
                ready.set()

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    writer = context.Process(target=write, args=(ready,))
    writer.start()
    assert ready.wait(10)
    time.sleep(0.01 * moment)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    survived = [r["id"] for r in load_rows(tmp_path)]
    assert survived
    assert survived == [f"p/{number}" for number in range(len(survived))]
    with open_run(tmp_path) as run:
        assert len(run.done) == len(survived)
        run.append(row(len(survived)))
    ids = [r["id"] for r in load_rows(tmp_path)]
    assert ids == [f"p/{number}" for number in range(len(survived) + 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken\n", r"records\.jsonl:2: not JSON"),
        (b'{"id": "x"}\n', r"records\.jsonl:2: found no answer, answer_type"),
        (b"[1]\n", r"records\.jsonl:2: found no object, expected a raw row"),
    ],
)
def test_a_whole_line_that_is_no_record_is_named(tmp_path, line, message):
    with open_run(tmp_path) as run:
        run.append(row(0))
    with open(tmp_path / "records.jsonl", "ab") as file:
        file.write(line)
    with pytest.raises(InputError, match=message):
        list(load_rows(tmp_path))


def test_failures_are_logged_and_forgotten_once_made_again(tmp_path):
    with open_run(tmp_path) as run:
        run.append_failure(FailedRollout(Problem("p/1", "q", "a"), "trial_1", "too long"))
        run.append_failure(FailedRollout(Problem("p/2", "q", "a"), "reflection_0", "engine gone"))
    assert load_failed_ids(tmp_path) == {"p/1", "p/2"}
    with open_run(tmp_path) as run:
        assert run.done == set()
        run.append(row(1))
    assert load_failed_ids(tmp_path) == {"p/2"}


def test_what_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(InputError, match="not empty and not a run"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="a file, expected a folder"):
        open_run(tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="no run directory"):
        load_manifest(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["thesis.tex"]


def test_lone_surrogates_are_stored_as_replacements(tmp_path):
    broken = row(0) | {"question": "half a pair: \ud83d"}
    with open_run(tmp_path) as run:
        run.append(broken)
    [read] = load_rows(tmp_path)
    assert read["question"] == "half a pair: ?"


def test_preferences_resume(tmp_path):
    with open_run(tmp_path) as run:
        run.append(row(0))
    with Preferences(tmp_path) as preferences:
        preferences.append({"id": "p/0", "chosen": 1, "rejected": 2, "judge": "self"})
    with open(tmp_path / "preferences.jsonl", "ab") as file:
        file.write(b'{"id": "p/0", "ch')
    with Preferences(tmp_path) as preferences:
        assert preferences.rows == [{"id": "p/0", "chosen": 1, "rejected": 2, "judge": "self"}]
        with pytest.raises(InputError, match="another process is writing"):
            open_run(tmp_path)
    assert len(load_preferences(tmp_path)) == 1
