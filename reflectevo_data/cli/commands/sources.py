"""`reflectevo-data sources`: lists the sources, or previews problems of one."""

from __future__ import annotations

import argparse

from ..arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME|FILE", help="a source, a group of sources or a file")
    parser.add_argument("--split", default="train", help="its split (default: %(default)s)")
    parser.add_argument("--source-file", metavar="FILE", help="read the source's rows from FILE, not from the Hub")
    parser.add_argument("--preview", type=positive, default=3, metavar="N", help="problems shown (%(default)s)")


def run(args: argparse.Namespace) -> int:
    from ...console import print_table
    from ...sources.load import load_problems, sources_table

    if args.name is None:
        columns, rows = sources_table()
        print_table("Sources", columns, rows)
        return 0
    for problem in load_problems(args.name, split=args.split, limit=args.preview, source_file=args.source_file):
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
