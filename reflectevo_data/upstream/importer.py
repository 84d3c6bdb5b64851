"""Upstream's files or its dataset on the Hub -> our records: `reflectevo-data import FILE…|HUB_ID --output RUN`.

Rows are read as a stream, mended (`repair.py`), brought into one form (`rows.py`), and those that belong to one
first trial become one record (`merging.py`): raw rows, D+ rows, and D± and Dpref pairs of the same trial complete each
other. Larger inputs are spread over temporary files by question, so that memory holds a part at a time. Labels are
verified anew, prompts recorded after the answer are cut, and everything that was changed or left out is counted in the
report.
"""

from __future__ import annotations

import fnmatch
import itertools
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError, one_line
from ..parsing.trial import parse_trial
from ..rollouts.manifest import Manifest, QuestionSource
from ..rollouts.store import Preferences, RunDirectory
from ..schema import (
    Completion,
    PreferenceRow,
    Problem,
    RawRow,
    Reflection,
    Rollout,
    SecondTrial,
    Trial,
    Verdict,
    raw_row,
)
from ..sources.reading import read_records
from ..sources.table import SOURCES
from ..verifiers.leaks import leaks_answer
from .merging import Merged, merge, spread
from .repair import cut_prompt, cut_stated_gold, cut_verdict, repair_text
from .rows import Attempt, NotRecognisedError, Stored, attempts


if TYPE_CHECKING:
    from ..verifiers.pool import VerifierPool

logger = logging.getLogger(__name__)

READ_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
JUDGE = "upstream"  # who ranked the imported Dpref pairs
_PART_BYTES = 64 << 20  # input of one part; merged records take a few times as much memory
_MAX_PARTS = 256  # each is an open file while the input is read
_BATCH = 256  # records verified at a time
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 20


class Imported(NamedTuple):
    """One record, and what is known of pairs of its second trials."""

    row: RawRow
    preferences: list[PreferenceRow]


@dataclass
class ImportReport:
    """What was read, changed and left out.

    Attributes:
        counts: Of rows, records, repairs, …, by the words they are reported with.
        left_out: Places and reasons of rows and files that were not taken, the first twenty.
    """

    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str, where: str) -> None:
        """Counts one row or file that is not taken, and remembers the first ones."""
        self.counts[what] += 1
        if len(self.left_out) < _SHOWN:
            self.left_out.append(where)

    def table(self) -> list[tuple[str, str]]:
        """Rows for the command line, in the order in which the work is done."""
        return [(name, f"{self.counts[name]:,}") for name in _REPORTED if self.counts[name]]


_REPORTED = (
    "files read",
    "files not read",
    "rows read",
    "rows unreadable",
    "rows not recognised",
    "texts repaired (mojibake)",
    "verdicts cut from trials",
    "prompts cut (answer leak)",
    "prompts cut (gold stated)",
    "second trials without a reflection left out",
    "rows merged into another's record",
    "labels verified",
    "labels changed: stored correct, not so",
    "labels changed: stored wrong, correct",
    "labels kept: cannot be verified",
    "reflections that state the answer",
    "records",
    "second trials",
    "preferences",
    "preferences left out: a trial is not correct",
)


def import_run(
    sources: Sequence[str], output: str | Path, *, verifier: VerifierPool | None = None, source: str = ""
) -> ImportReport:
    """Writes the run directory `output` from files or Hub datasets; started again, it goes on where it was.

    Args:
        sources: Files, or Hub ids of datasets (`owner/name`).
        output: A run directory, as `build` takes it.
        verifier: Verifies the stored labels; None keeps them.
        source: Name of the source of all rows; by default as the rows or the file names say.

    Raises:
        InputError: Nothing can be read, no row is recognised, or the directory is of another run.
    """
    report = ImportReport()
    names = [name if _is_hub_id(name) else Path(name).name for name in sources]
    manifest = Manifest("import", QuestionSource(", ".join(names), label=source), verified=bool(verifier))
    preferences: list[PreferenceRow] = []
    with RunDirectory.open(output, manifest) as run:
        for row, of_row in import_records(sources, verifier=verifier, source=source, report=report):
            preferences += of_row
            if row["id"] not in run.done:
                run.append(row)
    if preferences:
        with Preferences(output) as stored:
            there = {(p["id"], p["chosen"], p["rejected"]) for p in stored.rows}
            for preference in preferences:
                if (preference["id"], preference["chosen"], preference["rejected"]) not in there:
                    stored.append(preference)
    return report


