"""Raw rows -> the statistics table of the paper, per task and in total: `reflectevo-data stats DIR`.

A sample is a reflection on a failed first trial, with its second trial. Lengths are means over the samples. Build and
`stats` count with the same functions, the one while it writes the records, the other from the published Parquet files.
"""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..console import NOTHING, markdown_table, percent
from ..curation.flat_trials import FlatTrials
from ..errors import InputError
from ..schema import CONFIGS


@dataclass(frozen=True, slots=True)
class LengthUnit:
    """What lengths are counted with.

    Attributes:
        description: Names it on the card and under the table.
        count: Texts (string array, no nulls) -> tokens of each (int array).
    """

    description: str
    count: Callable[[pa.StringArray], np.ndarray]


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """Counts of one task; tokens are sums, rates and means are properties.

    Attributes:
        n_questions: Raw rows; a question that several runs answered counts once a run.
        n_solved: First trials that are correct.
        n_samples: Reflections on a failed first trial whose requests all succeeded.
        n_corrected: Samples whose second trial is correct.
        n_unparsed: Samples whose second trial has no readable answer; they count as not corrected.
        engine_tokens_t1: As the engine counted them, in the tokens of the generator, reflector and corrector.
    """

    n_questions: int = 0
    n_solved: int = 0
    n_samples: int = 0
    n_corrected: int = 0
    n_unparsed: int = 0
    question_tokens: int = 0
    tokens_t1: int = 0
    reflection_tokens: int = 0
    tokens_t2: int = 0
    engine_tokens_t1: int = 0
    engine_reflection_tokens: int = 0
    engine_tokens_t2: int = 0

    def __add__(self, other: TaskStatistics) -> TaskStatistics:
        return TaskStatistics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def acc_t1(self) -> float | None:
        return self.n_solved / self.n_questions if self.n_questions else None

    @property
    def corrected_rate(self) -> float | None:
        return self.n_corrected / self.n_samples if self.n_samples else None

    def mean(self, tokens: str) -> float | None:
        """Mean over the samples of a token field, such as `reflection_tokens`."""
        return getattr(self, tokens) / self.n_samples if self.n_samples else None

    def engine_lengths(self) -> str:
        """Mean tokens of trials and reflections as the engines counted them, in words; empty when none did."""
        shown = {"trial 1": self.engine_tokens_t1, "reflection": self.engine_reflection_tokens}
        shown["trial 2"] = self.engine_tokens_t2
        return (
            ", ".join(f"{name} {n / self.n_samples:.1f}" for name, n in shown.items()) if any(shown.values()) else ""
        )


Statistics = dict[str, TaskStatistics]
"""By task, tasks in the order of their first row."""


def add(total: Statistics, part: Statistics) -> Statistics:
    """Both together."""
    return total | {task: total.get(task, TaskStatistics()) + counts for task, counts in part.items()}


def in_total(statistics: Statistics) -> TaskStatistics:
    """All tasks as one."""
    return sum(statistics.values(), TaskStatistics())


def statistics_of(batch: pa.RecordBatch, unit: LengthUnit) -> Statistics:
    """The counts of one batch of raw rows; of `output`, the columns in `OUTPUT_FIELDS` are enough."""
    flat = FlatTrials(batch)
    column, starts, row_of, is_sample = flat.column, flat.starts, flat.row_of, flat.samples
    is_correct = column("is_correct")
    n_samples = np.bincount(row_of[is_sample], minlength=batch.num_rows)
    sampled = np.flatnonzero(is_sample)
    reflected = np.flatnonzero(n_samples)  # rows that have samples

    def per_row(values: np.ndarray) -> np.ndarray:
        return np.bincount(row_of[is_sample], weights=values, minlength=batch.num_rows)

    def per_sample(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        spread = np.zeros(batch.num_rows)
        spread[rows] = values
        return spread * n_samples

    reasoning = flat.trials.field("reasoning")
    sums = {
        "n_questions": np.ones(batch.num_rows),
        "n_solved": is_correct[starts],
        "n_samples": n_samples,
        "n_corrected": per_row(is_correct[is_sample]),
        "n_unparsed": per_row((column("status") == "unparsed")[is_sample]),
        "question_tokens": per_sample(reflected, unit.count(batch.column("question").take(pa.array(reflected)))),
        "tokens_t1": per_sample(reflected, unit.count(reasoning.take(pa.array(starts[reflected])))),
        "reflection_tokens": per_row(unit.count(flat.reflections(sampled))),
        "tokens_t2": per_row(unit.count(reasoning.take(pa.array(sampled)))),
        "engine_tokens_t1": column("n_completion_tokens")[starts] * n_samples,
        "engine_reflection_tokens": per_row(column("n_reflection_tokens")[is_sample]),
        "engine_tokens_t2": per_row(column("n_completion_tokens")[is_sample]),
    }
    tasks = batch.column("task").dictionary_encode()
    task_of, names = tasks.indices.to_numpy(), tasks.dictionary.to_pylist()
    by_task = {name: np.bincount(task_of, weights=v, minlength=len(names)) for name, v in sums.items()}
    return {task: TaskStatistics(**{n: int(v[i]) for n, v in by_task.items()}) for i, task in enumerate(names)}


OUTPUT_FIELDS = (
    "trial",
    "reasoning",
    "is_correct",
    "reflections",
    "status",
    "finish_reason",
    "n_completion_tokens",
    "reflection_finish_reason",
    "n_reflection_tokens",
)


def dataset_statistics(folder: str | Path, unit: LengthUnit | None = None) -> Statistics:
    """The statistics of a built dataset, from its raw Parquet files.

    Raises:
        InputError: The folder has no raw records.
    """
    files = sorted((Path(folder) / "raw").glob("*.parquet"))
    if not files:
        raise InputError(f"{folder}: has no raw/*.parquet. Name a folder that `reflectevo-data build` wrote.")
    statistics: Statistics = {}
    columns = ["question", "task", *(f"output.list.element.{name}" for name in OUTPUT_FIELDS)]
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=4096, columns=columns, use_threads=False):
                statistics = add(statistics, statistics_of(batch, unit or WORDS))
    return statistics


