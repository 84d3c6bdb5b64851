"""`reflectevo-data import`: reads the upstream files or dataset into a run directory."""

from __future__ import annotations

import argparse

from ..arguments import add_verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE|HUB_ID", help="raw, D+, D± and Dpref rows, in any mixture")
    parser.add_argument("--source", default="", metavar="NAME", help="the rows' source, where they do not say it")
    parser.add_argument("--keep-labels", action="store_true", help="take the stored labels without verifying them")
    add_verification(parser)
    parser.add_argument("--output", required=True, metavar="RUN", help="the run directory")


def run(args: argparse.Namespace) -> int:
    from ...console import print_table, say
    from ...upstream.importer import import_run
    from ...verifiers.pool import VerifierPool

    with VerifierPool(args.verifier_workers, allow_unsandboxed_code=args.allow_unsandboxed_code) as verifier:
        report = import_run(
            args.files, args.output, verifier=None if args.keep_labels else verifier, source=args.source
        )
    print_table(str(args.output), ("", ""), report.table())
    for place in report.left_out:
        say(f"left out: {place}")
    return 0
