"""Evaluation folders with made-up answers, for the tests of the report and of the model card."""

from __future__ import annotations

import base64
import gzip
import random
import re
from pathlib import Path

from reflectevo_data.rollouts.manifest import (
    Gate,
    Loop,
    Manifest,
    PromptSource,
    QuestionSource,
    RoleModels,
    RunSampling,
)
from reflectevo_data.rollouts.store import RunDirectory
from reflectevo_data.schema import Completion, Problem, Reflection, Rollout, SecondTrial, Trial, Verdict, raw_row
from reflectevo_train.evaluation.counts import Scores
from reflectevo_train.evaluation.evaluate import write_results


WORDS = (
    "the",
    "sum",
    "of",
    "both",
    "sides",
    "is",
    "wrong",
    "because",
    "a",
    "carry",
    "was",
    "lost",
    "write",
    "it",
    "down",
)
TASKS = ("Logical Reasoning", "Mathematics", "Coding")
HOSTILE = "</script><script>document.title = 'broken'</script>&amp;"


def make_evaluation(
    folder: Path,
    *,
    n: int = 60,
    acc_t1: float = 0.5,
    corrects: float = 0.4,
    loses: float = 0.1,
    seed: int = 1,
    gate: Gate = "none",
    n_words: int = 40,
) -> Scores:
    """An evaluation of the same n problems whatever the seed; the seed draws who solves what."""
    draw, words = random.Random(seed), random.Random(0)
    manifest = Manifest(
        kind="evaluate",
        source=QuestionSource("questions.jsonl", sha256="0" * 64, n_problems=n),
        engine="transformers",
        models=RoleModels("tiny", f"tiny-reflector-{seed}", "tiny"),
        sampling=RunSampling(temperature=1.0, reflection_temperature=1.0),
        loop=Loop(gate=gate, n_reflections=1, seed=seed),
        prompts=PromptSource("default", "0123"),
    )
    with RunDirectory.open(folder, manifest) as run:
        for i in range(n):
            problem = Problem(
                f"q/{i:05d}",
                f"Question {i}: {_text(words, n_words)}? {HOSTILE}",
                "b",
                "choice",
                options=("no", "yes"),
                task=TASKS[i % 3],
                source=f"s{i % 3}",
            )
            first = _trial(draw, draw.random() < acc_t1, n_words)
            seconds: tuple[SecondTrial, ...] = ()
            if gate == "none" or not first.verdict.is_correct:
                right = draw.random() >= loses if first.verdict.is_correct else draw.random() < corrects
                key = f"{draw.randint(1, 2)}-{draw.randint(1, 8)}-{draw.randint(1, 2)}"
                n_reflection = draw.randint(5, 2 * n_words)
                completion = Completion(_text(draw, n_reflection), "stop", 10, n_reflection)
                reflection = Reflection(key, "prompt", completion, leaks_answer=draw.random() < 0.05)
                seconds = (SecondTrial(reflection, _trial(draw, right, n_words)),)
            run.append(raw_row(Rollout(problem, first, seconds, "tiny", f"tiny-reflector-{seed}", "tiny", seed)))
    return write_results(folder, gate=gate)


def unpack_examples(page: str) -> str:
    """The report's page with its examples as the JSON that they are packed from."""
    return re.sub(
        r'(?<=id="data">)[^<]*',
        lambda packed: gzip.decompress(base64.b64decode(packed[0], validate=True)).decode(),
        page,
    )


def _trial(draw: random.Random, right: bool, n_words: int) -> Trial:
    if draw.random() < 0.03:
        verdict = Verdict("unparsed", "", "no answer found in the text")
    else:
        verdict = Verdict("correct" if right else "incorrect", "B" if right else "A", "", f1=float(right))
    text = f"Thought: {_text(draw, n_words)}\nAction: Finish[{verdict.answer}]"
    return Trial("prompt", "", Completion(text, "stop", 10, n_words), text, verdict)


def _text(draw: random.Random, n: int) -> str:
    return " ".join(draw.choices(WORDS, k=n))
