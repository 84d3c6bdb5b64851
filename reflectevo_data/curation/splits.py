"""Which split a question goes into, the same in every config."""

# pyarrow has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..schema import stable_hash


SPLITS = ("train", "validation")


def in_validation(batch: pa.RecordBatch, fraction: float) -> np.ndarray:
    """Whether each raw row is for validation: decided by its group, or its id, alone.

    Args:
        batch: Raw rows; `id` and `group` are read.
        fraction: Share of the groups.
    """
    groups, ids = batch.column("group").to_pylist(), batch.column("id").to_pylist()
    limit = fraction * 2**64
    return np.array([stable_hash("split", g or i) < limit for g, i in zip(groups, ids, strict=True)], bool)