def import_records(
    sources: Sequence[str],
    *,
    verifier: VerifierPool | None = None,
    source: str = "",
    report: ImportReport | None = None,
    part_bytes: int = _PART_BYTES,
) -> Iterator[Imported]:
    """The records of files or Hub datasets, one a first trial, counted in `report`.

    The order is that of the input when it is small (`part_bytes`), else by parts; it is the same on every run.

    Raises:
        InputError: A file or dataset cannot be read, or not one row is recognised.
    """
    report = ImportReport() if report is None else report
    files = list(itertools.chain.from_iterable(_files(name, report) for name in sources))
    if not files:
        raise InputError(f"{', '.join(sources)}: found no file to read, expected {', '.join(READ_SUFFIXES)}.")
    n_parts = min(1 + sum(file.path.stat().st_size for file in files) // part_bytes, _MAX_PARTS)
    with ExitStack() as stack:
        parts: Iterable[Iterable[Attempt]]
        found = _read_attempts(files, report, source=source)
        if n_parts == 1:
            parts = [found]
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reflectevo-import-")))
            parts = spread(found, folder, n_parts)
        for part in parts:
            merged = merge(part, report.counts)
            while batch := list(itertools.islice(merged, _BATCH)):
                yield from _records(batch, verifier, report)
    if not report.counts["records"]:
        reasons = "; ".join(report.left_out[:3])
        raise InputError(
            f"{', '.join(sources)}: no row is recognised ({reasons}). Expected raw, D+, D± or Dpref rows of ReflectEvo."
        )


class _File(NamedTuple):
    path: Path
    name: str  # as it is shown: without the folders of a cache


def _files(name: str, report: ImportReport) -> list[_File]:
    path = Path(name)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        files = [_File(p, str(p)) for p in found if p.suffix.lower() in READ_SUFFIXES]
        others = [str(p) for p in found if p.suffix.lower() not in READ_SUFFIXES]
    elif path.is_file() or not _is_hub_id(name):
        return [_File(path, name)] if path.is_file() else _missing(name)
    else:
        files, others = _hub_files(name)
    for other in others:
        if Path(other).name not in (".gitattributes", "README.md", "LICENSE"):
            report.leave_out("files not read", f"{other}: no JSON, JSON lines or Parquet")
    return files


def _missing(name: str) -> list[_File]:
    raise InputError(f"{name}: no such file. Expected a file, a folder or the Hub id of a dataset (owner/name).")


def _is_hub_id(name: str) -> bool:
    return not Path(name).exists() and bool(_HUB_ID.fullmatch(name)) and not name.lower().endswith(READ_SUFFIXES)


def _hub_files(repo_id: str) -> tuple[list[_File], list[str]]:
    """Every file of a dataset repository that can hold rows, downloaded or from the cache; the names of the others."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    http_error: Any = HfHubHTTPError.__base__  # of the HTTP library that this huggingface_hub is built on
    patterns = [f"*{suffix}" for suffix in READ_SUFFIXES]
    try:
        others = [
            path
            for path in HfApi().list_repo_files(repo_id, repo_type="dataset")
            if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
        ]
    except (OfflineModeIsEnabled, OSError, http_error):
        others = []  # the download below finds the cache, or says what is wrong
    try:
        folder = Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError, http_error) as error:
        reason = one_line(error).rstrip(".")
        raise InputError(
            f"{repo_id}: no such file, and the dataset cannot be read from the Hub ({reason}). Check the name, the "
            "network, HF_ENDPOINT and HF_TOKEN."
        ) from error
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in READ_SUFFIXES)
    return [_File(path, f"{repo_id}/{path.relative_to(folder)}") for path in paths], others


def _read_attempts(files: Sequence[_File], report: ImportReport, *, source: str) -> Iterator[Attempt]:
    """Every attempt of every file, texts mended, in order."""
    for file in files:
        report.counts["files read"] += 1
        name = source or _source_of(file.name)
        recognised = 0
        for line, row, error in read_records(file.path):
            report.counts["rows read"] += 1
            where = f"{file.name}:{line}"
            if error:
                report.leave_out("rows unreadable", f"{where}: {error}")
                continue
            try:
                for attempt in attempts(_mended(row, report.counts)):
                    recognised += 1
                    report.counts["second trials without a reflection left out"] += attempt.n_without_reflection
                    yield replace(attempt, source=attempt.source or name)
            except NotRecognisedError as reason:
                report.leave_out("rows not recognised", f"{where}: {reason}")
            except RecursionError:
                report.leave_out("rows not recognised", f"{where}: found a row nested too deep")
        if not recognised:
            logger.warning("%s: no row recognised", file.name)


def _mended(value: Any, counts: Counter[str]) -> Any:
    """A row with every text in it repaired."""
    if isinstance(value, str):
        repaired = repair_text(value)
        counts["texts repaired (mojibake)"] += repaired != value
        return repaired
    if isinstance(value, list):
        return [_mended(item, counts) for item in value]
    if isinstance(value, dict):
        return {key: _mended(item, counts) for key, item in value.items()}
    return value


def _source_of(name: str) -> str:
    """A source's name where the file's says it: `data/logiqa_train.jsonl` is of `logiqa`."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "bigbenchfree" in words or "bigbench-free" in name.lower() or "bigbench_free" in name.lower():
        return "bigbench-free"
    return next((word for word in words if word in SOURCES or word == "bigbench"), "")


def _records(batch: Sequence[Merged], verifier: VerifierPool | None, report: ImportReport) -> Iterator[Imported]:
    """The records of merged attempts, labels verified together."""
    trials = [(merged.problem, trial) for merged in batch for trial in (merged.first, *merged.seconds)]
    verdicts = iter(_verdicts(trials, verifier))
    for merged in batch:
        yield _record(merged, [next(verdicts) for _ in range(1 + len(merged.seconds))], report)


def _verdicts(trials: Sequence[tuple[Problem, Stored]], verifier: VerifierPool | None) -> list[Verdict | None]:
    """A verdict a trial; None where none can be had.

    A trial whose text shows no answer though one was stored is judged by the stored one.
    """
    verdicts: list[Verdict | None] = [None] * len(trials)
    if verifier is None:
        return verdicts
    usable: dict[str, bool] = {}
    for problem, _ in trials:
        if problem.id not in usable:
            usable[problem.id] = _is_verifiable(problem, verifier)
    places = [i for i, (problem, _) in enumerate(trials) if usable[problem.id]]
    for text_of in (lambda problem, stored: stored.reasoning, _stored_answer):
        places = [i for i in places if verdicts[i] is None or _is_unparsed(verdicts[i])]
        places = [i for i in places if text_of(*trials[i]).strip()]
        texts, problems = [text_of(*trials[i]) for i in places], [trials[i][0] for i in places]
        for i, verdict in zip(places, verifier.verify_many(texts, problems), strict=True):
            verdicts[i] = verdict
    return verdicts


def _is_unparsed(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status == "unparsed"


def _is_verifiable(problem: Problem, verifier: VerifierPool) -> bool:
    try:
        verifier.preflight([problem])
    except InputError as error:  # no gold or tests in the data, or no sandbox on this machine: the label is kept
        logger.info("%s", error)
        return False
    return True


def _stored_answer(problem: Problem, stored: Stored) -> str:
    """The stored answer in the form that the parser reads."""
    if not stored.answer.strip():
        return ""
    forms = {"math": "Action: Finish<<<{}>>>", "code": "Action: [BEGIN]\n{}\n[END]"}
    return forms.get(problem.answer_type, "Action: Finish[{}]").replace("{}", stored.answer)


def _record(merged: Merged, verdicts: Sequence[Verdict | None], report: ImportReport) -> Imported:
    counts, problem = report.counts, merged.problem
    stored = (merged.first, *merged.seconds)
    trials = [
        _trial(problem, one, verdict, merged.first, counts) for one, verdict in zip(stored, verdicts, strict=True)
    ]
    generator = merged.first.model or "unknown"
    reflectors = Counter(second.reflector for second in merged.seconds if second.reflector)
    correctors = Counter(second.model for second in merged.seconds if second.model)
    row = raw_row(
        Rollout(
            problem=problem,
            trial_1=trials[0].trial,
            second_trials=tuple(trials[1:]),
            generator=generator,
            reflector=reflectors.most_common(1)[0][0] if reflectors else generator,
            corrector=correctors.most_common(1)[0][0] if correctors else generator,
            seed=0,
        )
    )
    for output, one in zip(row["output"], stored, strict=True):  # trials of one record may be of different models
        output["reasoning_source"] = one.model or generator
        output["reflection_source"] = (one.reflector or generator) if output["reflections"] else ""
    preferences: list[PreferenceRow] = []
    for chosen, rejected in dict.fromkeys(merged.pairs):
        if trials[chosen + 1].trial.verdict.is_correct and trials[rejected + 1].trial.verdict.is_correct:
            preferences.append({"id": problem.id, "chosen": chosen + 1, "rejected": rejected + 1, "judge": JUDGE})
        elif merged.seconds[rejected].label:
            counts["preferences left out: a trial is not correct"] += 1
    counts["records"] += 1
    counts["second trials"] += len(merged.seconds)
    counts["preferences"] += len(preferences)
    return Imported(row, preferences)


def _trial(
    problem: Problem, stored: Stored, verdict: Verdict | None, first: Stored, counts: Counter[str]
) -> SecondTrial:
    """One trial of a record, with the reflection that it was made from; the first one's is empty."""
    is_first = stored is first
    reasoning, was_cut = cut_verdict(stored.reasoning)
    counts["verdicts cut from trials"] += was_cut
    parsed = parse_trial(reasoning, problem)
    if verdict is None:
        counts["labels kept: cannot be verified"] += 1
        answer = stored.answer.strip() or parsed.answer or ""
        correct = bool(stored.label)
        status = "correct" if correct else "incorrect" if answer else "unparsed"
        verdict = Verdict(status, answer, "" if correct else "as stored, not verified", float(correct))
    else:
        counts["labels verified"] += 1
        counts["labels changed: stored correct, not so"] += stored.label is True and not verdict.is_correct
        counts["labels changed: stored wrong, correct"] += stored.label is False and verdict.is_correct
    leaks = not is_first and leaks_answer(stored.reflection, problem, first.reasoning)
    counts["reflections that state the answer"] += leaks
    prompt, prefill, reflection_prompt = _prompts(problem, stored, first, counts)
    return SecondTrial(
        Reflection("" if is_first else stored.instruction, reflection_prompt, Completion(stored.reflection), leaks),
        Trial(prompt, prefill, Completion(reasoning), parsed.reasoning, verdict),
    )


def _prompts(problem: Problem, stored: Stored, first: Stored, counts: Counter[str]) -> tuple[str, str, str]:
    """Prompt, prefill and reflection prompt of a trial, each without what was written after it was sent."""
    before = () if stored is first else (first.reasoning,)
    prompt, prefill = stored.prompts[0] if stored.prompts else "", ""
    if len(stored.prompts) > 1 and stored.reasoning.lstrip().startswith(stored.prompts[1].strip()):
        prefill = stored.prompts[1]  # what a second call was made to continue
    prompt, cut = cut_prompt(prompt, question=problem.question, later=[stored.reasoning], before=before)
    reflection_prompt, reflection_cut = "", False
    if stored is not first:
        later = [stored.reflection, stored.reasoning]
        reflection_prompt, reflection_cut = cut_prompt(
            stored.reflection_prompt, question=problem.question, later=later, before=before
        )
    counts["prompts cut (answer leak)"] += cut + reflection_cut
    prompt, stated = cut_stated_gold(prompt, question=problem.question, gold=problem.answer)
    reflection_prompt, reflection_stated = cut_stated_gold(
        reflection_prompt, question=problem.question, gold=problem.answer
    )
    counts["prompts cut (gold stated)"] += stated + reflection_stated
    return prompt, prefill, reflection_prompt
