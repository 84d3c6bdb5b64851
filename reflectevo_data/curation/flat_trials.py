"""A batch of raw rows with its trials as one flat array, and which of them are samples."""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class FlatTrials:
    """The trials of a batch of raw rows, one after the other; sets and statistics are taken from them by position.

    Attributes:
        starts: For each row the position of its first trial.
        row_of: For each trial the row that it is of.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        output = batch.column("output")
        offsets = output.offsets.to_numpy()
        self.starts = offsets[:-1] - offsets[0]
        self.trials = output.flatten()
        self.row_of = np.repeat(np.arange(batch.num_rows), np.diff(offsets))
        self._reflections = self.trials.field("reflections")

    @cached_property
    def ids(self) -> list[str]:
        return self.batch.column("id").to_pylist()

    def column(self, name: str) -> np.ndarray:
        """A field of every trial."""
        return self.trials.field(name).to_numpy(zero_copy_only=False)

    def reflections(self, positions: np.ndarray) -> pa.Array:
        """The texts of the reflections that the trials at these positions were made with."""
        return self._reflections.values.take(pa.array(self._reflections.offsets.to_numpy()[positions]))

    @cached_property
    def candidates(self) -> np.ndarray:
        """Whether a trial is a second one on a first one that was answered, and wrongly."""
        reflected = (~self.column("is_correct") & ~self._is_error("finish_reason"))[self.starts]
        return (self.column("trial") == 2) & reflected[self.row_of]

    @cached_property
    def failed(self) -> np.ndarray:
        """Candidates of which a request failed; the others are the samples."""
        return self.candidates & (self._is_error("finish_reason") | self._is_error("reflection_finish_reason"))

    @cached_property
    def samples(self) -> np.ndarray:
        """Reflections on a failed first trial, with their second trial, whose requests all succeeded."""
        return self.candidates & ~self.failed

    def _is_error(self, name: str) -> np.ndarray:
        is_error = pc.equal(self.trials.field(name), "error")  # pyright: ignore[reportAttributeAccessIssue]
        return is_error.to_numpy(zero_copy_only=False)
