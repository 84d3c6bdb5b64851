"""Model folder -> what the miniature does on its own task: trials, reflections by style, second trials.

    python -m reflectevo_train.miniature.measure DIR [--split validation] [--n 500] [--temperature 1.0]

Besides the loop's own figures it measures what only the ground truth can tell: which step a reflection names, and whether
it is the first wrong one. Weights and corpus settings are chosen on validation; test is looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reflectevo_data.models import miniature_path
from reflectevo_data.parsing.trial import parse_trial
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.schema import Problem, stable_hash
from reflectevo_data.sources.miniature import MINIATURE_SPLITS, problems

from .corpus import CAREFUL, LAZY_OPENING, THOROUGH_OPENING, named_step, steps_of


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
MAX_NEW_TOKENS = 240  # the longest document's answer has about 190
MEASURED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class MeasuredTrial:
    """A failed first trial with one reflection on it and the second trial made from that."""

    problem: Problem
    trial: str
    reflection: str
    second: str

    @property
    def is_corrected(self) -> bool:
        return _is_correct(self.second, self.problem)

    @property
    def first_wrong(self) -> int | None:
        """Number of the trial's first wrong step; None when its arithmetic holds."""
        return next((number for number, step in enumerate(steps_of(self.trial), 1) if step.is_wrong), None)

    @property
    def names_first_wrong(self) -> bool:
        return self.first_wrong is not None and named_step(self.reflection) == self.first_wrong

    @property
    def plans_careful_work(self) -> bool:
        named = named_step(self.reflection)
        return named is not None and self.reflection.endswith(CAREFUL.format(named))

    @property
    def is_thorough(self) -> bool:
        return self.reflection.startswith(THOROUGH_OPENING)

    @property
    def leaks(self) -> bool:
        """Whether the reflection spells the answer, though neither question nor trial does."""
        return _spells(self.reflection, self.problem.answer) and not any(
            _spells(text, self.problem.answer) for text in (self.problem.question, self.trial)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=miniature_path())
    parser.add_argument("--split", choices=MINIATURE_SPLITS, default="validation")
    parser.add_argument("--n", type=int, default=500, help="how many problems")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = list(problems(args.split, seed=args.seed, n=args.n))
    sampler = Sampler.load(args.model, temperature=args.temperature)
    print(json.dumps(measure(sampler, drawn, seed=args.seed), indent=2))  # noqa: T201


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws answers in batches padded on the left."""

    model: Any  # of a causal language model: transformers has no public type for what generates
    tokenizer: PreTrainedTokenizerBase
    temperature: float = 1.0

    @classmethod
    def load(cls, folder: Path, *, temperature: float = 1.0) -> Sampler:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        return cls(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, temperature)

    def __call__(self, prompts: Sequence[str], *, seed: int, prefill: str = "") -> list[str]:
        """One answer to each prompt, the prefill included."""
        import torch

        texts = [
            f"{self.tokenizer.apply_chat_template(_user(prompt), tokenize=False, add_generation_prompt=True)}{prefill}"
            for prompt in prompts
        ]
        torch.manual_seed(seed)
        answers = [""] * len(texts)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), MEASURED_AT_ONCE):
            indices = by_length[start : start + MEASURED_AT_ONCE]
            inputs = self.tokenizer(
                [texts[i] for i in indices], add_special_tokens=False, padding=True, return_tensors="pt"
            )
            sampling = (
                {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
            )
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    max_new_tokens=MAX_NEW_TOKENS,
                    top_k=0,
                    **sampling,
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            for i, text in zip(indices, self.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                answers[i] = prefill + text
        return answers


def measure(
    sampler: Sampler, drawn: Sequence[Problem], *, seed: int, n_reflections: int = 2
) -> dict[str, float | int]:
    """Rates over the problems. Acc@t2 is oracle-gated (a solved problem counts) unless it says ungated."""
    prompts = load_prompts("miniature")
    keys = list(prompts.pool)

    def request(step: str) -> int:
        return stable_hash(step, str(seed)) >> 1

    def reflect_and_correct(pairs: Sequence[tuple[Problem, str]], step: str, prefill: str = "") -> list[MeasuredTrial]:
        asked = [prompts.reflect(p, trial, keys[i % len(keys)]) for i, (p, trial) in enumerate(pairs)]
        reflections = sampler(asked, seed=request(f"{step} reflect"), prefill=prefill)
        asked = [prompts.correct(p, t, r) for (p, t), r in zip(pairs, reflections, strict=True)]
        seconds = sampler(asked, seed=request(f"{step} correct"))
        return [MeasuredTrial(p, t, r, s) for (p, t), r, s in zip(pairs, reflections, seconds, strict=True)]

    trials = list(zip(drawn, sampler([prompts.solve(p) for p in drawn], seed=request("solve")), strict=True))
    solved = [(p, trial) for p, trial in trials if _is_correct(trial, p)]
    failed = [(p, trial) for p, trial in trials if not _is_correct(trial, p)]

    def acc_t2(n_corrected: float) -> float:
        return (len(solved) + n_corrected) / len(trials)

    retried = sampler([prompts.retry(p, trial) for p, trial in failed], seed=request("retry"))
    one_stage = sampler([prompts.one_stage(p, trial) for p, trial in failed], seed=request("one stage"))
    own = [attempt for k in range(n_reflections) for attempt in reflect_and_correct(failed, f"own {k}")]
    lazy = reflect_and_correct(failed, "lazy", LAZY_OPENING)
    thorough = reflect_and_correct(failed, "thorough", f"{THOROUGH_OPENING}Step ")
    kept = reflect_and_correct(solved, "ungated")
    everything = [*own, *lazy, *thorough]
    n_own_corrected = sum(attempt.is_corrected for attempt in own) / n_reflections
    return {
        "problems": len(trials),
        "failed": len(failed),
        "acc_t1": acc_t2(0),
        "acc_t2_no_reflection": acc_t2(
            sum(_is_correct(text, p) for (p, _), text in zip(failed, retried, strict=True))
        ),
        "acc_t2": acc_t2(n_own_corrected),
        "acc_t2_ungated": (n_own_corrected + sum(attempt.is_corrected for attempt in kept)) / len(trials),
        "acc_t2_one_stage": acc_t2(sum(_is_correct(text, p) for (p, _), text in zip(failed, one_stage, strict=True))),
        "acc_t2_lazy": acc_t2(sum(attempt.is_corrected for attempt in lazy)),
        "acc_t2_thorough": acc_t2(sum(attempt.is_corrected for attempt in thorough)),
        "thorough_share": _rate(own, lambda a: a.is_thorough),
        "names_first_wrong_lazy": _rate(lazy, lambda a: a.names_first_wrong),
        "names_first_wrong_thorough": _rate(thorough, lambda a: a.names_first_wrong),
        "corrected_if_named_and_careful": _rate(
            [a for a in everything if a.names_first_wrong and a.plans_careful_work], lambda a: a.is_corrected
        ),
        "corrected_if_named_and_not_careful": _rate(
            [a for a in everything if a.names_first_wrong and not a.plans_careful_work], lambda a: a.is_corrected
        ),
        "corrected_if_other_named": _rate(
            [a for a in everything if not a.names_first_wrong], lambda a: a.is_corrected
        ),
        "unparsed_t1": _rate(trials, lambda pair: parse_trial(pair[1], pair[0]).answer is None),
        "reflections_that_go_on_to_a_trial": _rate(everything, lambda a: "Thought:" in a.reflection),
        "leaks": _rate(everything, lambda a: a.leaks),
    }


def _user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _is_correct(text: str, problem: Problem) -> bool:
    return parse_trial(text, problem).answer == problem.answer


def _spells(text: str, answer: str) -> bool:
    return re.search(rf"(?<!\d){answer}(?!\d)", text) is not None


def _rate(items: Iterable[T], holds: Callable[[T], bool]) -> float:
    outcomes = [holds(item) for item in items]
    return round(sum(outcomes) / len(outcomes), 4) if outcomes else float("nan")


if __name__ == "__main__":
    main()
