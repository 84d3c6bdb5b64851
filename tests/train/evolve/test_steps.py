"""Steps at once: results, errors, logs, and the end of everything with the process that began it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reflectevo_data.errors import InputError
from reflectevo_train.evolve.steps import Clock, Steps
from tests.reference import ROOT
from tests.vllm_server import session_members


def test_clock_adds_up(tmp_path: Path):
    path = tmp_path / "seconds.json"
    path.write_text('{"train": 10.0}')
    clock = Clock.at(path)
    with pytest.raises(ZeroDivisionError), clock.phase("train"):
        1 / 0  # noqa: B018
    clock.add({"judge": 2.0})
    kept = json.loads(path.read_text())
    assert 10.0 < kept["train"] < 11.0
    assert kept["judge"] == 2.0


def meet(mine: Path, other: Path, clock: Clock) -> None:
    """Ends when the other step has begun."""
    with clock.phase("meeting"):
        mine.touch()
        deadline = time.monotonic() + 60
        while not other.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    print("met", flush=True)  # noqa: T201
    os.system("echo and its children")


def fail(clock: Clock) -> None:
    raise InputError("nothing there. Look elsewhere.")


def be_killed(clock: Clock) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_long(begun: Path, clock: Clock) -> None:
    begun.touch()
    time.sleep(600)


def test_several_at_once_write_to_their_logs(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    clock = Clock()
    a, b = tmp_path / "a", tmp_path / "b"

    async def both() -> None:
        await asyncio.gather(
            steps.run(tmp_path / "log" / "a.txt", meet, a, b), steps.run(tmp_path / "log" / "b.txt", meet, b, a)
        )

    with Steps(2, clock, title="steps", total=2) as steps:
        asyncio.run(both())
    assert clock.seconds.keys() == {"meeting"}
    assert [(tmp_path / "log" / name).read_text() for name in ("a.txt", "b.txt")] == ["met\nand its children\n"] * 2
    assert capfd.readouterr().out == ""


def test_one_at_a_time_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "b").touch()
    with Steps(1, Clock()) as steps:
        asyncio.run(steps.run(tmp_path / "log.txt", meet, tmp_path / "a", tmp_path / "b"))
    assert capfd.readouterr().out == "met\nand its children\n"
    assert not (tmp_path / "log.txt").exists()


@pytest.mark.parametrize(
    ("step", "message"),
    [(fail, "nothing there. Look elsewhere."), (be_killed, "process was killed. If memory was short")],
)
def test_an_error_ends_the_others(step: object, message: str, tmp_path: Path):
    begun = tmp_path / "begun"

    async def both() -> None:
        async def after_the_other_began() -> None:
            while not begun.exists():
                await asyncio.sleep(0.01)
            await steps.run(tmp_path / "a.txt", step)  # pyright: ignore[reportArgumentType]

        await asyncio.gather(steps.run(tmp_path / "b.txt", sleep_long, begun), after_the_other_began())

    with pytest.raises(InputError, match=message), Steps(2, Clock()) as steps:
        asyncio.run(both())


PARENT = """
import asyncio, signal, sys
from pathlib import Path
from reflectevo_train.evolve.steps import Clock, Steps
from tests.train.evolve.test_steps import sleep_long
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background is started to ignore it
    with Steps(1, Clock()) as steps:
        asyncio.run(steps.run(Path("log"), sleep_long, Path(sys.argv[1])))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_step_outlives_its_parent(how: signal.Signals, tmp_path: Path):
    script, begun = tmp_path / "parent.py", tmp_path / "begun"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, script, begun], env=environment, start_new_session=True) as parent:
        while not begun.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(session_members(parent.pid)) > 1
        send = os.killpg if how == signal.SIGINT else os.kill  # as a terminal does
        send(parent.pid, how)
    while session_members(parent.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
