"""The run directory: append-only, one record a problem the moment it is done, resumable after any death.

    RUN/manifest.json      what made the run: models, sampling, prompts' hash, seed, versions
    RUN/records.jsonl      one `raw` row a line
    RUN/failures.jsonl     requests that failed: made again on resume, kept as a log
    RUN/preferences.jsonl  the judge's verdicts on pairs of reflections

A line counts once its newline is on disk. `load_rows(RUN)` reads a run; `RunDirectory.open(RUN, manifest)` writes one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import filelock
import orjson

from ..errors import InputError
from ..schema import COLUMNS, FailedRollout, PreferenceRow, RawRow
from .manifest import MANIFEST, Manifest, git_revision, load_manifest, running_versions


RECORDS, FAILURES, PREFERENCES = "records.jsonl", "failures.jsonl", "preferences.jsonl"


class RunDirectory:
    """One writer's hold on a run directory.

    Attributes:
        done: Ids that have a record.
    """

    def __init__(self, path: Path, lock: filelock.BaseFileLock, done: set[str]) -> None:
        self.path = path
        self.done = done
        self._lock = lock
        self._records = open(path / RECORDS, "ab", buffering=0)  # noqa: SIM115
        self._failures = open(path / FAILURES, "ab", buffering=0)  # noqa: SIM115

    @classmethod
    def open(cls, path: str | os.PathLike[str], manifest: Manifest) -> Self:
        """The directory, locked, made or resumed: a half-written last line is dropped, whole ones are kept.

        The manifest is written with the versions and the revision that run now.

        Raises:
            InputError: Another process writes to it, it was made with another configuration (with the differences), or
                it holds something that is no run.
        """
        path = Path(path)
        if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).exists() and not _only_ours(path):
            raise InputError(f"{path}: not empty and not a run (no {MANIFEST}). Name another --output.")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{path}: a file, expected a folder. Name another --output.") from None
        except PermissionError:
            raise InputError(f"{path}: cannot be made (permission denied). Name another --output.") from None
        lock = _lock(path)
        try:
            if (path / MANIFEST).exists():
                _refuse_other_configuration(path, manifest)
            now = replace(manifest, versions=running_versions(), git_revision=git_revision())
            _write_whole(path / MANIFEST, orjson.dumps(now.to_dict(), option=orjson.OPT_INDENT_2))
            for name in (RECORDS, FAILURES):
                _drop_half_line(path / name)
            done = {row["id"] for row in load_rows(path)}
            return cls(path, lock, done)
        except BaseException:
            lock.release()
            raise

    def append(self, row: RawRow) -> None:
        """Writes one `raw` row; when this returns, killing the process does not lose it.

        Raises:
            ValueError: The id has a record already.
        """
        if row["id"] in self.done:
            raise ValueError(f"{self.path}: {row['id']} has a record already")
        _write_line(self._records, row)
        self.done.add(row["id"])

    def append_failure(self, failure: FailedRollout) -> None:
        """Logs a problem whose request failed."""
        _write_line(self._failures, {"id": failure.problem.id, "step": failure.step, "error": failure.error})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._records, self._failures):
            os.fsync(file.fileno())
            file.close()
        self._lock.release()


class Preferences:
    """The judge's hold on a run's preferences, with the same promises as `RunDirectory`."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        load_manifest(run)
        self.path = Path(run) / PREFERENCES
        self._lock = _lock(Path(run))
        _drop_half_line(self.path)
        self.rows = load_preferences(run)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def append(self, row: PreferenceRow) -> None:
        _write_line(self._file, row)
        self.rows.append(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._lock.release()


def load_rows(run: str | os.PathLike[str]) -> Iterator[RawRow]:
    """The run's `raw` rows, in the order in which they were finished; a half-written last line is left out.

    Raises:
        InputError: A whole line is no raw row; the message has file and line number.
    """
    path = Path(run) / RECORDS
    for number, row in _lines(path):
        missing = COLUMNS["raw"].keys() - row.keys() if isinstance(row, dict) else {"object"}
        if missing:
            what = f"no {', '.join(sorted(missing))}"
            raise InputError(
                f"{path}:{number}: found {what}, expected a raw row. Remove the line to redo the problem."
            )
        yield cast(RawRow, row)  # the types of its columns are checked where a dataset is built


def load_preferences(run: str | os.PathLike[str]) -> list[PreferenceRow]:
    """The run's preference rows."""
    return [row for _, row in _lines(Path(run) / PREFERENCES)]


def load_failed_ids(run: str | os.PathLike[str]) -> set[str]:
    """Ids whose requests failed and that have had no record since."""
    failed = {row["id"] for _, row in _lines(Path(run) / FAILURES)}
    return failed - {row["id"] for row in load_rows(run)} if failed else failed


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # its writer died, or is writing it now
                return
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not JSON ({error}). Remove the line to redo it.") from None


def _write_line(file: BinaryIO, row: Mapping[str, object]) -> None:
    line = _encode(row)
    written = file.write(line)
    while written < len(line):  # a full disk or a signal may cut a write short
        line = line[written:]
        written = file.write(line)


def _encode(row: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate from a model or a source: UTF-8 has no place for it
        return orjson.dumps(_replace_surrogates(row), option=orjson.OPT_APPEND_NEWLINE)


def _replace_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _replace_surrogates(entry) for key, entry in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_replace_surrogates(entry) for entry in cast(list[object], value)]
    return value


def _drop_half_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)


def _write_whole(path: Path, content: bytes) -> None:
    """Never a half-written manifest, whenever the process dies."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _lock(path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / ".lock", blocking=False)  # the system releases it when its holder dies
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{path}: another process is writing to it. Wait for it or name another --output.") from None
    return lock


def _only_ours(path: Path) -> bool:
    """Nothing in it but what a run that died before its manifest leaves."""
    return all(entry.name in (".lock", f".{MANIFEST}.part") for entry in path.iterdir())


def _refuse_other_configuration(path: Path, manifest: Manifest) -> None:
    if differences := load_manifest(path).differences(manifest):
        raise InputError(
            f"{path}: made with another configuration ({'; '.join(differences)}). "
            "Repeat the command that made it, or name another --output."
        )
