"""A sprite alone as a picture: on a plain background, perhaps mirrored or without colour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from orthus_core.world.sprites import WHITE, Colour, SpritePack


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

    @property
    def record_value(self) -> dict[str, Any]:
        """What a record says of it."""
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
