"""The rows of a training that cannot be used, or only in part: each counted once, the first ones
that cannot be used named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from orthus_core.data.document import Place
from orthus_core.errors import ChangedDataError, DataError

if TYPE_CHECKING:
    from orthus_core.data.rows import Rows


class RowFault(NamedTuple):
    """A row that cannot be used.

    Attributes:
        source: Name of its source.
        number: Its number there.
        place: Where it was read.
        problem: Reason.
        is_cut: Whether it is used all the same, up to the turn that the context ends in.
    """

    source: str
    number: int
    place: Place
    problem: str
    is_cut: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"

    def as_table(self) -> dict[str, str | int]:
        """The fault for JSON."""
        file, line, part = self.place
        named = {"file": str(file), "line": line} | ({"part": part} if part else {})
        return named | {"problem": self.problem}


def fault_of(source: str, rows: Rows, number: int, error: Exception, id: str = "") -> RowFault:
    """The fault of a row for which an error was raised, whatever it is: pictures of plugins, and
    paths that the system refuses, raise plain exceptions.

    Args:
        id: The row's own name, which tells more than its place does.

    Raises:
        ChangedDataError: the error itself, if the data was changed: the other rows are then in
            doubt, too.
    """
    if isinstance(error, ChangedDataError):
        raise error
    place = rows.place(number)
    if isinstance(error, DataError):
        problem, where = error.message, error.where
    else:
        reason = getattr(error, "strerror", None)  # that of OSError repeats the path
        problem, where = reason or f"{type(error).__name__}: {error}", ""
    named = f"{id}: " if place.line and id else ""
    picture = "" if where in ("", id, str(place.file), str(place)) else f" ({where})"
    return RowFault(source, number, place, f"{named}{problem}{picture}")


@dataclass
class RowFaults:
    """The faults of a training's rows.

    Attributes:
        strict: Whether the first one ends the training.
        named_later: Whether they are only counted, for a caller who names them at the end.
        counts: Number of the faults of each source.
        cut: Number of rows of each source that are used in part.
    """

    strict: bool = False
    named_later: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    # By place: a record that comes in two ways has two numbers. One way may be used in part, and
    # the other not at all.
    _met: set[tuple[str, Place, bool]] = field(default_factory=set)
    _new: list[RowFault] = field(default_factory=list)
    _named: int = 0

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, fault: RowFault, error: Exception | None = None) -> None:
        """Count a fault, unless its record was counted before.

        Raises:
            DataError: If `strict`.
        """
        if self.strict and not fault.is_cut:
            hint = getattr(error, "hint", "")
            raise DataError(fault.problem, where=str(fault.place), hint=hint) from error
        met = (fault.source, fault.place, fault.is_cut)
        if met in self._met:
            return
        self._met.add(met)
        counts = self.cut if fault.is_cut else self.counts
        counts[fault.source] = counts.get(fault.source, 0) + 1
        self._new.append(fault)

    def take(self) -> list[RowFault]:
        """The faults that were counted since this was last called."""
        new, self._new = self._new, []
        return new

    def merge(self, faults: Iterable[RowFault]) -> None:
        """Count the faults that another process met."""
        for fault in faults:
            self.add(fault)

    def named(self, faults: Iterable[RowFault]) -> list[RowFault]:
        """Those of the faults that are to be named: the first ones of all."""
        if not (faults := [fault for fault in faults if not fault.is_cut]):
            return []
        # Imported here, because rows that are made have no faults.
        from orthus_core.data.formats import reading

        chosen = faults[: max(0, reading.FAULTS_KEPT - self._named)]
        self._named += len(chosen)
        return chosen
