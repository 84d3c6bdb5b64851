"""The evaluations that a report compares, each with its predictions and a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reflectevo_data.errors import InputError
from reflectevo_data.schema import Row

from ..evaluation.evaluate import PREDICTIONS, Evaluation, load_evaluation


class ComparedRun(NamedTuple):
    """An evaluation with its predictions, under the name that the report gives it."""

    name: str
    evaluation: Evaluation
    rows: list[Row]


def load_runs(arguments: Sequence[str]) -> list[ComparedRun]:
    """The evaluations, named by their folders or as `NAME=DIR`.

    Raises:
        InputError: A folder has no evaluation, or two have the same name.
    """
    evaluations = {name: load_evaluation(folder) for name, folder in named_folders(arguments).items()}
    return [ComparedRun(name, evaluation, _predictions(evaluation)) for name, evaluation in evaluations.items()]


def named_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """Folders under their own names, or as `NAME=DIR`.

    Raises:
        InputError: Two have the same name.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        name, separator, folder = argument.partition("=")
        if not separator or Path(argument).is_dir():
            name, folder = Path(argument).absolute().name, argument
        if name in folders:
            raise InputError(f"{argument}: there is a run named {name} already. Write NAME={folder}.")
        folders[name] = Path(folder)
    return folders


def _predictions(evaluation: Evaluation) -> list[Row]:
    import pyarrow.parquet as pq

    path = evaluation.folder / PREDICTIONS
    if not path.is_file():
        raise InputError(f"{evaluation.folder}: no {PREDICTIONS}. Evaluate again to write it.")
    return pq.read_table(path).to_pylist()
