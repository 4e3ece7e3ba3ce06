"""What the server remembers of pictures for some minutes: files that are fetched by URL, and the
features that a picture was drawn with, so that another can continue from its rows.

Legend: P patches, C feature channels.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from threading import Lock

from torch import Tensor

MINUTES = 10
# The oldest are dropped when all together are larger.
MOST_BYTES = 64_000_000
MOST_FEATURES = 1024


class PictureStore:
    """Files by a name that cannot be guessed, and features by the hash of their picture's pixels.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def keep(self, content: bytes, suffix: str = ".png") -> str:
        """Keeps a file for `MINUTES`, and returns its name."""
        name = secrets.token_urlsafe(24) + suffix
        with self._lock:
            self._files[name] = (time.monotonic() + 60 * MINUTES, content)
            self._bytes += len(content)
            self._drop()
        return name

    def file(self, name: str) -> bytes | None:
        """The file of this name; None when it was dropped."""
        with self._lock:
            self._drop()
            found = self._files.get(name)
            return found[1] if found else None

    def keep_features(self, pixels: str, features_PC: Tensor) -> None:
        """Keeps the features of a picture, by the hash of its pixels."""
        with self._lock:
            self._features[pixels] = features_PC.cpu()
            self._features.move_to_end(pixels)
            while len(self._features) > MOST_FEATURES:
                self._features.popitem(last=False)

    def features(self, pixels: str) -> Tensor | None:
        """The features [P, C] that the picture with this hash was drawn with, if they are known."""
        with self._lock:
            return self._features.get(pixels)

    def _drop(self) -> None:
        now = time.monotonic()
        while self._files:
            name, (until, content) = next(iter(self._files.items()))
            if until > now and self._bytes <= MOST_BYTES:
                return
            del self._files[name]
            self._bytes -= len(content)
