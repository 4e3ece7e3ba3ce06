"""The result of reading a data set: its documents, and the records that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from orthus_core.data.document import Document, Place
from orthus_core.data.listing import FolderListing, PassedOver, passed_over_line
from orthus_core.data.pictures import Picture
from orthus_core.errors import DataError
from orthus_core.events import Note, Progress

FAULTS_KEPT = 10

# Size at which pictures are decoded when no model says its own.
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
        where: Path of the data set, for documents that do not say where they were read.
        passed_over: What the folder holds besides, and is not read; no fault.
    """

    strict: bool = False
    documents: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    where: Path = Path()
    passed_over: list[PassedOver] = field(default_factory=list)

    def pass_over(self, listing: FolderListing, also: Mapping[str, Sequence[Path]]) -> None:
        """Counts what a folder holds besides, and further files by kind."""
        self.passed_over = listing.passed_over(also)

    def add(self, document: Document, file: Path, line: int = 0) -> None:
        """Counts a document that can be used, and notes where it was read."""
        self.documents.append(replace(document, place=Place(file, line)))

    def skip_record(self, file: Path, line: int, error: Exception) -> None:
        """Counts a record that cannot be used, whatever the error is: pictures of plugins, and
        paths that the system refuses, raise plain exceptions.

        Raises:
            DataError: if `strict`.
        """
        if not isinstance(error, DataError):
            reason = getattr(error, "strerror", None)  # that of OSError repeats the path
            error = DataError(reason or f"{type(error).__name__}: {error}")
        fault = Fault(file, line, error.message)
        if self.strict:
            where = f"{file}:{line}" if line else str(file)
            raise DataError(error.message, where=where, hint=error.hint) from error
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(fault)

    def check(self, rule: Callable[[Document], object], what: str) -> Iterator[Progress]:
        """Skips each document for which the rule raises an error, whatever it is.

        Args:
            rule: Called with each document.
            what: What is checked, for the progress.

        Raises:
            DataError: if `strict`, for the first such document.
        """
        kept = []
        for done, document in enumerate(self.documents, start=1):
            try:
                rule(document)
            except Exception as error:
                self.skip_document(document, error)
            else:
                kept.append(document)
            yield Progress(what, done, len(self.documents), unit="documents")
        self.documents = kept

    def skip_document(self, document: Document, error: Exception) -> None:
        """Counts a document that was read and cannot be used.

        Raises:
            DataError: if `strict`.
        """
        file, line, _ = document.place or Place(self.where / document.id)
        if not isinstance(error, DataError):
            error = DataError(f"{type(error).__name__}: {error}")
        picture = "" if error.where in ("", document.id, str(file)) else f" ({error.where})"
        name = f"{document.id}: " if line and document.id else ""
        error = DataError(f"{name}{error.message}{picture}", hint=error.hint)
        self.skip_record(file, line, error)

    def check_pictures(self, side: int = CHECK_SIZE) -> Iterator[Progress | Note]:
        """Loads every picture once, and skips documents with a picture that cannot be read; begins
        with a note about what was passed over.

        Args:
            side: Side of the model's pictures, in pixels.

        Raises:
            DataError: if `strict`, for the first such picture.
        """

        if self.passed_over:
            yield Note(passed_over_line(self.passed_over))

        def load(document: Document) -> None:
            for segment in document.segments:
                if isinstance(segment.value, Picture):
                    segment.value.load(side)

        yield from self.check(load, "pictures")
