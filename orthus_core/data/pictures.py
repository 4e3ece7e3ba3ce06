"""Pictures that are not loaded yet: small objects with a key for caches, and a method to load."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from orthus_core.data.pixels import open_image, square
from orthus_core.errors import DataError


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


@dataclass(frozen=True)
class FilePicture:
    """A picture file; its key consists of the path, size and modification time."""

    path: Path

    @property
    def key(self) -> str:
        try:
            stat = self.path.stat()
        except OSError as error:
            raise DataError("there is no such picture", where=str(self.path)) from error
        return f"file:{self.path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"

    def load(self, size: int) -> np.ndarray:
        return square(open_image(self.path), size)


@dataclass(frozen=True)
class BytesPicture:
    """The content of a picture file in memory; its key is a hash of the content."""

    content: bytes = field(repr=False)

    @property
    def key(self) -> str:
        return f"bytes:{hashlib.sha256(self.content).hexdigest()}"

    def load(self, size: int) -> np.ndarray:
        return square(open_image(self.content), size)
