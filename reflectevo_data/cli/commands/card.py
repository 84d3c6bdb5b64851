"""`reflectevo-data card`: renders the card of a built dataset anew."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", help="a folder that `build` made; what a person wrote stays")


def run(args: argparse.Namespace) -> int:
    from ...dataset.build import write_dataset_card

    print(write_dataset_card(args.dataset))  # noqa: T201
    return 0
