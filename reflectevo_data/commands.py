"""What each command of `reflectevo-data` does: parsed flags in, an exit code out. The work itself is in other modules."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import engine_of, problems_of, prompts_of
from .console import say
from .errors import InputError


if TYPE_CHECKING:
    from .schema import Problem


def show_sources(args: argparse.Namespace) -> int:
    """Lists the sources, or previews problems of one."""
    from .console import print_table
    from .sources.load import load_problems, sources_table

    if args.name is None:
        columns, rows = sources_table()
        print_table("Sources", columns, rows)
        return 0
    problems = load_problems(args.name, split=args.split, limit=args.preview, source_file=args.source_file)
    for problem in problems:
        fields = {
            "task": problem.task,
            "answer type": problem.answer_type,
            "question": problem.question,
            "options": "\n".join(problem.options),
            "tests": "\n".join(problem.test_list),
            "answer": problem.answer,
            "also accepted": "\n".join(problem.answers),
            "licence": problem.license,
        }
        print_table(problem.id, ("", ""), [(name, value) for name, value in fields.items() if value])
    return 0


def generate(args: argparse.Namespace) -> int:
    """Answers, verifies, reflects and answers again, into a run directory."""
    from .completers.base import Sampling
    from .completers.engine import open_roles
    from .console import print_table
    from .rollouts.generate import generate_run
    from .rollouts.loop import Role, Roles
    from .rollouts.store import RunDirectory, new_manifest
    from .verifiers.pool import VerifierPool

    prompts = prompts_of(args, default="miniature" if args.source == args.model == "miniature" else "default")
    engine = engine_of(args)
    problems, source = _problems(args)
    configuration = {
        "kind": "generate",
        "source": source,
        "engine": args.engine,
        "models": engine.names(),
        "sampling": {"temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens},
        "n_reflections": args.n_reflections,
        "instructions": args.instruction,
        "prompts": {"name": prompts.name, "fingerprint": prompts.fingerprint},
        "seed": args.seed,
    }

    async def run_all() -> int:
        async with open_roles(engine) as completers:
            sampling = Sampling(temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_tokens)
            report = await generate_run(
                problems,
                Roles(*(Role(completer, sampling) for completer in completers)),
                run,
                prompts=prompts,
                verifier=verifier,
                instructions=args.instruction,
                n_reflections=args.n_reflections,
                seed=args.seed,
                in_flight=args.concurrency or 2 * max(completer.slots for completer in completers),
            )
        print_table(str(args.output), ("", ""), report.table())
        for error, n in report.failures.most_common(3):
            say(f"{n} failed: {error}")
        if report.failures:
            say("the same command makes the failed problems again.")
        return 1 if report.failures and not report.counts.n_problems else 0

    with VerifierPool(args.verifier_workers, allow_unsandboxed_code=args.allow_unsandboxed_code) as verifier:
        verifier.preflight(problems)
        with RunDirectory.open(args.output, new_manifest(configuration)) as run:
            return asyncio.run(run_all())


def import_files(args: argparse.Namespace) -> int:
    """Reads the upstream files or dataset into a run directory."""
    from .console import print_table
    from .upstream.importer import import_run
    from .verifiers.pool import VerifierPool

    with VerifierPool(args.verifier_workers, allow_unsandboxed_code=args.allow_unsandboxed_code) as verifier:
        report = import_run(
            args.files, args.output, verifier=None if args.keep_labels else verifier, source=args.source
        )
    print_table(str(args.output), ("", ""), report.table())
    for place in report.left_out:
        say(f"left out: {place}")
    return 0


def judge(args: argparse.Namespace) -> int:
    """Ranks the reflections of a run that led to a correct second trial."""
    from .completers.base import Sampling
    from .completers.engine import Engine, open_completer
    from .console import print_table
    from .curation.judge import ModelJudge, SelfJudge, judge_run
    from .prompts.templates import load_prompts
    from .rollouts.store import Preferences, load_manifest

    manifest = load_manifest(args.run)
    prompts = load_prompts(args.prompts or _prompts_of(manifest))
    model = (args.corrector or _corrector_of(manifest)) if args.judge == "self" else args.judge
    engine = Engine(args.engine, model, base_urls=tuple(args.base_url or ()), slots=args.slots)
    engine.check()

    async def run_all() -> int:
        async with open_completer(engine) as completer:
            sampling = Sampling(temperature=args.temperature, max_tokens=args.max_tokens)
            judge = SelfJudge(completer, prompts) if args.judge == "self" else ModelJudge(completer, prompts, sampling)
            summary = await judge_run(
                preferences, judge, max_pairs=args.max_pairs, in_flight=args.concurrency or 2 * completer.slots
            )
        print_table(f"{args.run}: judged by {args.judge}", ("", ""), summary.table())
        if summary.n_failed:
            say("the same command makes the failed pairs again.")
        return 1 if summary.n_failed and not summary.n_pairs else 0

    with Preferences(args.run) as preferences:
        return asyncio.run(run_all())


def build(args: argparse.Namespace) -> int:
    """Makes the dataset with its four configs and its card."""
    from .console import print_table
    from .curation.batches import Curation
    from .dataset.build import build_dataset
    from .dataset.statistics import WORDS, load_length_unit
    from .rollouts.store import load_manifest
    from .sources.decontaminate import evaluation_sets

    report = build_dataset(
        args.runs,
        args.output,
        curation=Curation(
            max_pairs=args.max_pairs,
            include_leaks=args.include_leaks,
            validation_fraction=args.validation_fraction,
            near_duplicates=args.near_duplicates,
        ),
        length_unit=load_length_unit(args.tokenizer) if args.tokenizer else WORDS,
        evaluation=evaluation_sets(map(load_manifest, args.runs), args.decontaminate_against or ()),
    )
    sizes = [
        (config, *(f"{splits[split].n_rows:,}" if split in splits else "0" for split in ("train", "validation")))
        for config, splits in report.sizes.items()
    ]
    print_table(str(args.output), ("config", "train", "validation"), sizes)
    print_table("Left out, and what was found", ("", ""), report.table())
    for config, splits in report.sizes.items():
        if not any(size.n_rows for size in splits.values()):
            say(f"{config} has no rows: load_dataset reads it with streaming=True only.")
    return 0


def print_stats(args: argparse.Namespace) -> int:
    """Prints the statistics of a built dataset."""
    from .dataset.statistics import load_length_unit, stats_table

    sys.stdout.write(stats_table(args.dataset, load_length_unit(args.tokenizer) if args.tokenizer else None))
    return 0


def show_rows(args: argparse.Namespace) -> int:
    """Loads a config with `load_dataset` and shows rows of it."""
    import datasets

    from .console import bars_are_shown, print_table
    from .dataset.build import load_build

    if not bars_are_shown():
        datasets.disable_progress_bars()
    splits = load_build(args.dataset)[0].sizes[args.config]
    if not (args.split in splits and splits[args.split].n_rows):
        say(f"{args.dataset}: {args.config} has no rows in {args.split}.")
        return 0
    dataset = datasets.load_dataset(args.dataset, args.config, split=args.split)
    for row in dataset.select(range(min(args.rows, len(dataset)))):
        fields = {
            name: "\n".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in row.items()
            if name != "output" and (args.all or "prompt" not in name)
        }
        for number, trial in enumerate(row.get("output", [])):
            which = f"2 from reflection {number}" if number else "1"
            fields[f"reflection {number}"] = "\n".join(trial["reflections"])
            fields[f"trial {which} ({trial['status']})"] = trial["reasoning"]
        print_table(
            f"{args.config}: a row of {len(dataset):,}", ("column", "value"), [(k, v) for k, v in fields.items() if v]
        )
    return 0


def render_card(args: argparse.Namespace) -> int:
    """Renders the card of a built dataset anew."""
    from .dataset.build import write_dataset_card

    print(write_dataset_card(args.dataset))  # noqa: T201
    return 0


def push(args: argparse.Namespace) -> int:
    """Publishes a built dataset on the Hub."""
    from .dataset.push import push_dataset

    done = push_dataset(args.dataset, args.repo_id, private=args.private, revision=args.revision)
    print(f"{done.url} ({'pushed' if done.is_new else 'was there already'}, commit {done.commit[:12]})")  # noqa: T201
    return 0


def _problems(args: argparse.Namespace) -> tuple[list[Problem], dict[str, Any]]:
    """The problems of this run or shard, and what its manifest says of them."""
    from .sources.decontaminate import decontaminate

    problems, source = problems_of(args)
    for against in args.decontaminate_against or ():
        problems, overlap = decontaminate(problems, against, drop=args.drop_contaminated)
        say(f"{against}: {overlap}{', dropped' if args.drop_contaminated else ''}.")
        source.setdefault("decontaminated", {})[Path(against).name] = {
            "n_overlapping": len(overlap.ids),
            "dropped": args.drop_contaminated,
        }
    if not problems:
        raise InputError(f"--source {args.source}: no problem is left to answer.")
    if args.shard is not None:
        index, n_shards = args.shard
        problems = problems[index::n_shards]
        source["shard"] = f"{index}/{n_shards}"
    return problems, source | {"n_problems": len(problems)}


def _prompts_of(manifest: dict[str, Any]) -> str:
    name = manifest.get("prompts", {}).get("name", "default")
    if name not in ("default", "miniature"):
        raise InputError(f"the run was made with the prompts of a folder named {name}. Give it as --prompts.")
    return name


def _corrector_of(manifest: dict[str, Any]) -> str:
    """The corrector's published name: enough for a Hub id and the miniature, not for a folder elsewhere."""
    name = manifest.get("models", {}).get("corrector", "")
    if not name:
        raise InputError("the run's manifest names no corrector. Give one as --corrector.")
    if name != "miniature" and "/" not in name and manifest.get("engine") != "openai" and not Path(name).is_dir():
        raise InputError(f"the run's corrector was a folder named {name}. Give it as --corrector.")
    return name
