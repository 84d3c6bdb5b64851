"""Reflections that nearly repeat an earlier one anywhere in the dataset, by MinHash over word trigrams."""

# rensa has no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence

import rensa


THRESHOLD = 0.85
# 64 hashes in 8 bands: a pair at the threshold is found with probability 0.92, one at 0.9 with 0.99, and 460,000
# reflections take 0.3 GB; twice the hashes and bands find 0.99 at the threshold and take 0.9 GB.
_N_HASHES, _N_BANDS = 64, 8
METHOD = f"MinHash over word trigrams, estimated Jaccard similarity of {THRESHOLD} or more"


class NearDuplicateIndex:
    """The texts seen so far that were unlike all before them.

    >>> index = NearDuplicateIndex()
    >>> index.add(["Step 2 is wrong: seven and nine make sixteen, so carry the one.", "Check the signs first."])
    [True, True]
    >>> index.add(["Step 2 is wrong:  seven and nine make sixteen, so carry the one."])
    [False]
    """

    def __init__(self) -> None:
        deduplicator = rensa.RMinHashDeduplicator  # pyright: ignore[reportAttributeAccessIssue]
        self._seen = deduplicator(THRESHOLD, _N_HASHES, True, _N_BANDS)
        self._n = 0

    def add(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is new, in order; a new one is remembered, so that of like texts the first stays."""
        start, self._n = self._n, self._n + len(texts)
        return self._seen.add_pairs([(str(start + i), _trigrams(text)) for i, text in enumerate(texts)])


def _trigrams(text: str) -> list[str]:
    words = text.lower().split()
    return [f"{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)] or [" ".join(words)]
