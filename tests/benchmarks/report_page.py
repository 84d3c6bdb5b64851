"""How long the report's page takes to load in headless Chromium, with 5,000 examples and with none.

    python -m tests.benchmarks.report_page [--examples 5000] [--repeats 5]

Prints the page's size, and medians: wall seconds until its load event and until the reader shows an example, and seconds
that its renderer worked until then.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from reflectevo_train.report.report import html, make_report
from reflectevo_train.report.runs import load_runs
from tests.browser import chromium, console, requests, wait_for_examples
from tests.train.evaluations import make_evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n = args.examples // 2
        make_evaluation(folder / "base", n=n, seed=1, n_words=150)
        make_evaluation(folder / "trained", n=n, seed=2, corrects=0.7, n_words=150)
        report = make_report(load_runs([str(folder / "base"), str(folder / "trained")]))
        for shown in (args.examples, 2):
            page = folder / f"{shown}.html"
            page.write_text(html(report, max_examples=shown), "utf-8")
            loads, readers, works = [], [], []
            for _ in range(args.repeats):
                with chromium() as browser:
                    browser.execute_cdp_cmd("Performance.enable", {})
                    browser.get(page.as_uri())
                    wait_for_examples(browser)
                    [timing] = browser.execute_script("return performance.getEntriesByType('navigation')")
                    [mark] = browser.execute_script("return performance.getEntriesByType('mark')")
                    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
                    loads.append(timing["loadEventEnd"] / 1000)
                    readers.append(mark["startTime"] / 1000)
                    works.append(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))
                    assert not console(browser)
                    assert {a for a in requests(browser) if a.startswith(("http", "file"))} == {page.as_uri()}
            print(  # noqa: T201
                f"{shown:,} examples, {page.stat().st_size / 1e6:.1f} MB: loaded in {statistics.median(loads):.2f} s, "
                f"an example shown in {statistics.median(readers):.2f} s, renderer at work {statistics.median(works):.2f} s"
            )


if __name__ == "__main__":
    main()
