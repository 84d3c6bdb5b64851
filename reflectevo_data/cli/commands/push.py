"""`reflectevo-data push`: publishes a built dataset on the Hub."""

from __future__ import annotations

import argparse

from ..arguments import add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", help="a folder that `build` made")
    add_repository(parser, what="dataset")


def run(args: argparse.Namespace) -> int:
    from ...dataset.push import push_dataset

    print(push_dataset(args.dataset, args.repo_id, private=args.private, revision=args.revision))  # noqa: T201
    return 0
