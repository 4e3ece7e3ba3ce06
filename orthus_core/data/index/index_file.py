"""An index on disk: named arrays behind a header, mapped into memory when they are read.

line 1: "orthus index 1"; line 2: length of the header, CRC-32 of the arrays
header: JSON: kind, state of each indexed file, what the index says besides, layout of arrays
arrays: each begins at a multiple of 64 bytes
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orthus_core.atomic import staged_file
from orthus_core.errors import ChangedDataError

MAGIC = b"orthus index 1\n"
_SIZES_BYTES = 48
_ALIGNMENT = 64
_BLOCK = 1 << 20

CHANGED_HINT = "start again, and leave data as it is while it is in use"


def as_numpy(values: array) -> np.ndarray:
    """The values of a growing array of Python, as an array of the same memory."""
    kind = np.dtype(values.typecode)
    return np.frombuffer(values, kind) if values else np.empty(0, kind)


class FileState(NamedTuple):
    """What an index remembers of a file, to notice that it was changed."""

    path: str
    size: int
    mtime_ns: int

    def is_of(self, stat: os.stat_result) -> bool:
        """Whether a file has this size and modification time."""
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


def changed(where: object) -> ChangedDataError:
    """The error for a file, or a place in it, whose content is no longer where its index says."""
    return ChangedDataError(
        "the file was changed after it was indexed", where=str(where), hint=CHANGED_HINT
    )


class IndexArrays:
    """The arrays of an index, in memory or mapped from a file.

    A process that gets it pickled maps the file itself, rather than getting the arrays.

    Args:
        about: What the index says besides: what JSON can hold.
        arrays: The arrays, by name.
        files: State of each indexed file when it was indexed.
        path: File that they are mapped from.
    """

    def __init__(
        self,
        about: dict[str, Any],
        arrays: Mapping[str, np.ndarray],
        files: Sequence[FileState],
        path: Path | None = None,
    ) -> None:
        self.about = about
        self.files = files
        self.path = path
        self._arrays: Mapping[str, np.ndarray] | None = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if self._arrays is None:
            assert self.path is not None
            read = _mapped(self.path)
            if read is None or read[0]["about"] != self.about:
                raise ChangedDataError(
                    "the index was replaced while it was in use",
                    where=str(self.path),
                    hint=CHANGED_HINT,
                )
            self._arrays = read[1]
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.path is not None:
            state["_arrays"] = None
        return state


def write_index(
    path: Path,
    kind: str,
    files: Sequence[FileState],
    about: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write an index completely or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    layout, at = [], 0
    for name, values in arrays.items():
        layout.append([name, values.dtype.str, len(values), at])
        at += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"kind": kind, "files": files, "about": about, "layout": layout}).encode()
    header += b" " * (-(len(MAGIC) + _SIZES_BYTES + len(header)) % _ALIGNMENT)
    with staged_file(path, parents=True) as partial, partial.open("wb") as out:
        out.write(MAGIC + b" " * _SIZES_BYTES + header)
        check = 0
        for values in arrays.values():
            content = np.ascontiguousarray(values).data.cast("B") if len(values) else b""
            padding = bytes(-len(content) % _ALIGNMENT)
            out.write(content)
            out.write(padding)
            check = zlib.crc32(padding, zlib.crc32(content, check))
        out.seek(len(MAGIC))
        out.write(f"{len(header)} {check}".encode().ljust(_SIZES_BYTES - 1) + b"\n")


def read_index(path: Path, kind: str, files: Sequence[FileState]) -> IndexArrays | None:
    """The index in a file; None where there is none, it is damaged, or of other files than these.

    Args:
        path: File of the index.
        kind: What must be indexed in it.
        files: State of the files now.
    """
    read = _mapped(path, check=True)
    if read is None:
        return None
    header, arrays = read
    if header["kind"] != kind or header["files"] != [[*file] for file in files]:
        return None
    return IndexArrays(header["about"], arrays, files, path)


def _mapped(path: Path, check: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            header_bytes, stated = map(int, file.read(_SIZES_BYTES).split())
            begin = len(MAGIC) + _SIZES_BYTES + header_bytes
            header = json.loads(file.read(header_bytes))
            found = 0
            # Read, not mapped: pages that were mapped would stay in this process's memory.
            while check and (block := file.read(_BLOCK)):
                found = zlib.crc32(block, found)
            if check and found != stated:
                return None
        arrays = {
            name: np.memmap(path, np.dtype(kind), "r", begin + at, (count,))
            if count
            else np.empty(0, np.dtype(kind))
            for name, kind, count, at in header["layout"]
        }
        return header, arrays
    except (OSError, ValueError, KeyError, TypeError):
        return None
