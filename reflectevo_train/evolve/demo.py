"""The paper in miniature: generate -> build -> train -> evaluate, in one folder, on a CPU.

    reflectevo-train demo [--full] [--rounds 2] [--seeds N] [--jobs N] [--dataset DIR] --output demo

Without `--full` one model is trained: a reflector, whose reflections the bundled model acts on. Every step is a command
of the package, called here with the bundled model; the same command goes on where it was stopped. A step takes one core;
`--jobs` of them run at the same time.

    OUTPUT/seed-S/round-R/run, ReflectEvo-460K       the data of a round
    OUTPUT/seed-S/round-R/models/NAME, eval/NAME     what was trained on it, and its evaluation on test problems
    OUTPUT/seed-S/round-R/log/NAME.txt               what a step said, when several run at the same time
    OUTPUT/table.md, results.json                    Acc@t1, Acc@t2, Δ; the counts behind them and the seconds of each phase
    OUTPUT/report.html                               the first seed's evaluations compared, learning curves of all trainings
"""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from reflectevo_data.cli.commands import build, generate, judge
from reflectevo_data.cli.parser import run_command
from reflectevo_data.errors import InputError

from ..evaluation import evaluate
from .plan import BASE, CORRECT, FULL, QUICK, REFLECT, Entry, Plan, PlanManifest, Training
from .results import report
from .steps import Clock, Steps, available_cores


MINIATURE_RECIPES = Path(__file__).parents[1] / "recipes" / "miniature"
DATASET = "ReflectEvo-460K"
MAX_TOKENS = 200  # the longest text of the miniature has about 150
# A second round goes on gently from the first one's models: at the recipes' own rate and length, the reflector forgot how
# to answer (Acc@t1 .50 -> .27 on validation), while half the data and this gave .95 for round 1's .89.
ROUND_2 = ("--learning_rate", "2e-4", "--num_train_epochs", "1")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `reflectevo-train demo`."""
    command.add_argument("--full", action="store_true", help="all four settings and the baselines, not one setting")
    command.add_argument(
        "--rounds", type=int, choices=(1, 2), default=1, help="2: train again on the trained model's data"
    )
    command.add_argument("--seeds", type=int, default=1, metavar="N", help="repeat with seeds 0 to N-1 (%(default)s)")
    command.add_argument(
        "--jobs", type=int, metavar="N", help="steps at once, a core each (with --full: all cores; else 1)"
    )
    command.add_argument("--problems", type=int, metavar="N", help="problems that data is generated from")
    command.add_argument("--reflections", type=int, metavar="K", help="reflections on each failed trial")
    command.add_argument("--test-problems", type=int, metavar="N", help="problems of the evaluation")
    command.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="what is evaluated; choose settings on validation",
    )
    command.add_argument(
        "--dataset", metavar="DIR", help="train on this dataset of `reflectevo-data build`; generate none"
    )
    command.add_argument("--output", default="demo", metavar="DIR", help="folder of everything (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs `reflectevo-train demo`."""
    import os

    # a spinning thread on a shared core can cost more than it computes
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plan = Plan(
        entries=FULL if args.full else QUICK,
        seeds=args.seeds,
        rounds=args.rounds,
        problems=args.problems or (500 if args.full else 300),
        reflections=args.reflections or (6 if args.full else 4),
        test_problems=args.test_problems or (500 if args.full else 200),
        split=args.split,
        dataset=None if args.dataset is None else Path(args.dataset),
    )
    if plan.dataset is not None and not (plan.dataset / "build.json").is_file():
        raise InputError(f"--dataset {plan.dataset}: not a folder that `reflectevo-data build` made (no build.json).")
    return demo(plan, Path(args.output), jobs=args.jobs or (available_cores() if args.full else 1))


def demo(plan: Plan, output: Path, *, jobs: int = 1) -> int:
    """Everything that is not there yet, then the table and the plot."""
    output.mkdir(parents=True, exist_ok=True)
    _refuse_other_plan(output / "demo.json", plan.manifest())
    clock = Clock.at(output / "seconds.json")
    with clock.phase("wall"), Steps(jobs, clock, title="demo", total=plan.n_steps) as steps:
        asyncio.run(all_seeds(plan, output, steps))
    report(plan, output, clock)
    return 0


async def all_seeds(plan: Plan, output: Path, steps: Steps) -> None:
    """The seeds know nothing of each other."""
    await asyncio.gather(*(one_seed(plan, output / f"seed-{seed}", seed, steps) for seed in range(plan.seeds)))


