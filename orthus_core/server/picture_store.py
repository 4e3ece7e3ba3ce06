"""What the server remembers of pictures for some minutes: files that are fetched by URL, and the
features that a picture was drawn with, so that another can continue from its rows.

Legend: P patches, C feature channels.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

from torch import Tensor

V = TypeVar("V")

# Files are fetched at once; who goes on with a picture may look at it for longer.
MINUTES = 10
MINUTES_OF_FEATURES = 60
# The oldest are dropped when all of one kind are larger: 1000 pictures of 64 pixels' features take
# 4 MB, those of a 7B's 512 pixels a GB.
MOST_BYTES = 64_000_000


class PictureStore:
    """Files by a name that cannot be guessed, and features by the hash of their picture's pixels.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self._files = _Lately[bytes]()
        self._features = _Lately[Tensor]()

    def keep(self, content: bytes, suffix: str = ".png") -> str:
        """Keeps a file for `MINUTES`, and returns its name."""
        name = secrets.token_urlsafe(24) + suffix
        self._files.keep(name, content, len(content), MINUTES)
        return name

    def file(self, name: str) -> bytes | None:
        """The file of this name; None when it was dropped."""
        return self._files.find(name)

    def keep_features(self, pixels: str, features_PC: Tensor) -> None:
        """Keeps the features of a picture for `MINUTES_OF_FEATURES`, by the hash of its pixels."""
        own_PC = features_PC.to("cpu", copy=True)  # and not the whole batch that it is a part of
        size = own_PC.numel() * own_PC.element_size()
        self._features.keep(pixels, own_PC, size, MINUTES_OF_FEATURES)

    def features(self, pixels: str) -> Tensor | None:
        """The features [P, C] that the picture with this hash was drawn with, if they are known."""
        return self._features.find(pixels)


class _Lately(Generic[V]):
    """Values of one kind for some minutes each, and of `MOST_BYTES` together."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, int, V]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def keep(self, name: str, value: V, size: int, minutes: float) -> None:
        with self._lock:
            if name in self._kept:
                self._forget(name)
            self._kept[name] = (time.monotonic() + 60 * minutes, size, value)
            self._bytes += size
            self._drop()

    def find(self, name: str) -> V | None:
        with self._lock:
            self._drop()
            found = self._kept.get(name)
            return found[2] if found else None

    def _drop(self) -> None:
        now = time.monotonic()
        while self._kept:
            name, (until, _, _) = next(iter(self._kept.items()))
            if until > now and self._bytes <= MOST_BYTES:
                return
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._bytes -= self._kept.pop(name)[1]
