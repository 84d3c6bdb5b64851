"""What a code check costs: `python -m tests.benchmarks.code_checks [--checks N] [--json FILE]`.

The sandbox against the plain way, a `multiprocessing` process for each check that runs `exec` on the program and its
asserts, in one run, each with as many threads as there are cores; then both again with 2 GB of data in the parent.
Figures: checks a second (wall clock) and CPU milliseconds a check, all processes counted. The programs are those of
the MBPP sample where it is found, else a few of our own. Trust the ratios: the clock of a busy machine tells little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reflectevo_data.sandbox.code_sandbox import CodeSandbox
from reflectevo_data.schema import Problem
from tests.reference import REFERENCE


SLOW = {"123"}  # needs 3.5 s: that would measure the program, not the checker
OWN = [
    ("def add(a, b):\n    return a + b", ("assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert add(0, 0) == 0")),
    (
        "import re\ndef words(text):\n    return re.findall('[a-z]+', text)",
        ("assert words('a b') == ['a', 'b']", "assert words('') == []", "assert words('x1y') == ['x', 'y']"),
    ),
]


def _run(program: str, connection: object) -> None:
    try:
        exec(program, {})
        connection.send(True)  # type: ignore[attr-defined]
    except BaseException:
        connection.send(False)  # type: ignore[attr-defined]


def plain_check(code: str, problem: Problem) -> bool:
    """The plain way: everything in one text, in a forked process, with a time limit."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    program = "\n".join((code, problem.test_setup_code, *problem.test_list))
    process = context.Process(target=_run, args=(program, theirs))
    process.start()
    theirs.close()
    passed = ours.poll(10) and ours.recv()
    process.join(1)
    if process.is_alive():
        process.kill()
        process.join()
    return passed


def measure(
    check: Callable[[str, Problem], object], cases: list[tuple[str, Problem]], n_threads: int
) -> dict[str, float]:
    """Checks a second and CPU milliseconds a check. All cases are right answers."""
    start, cpu = time.perf_counter(), _cpu_s()
    with ThreadPoolExecutor(n_threads) as pool:
        results = list(pool.map(lambda case: check(*case), cases))
    seconds = time.perf_counter() - start
    if not all(result is True or getattr(result, "passed", False) for result in results):
        raise SystemExit("a right answer was judged wrong: the figures would mean nothing")
    return {"checks_per_s": len(cases) / seconds, "cpu_ms": (_cpu_s() - cpu) / len(cases) * 1000}


def _cpu_s() -> float:
    """CPU seconds of this process and all its descendants, living ones too."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():  # a living child: its own time and its dead children's
            total += sum(map(int, fields[11:15])) / ticks
    return total


def _cases(n_checks: int) -> list[tuple[str, Problem]]:
    reference = REFERENCE / "mbpp_sample.jsonl"
    if reference.exists():
        rows = [json.loads(line) for line in reference.read_text().splitlines()]
        programs = [(row["code"], row["test_list"]) for row in rows if str(row["task_id"]) not in SLOW]
    else:
        programs = OWN
    cases = [
        (code, Problem(str(number), "", code, "code", test_list=tuple(tests)))
        for number, (code, tests) in enumerate(programs)
    ]
    return list(itertools.islice(itertools.cycle(cases), n_checks))


def main() -> None:
    """Measure, print, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--ballast-gb", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases, n_threads = _cases(options.checks), min(2, os.cpu_count() or 1)
    figures: dict[str, dict[str, float]] = {}
    ballast = b""
    with CodeSandbox(workers=n_threads) as sandbox:
        sys.stdout.write(f"{len(cases)} checks, {n_threads} threads, {', '.join(sandbox.preflight().layers)}\n")
        for label in ("", f" with {options.ballast_gb:g} GB in the parent"):
            if label:
                ballast = bytearray(os.urandom(1 << 20)) * int(options.ballast_gb * 1024)
            rounds: dict[str, list[dict[str, float]]] = {"plain": [], "sandbox": []}
            for _ in range(options.rounds):  # in turns, so that a busy moment meets both
                rounds["plain"].append(measure(plain_check, cases, n_threads))
                rounds["sandbox"].append(measure(sandbox.check, cases, n_threads))
            for name, values in rounds.items():
                row = {key: statistics.median(value[key] for value in values) for key in values[0]}
                figures[name + label] = row
                sys.stdout.write(
                    f"{name + label:36} {row['checks_per_s']:7.1f} checks/s {row['cpu_ms']:7.2f} CPU ms a check\n"
                )
            plain, ours = figures["plain" + label], figures["sandbox" + label]
            speed, cpu = ours["checks_per_s"] / plain["checks_per_s"], plain["cpu_ms"] / ours["cpu_ms"]
            sys.stdout.write(f"{'':36} {speed:.2f} x the checks/s, 1/{cpu:.2f} of the CPU\n")
    if options.json:
        options.json.write_text(json.dumps({"bytes_held": len(ballast), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
