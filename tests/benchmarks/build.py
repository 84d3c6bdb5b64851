"""What `reflectevo-data build` costs: a synthetic run of 460,000 raw records of about 3 KB, built in a process of its own.

    python -m tests.benchmarks.build [--records 460000] [--near-duplicates off|count|drop] [--repeat N] [--keep]

Prints wall and CPU seconds and peak memory of the build, the same of a peer process that reads the same bytes with
pyarrow's JSON reader and writes them with pyarrow as Parquet (zstd), and the ratio of the two. Both run one after the
other on a warm page cache, so compare the ratio, not the seconds.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson


BENCH = Path(__file__).resolve().parents[2] / ".bench" / "build"
TASKS = {"Logical Reasoning": "logiqa", "Mathematics": "math", "Coding": "mbpp", "Contextual QA": "coqa"}
INSTRUCTIONS = [f"{a}-{b}-{c}" for a in (1, 2) for b in range(1, 9) for c in (1, 2)]

PEER = """
import sys
import pyarrow.json, pyarrow.parquet
table = pyarrow.json.read_json(sys.argv[1])
pyarrow.parquet.write_table(table, sys.argv[2], compression="zstd")
"""
BUILD = """
import sys
from reflectevo_data.builder import Curation
from reflectevo_data.dataset.build import build_dataset
report = build_dataset([sys.argv[1]], sys.argv[2], curation=Curation(near_duplicates=sys.argv[3]))
print(*(f"{config} {sum(size.n_rows for size in splits.values()):,}" for config, splits in report.sizes.items()))
"""


class Cost(NamedTuple):
    """Of one process: wall and CPU seconds, peak resident memory in MB."""

    wall: float
    cpu: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=460_000)
    parser.add_argument("--near-duplicates", choices=("off", "count", "drop"), default="count")
    parser.add_argument("--repeat", type=int, default=1, help="build and peer in turn, this many times")
    parser.add_argument("--keep", action="store_true", help="keep the synthetic run for the next time")
    arguments = parser.parse_args()
    run = BENCH / f"run-{arguments.records}"
    if not (run / "manifest.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        write_synthetic_run(run, n_records=arguments.records)
    n_bytes = (run / "records.jsonl").stat().st_size
    print(f"{arguments.records:,} records of {n_bytes / arguments.records / 1000:.2f} KB, {n_bytes / 1e9:.2f} GB")
    try:
        for _ in range(arguments.repeat):
            built = cost_of(BUILD, run, BENCH / "ReflectEvo", arguments.near_duplicates)
            peer = cost_of(PEER, run / "records.jsonl", BENCH / "peer.parquet")
            for name, cost in (("build", built), ("peer", peer)):
                print(f"{name:6} wall {cost.wall:6.1f} s  CPU {cost.cpu:6.1f} s  peak {cost.peak_mb:6.0f} MB")
            print(f"ratio  wall {built.wall / peer.wall:6.2f}    CPU {built.cpu / peer.cpu:6.2f}")
    finally:
        shutil.rmtree(BENCH / "ReflectEvo", ignore_errors=True)
        (BENCH / "peer.parquet").unlink(missing_ok=True)
        if not arguments.keep:
            shutil.rmtree(run)


def cost_of(program: str, *arguments: object) -> Cost:
    """What a Python program costs in a process of its own, interpreter start and imports included."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with code {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_synthetic_run(folder: Path, *, n_records: int, seed: int = 0) -> None:
    """A run folder with texts of realistic lengths that compress about as real transcripts do."""
    rng = np.random.default_rng(seed)
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randint(2, 11))) for _ in range(6000)]
    ranks = rng.zipf(1.25, size=900_000) % len(words)
    lengths = rng.integers(5, 24, size=40_000)
    ends = np.cumsum(lengths)
    sentences = [
        " ".join(words[i] for i in ranks[e - n : e]).capitalize() + "." for e, n in zip(ends, lengths, strict=True)
    ]

    def text(mean_sentences: float) -> str:
        return " ".join(draw.choices(sentences, k=max(1, round(draw.lognormvariate(0, 0.5) * mean_sentences))))

    folder.mkdir(parents=True)
    manifest = {
        "format": 1,
        "kind": "generate",
        "source": {"name": "synthetic", "split": "train", "revision": "", "n_problems": n_records},
        "engine": "scripted",
        "models": {"generator": "synthetic", "reflector": "synthetic", "corrector": "synthetic"},
        "sampling": {"temperature": 0.8, "top_p": 1.0, "max_tokens": 512},
        "n_reflections": 2,
        "instructions": INSTRUCTIONS,
        "prompts": {"name": "default", "fingerprint": "0" * 16},
        "seed": seed,
        "versions": {},
        "git_revision": "",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    tasks = list(TASKS.items())
    with (folder / "records.jsonl").open("wb") as records, (folder / "preferences.jsonl").open("wb") as preferences:
        for i in range(n_records):
            row = _synthetic_row(i, text, draw, tasks[i % len(tasks)])
            records.write(orjson.dumps(row) + b"\n")
            if len(row["output"]) == 3 and all(trial["is_correct"] for trial in row["output"][1:]):
                chosen, rejected = draw.sample((1, 2), 2)
                line = {"id": row["id"], "chosen": chosen, "rejected": rejected, "judge": "self"}
                preferences.write(orjson.dumps(line) + b"\n")


def _synthetic_row(i: int, text: Any, draw: random.Random, task_and_source: tuple[str, str]) -> dict[str, Any]:
    task, source = task_and_source
    question = text(1.0)
    solve = f"Answer the question. Think step by step, then finish.\n\nQuestion: {question}\n"

    def trial(
        number: int, reasoning: str, prompt: str, correct: bool, reflection: str, instruction: str
    ) -> dict[str, Any]:
        return {
            "trial": number,
            "generated_answer": draw.choice("ABCD"),
            "reasoning": reasoning,
            "is_correct": correct,
            "error": "" if correct else "expected another option",
            "reflections": [reflection] if number == 2 else [],
            "reasoning_prompt": [prompt, ""],
            "reflection_prompt": f"{solve}\nAttempt: {first}\nThe attempt failed. Find the mistake, then write a plan.\n"
            if number == 2
            else "",
            "reasoning_source": "synthetic",
            "reflection_source": "synthetic" if number == 2 else "",
            "instruction": instruction,
            "status": "correct" if correct else "incorrect",
            "f1": float(correct),
            "leaks_answer": number == 2 and draw.random() < 0.02,
            "finish_reason": "stop",
            "n_prompt_tokens": len(prompt) // 4,
            "n_completion_tokens": len(reasoning) // 4,
            "reflection_finish_reason": "stop" if number == 2 else "",
            "n_reflection_tokens": len(reflection) // 4,
        }

    first = text(1.3)
    solved = draw.random() < 0.55
    outputs = [trial(1, first, solve, solved, "", "")]
    instructions = [] if solved else draw.sample(INSTRUCTIONS, 2)
    for instruction in instructions:
        reflection = text(1.5)
        prompt = f"{solve}\nAttempt: {first}\nReflection: {reflection}\nTry again.\n"
        outputs.append(trial(2, text(1.3), prompt, draw.random() < 0.45, reflection, instruction))
    return {
        "id": f"{source}/{i}",
        "question": question,
        "answer": draw.choice("abcd"),
        "task": task,
        "source": source,
        "options": [text(0.2) for _ in range(4)],
        "test_list": [],
        "output": outputs,
        "instruction": instructions,
        "generator": "synthetic",
        "reflector": "synthetic",
        "corrector": "synthetic",
        "answer_type": "choice",
        "answers": [],
        "test_setup_code": "",
        "license": "CC-BY-4.0",
        "group": "",
        "seed": 0,
    }


if __name__ == "__main__":
    main()
