"""A part of a file, read by itself.

The file is opened for each read, so that indices can be pickled and used by several processes at
once, and the number of open files does not depend on the number of tars.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orthus_core.errors import DataError


class FilePart(NamedTuple):
    """A part of a file, such as a member of a tar.

    Attributes:
        file: The file.
        offset: Where the part begins, in bytes.
        size: Bytes of the part.
        name: Its name in the file.
    """

    file: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """Its content. Raises: DataError if the file cannot be read."""
        return read_part(self.file, self.offset, self.size)


def read_part(file: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on.

    Raises:
        DataError: if the file cannot be read, or is shorter.
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
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror or error}", where=str(file)) from error
    if content is None or len(content) < size:
        raise DataError(
            "the file is shorter than when it was indexed",
            where=str(file),
            hint="leave data as it is while it is in use",
        )
    return content
