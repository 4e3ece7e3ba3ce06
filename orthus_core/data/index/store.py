"""Indices are made once: the first process that needs one makes it, others wait and map its file.

Where the data is small, or the folder cannot be written to, the index stays in memory.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from orthus_core.cache_folder import cache_folder
from orthus_core.data.index.index_file import (
    CHANGED_HINT,
    FileState,
    IndexArrays,
    read_index,
    write_index,
)
from orthus_core.errors import ChangedDataError, DataError, OutputError
from orthus_core.events import Event, Note, result_of

try:
    import fcntl
except ImportError:  # Windows has none; there two processes may make the same index
    fcntl = None

SMALL_BYTES = 4_000_000
"""Data below this size is indexed anew each time."""

_POLL_SECONDS = 0.2

Built = tuple[dict[str, Any], Mapping[str, np.ndarray]]
"""What an index says in JSON, and its arrays by name."""

Build = Callable[[], Generator[Event, None, Built]]


def open_index(
    kind: str,
    files: Sequence[Path],
    build: Build,
    folder: Path | None,
    states: Sequence[FileState] | None = None,
) -> Generator[Event, None, IndexArrays]:
    """The index of some files: mapped from the one on disk, or made and kept there.

    Args:
        kind: What is indexed: the same files can be indexed in several ways.
        files: The files; an index is stale when the size or modification time of one is another.
        build: Makes the index.
        folder: Folder of indices; None takes the user's (`cache_folder`).
        states: State of each file when `build` began to read it; None takes that of now.

    Raises:
        DataError: if a file is not there, or the index cannot be made.
        ChangedDataError: if a file is changed meanwhile.
    """
    states = states or [file_state(file) for file in files]
    if sum(state.size for state in states) < SMALL_BYTES:
        about, arrays = result_of(build())  # in a moment: its progress would be of 0 MB
        check_unchanged(files, states)
        return IndexArrays(about, arrays, states)
    folder = cache_folder(folder)
    digest = hashlib.blake2b(digest_size=10)
    for state in states:
        digest.update(os.fsencode(state.path) + b"\0")
    path = folder / f"{kind}-{files[0].stem[:40]}-{digest.hexdigest()}.index"
    found = read_index(path, kind, states)
    if found is not None:
        return found
    lock = yield from locked(path)
    try:
        found = read_index(path, kind, states)  # another process has just made it
        if found is not None:
            return found
        about, arrays = yield from build()
        check_unchanged(files, states)
        try:
            write_index(path, kind, states, about, arrays)
        except OutputError as error:
            yield Note(
                f"the index of {files[0]} is not kept, and will be made again each time: "
                f"{error.message} ({error.where})"
            )
            return IndexArrays(about, arrays, states)
        return read_index(path, kind, states) or IndexArrays(about, arrays, states)
    finally:
        if lock is not None:
            lock.close()


def file_state(file: Path) -> FileState:
    """The state of a file now. Raises: DataError if it cannot be read."""
    try:
        stat = file.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the records: {reason}", where=str(file)) from error
    return FileState(os.path.realpath(file), stat.st_size, stat.st_mtime_ns)


def check_unchanged(files: Sequence[Path], states: Sequence[FileState]) -> None:
    """Check that files are still in these states. Raises: ChangedDataError if one is not."""
    for file, state in zip(files, states, strict=True):
        if file_state(file) != state:
            raise ChangedDataError(
                "the file was changed while it was indexed",
                where=str(file),
                hint=f"if it is still being written, wait until it is complete; {CHANGED_HINT}",
            )


def locked(path: Path) -> Generator[Event, None, BinaryIO | None]:
    """Wait for a lock on a file that is to be made. It is held until the result is closed or the
    process ends; None where the file system has no locks, or nothing can be written there."""
    if fcntl is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("ab")
    except OSError:
        return None
    waited = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if not waited:
                yield Note(f"another process is making the index {path.name}: waiting for it")
            waited = True
            time.sleep(_POLL_SECONDS)
        except OSError:
            file.close()
            return None
