"""The result of reading a data set: its documents, and the records that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orthus_core.data.document import Document
from orthus_core.data.listing import FolderListing, PassedOver, passed_over_line
from orthus_core.data.pictures import Picture
from orthus_core.errors import DataError
from orthus_core.events import Note, Progress

FAULTS_KEPT = 10

# Size at which pictures are decoded when a data set is checked; any size will do.
CHECK_SIZE = 64


class Fault(NamedTuple):
    """A record that was skipped.

    Attributes:
        file: File of the record.
        line: Line of the record, from 1; 0 for a whole file.
        problem: Reason.
    """

    file: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.problem}"


@dataclass
class ReadResult:
    """Documents and faults of a data set.

    Attributes:
        strict: Whether the first fault raises a DataError.
        documents: Documents that can be used.
        faults: The first `FAULTS_KEPT` faults.
        fault_count: Number of all faults.
        passed_over: What the folder holds besides, and is not read; no fault.
    """

    strict: bool = False
    documents: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    passed_over: list[PassedOver] = field(default_factory=list)

    def pass_over(self, listing: FolderListing, also: Mapping[str, Sequence[Path]]) -> None:
        """Counts what a folder holds besides, and further files by kind."""
        self.passed_over = listing.passed_over(also)

    def skip_record(self, file: Path, line: int, error: DataError) -> None:
        """Counts a record that cannot be used.

        Raises:
            DataError: if `strict`.
        """
        fault = Fault(file, line, error.message)
        if self.strict:
            where = f"{file}:{line}" if line else str(file)
            raise DataError(error.message, where=where, hint=error.hint) from error
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(fault)

    def check_pictures(self) -> Iterator[Progress | Note]:
        """Loads every picture once, and skips documents with a picture that cannot be read; begins
        with a note about what was passed over.

        Raises:
            DataError: if `strict`, for the first such picture.
        """
        if self.passed_over:
            yield Note(passed_over_line(self.passed_over))
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
