"""A single sprite as a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from orthus_core.world.sprites import WHITE, Colour, SpritePack


@dataclass(frozen=True)
class SpriteImage:
    """A sprite of a pack on a plain background.

    Attributes:
        pack: Pack of the sprite.
        sprite: Key of the sprite in the pack.
        background: Colour of the background.
        mirror: Whether it is flipped from left to right.
        grey: Whether it is shown in greyscale.
    """

    KIND: ClassVar = "sprite:"

    pack: SpritePack = field(repr=False, compare=False)
    sprite: str
    background: Colour = WHITE
    mirror: bool = False
    grey: bool = False

    @property
    def key(self) -> str:
        colour = "{:02x}{:02x}{:02x}".format(*self.background)
        changes = ("m" if self.mirror else "") + ("g" if self.grey else "")
        return f"{self.KIND}{self.pack.digest[:16]}:{self.sprite}:{colour}:{changes}"

    @property
    def record_value(self) -> dict[str, Any]:
        """The value that describes it in a record."""
        return {
            "sprite": self.sprite,
            "background": list(self.background),
            "mirror": self.mirror,
            "grey": self.grey,
            "pack": self.pack.digest,
        }

    def load(self, size: int) -> np.ndarray:
        pixels_HW3 = self.pack.image(self.sprite, size, self.background, self.mirror)
        if not self.grey:
            return pixels_HW3
        return np.asarray(Image.fromarray(pixels_HW3).convert("L").convert("RGB"))
