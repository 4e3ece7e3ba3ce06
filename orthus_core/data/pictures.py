"""Pictures that are not loaded yet: small objects with a key for caches, and a method to load.

A record may hold a value in place of a file, `{"type": "image", "value": {"scene": {...}}}`. Which
kinds of such pictures exist is not known here: a package that can draw one registers how its value
is read, under the key that the value holds. Its pictures give their own value (`record_value`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from orthus_core.data.pixels import open_image, square
from orthus_core.errors import ChangedDataError, DataError

if TYPE_CHECKING:
    from orthus_core.data.index.file_part import FilePart


@runtime_checkable
class Picture(Protocol):
    """A picture that is not loaded yet."""

    @property
    def key(self) -> str:
        """A key that two pictures share only if their pixels are the same."""
        ...

    def load(self, size: int) -> np.ndarray:
        """The pixels as uint8 [size, size, 3].

        Raises:
            DataError: if the picture cannot be read.
        """
        ...


class StoredPicture(Picture, Protocol):
    """A picture whose key is of where its content lies: it changes when the content is moved.
    Kinds of pictures with a `content_key` are such.
    """

    @property
    def content_key(self) -> str:
        """A key of the content itself, for which it is read.

        Raises:
            DataError: if it cannot be read.
        """
        ...


@dataclass(frozen=True)
class FilePicture:
    """A picture file; its key consists of the path, size and modification time."""

    path: Path

    @property
    def key(self) -> str:
        stat = self._stat()
        return f"file:{self.path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"

    @property
    def content_key(self) -> str:
        """The key of a `BytesPicture` with the file's content."""
        try:
            return BytesPicture(self.path.read_bytes()).key
        except OSError as error:
            why = error.strerror or error
            raise DataError(f"cannot read the picture: {why}", where=str(self.path)) from error

    @property
    def name_and_size(self) -> str:
        """What stays the same when the file is moved or copied."""
        return f"{self.path.name}:{self._stat().st_size}"

    def _stat(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise DataError("there is no such picture", where=str(self.path)) from error

    def load(self, size: int) -> np.ndarray:
        return square(open_image(self.path), size)


@dataclass(frozen=True)
class MemberPicture:
    """A picture that is a part of a file, such as a member of a tar; its key consists of the
    file's path, size and modification time, and of the part's place.
    """

    part: FilePart

    @property
    def key(self) -> str:
        part = self.part
        return f"member:{FilePicture(part.file).key}:{part.offset}:{part.size}"

    @property
    def name_and_size(self) -> str:
        """What stays the same when the file is moved or copied."""
        return f"{self.part.name}:{self.part.size}"

    def load(self, size: int) -> np.ndarray:
        try:
            return square(open_image(self.part.read()), size)
        except ChangedDataError:
            raise
        except DataError as error:
            where = f"{self.part.file}, {self.part.name}"
            raise DataError(error.message, where=where, hint=error.hint) from error


@dataclass(frozen=True)
class BytesPicture:
    """The content of a picture file in memory; its key is a hash of the content."""

    content: bytes = field(repr=False)

    @property
    def key(self) -> str:
        return f"bytes:{hashlib.sha256(self.content).hexdigest()}"

    def load(self, size: int) -> np.ndarray:
        return square(open_image(self.content), size)


ValueReader = Callable[[Mapping[str, Any]], Picture]

_KINDS: dict[str, ValueReader] = {}


def register_picture_kind(name: str, read: ValueReader) -> None:
    """Makes a kind known, in place of an earlier one of that name.

    Args:
        name: Key that the value of such a picture holds.
        read: The picture that a value describes. Raises DataError when it describes none.
    """
    _KINDS[name] = read


def picture_kinds() -> tuple[str, ...]:
    """Names of the kinds that are known, in the order they were registered."""
    return tuple(_KINDS)


def picture_from_value(value: Any) -> Picture | None:
    """The picture that a record's value describes; None when it is of no kind that is known.

    Raises:
        DataError: when the value names a kind and describes no such picture.
    """
    if isinstance(value, Mapping):
        for name, read in _KINDS.items():
            if name in value:
                return read(value)
    return None


def value_of_picture(picture: Any) -> Mapping[str, Any] | None:
    """The value that describes a picture in a record; None when it has none."""
    return getattr(picture, "record_value", None)