def row_counts(folder: str | Path) -> dict[str, dict[str, int]]:
    """Rows of each config of a built dataset by task, from its Parquet files."""
    counts: dict[str, dict[str, int]] = {}
    for config in CONFIGS[1:]:
        by_task = counts.setdefault(config, {})
        for file in sorted((Path(folder) / config).glob("*.parquet")):
            for entry in pq.read_table(file, columns=["task"]).column("task").value_counts().to_pylist():
                by_task[entry["values"]] = by_task.get(entry["values"], 0) + entry["counts"]
    return counts


def table(statistics: Statistics, counts: Mapping[str, Mapping[str, int]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table, one row a task and a last one in total; `counts` as from `row_counts`."""
    columns = ["Task", "Questions", "Acc@t1", "Samples", "Corrected", "Question", "Trial 1", "Reflection", "Trial 2"]
    rows: list[list[str]] = []
    for task, entry in sorted(statistics.items()):
        rows.append(_table_row(task or "(none)", entry, [by_task.get(task, 0) for by_task in counts.values()]))
    if len(statistics) != 1:
        totals = [sum(by_task.values()) for by_task in counts.values()]
        rows.append(_table_row("**Total**", in_total(statistics), totals))
    return [*columns, "D+", "D±", "Dpref"], rows


def _table_row(task: str, entry: TaskStatistics, n_rows: Sequence[int]) -> list[str]:
    lengths = ("question_tokens", "tokens_t1", "reflection_tokens", "tokens_t2")
    return [
        task,
        f"{entry.n_questions:,}",
        percent(entry.acc_t1),
        f"{entry.n_samples:,}",
        percent(entry.corrected_rate),
        *(_mean(entry.mean(tokens)) for tokens in lengths),
        *(f"{n:,}" for n in n_rows),
    ]


def stats_table(folder: str | Path, unit: LengthUnit | None = None) -> str:
    """The table of a built dataset as text, with the tokenizer that its lengths are counted with."""
    columns, rows = table(dataset_statistics(folder, unit), row_counts(folder))
    return f"{markdown_table(columns, rows)}\n\nLengths: means over the samples, in {(unit or WORDS).description}.\n"


def load_length_unit(name_or_folder: str) -> LengthUnit:
    """A Hugging Face tokenizer as the unit of length: a Hub id, or a folder with a tokenizer.json.

    Raises:
        InputError: It cannot be loaded, or the `tokenizers` package is missing.
    """
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            f"--tokenizer {name_or_folder}: needs the package tokenizers (pip install tokenizers)."
        ) from None
    path = Path(name_or_folder) / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        else:
            tokenizer = tokenizers.Tokenizer.from_pretrained(name_or_folder)
    except Exception as error:  # the bindings raise bare Exception, and the Hub client many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"--tokenizer {name_or_folder}: cannot be loaded ({reason}).") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: pa.StringArray) -> np.ndarray:
        encodings = tokenizer.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        return np.fromiter(map(len, encodings), np.int64, len(texts))

    return LengthUnit(
        f"tokens of the tokenizer {Path(name_or_folder).name if path.is_file() else name_or_folder}", count
    )


_SPACE, _WORD, _MARK = 0, 1, 2
_BYTE_CLASS = np.array(
    [_WORD if b >= 0x80 or chr(b).isalnum() else _SPACE if b <= 0x20 or b == 0x7F else _MARK for b in range(256)],
    dtype=np.uint8,
)


def count_words(texts: pa.StringArray) -> np.ndarray:
    """Words and punctuation marks of each text: a run of letters, digits and non-ASCII characters, or one other mark.

    Works on the bytes of the whole array at once: 460,000 records take seconds, a regular expression takes minutes.

    >>> count_words(pa.array(["Add 7, then stop.", ""])).tolist()
    [6, 0]
    """
    if not len(texts):
        return np.zeros(0, np.int64)
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    start, end = int(offsets[0]), int(offsets[-1])
    offsets = offsets - start
    if start == end:
        return np.zeros(len(texts), np.int64)
    classes = _BYTE_CLASS[np.frombuffer(data, np.uint8)[start:end]]
    begins = classes == _WORD
    begins[1:] &= classes[:-1] != _WORD
    firsts = offsets[:-1][np.diff(offsets) > 0]
    begins[firsts] = classes[firsts] == _WORD  # a text begins anew, whatever the text before it ended with
    begins |= classes == _MARK
    n_before = np.searchsorted(np.flatnonzero(begins), offsets)
    return np.diff(n_before)


WORDS = LengthUnit("words and punctuation marks", count_words)


def _mean(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
