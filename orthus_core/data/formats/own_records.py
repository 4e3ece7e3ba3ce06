"""Our own records (`orthus_core.data.document`): a JSON file, or a folder with `records.jsonl`."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orthus_core.data.document import Document, Place, from_record
from orthus_core.data.formats.annotation_file import RECORDS, annotation_file, indexed_json
from orthus_core.data.formats.picture_root import did_you_mean
from orthus_core.data.formats.split_names import check_split
from orthus_core.data.formats.unused_pictures import unused_pictures
from orthus_core.data.pictures import FilePicture
from orthus_core.data.rows import IndexedRows, Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event


def recognises(path: Path) -> bool:
    """Whether a path is a file of records, or a folder that holds one."""
    if path.is_dir():
        return (path / RECORDS).is_file()
    return annotation_file(path, _is_record) is not None


def _is_record(record: Any) -> bool:
    return isinstance(record, Mapping) and "segments" in record


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The records at a path; picture paths are relative to their folder. Raises: DataError."""
    check_split(path, options.split)
    file = path / RECORDS if path.is_dir() else path
    index = yield from indexed_json(file, options)
    found = IndexedRows(index, partial(parse, root=options.images or file.parent), str(path))
    if path.is_dir():
        found.passed_over = unused_pictures(path, found, "in no usable record")
    return found


def parse(record: Any, place: Place, visit: int, *, root: Path) -> Document:
    """The document of a record. Raises: DataError if it is wrong, or a picture is not there."""
    document = from_record(record, root=root)
    for number, segment in enumerate(document.segments):
        if isinstance(segment.value, FilePicture) and not os.path.isfile(segment.value.path):
            name = segment.value.path.relative_to(root.absolute()).as_posix()
            problem = f"there is no picture {name!r}{did_you_mean(root, name)}"
            raise DataError(problem, where=f"segments[{number}]")
    return document
