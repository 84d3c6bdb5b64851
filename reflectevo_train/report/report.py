"""Evaluations -> a comparison for people: a Markdown file, and one HTML page that needs nothing else.

    reflectevo-train report base=eval-base sft=eval-sft --output comparison

writes `comparison.md` and `comparison.html`: the results table in the paper's form, paired tests, plots, and a reader of
examples. The first evaluation is the one that the others are compared with.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from reflectevo_data.cli.arguments import add_engine, positive
from reflectevo_data.console import NOTHING, points
from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.manifest import Loop, RoleModels, RunSampling

from ..evaluation.comparison import Metric, PairedTest, answers_of, compare, settings_that_differ
from ..evaluation.intervals import holm
from ..evaluation.tables import GATE_MEANINGS, Table, result_cells
from .plots import Curve, Plot, accuracy_plot, correction_by_axis, correction_by_length, learning_curves
from .reader import examples_data, packed
from .runs import ComparedRun, load_runs, named_folders


EXPLANATION = (
    "Intervals are Wilson's at 95 %. Acc@t2 is oracle-gated, as in the paper: the verifier, which knows the gold answer, "
    "decides who reflects, so a problem that is solved at trial 1 carries into Acc@t2. Ungated is what is delivered "
    "without it: an answer that was right can be lost. An answer that cannot be read counts as wrong."
)
TESTS_EXPLANATION = (
    "On the problems that both runs have. p: McNemar's exact test, two-sided; p (Holm) is adjusted for the number of "
    "tests in this table. The interval of the difference is a bootstrap over problems, or over stories and passages where "
    "several problems share one (10,000 resamples)."
)
METRICS: dict[Metric, str] = {"t1": "Acc@t1", "t2": "Acc@t2", "t2_ungated": "Acc@t2 ungated"}


class Report(NamedTuple):
    """Everything that both forms show."""

    title: str
    runs: list[ComparedRun]
    results: Table
    by_task: Table | None
    settings: Table
    tests: Table | None
    notes: list[str]
    plots: list[Plot]
    curves: list[Curve]
    error_types: Table | None
    error_types_note: str


def make_report(
    runs: list[ComparedRun],
    *,
    title: str = "ReflectEvo evaluation",
    training: Mapping[str, Path] | None = None,
    error_types: Any = None,
) -> Report:
    """The tables and plots of these runs.

    Args:
        runs: The first is the baseline.
        title: Of the page.
        training: Name -> output folder of training runs, for their learning curves.
        error_types: What `error_types.count_error_types` gave, if first trials were labelled.
    """
    notes = []
    manifests = [run.evaluation.manifest for run in runs]
    if different := settings_that_differ(manifests):
        notes.append(f"The runs differ in more than their models: {', '.join(different)}.")
    if failed := [run.name for run in runs if run.evaluation.scores.total.n_failed]:
        notes.append(f"Problems whose requests failed are in no number of {', '.join(failed)}; evaluate again.")
    if own := [run.name for run in runs if run.evaluation.scores.total.gate == "self"]:
        notes.append(f"{', '.join(own)}: the model decides what it reflects on; what stands as ungated is self-gated.")
    plots = [accuracy_plot("Acc@t1 → Acc@t2", [(run.name, run.evaluation.scores.total) for run in runs])]
    for task in _groups(runs):
        reports = [(run.name, _by_group(run)[task]) for run in runs if task in _by_group(run)]
        if len(_groups(runs)) > 1:
            plots.append(accuracy_plot(task, reports))
    for run in runs:
        plots += [plot for plot in (correction_by_length(run.name, run.rows),) if plot]
        plots += correction_by_axis(run.name, run.rows)
    return Report(
        title=title,
        runs=runs,
        results=_results(runs),
        by_task=_by_task(runs) if len(_groups(runs)) > 1 else None,
        settings=_settings(runs),
        tests=_tests(runs),
        notes=notes,
        plots=plots,
        curves=learning_curves(training or {}),
        error_types=error_types.table() if error_types else None,
        error_types_note=error_types.note() if error_types else "",
    )


def markdown(report: Report) -> str:
    """The report without its plots and examples."""
    parts = [f"# {report.title}", "## Results", report.results.markdown(), EXPLANATION, *report.notes]
    if report.by_task:
        parts += ["### By task", report.by_task.markdown()]
    parts += ["### What was run", report.settings.markdown()]
    if report.tests:
        parts += ["## Paired tests", report.tests.markdown(), TESTS_EXPLANATION]
    parts.append("## Correction")
    for plot in report.plots:
        if plot.kind == "correction":
            parts += [f"**{plot.title}** {plot.note}".strip(), plot.table().markdown()]
    if parts[-1] == "## Correction":
        parts.pop()
    for curve in report.curves:
        parts += [f"**{curve.title}**", curve.table().markdown()]
    if report.error_types:
        parts += ["## Why first trials failed", report.error_types.markdown(), report.error_types_note]
    return "\n\n".join(parts) + "\n"


def html(report: Report, *, max_examples: int = 5_000) -> str:
    """The page: no request goes out from it, and its Content-Security-Policy forbids any."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        resources.files("reflectevo_train.report").joinpath("page.jinja").read_text("utf-8")
    )
    examples = examples_data([(run.name, run.rows) for run in report.runs], max_examples=max_examples)
    n = len(examples["examples"])
    notes = list(report.notes)
    if n < (total := sum(len(run.rows) for run in report.runs)):
        notes.append(f"The reader has {n:,} of {total:,} examples, the same problems of every run.")
    return template.render(
        title=report.title,
        results=report.results,
        by_task=report.by_task,
        by_task_title="By task",
        settings=report.settings,
        tests=report.tests,
        explanation=EXPLANATION,
        tests_explanation=TESTS_EXPLANATION,
        notes=notes,
        plots=report.plots,
        curves=report.curves,
        error_types=report.error_types,
        error_types_note=report.error_types_note,
        n_examples=n,
        packed_examples=Markup(packed(examples)),
    )


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `reflectevo-train report`."""
    command.add_argument(
        "evaluations", nargs="+", metavar="[NAME=]DIR", help="folders of `evaluate`; the first is the baseline"
    )
    command.add_argument("--output", required=True, metavar="REPORT", help="REPORT.md and REPORT.html are written")
    command.add_argument("--title", default="ReflectEvo evaluation", help="(%(default)s)")
    command.add_argument(
        "--training", nargs="+", default=[], metavar="[NAME=]DIR", help="training runs, for their learning curves"
    )
    command.add_argument(
        "--max-examples", type=positive, default=5_000, metavar="N", help="in the reader (%(default)s)"
    )
    group = command.add_argument_group("error types: a model labels why first trials failed")
    group.add_argument("--error-types", metavar="ID|DIR", help="the labelling model; labels are kept in each DIR")
    group.add_argument(
        "--error-types-limit", type=positive, default=200, metavar="N", help="failed trials of each run (%(default)s)"
    )
    add_engine(group)


def run(args: argparse.Namespace) -> int:
    """Runs `reflectevo-train report`."""
    output = Path(args.output)
    if output.suffix in (".html", ".md"):
        output = output.with_suffix("")
    runs = load_runs(args.evaluations)
    error_types = None
    if args.error_types:
        from .error_types import label_runs

        error_types = label_runs(runs, args)
    report = make_report(runs, title=args.title, training=named_folders(args.training), error_types=error_types)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        written = [output.with_name(f"{output.name}.md"), output.with_name(f"{output.name}.html")]
        written[0].write_text(markdown(report), "utf-8")
        written[1].write_text(html(report, max_examples=args.max_examples), "utf-8")
    except OSError as error:
        raise InputError(
            f"--output {args.output}: cannot be written ({error.strerror}). Name another place."
        ) from None
    print("\n".join(map(str, written)))  # noqa: T201
    return 0


def _by_group(run: ComparedRun) -> dict[str, Any]:
    scores = run.evaluation.scores
    return scores.tasks or scores.sources


def _groups(runs: Sequence[ComparedRun]) -> list[str]:
    return sorted({group for run in runs for group in _by_group(run)})


def _results(runs: Sequence[ComparedRun]) -> Table:
    columns = ("run", "problems", "Acc@t1", "Acc@t2", "Δ", "Acc@t2 ungated", "Δ ungated")
    columns += ("wrong → right", "right → wrong", "unparsed t1, t2", "failed")
    totals = [(run.name, run.evaluation.scores.total) for run in runs]
    rows = [(name, *result_cells(total), f"{total.n_failed:,}") for name, total in totals]
    return Table(columns, rows)


def _by_task(runs: Sequence[ComparedRun]) -> Table:
    """The paper's form: a row a run, and Acc@t1, Acc@t2 and Δ for each task."""
    groups, rows = _groups(runs), []
    for run in runs:
        row = [run.name]
        for group in groups:
            report = _by_group(run).get(group)
            if report is None:
                row += [NOTHING] * 3
            else:
                second = report.acc_t2 if report.gate != "self" else report.acc_t2_ungated
                delta = report.delta if report.gate != "self" else report.delta_ungated
                row += [_plain(report.acc_t1), _plain(second), points(delta)]
        rows.append(row)
    return Table(("run", *["Acc@t1", "Acc@t2", "Δ"] * len(groups)), rows, [(group, 3) for group in groups])


