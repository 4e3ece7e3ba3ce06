"""A part of a file, read by itself.

The file is opened for each read, so that indices can be pickled and used by several processes at
once, and the number of open files does not depend on the number of tars.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from orthus_core.data.index.index_file import CHANGED_HINT, FileState, changed
from orthus_core.errors import ChangedDataError, DataError


class FilePart(NamedTuple):
    """A part of a file, such as a member of a tar.

    Attributes:
        file: The file.
        offset: Where the part begins, in bytes.
        size: Bytes of the part.
        name: Its name in the file.
        state: State of the file when the part was found in it; None if it is not known.
    """

    file: Path
    offset: int
    size: int
    name: str
    state: FileState | None = None

    def read(self) -> bytes:
        """Its content. Raises: as `read_part`."""
        return read_part(self.file, self.offset, self.size, self.state)


def read_part(file: Path, offset: int, size: int, state: FileState | None = None) -> bytes:
    """`size` bytes of a file from `offset` on.

    Args:
        file: The file.
        offset: Where they begin.
        size: How many they are.
        state: State of the file in which they lie there; None if the caller checks the bytes.

    Raises:
        DataError: if the file cannot be read.
        ChangedDataError: if it is in another state, shorter, or no longer there.
    """
    try:
        with file.open("rb", buffering=0) as opened:
            opened.seek(offset)
            content = opened.read(size)
            while content is not None and len(content) < size:
                more = opened.read(size - len(content))
                if not more:
                    break
                content += more
            # After reading, so that a change meanwhile is noticed, too.
            if state is not None and not state.is_of(os.fstat(opened.fileno())):
                raise changed(file)
    except FileNotFoundError as error:
        raise ChangedDataError(
            "the file is no longer there", where=str(file), hint=CHANGED_HINT
        ) from error
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror or error}", where=str(file)) from error
    if content is None or len(content) < size:
        raise ChangedDataError(
            "the file is shorter than when it was indexed", where=str(file), hint=CHANGED_HINT
        )
    return content
