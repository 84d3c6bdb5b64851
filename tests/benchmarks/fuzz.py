"""Bad input by the thousand: `python -m tests.benchmarks.fuzz [--n 100000] [--only NAME]`.

Runs each property of tests/data/fuzzing.py on N inputs (hypothesis), and reports the inputs, the slowest and the
failures. Exits with 1 when a property fails or an input takes more than ten seconds of CPU time.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from tests.data.fuzzing import PROPERTIES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=100_000, help="inputs for each property")
    parser.add_argument("--only", choices=list(PROPERTIES), help="this property alone")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the importer names each file in which it finds no row: here most
    failed = False
    for name, (check, strategy) in PROPERTIES.items():
        if arguments.only not in (None, name):
            continue
        n_inputs, slowest, slowest_input = 0, 0.0, None

        def timed(value: Any) -> None:
            nonlocal n_inputs, slowest, slowest_input
            n_inputs += 1
            start = time.process_time()
            check(value)  # noqa: B023
            seconds = time.process_time() - start
            if seconds > slowest:
                slowest, slowest_input = seconds, value

        start = time.perf_counter()
        outcome = "no failure"
        run = settings(
            max_examples=arguments.n,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        )(given(strategy)(timed))
        try:
            run()
        except Exception as error:
            failed = True
            outcome = f"FAILED: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
        failed = failed or slowest > 10
        print(  # noqa: T201
            f"{name}: {n_inputs} inputs in {time.perf_counter() - start:.0f} s, slowest {slowest * 1000:.0f} CPU ms "
            f"({slowest_input!r:.80}), {outcome}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
