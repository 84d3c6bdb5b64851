"""How often three judges of math answers err on the hard pairs of tests/data/verifiers/math_pairs.yaml.

    python -m tests.benchmarks.math_pairs [--errors]

The judges: ours (a worker process, as in a run), math-verify alone on both sides wrapped in a box, and a string
normaliser in the manner of Hendrycks et al. (MATH, appendix), written for this comparison.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import yaml

from reflectevo_data import Problem, VerifierPool


PAIRS = Path(__file__).parent.parent / "data" / "verifiers" / "math_pairs.yaml"
SECONDS = 5.0


class Pair(NamedTuple):
    kind: str
    gold: str
    given: str
    same: bool
    question: str = ""


def read_pairs() -> list[Pair]:
    return [Pair(*row) for row in yaml.safe_load(PAIRS.read_text("utf-8"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--errors", action="store_true", help="list every pair that a judge gets wrong")
    show_errors = parser.parse_args().errors
    pairs = read_pairs()
    table: dict[str, tuple[list[bool | None], float]] = {}
    for name, judge in (("ours", ours), ("math-verify alone", math_verify_alone), ("string normaliser", normaliser)):
        start = time.perf_counter()
        table[name] = judge(pairs), time.perf_counter() - start
    print(f"{len(pairs)} pairs, {sum(pair.same for pair in pairs)} of them equal\n")  # noqa: T201
    print(f"{'':20}{'right':>8}{'false accept':>14}{'false reject':>14}{'hangs':>8}{'seconds':>10}")  # noqa: T201
    for name, (verdicts, seconds) in table.items():
        outcomes = Counter(outcome(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True))
        print(  # noqa: T201
            f"{name:20}{outcomes['right']:8}{outcomes['false accept']:14}{outcomes['false reject']:14}"
            f"{verdicts.count(None):8}{seconds:10.1f}"
        )
    print("\nErrors by class (false accepts + false rejects)")  # noqa: T201
    print(f"{'':20}{'pairs':>8}" + "".join(f"{name:>20}" for name in table))  # noqa: T201
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        cells = []
        for verdicts, _ in table.values():
            outcomes = Counter(outcome(p, v) for p, v in zip(pairs, verdicts, strict=True) if p.kind == kind)
            cells.append(f"{outcomes['false accept']} + {outcomes['false reject']}")
        n_pairs = sum(pair.kind == kind for pair in pairs)
        print(f"{kind:20}{n_pairs:8}" + "".join(f"{cell:>20}" for cell in cells))  # noqa: T201
    if show_errors:
        for name, (verdicts, _) in table.items():
            for pair, verdict in zip(pairs, verdicts, strict=True):
                if outcome(pair, verdict) != "right":
                    print(f"{name}: {outcome(pair, verdict)}: {pair.gold}  |  {pair.given}  {pair.question}")  # noqa: T201


def outcome(pair: Pair, verdict: bool | None) -> str:
    """A comparison that does not end accepts nothing."""
    if bool(verdict) == pair.same:
        return "right"
    return "false accept" if verdict else "false reject"


def ours(pairs: list[Pair]) -> list[bool | None]:
    problems = [Problem(str(i), pair.question, pair.gold, "math") for i, pair in enumerate(pairs)]
    with VerifierPool(workers=1, math_seconds=SECONDS) as pool:
        verdicts = pool.verify_many([f"Action: Finish<<<{pair.given}>>>" for pair in pairs], problems)
    return [None if verdict.reason.startswith("not comparable") else verdict.is_correct for verdict in verdicts]


def math_verify_alone(pairs: list[Pair]) -> list[bool | None]:
    """One process for all pairs, a new one after each that had to be killed."""
    verdicts: list[bool | None] = []
    while len(verdicts) < len(pairs):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_math_verify_alone, args=(sender, pairs[len(verdicts) :])
        )
        process.start()
        sender.close()
        receiver.recv()  # math-verify is imported
        while len(verdicts) < len(pairs):
            if not receiver.poll(SECONDS):
                verdicts.append(None)
                break
            verdicts.append(receiver.recv())
        process.kill()
        process.join()
    return verdicts


def _math_verify_alone(sender: Connection, pairs: list[Pair]) -> None:
    import logging

    from math_verify import parse, verify

    logging.disable()
    sender.send("ready")
    for pair in pairs:
        gold, given = (rf"\boxed{{{answer}}}" for answer in (pair.gold, pair.given))
        sender.send(  # pyright: ignore
            verify(parse(gold, parsing_timeout=None), parse(given, parsing_timeout=None), timeout_seconds=None)
        )  # pyright: ignore


def normaliser(pairs: list[Pair]) -> list[bool | None]:
    return [normalised(pair.given) == normalised(pair.gold) for pair in pairs]


_STEPS: list[Callable[[str], str]] = [
    lambda s: s.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\").replace(r"\$", "").replace("$", ""),
    lambda s: re.sub(r"\\[td]frac", r"\\frac", s).replace(r"\left", "").replace(r"\right", ""),
    lambda s: re.sub(r"\^\{?\\circ\}?", "", s).replace(r"\%", "").replace("%", ""),
    lambda s: re.sub(r"\\text\{ .*\Z", "", s),
    lambda s: re.sub(r"(\A|[ {])\.", r"\g<1>0.", s),
    lambda s: s.split("=")[1] if s.count("=") == 1 and len(s.split("=")[0].strip()) <= 2 else s,
    lambda s: re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", s),
    lambda s: s.replace(" ", ""),
    lambda s: re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", s),
    lambda s: re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", s),
    lambda s: r"\frac{1}{2}" if s == "0.5" else s,
    lambda s: re.sub(r"\A(-?\d+)/(-?\d+)\Z", r"\\frac{\1}{\2}", s),
]


def normalised(answer: str) -> str:
    for step in _STEPS:
        answer = step(answer)
    return answer


if __name__ == "__main__":
    main()
