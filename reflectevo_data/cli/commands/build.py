"""`reflectevo-data build`: makes the dataset with its four configs and its card."""

from __future__ import annotations

import argparse

from ...curation.curate import NEAR_DUPLICATES, Curation
from ..arguments import add_length_unit, positive, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Curation()
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--output", required=True, metavar="DIR", help="the dataset folder; its name is the dataset's")
    parser.add_argument(
        "--max-pairs",
        type=positive,
        default=default.max_pairs,
        metavar="N",
        help="pairs of one question (%(default)s)",
    )
    parser.add_argument(
        "--validation-fraction",
        type=share,
        default=default.validation_fraction,
        metavar="P",
        help="of questions (%(default)s)",
    )
    parser.add_argument("--include-leaks", action="store_true", help="keep reflections that state the gold answer")
    parser.add_argument(
        "--near-duplicates",
        choices=NEAR_DUPLICATES,
        default=default.near_duplicates,
        help="reflections that nearly repeat another one of the dataset (%(default)s)",
    )
    parser.add_argument(
        "--decontaminate-against",
        action="append",
        metavar="NAME|FILE",
        help="also report the overlap with this; that with the sources' own test splits is always reported",
    )
    add_length_unit(parser)


def run(args: argparse.Namespace) -> int:
    from ...console import print_table, say
    from ...curation.splits import SPLITS
    from ...dataset.build import build_dataset
    from ...dataset.statistics import WORDS, load_length_unit
    from ...rollouts.manifest import load_manifest
    from ...sources.decontaminate import evaluation_sets

    sources = [load_manifest(run).source.name for run in args.runs]
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
        evaluation=evaluation_sets(sources, args.decontaminate_against or ()),
    )
    sizes = [
        (config, *(f"{splits[split].n_rows:,}" if split in splits else "0" for split in SPLITS))
        for config, splits in report.sizes.items()
    ]
    print_table(str(args.output), ("config", *SPLITS), sizes)
    print_table("Left out, and what was found", ("", ""), report.table())
    for config, splits in report.sizes.items():
        if not any(size.n_rows for size in splits.values()):
            say(f"{config} has no rows: load_dataset reads it with streaming=True only.")
    return 0