def _plain(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _settings(runs: Sequence[ComparedRun]) -> Table:
    columns = ("run", "questions", "model", "reflector", "corrector", "setting", "gate", "rounds", "vote", "sampling")
    rows = []
    for run in runs:
        manifest = run.evaluation.manifest
        source, loop = manifest.source, manifest.loop or Loop()
        models, sampling = manifest.models or RoleModels(), manifest.sampling or RunSampling()
        temperatures = {sampling.temperature, sampling.reflection_temperature} - {None}
        gate = run.evaluation.scores.total.gate
        rows.append(
            (
                run.name,
                " ".join(part for part in (source.name, source.split) if part),
                models.generator,
                models.reflector,
                models.corrector,
                loop.setting.replace("_", " "),
                f"{gate}: {GATE_MEANINGS[gate]}",
                str(loop.rounds),
                str(loop.n_reflections),
                f"T = {', '.join(f'{t:g}' for t in sorted(temperatures))}, seed {loop.seed}",
            )
        )
    return Table(columns, rows)


def _tests(runs: Sequence[ComparedRun]) -> Table | None:
    """Every run against the first one, and each run's delivered answers against its own first trials."""
    named: list[tuple[str, str, PairedTest]] = []
    for run in runs[1:]:
        for metric in METRICS:
            if all(_has(one, metric) for one in (runs[0], run)):
                test = compare(answers_of(runs[0].rows, metric), answers_of(run.rows, metric))
                if test:
                    named.append((f"{run.name} − {runs[0].name}", METRICS[metric], test))
    for run in runs:
        if _has(run, "t2_ungated"):
            test = compare(answers_of(run.rows, "t1"), answers_of(run.rows, "t2_ungated"))
            if test:
                named.append((run.name, "Acc@t2 ungated − Acc@t1", test))
    if not named:
        return None
    adjusted = holm([test.p_value for *_, test in named])
    rows = [
        (
            name,
            metric,
            f"{test.n:,}",
            f"{points(test.difference)} [{points(test.interval.low)}, {points(test.interval.high)}]",
            f"{test.n_only_b:,}",
            f"{test.n_only_a:,}",
            _p(test.p_value),
            _p(p),
        )
        for (name, metric, test), p in zip(named, adjusted, strict=True)
    ]
    return Table(("", "number", "problems", "difference, points", "gained", "lost", "p", "p (Holm)"), rows)


def _has(run: ComparedRun, metric: Metric) -> bool:
    gate = run.evaluation.scores.total.gate
    return metric == "t1" or gate != {"t2": "self", "t2_ungated": "oracle"}[metric]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
