"""`reflectevo-data show`: loads a config with `load_dataset` and shows rows of it."""

from __future__ import annotations

import argparse

from ...curation.splits import SPLITS
from ...schema import CONFIGS
from ..arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", help="a folder that `build` made")
    parser.add_argument("--config", choices=CONFIGS, default="dpref", help="(%(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="(%(default)s)")
    parser.add_argument("--rows", type=positive, default=1, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--all", action="store_true", help="the prompt columns too")


def run(args: argparse.Namespace) -> int:
    import datasets

    from ...console import bars_are_shown, print_table, say
    from ...dataset.build import load_build

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