async def one_seed(plan: Plan, folder: Path, seed: int, steps: Steps) -> None:
    """Data, every entry on it, and a second round that begins as soon as the models that make its data are trained."""
    first, second = folder / "round-1", folder / "round-2"
    dataset = plan.dataset or first / DATASET
    if plan.dataset is None:
        await steps.run(first / "log" / "data.txt", make_data, first, plan, seed, ())

    async def evaluated(entry: Entry, in_round: Path, data: Path, start_from: Path | None = None) -> None:
        log = in_round / "log" / f"{entry.name}.txt"
        await steps.run(log, train_and_evaluate, entry, in_round, data, plan, seed, start_from)

    async def both_rounds(entry: Entry) -> None:
        await evaluated(entry, first, dataset)
        if plan.rounds == 2:
            models = first / "models"
            by = ["--reflector", str(models / REFLECT.name)]
            by += ["--corrector", str(models / CORRECT.name)] if CORRECT in entry.trainings else []
            await steps.run(second / "log" / "data.txt", make_data, second, plan, seed + 1000, by)
            await evaluated(entry, second, second / DATASET, start_from=models)

    others = [entry for entry in plan.entries if entry is not plan.goes_on]
    # the longest chain of steps first
    await asyncio.gather(both_rounds(plan.goes_on), *(evaluated(entry, first, dataset) for entry in others))


def make_data(folder: Path, plan: Plan, seed: int, reflected_by: Sequence[str], clock: Clock) -> None:
    """The run and the dataset of a round."""
    run, dataset = folder / "run", folder / DATASET
    problems = plan.problems // 2 if reflected_by else plan.problems
    if (dataset / "build.json").is_file():
        return
    with clock.phase("generate"):
        _command(
            generate,
            *("--source", BASE, "--model", BASE, "--limit", problems, "--seed", seed),
            *("--n-reflections", plan.reflections, "--temperature", 1.0, "--max-tokens", MAX_TOKENS),
            *("--prompts", "miniature", *reflected_by, "--output", run),
        )
    if any("dpref" in entry.name for entry in plan.entries) and not reflected_by:
        with clock.phase("judge"):
            _command(judge, run, "--judge", "self")
    with clock.phase("build"):
        _command(build, run, "--output", dataset)


def train_and_evaluate(
    entry: Entry, folder: Path, dataset: Path, plan: Plan, seed: int, start_from: Path | None, clock: Clock
) -> None:
    """The models of an entry, each trained on the dataset, and their evaluation."""
    for training in entry.trainings:
        with clock.phase("train"):
            model = folder / "models" / training.name
            if start_from is None:
                train_model(training, dataset, model, seed=seed)
            else:
                train_model(training, dataset, model, *ROUND_2, start=str(start_from / training.name), seed=seed)

    def who(name: str | None) -> str:
        return str(folder / "models" / name) if name in {t.name for t in entry.trainings} else str(name)

    evaluation = folder / "eval" / entry.name
    if (evaluation / "report.json").is_file():
        return
    roles = ["--model", who(entry.model)]
    if entry.reflector:
        roles += ["--reflector", who(entry.reflector)]
    if entry.corrector:
        roles += ["--corrector", who(entry.corrector)]
    with clock.phase("evaluate"):
        # the main measure: reflections sampled at T = 1, trials greedy
        _command(
            evaluate,
            *("--source", BASE, "--split", plan.split, "--limit", plan.test_problems, "--seed", seed),
            *("--setting", entry.setting, "--gate", "oracle", "--temperature", 0.0, "--reflection-temperature", 1.0),
            *("--max-tokens", MAX_TOKENS, *roles, "--output", evaluation),
        )


def train_model(
    training: Training, dataset: Path, output: Path, *overrides: str, seed: int, start: str = BASE
) -> None:
    """Runs a recipe; does nothing when it was run to its end."""
    if (output / "trainer_state.json").is_file():  # written last
        return
    from reflectevo_data.console import bars_are_shown

    arguments = [
        *(
            "--config",
            str(MINIATURE_RECIPES / training.recipe),
            "--dataset_name",
            str(dataset),
            "--output_dir",
            str(output),
        ),
        *("--model_name_or_path", start, "--seed", str(seed), "--disable_tqdm", str(not bars_are_shown())),
        *overrides,
    ]
    from ..training.arguments import parse_arguments

    if training.script == "sft":
        from trl import SFTConfig

        from .. import sft

        sft.main(*parse_arguments(SFTConfig, arguments))
    else:
        from trl import DPOConfig

        from .. import dpo

        dpo.main(*parse_arguments(DPOConfig, arguments))


def _refuse_other_plan(path: Path, manifest: PlanManifest) -> None:
    if not path.is_file():
        path.write_text(json.dumps(manifest, indent=2))
        return
    found = json.loads(path.read_text())
    if found != manifest:
        differences = [
            f"{k}: {found.get(k)!r} there, {manifest[k]!r} now" for k in manifest if found.get(k) != manifest[k]
        ]
        raise InputError(f"{path.parent}: made with other settings ({'; '.join(differences)}). Name another --output.")


def _command(module: ModuleType, *arguments: object) -> None:
    """Runs a command of either package in this process."""
    if code := run_command(module, [str(argument) for argument in arguments]):
        name = module.__name__.rpartition(".")[2]
        raise InputError(f"{name} ended with exit code {code}. What it says above has to be mended first.")
