"""The miniature's training documents, drawn from a random generator: attempts, reflections and corrections as text.

The corpus gives the model a gap and a way out. In quick mode a hard step loses its carry or borrow nineteen times in twenty;
worked digit by digit, no step is ever wrong. Reflections come in two styles, told apart by their first token: a *lazy* one
names some step at random, a *thorough* one checks every step and names the first wrong one. Nothing in the corpus says
which style helps: self-training has to find out.

Every document goes through the prompt set's methods, as in the loop, and through the tokenizer's chat template.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from reflectevo_data.parsing.one_stage import join_one_stage
from reflectevo_data.prompts.templates import PromptSet
from reflectevo_data.schema import Problem
from reflectevo_data.sources.miniature import HIGHEST, LOWEST, Chain, draw_chain, is_hard, slip


Style = Literal["lazy", "thorough"]
Kind = Literal["solve", "reflect", "correct", "retry", "one_stage"]

MIX: dict[Kind, float] = {"solve": 0.22, "reflect": 0.34, "correct": 0.28, "retry": 0.06, "one_stage": 0.10}
THOROUGH = 0.28  # under one half, or greedy reflections would be thorough before any training
HARD_SLIP = 0.95
RANDOM_SLIP = 0.01
REFLECT_ON_CORRECT = 0.1  # ungated evaluation also reflects on attempts that are right
CAREFUL_PLAN = 1 / 3  # a lazy plan is mostly of no use, even where it names the right step

LAZY_OPENING, THOROUGH_OPENING = "I think step ", "Checking each step. "
NO_STEP = "No step is wrong."
CAREFUL, AGAIN, KEEP = "do step {} digit by digit.", "do step {} again.", "keep the answer."

_STEP = re.compile(r"Step (\d+): (\d+)([+-])(\d+)(?:: [^.]*?so \d+[+-]\d+)?=(\d+)\.")


class Step(NamedTuple):
    """One step of an attempt: the value it starts from, the signed operand, and what the attempt makes of it."""

    before: int
    operand: int
    after: int

    @property
    def is_wrong(self) -> bool:
        return self.before + self.operand != self.after


@dataclass(frozen=True, slots=True)
class Document:
    """One exchange; `style` is set where the completion is or begins with a reflection."""

    kind: Kind
    problem: Problem
    prompt: str
    completion: str
    style: Style | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.completion}]


def documents(prompts: PromptSet, rng: random.Random) -> Iterator[Document]:
    """Documents without end, on problems of the train split alone."""
    kinds = rng.choices(list(MIX), list(MIX.values()), k=1 << 12)
    while True:
        for kind in kinds:
            yield _document(kind, prompts, rng)
        rng.shuffle(kinds)


def quick_steps(chain: Chain, rng: random.Random, *, done: Sequence[Step] = ()) -> list[Step]:
    """The rest of an attempt in quick mode, after the steps that are done."""
    value = done[-1].after if done else chain.start
    steps = []
    for operand in chain.operands[len(done) :]:
        steps.append(Step(value, operand, _quick_result(value, operand, rng)))
        value = steps[-1].after
    return steps


def attempt_text(steps: Sequence[Step], *, slow: int | None = None) -> str:
    """An attempt as the model writes it; the step of index `slow` shows its digit-by-digit work."""
    lines = " ".join(
        f"Step {number}: {_sum(step)}{': ' + _digits(step)[0] + ', so ' + _sum(step) if number - 1 == slow else ''}={step.after}."
        for number, step in enumerate(steps, 1)
    )
    return f"Thought: {lines}\nAction: Finish[{steps[-1].after}]"


def steps_of(text: str) -> list[Step]:
    """The steps that an attempt shows, quick or slow; empty when it shows none."""
    return [
        Step(int(before), int(sign + operand), int(after)) for _, before, sign, operand, after in _STEP.findall(text)
    ]


def lazy_reflection(steps: Sequence[Step], rng: random.Random) -> str:
    """A reflection that blames a step drawn at random."""
    index = rng.randrange(len(steps))
    plan = CAREFUL if rng.random() < CAREFUL_PLAN else AGAIN
    return f"{LAZY_OPENING}{index + 1} is wrong. {_diagnosis(steps[index])} Plan: {plan.format(index + 1)}"


def thorough_reflection(steps: Sequence[Step]) -> str:
    """A reflection that checks the steps up to the first wrong one.

    Digits stand alone, so that the corrected value, which may be the answer, is never written as a number.

    >>> thorough_reflection([Step(83, -9, 84)])
    'Checking each step. Step 1: 3-9 is 4 borrow 1, 8-1 is 7, written 84, wrong. Step 1 is wrong. The borrow was lost. \
Plan: do step 1 digit by digit.'
    """
    checks = []
    for number, step in enumerate(steps, 1):
        checks.append(
            f"Step {number}: {_digits(step)[0]}, written {step.after}, {'wrong' if step.is_wrong else 'right'}."
        )
        if step.is_wrong:
            end = f"Step {number} is wrong. {_diagnosis(step)} Plan: {CAREFUL.format(number)}"
            break
    else:
        end = f"{NO_STEP} Plan: {KEEP}"
    return f"{THOROUGH_OPENING}{' '.join(checks)} {end}"


def correction(chain: Chain, steps: Sequence[Step], reflection: str, rng: random.Random) -> str:
    """The second trial that does what the reflection says, and the rest in quick mode."""
    named = named_step(reflection)
    if named is None:
        return attempt_text(steps)
    index = named - 1
    kept = list(steps[:index])
    value = kept[-1].after if kept else chain.start
    operand = chain.operands[index]
    slow = reflection.endswith(CAREFUL.format(named))
    redone = Step(value, operand, value + operand if slow else _quick_result(value, operand, rng))
    kept.append(redone)
    return attempt_text([*kept, *quick_steps(chain, rng, done=kept)], slow=index if slow else None)


def named_step(reflection: str) -> int | None:
    """The number of the step that a reflection blames."""
    found = re.search(r"[Ss]tep (\d+) is wrong", reflection)
    return int(found[1]) if found else None


def _document(kind: Kind, prompts: PromptSet, rng: random.Random) -> Document:
    chain, steps = _draw_attempt(rng, wrong=None if kind == "solve" else rng.random() >= REFLECT_ON_CORRECT)
    problem = chain.problem
    trial = attempt_text(steps)
    if kind == "solve":
        return Document(kind, problem, prompts.solve(problem), trial)
    if kind == "retry":
        return Document(kind, problem, prompts.retry(problem, trial), attempt_text(quick_steps(chain, rng)))
    style: Style = "thorough" if rng.random() < THOROUGH else "lazy"
    reflection = thorough_reflection(steps) if style == "thorough" else lazy_reflection(steps, rng)
    if kind == "reflect":
        instruction = rng.choice(list(prompts.pool))
        return Document(kind, problem, prompts.reflect(problem, trial, instruction), reflection, style)
    second = correction(chain, steps, reflection, rng)
    if kind == "correct":
        return Document(kind, problem, prompts.correct(problem, trial, reflection), second)
    return Document(kind, problem, prompts.one_stage(problem, trial), join_one_stage(reflection, second), style)


def _draw_attempt(rng: random.Random, *, wrong: bool | None) -> tuple[Chain, list[Step]]:
    """A chain of the train split and a quick attempt at it whose final answer is wrong, right or either."""
    while True:
        chain = draw_chain(rng)
        if chain.split != "train":
            continue
        steps = quick_steps(chain, rng)
        if wrong is None or wrong == (steps[-1].after != chain.answer):
            return chain, steps


def _quick_result(value: int, operand: int, rng: random.Random) -> int:
    true = value + operand
    if is_hard(value, operand) and rng.random() < HARD_SLIP:
        result = slip(value, operand)
    elif rng.random() < RANDOM_SLIP:
        result = true + rng.choice((-10, -1, 1, 10))
    else:
        result = true
    # after a random slip the chain's own bounds no longer hold
    return result if LOWEST <= result <= HIGHEST else true


def _digits(step: Step) -> tuple[str, int]:
    """The step worked digit by digit, and how much is carried or borrowed."""
    tens, units = divmod(step.before, 10)
    sign, operand = ("+", step.operand) if step.operand > 0 else ("-", -step.operand)
    moved, digit = divmod(units + step.operand, 10)
    moved = abs(moved)
    name = "carry" if sign == "+" else "borrow"
    new_tens = tens + moved if sign == "+" else tens - moved
    return f"{units}{sign}{operand} is {digit} {name} {moved}, {tens}{sign}{moved} is {new_tens}", moved


def _sum(step: Step) -> str:
    return f"{step.before}{step.operand:+d}"


def _diagnosis(step: Step) -> str:
    if _digits(step)[1] == 0:
        return "A digit was mixed up."
    return "The carry was lost." if step.operand > 0 else "The borrow was lost."
