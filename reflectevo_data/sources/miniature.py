"""Problems of the miniature: chains of one-digit additions and subtractions, with exact ground truth.

`problems("train", seed=0, n=300)` draws them; nothing is read from disk or the Hub. A step that needs a large carry or
borrow is *hard*: the bundled model was trained on a corpus that gets these steps wrong (`reflectevo_train.miniature`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Literal

from ..schema import Problem, stable_hash


MiniatureSplit = Literal["train", "validation", "test"]
MINIATURE_SPLITS: tuple[MiniatureSplit, ...] = ("train", "validation", "test")

VERBS = (("Add", "Subtract"), ("Gain", "Lose"))
N_STEPS = (3, 4, 4, 5)
MAX_HARD = 2
KEEP_TWO_HARD = 0.35  # most problems have at most one hard step, so that one good reflection can mend the trial
LOWEST, HIGHEST = 10, 99  # two digits everywhere: a reflection that works digit by digit never spells the answer

_QUESTION = re.compile(r"Start with (\d+)\.((?: (?:Add|Subtract|Gain|Lose) \d+\.)+) What is left\?")
_STEP = re.compile(r"(Add|Subtract|Gain|Lose) (\d+)")


@dataclass(frozen=True, slots=True)
class Chain:
    """A start value and signed operands: `Chain(83, (-9, 7))` is 83 - 9 + 7.

    >>> Chain(83, (-9, 7, 5)).values
    (74, 81, 86)
    """

    start: int
    operands: tuple[int, ...]
    verbs: tuple[str, str] = VERBS[0]

    @property
    def values(self) -> tuple[int, ...]:
        """The true value after each step."""
        return tuple(accumulate(self.operands, initial=self.start))[1:]

    @property
    def answer(self) -> int:
        return self.values[-1]

    @property
    def expression(self) -> str:
        """The arithmetic alone, `83-9+7+5`: chains that differ in their verbs only share it, and so their split."""
        return str(self.start) + "".join(f"{operand:+d}" for operand in self.operands)

    @property
    def split(self) -> MiniatureSplit:
        """Decided by the arithmetic alone, eight to one to one: no seed can put a test problem into training."""
        place = stable_hash("miniature split", self.expression) % 10
        return "test" if place == 0 else "validation" if place == 1 else "train"

    @property
    def question(self) -> str:
        gain, lose = self.verbs
        steps = "".join(f" {gain if operand > 0 else lose} {abs(operand)}." for operand in self.operands)
        return f"Start with {self.start}.{steps} What is left?"

    @property
    def problem(self) -> Problem:
        style = "" if self.verbs == VERBS[0] else "/" + self.verbs[0].lower()
        return Problem(
            id=f"miniature/{self.expression}{style}",
            question=self.question,
            answer=str(self.answer),
            answer_type="text",
            task="miniature arithmetic",
            source="miniature",
            license="Apache-2.0",
            group=f"miniature/{self.expression}",
        )


def is_hard(value: int, operand: int) -> bool:
    """Whether this step needs a large carry (unit digits sum to 14 or more) or borrow (5 or more are missing)."""
    units = value % 10
    return units + operand >= 14 if operand > 0 else -operand - units >= 5


def slip(value: int, operand: int) -> int:
    """The step's value with its carry or borrow forgotten: 10 too low after an addition, 10 too high otherwise."""
    return value + operand + (-10 if operand > 0 else 10)


def chain_of(question: str) -> Chain | None:
    """The chain that this question was written from; None for any other text."""
    found = _QUESTION.fullmatch(question.strip())
    if found is None:
        return None
    steps = _STEP.findall(found[2])
    verbs = VERBS[0] if steps[0][0] in VERBS[0] else VERBS[1]
    return Chain(int(found[1]), tuple(int(n) if verb == verbs[0] else -int(n) for verb, n in steps), verbs)


def draw_chain(rng: random.Random) -> Chain:
    """One chain of any split, by rejection: at most two hard steps, two digits also where hard steps slip."""
    while True:
        n_steps = rng.choice(N_STEPS)
        operands = tuple(rng.choice((1, -1)) * rng.randint(2, 9) for _ in range(n_steps))
        chain = Chain(rng.randint(15, 84), operands, rng.choice(VERBS))
        before = (chain.start, *chain.values[:-1])
        # a slip moves the value by ten and leaves its unit digit: the same steps stay hard
        hard = [is_hard(value, operand) for value, operand in zip(before, operands, strict=True)]
        if sum(hard) > MAX_HARD or (sum(hard) == MAX_HARD and rng.random() >= KEEP_TWO_HARD):
            continue
        if all(LOWEST <= value <= HIGHEST for value in _reachable(chain, hard)):
            return chain


def problems(split: MiniatureSplit = "train", *, seed: int = 0, n: int = 1000) -> Iterator[Problem]:
    """`n` different problems of one split; the first ones do not depend on `n`."""
    if split not in MINIATURE_SPLITS:
        raise ValueError(f"miniature has no split {split!r}: expected one of {', '.join(MINIATURE_SPLITS)}.")
    rng = random.Random(stable_hash("miniature problems", split, str(seed)))
    seen: set[str] = set()
    while len(seen) < n:
        chain = draw_chain(rng)
        if chain.split == split and chain.expression not in seen:
            seen.add(chain.expression)
            yield chain.problem


def _reachable(chain: Chain, hard: list[bool]) -> Iterator[int]:
    """Every value that the chain can pass through when any of its hard steps slip."""
    for slipped in product(*((False, True) if step else (False,) for step in hard)):
        value = chain.start
        for operand, slips in zip(chain.operands, slipped, strict=True):
            value = slip(value, operand) if slips else value + operand
            yield value
