"""Random raw rows with everything that decides what belongs into the sets, and run directories made of them."""

from __future__ import annotations

import random
from pathlib import Path

import orjson

from reflectevo_data.curation.batches import curated_batches
from reflectevo_data.curation.curate import Curation, candidate_pairs
from reflectevo_data.rollouts.records import open_run
from reflectevo_data.schema import CONFIGS


TASKS = ("Mathematics", "Coding", "Causal Reasoning")
TEXTS = ("Step 2 is wrong.", "Step  2 is\nwrong.", "Carry the one.", "Prüfe das Vorzeichen – 再看一遍。", "", "  \n")


def trial(number: int, rng: random.Random | None = None, **changes) -> dict:
    """One entry of `output`: sound and wrong unless changed."""
    rng = rng or random.Random(number)
    later = number > 1
    return {
        "trial": number,
        "generated_answer": rng.choice("ABCD"),
        "reasoning": f"Thought: {' '.join(rng.choices(TEXTS, k=rng.randint(1, 4)))} Finish[{rng.randint(0, 99)}]",
        "is_correct": False,
        "error": "expected C",
        "reflections": [f"Reflection {rng.random()}"] if later else [],
        "reasoning_prompt": [f"Solve this {rng.random()}", rng.choice(["", "Action:"])],
        "reflection_prompt": f"What went wrong? {rng.random()}" if later else "",
        "reasoning_source": "tiny",
        "reflection_source": "tiny-reflector" if later else "",
        "instruction": rng.choice(["1-1-1", "2-8-2"]) if later else "",
        "status": "incorrect",
        "f1": 0.0,
        "leaks_answer": False,
        "finish_reason": "stop",
        "n_prompt_tokens": rng.randint(1, 99),
        "n_completion_tokens": rng.randint(1, 99),
        "reflection_finish_reason": "stop" if later else "",
        "n_reflection_tokens": rng.randint(1, 99) if later else 0,
        **changes,
    }


def row(number: int = 0, output: list[dict] | None = None, **changes) -> dict:
    """A raw row; without `output`, a first trial that failed and was not reflected on."""
    output = output or [trial(1)]
    return {
        "id": f"q/{number}",
        "question": f"Question {number}? Ünïcode.",
        "answer": "c",
        "task": TASKS[number % len(TASKS)],
        "source": "questions",
        "options": ["one", "two", "three"],
        "test_list": [],
        "output": output,
        "instruction": [entry["instruction"] for entry in output[1:]],
        "generator": "tiny",
        "reflector": "tiny-reflector",
        "corrector": "tiny",
        "answer_type": "choice",
        "answers": [],
        "test_setup_code": "",
        "license": "CC-BY-4.0",
        "group": "",
        "seed": 0,
        **changes,
    }


def random_row(rng: random.Random, number: int) -> dict:
    solved = rng.random() < 0.3
    output = [trial(1, rng, is_correct=solved, finish_reason=rng.choices(["stop", "error"], [19, 1])[0])]
    for _ in range(0 if solved and rng.random() < 0.8 else rng.randint(0, 6)):
        correct = rng.random() < 0.6
        output.append(
            trial(
                2,
                rng,
                is_correct=correct,
                status="correct" if correct else rng.choice(["incorrect", "unparsed"]),
                reflections=[rng.choice([*TEXTS, *[f"Reflection {rng.random()}"] * 12])],
                leaks_answer=rng.random() < 0.1,
                finish_reason=rng.choices(["stop", "length", "error"], [16, 3, 1])[0],
                reflection_finish_reason=rng.choices(["stop", "length", "error"], [16, 3, 1])[0],
            )
        )
    if rng.random() < 0.1:
        output.append(trial(3, rng, is_correct=True))
    return row(number, output, group=rng.choice(["", "", f"story {number // 4}"]))


def random_preferences(rng: random.Random, rows: list[dict]) -> list[dict]:
    """Verdicts on most candidate pairs, ties among them, one pair judged twice now and then."""
    preferences = []
    for entry in rows:
        for pair in candidate_pairs(entry, include_leaks=True):
            for _ in range(rng.choices([0, 1, 2], [1, 8, 1])[0]):
                chosen, rejected = rng.sample(pair, 2)
                undecided = rng.random() < 0.2
                preferences.append(
                    {
                        "id": entry["id"],
                        "pair": list(pair),
                        "chosen": None if undecided else chosen,
                        "rejected": None if undecided else rejected,
                        "judge": rng.choice(["self", "judge-model"]),
                    }
                )
    return preferences


MANIFEST = {
    "format": 1,
    "kind": "generate",
    "source": {"name": "/home/ann/data/questions.jsonl", "split": "train", "revision": "", "n_problems": 3},
    "engine": "transformers",
    "models": {"generator": "Qwen/Qwen3-0.6B", "reflector": "/home/ann/models/refl-lora", "corrector": "tiny"},
    "sampling": {"temperature": 0.8, "top_p": 1.0, "max_tokens": 512},
    "n_reflections": 2,
    "instructions": ["1-1-1", "2-8-2"],
    "prompts": {"name": "/home/ann/prompts", "fingerprint": "0123456789abcdef"},
    "seed": 7,
    "versions": {"python": "3.11.9", "datasets": "5.2.0"},
    "git_revision": "0123456789ab",
}


def write_run(folder: Path, rows: list[dict], preferences: list[dict] | None = None, **manifest) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(orjson.dumps(MANIFEST | manifest))
    (folder / "records.jsonl").write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in rows))
    if preferences is not None:
        lines = b"".join(orjson.dumps(entry) + b"\n" for entry in preferences)
        (folder / "preferences.jsonl").write_bytes(lines)
    return folder


def curated_rows(*folders, **options):
    """Config -> split -> rows, and the counts, of a whole pass."""
    rows = {config: {"train": [], "validation": []} for config in CONFIGS}
    total = None
    for tables, counts in curated_batches([open_run(folder) for folder in folders], Curation(**options)):
        total = counts if total is None else total + counts
        for config, splits in tables.items():
            for split, batch in splits.items():
                rows[config][split] += batch.to_pylist()
    return rows, total
