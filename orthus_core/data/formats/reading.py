"""What comes of reading a data set: its documents, and a count of what could not be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orthus_core.data.document import Document
from orthus_core.data.pictures import Picture
from orthus_core.errors import DataError
from orthus_core.events import Progress

FAULTS_KEPT = 10

# A picture is decoded at this size when a data set is checked; the size does not matter.
CHECK_SIZE = 64


class Fault(NamedTuple):
    """A record that was left out: where it stands (line 0 for a whole file), and why."""

    file: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.problem}"


@dataclass
class ReadResult:
    """Documents and faults.

    Attributes:
        strict: Whether the first fault ends the reading with a DataError.
        documents: Those that can be used.
        faults: The first ten that cannot.
        fault_count: How many there are in all.
    """

    strict: bool = False
    documents: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0

    def skip_record(self, file: Path, line: int, error: DataError) -> None:
        """Count a record that cannot be used. Raises: DataError when the reading is strict."""
        fault = Fault(file, line, error.message)
        if self.strict:
            where = f"{file}:{line}" if line else str(file)
            raise DataError(error.message, where=where, hint=error.hint) from error
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(fault)

    def check_pictures(self) -> Iterator[Progress]:
        """Load every picture once, leaving out the documents of those that do not read."""
        kept = []
        for done, document in enumerate(self.documents, start=1):
            try:
                for segment in document.segments:
                    if isinstance(segment.value, Picture):
                        segment.value.load(CHECK_SIZE)
                kept.append(document)
            except DataError as error:
                self.skip_record(Path(error.where or document.id), 0, error)
            yield Progress("pictures", done, len(self.documents), unit="documents")
        self.documents = kept
