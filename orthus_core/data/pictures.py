"""Pictures before they are loaded: small descriptions that a cache can name and a worker load."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from orthus_core.data.pixels import open_image, square
from orthus_core.errors import DataError
from orthus_core.world.sprites import WHITE, Colour, SpritePack


@runtime_checkable
class Picture(Protocol):
    """A picture that is not loaded yet."""

    @property
    def key(self) -> str:
        """A name that two pictures share only when their pixels are the same."""
        ...

    def load(self, size: int) -> np.ndarray:
        """The pixels as uint8 [size, size, 3]. Raises: DataError when it does not read."""
        ...


@dataclass(frozen=True)
class FilePicture:
    """A picture file, named by its path, length and date."""

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
    """A picture file held in memory, named by its content."""

    content: bytes = field(repr=False)

    @property
    def key(self) -> str:
        return f"bytes:{hashlib.sha256(self.content).hexdigest()}"

    def load(self, size: int) -> np.ndarray:
        return square(open_image(self.content), size)


@dataclass(frozen=True)
class SpriteImage:
    """A sprite of a pack on a plain background, perhaps seen in a mirror or without colour."""

    pack: SpritePack = field(repr=False, compare=False)
    sprite: str
    background: Colour = WHITE
    mirror: bool = False
    grey: bool = False

    @property
    def key(self) -> str:
        colour = "{:02x}{:02x}{:02x}".format(*self.background)
        changes = ("m" if self.mirror else "") + ("g" if self.grey else "")
        return f"sprite:{self.pack.digest[:16]}:{self.sprite}:{colour}:{changes}"

    def load(self, size: int) -> np.ndarray:
        pixels_HW3 = self.pack.image(self.sprite, size, self.background, self.mirror)
        if not self.grey:
            return pixels_HW3
        return np.asarray(Image.fromarray(pixels_HW3).convert("L").convert("RGB"))
