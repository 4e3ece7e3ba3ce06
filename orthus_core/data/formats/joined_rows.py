"""Rows of several files as those of one data set."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from orthus_core.data.document import Document, Place
from orthus_core.data.listing import PassedOver
from orthus_core.data.rows import Rows


class JoinedRows:
    """The rows of parts, one after the other.

    Args:
        parts: The parts.
        where: Path of the data set.
    """

    def __init__(self, parts: Sequence[Rows], where: str) -> None:
        self.parts = parts
        self.where = where
        self._ends = [*accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def identity(self) -> str:
        digest = hashlib.sha256("\0".join(part.identity for part in self.parts).encode())
        return f"{len(self)} rows, {digest.hexdigest()[:10]}"

    @property
    def passed_over(self) -> list[PassedOver]:
        return [each for part in self.parts for each in part.passed_over]

    def keys(self) -> np.ndarray:
        return np.concatenate([part.keys() for part in self.parts])

    def place(self, number: int) -> Place:
        part, inside = self._part(number)
        return part.place(inside)

    def document(self, number: int, visit: int = 0) -> Document:
        part, inside = self._part(number)
        return part.document(inside, visit)

    def _part(self, number: int) -> tuple[Rows, int]:
        at = bisect_right(self._ends, number)
        return self.parts[at], number - (self._ends[at - 1] if at else 0)


def joined(parts: Sequence[Rows], where: str) -> Rows:
    """The rows of several parts; of one part, the part itself."""
    return parts[0] if len(parts) == 1 else JoinedRows(parts, where)
