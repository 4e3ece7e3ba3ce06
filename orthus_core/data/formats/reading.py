"""The result of reading a data set: its documents, and the records that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from orthus_core.data.document import Document, Place
from orthus_core.data.listing import FolderListing, PassedOver, passed_over_line
from orthus_core.data.pictures import Picture
from orthus_core.data.rows import LoadedRows, row_key
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
        part: What names the record in a file without lines.
    """

    file: Path
    line: int
    problem: str
    part: str = ""

    def __str__(self) -> str:
        return f"{Place(self.file, self.line, self.part)}: {self.problem}"


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
        broken: Every record that was skipped: where it lies, and its error.
    """

    strict: bool = False
    documents: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    where: Path = Path()
    passed_over: list[PassedOver] = field(default_factory=list)
    broken: list[tuple[Place, DataError]] = field(default_factory=list, repr=False)

    def pass_over(self, listing: FolderListing, also: Mapping[str, Sequence[Path]]) -> None:
        """Counts what a folder holds besides, and further files by kind."""
        self.passed_over = listing.passed_over(also)

    def add(self, document: Document, file: Path, line: int = 0) -> None:
        """Counts a document that can be used, and notes where it was read."""
        self.documents.append(replace(document, place=Place(file, line)))

    def skip_record(self, file: Path, line: int, error: Exception, part: str = "") -> None:
        """Counts a record that cannot be used, whatever the error is: pictures of plugins, and
        paths that the system refuses, raise plain exceptions.

        Raises:
            DataError: if `strict`.
        """
        if not isinstance(error, DataError):
            reason = getattr(error, "strerror", None)  # that of OSError repeats the path
            error = DataError(reason or f"{type(error).__name__}: {error}")
        place, fault = Place(file, line, part), Fault(file, line, error.message, part)
        if self.strict:
            raise DataError(error.message, where=str(place), hint=error.hint) from error
        self.fault_count += 1
        self.broken.append((place, error))
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
        file, line, part = document.place or Place(self.where / document.id)
        if not isinstance(error, DataError):
            error = DataError(f"{type(error).__name__}: {error}")
        picture = "" if error.where in ("", document.id, str(file)) else f" ({error.where})"
        name = f"{document.id}: " if line and document.id else ""
        error = DataError(f"{name}{error.message}{picture}", hint=error.hint)
        self.skip_record(file, line, error, part)

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


@dataclass
class ReadRows:
    """The rows of a `ReadResult`: its documents, then the records that cannot be used.

    Attributes:
        result: What a reader returned.
        where: Path of the data set.
    """

    result: ReadResult
    where: str

    def __post_init__(self) -> None:
        self._documents = LoadedRows(self.result.documents, self.where, self.result.passed_over)

    @property
    def passed_over(self) -> list[PassedOver]:
        return self.result.passed_over

    @property
    def identity(self) -> str:
        return self._documents.identity

    def __len__(self) -> int:
        return len(self.result.documents) + len(self.result.broken)

    def keys(self) -> np.ndarray:
        broken = [row_key(str(place)) for place, _ in self.result.broken]
        return np.concatenate([self._documents.keys(), np.array(broken, np.uint64)])

    def place(self, number: int) -> Place:
        beyond = number - len(self._documents)
        return self._documents.place(number) if beyond < 0 else self.result.broken[beyond][0]

    def document(self, number: int, visit: int = 0) -> Document:
        beyond = number - len(self._documents)
        if beyond < 0:
            return self._documents.document(number, visit)
        place, error = self.result.broken[beyond]
        raise DataError(error.message, where=str(place), hint=error.hint)
