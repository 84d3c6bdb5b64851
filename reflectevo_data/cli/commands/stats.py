"""`reflectevo-data stats`: prints the statistics of a built dataset."""

from __future__ import annotations

import argparse
import sys

from ..arguments import add_length_unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", help="a folder that `build` made")
    add_length_unit(parser)


def run(args: argparse.Namespace) -> int:
    from ...dataset.statistics import load_length_unit, stats_table

    sys.stdout.write(stats_table(args.dataset, load_length_unit(args.tokenizer) if args.tokenizer else None))
    return 0
