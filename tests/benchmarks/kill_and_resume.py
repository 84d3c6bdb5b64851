"""What kill -9 costs a run: nothing but time.

    python -m tests.benchmarks.kill_and_resume [--kills 20] [--problems 200] [--temperature 0]

Makes one run without interruption and one that is killed at random moments and started again until it is done; prints
whether ids are unique and complete, and how many records differ.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reflectevo_data.rollouts.store import load_rows
from reflectevo_data.schema import Row


def main() -> int:
    """Prints one table; exits with 1 when a row is lost, doubled or different."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--temperature", default="0")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        command = [sys.executable, "-m", "reflectevo_data.cli", "generate", "--source", "miniature"]
        command += ["--model", "miniature", "--limit", str(args.problems), "--temperature", args.temperature]
        seconds = _seconds([*command, "--output", str(whole)])
        startup = _seconds([*command, "--limit", "1", "--output", str(Path(folder, "one"))])
        latest = startup + 2 * max(seconds - startup, 0) / args.kills  # so that the work lasts for all the kills
        rng = random.Random(args.seed)
        n_kills = n_starts = 0
        while True:
            process = _start([*command, "--output", str(killed)])
            n_starts += 1
            if n_kills == args.kills:
                process.wait()
                break
            try:  # any moment: before the model is loaded, while it answers, while a line is written
                process.wait(rng.uniform(0.1, latest))
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                n_kills += 1
        expected, found = _records(whole), _records(killed)
    ids = [row["id"] for row in found]
    doubled = len(ids) - len(set(ids))
    lost = len({row["id"] for row in expected} - set(ids))
    by_id = {row["id"]: row for row in expected}
    different = sum(by_id.get(row["id"]) != row for row in found)
    print(f"{n_kills} kills, {n_starts} starts, {len(expected)} problems, {seconds:.1f} s without interruption")  # noqa: T201
    print(f"lost {lost}, doubled {doubled}, different {different}")  # noqa: T201
    return int(bool(lost or doubled or different))


def _seconds(command: list[str]) -> float:
    start = time.monotonic()
    if code := _start(command).wait():
        sys.exit(code)
    return time.monotonic() - start


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def _records(run: Path) -> list[Row]:
    return list(load_rows(run))


if __name__ == "__main__":
    sys.exit(main())
