"""A scene: a backdrop and the things on it. The record is exact, so every question has one answer.

Positions and sizes are in 64ths of the picture's side. Things are placed on a raster of 8 units,
the side of a patch of 16 pixels at 128x128, so that a thing covers whole patches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from orthus_core.errors import DataError
from orthus_core.world.backdrops import BACKDROPS, paint
from orthus_core.world.recolour import HUES, recolour
from orthus_core.world.sprites import SpritePack

UNITS = 64
STEP = 8
SMALL, LARGE, WHOLE = 32, 48, 64
STYLES = ("3d", "flat")
# Distance of two colours (0..255, Euclidean) that are clearly different.
CLEARLY = 48


@dataclass(frozen=True)
class Thing:
    """One sprite in a scene.

    Attributes:
        sprite: Key of the sprite in the packs.
        x, y: Left and upper edge, in 64ths of the picture's side.
        side: Width and height, in the same unit.
        colour: Colour of `recolour.HUES` that it is recoloured to; "" keeps its own.
        style: Style, one of `STYLES`.
        mirror: Whether it is flipped from left to right.
        grey: Whether it is shown in greyscale.
    """

    sprite: str
    x: int = 0
    y: int = 0
    side: int = WHOLE
    colour: str = ""
    style: str = "3d"
    mirror: bool = False
    grey: bool = False

    @property
    def centre(self) -> tuple[float, float]:
        """The centre, (x, y)."""
        return self.x + self.side / 2, self.y + self.side / 2

    def overlaps(self, other: Thing) -> bool:
        """Whether the two squares overlap; a common edge does not count."""
        return (
            self.x < other.x + other.side
            and other.x < self.x + self.side
            and self.y < other.y + other.side
            and other.y < self.y + self.side
        )


@dataclass(frozen=True)
class Scene:
    """The content of a picture.

    Attributes:
        backdrop: Name of the backdrop, one of `BACKDROPS`.
        things: Things on it; later ones are in front.
    """

    backdrop: str = "white"
    things: tuple[Thing, ...] = ()

    def with_thing(self, index: int, **changes: Any) -> Scene:
        """The scene with some attributes of one thing changed."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)
        return replace(self, things=tuple(things))

    def without(self, index: int) -> Scene:
        """The scene without one of its things."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])

    def plus(self, thing: Thing) -> Scene:
        """The scene with another thing in front."""
        return replace(self, things=(*self.things, thing))

    def record(self) -> dict[str, Any]:
        """The scene as a JSON object, which `Scene.of` reads back."""
        return {
            "backdrop": self.backdrop,
            "things": [_without_defaults(thing) for thing in self.things],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Scene:
        """The scene that a record describes.

        Raises:
            DataError: if the record is wrong; the message says how.
        """
        try:
            things = tuple(Thing(**thing) for thing in record.get("things", ()))
            scene = cls(str(record.get("backdrop", "white")), things)
        except TypeError as error:
            raise DataError(f"cannot read the scene: {error}") from error
        scene.check()
        return scene

    def check(self) -> None:
        """Checks names and positions.

        Raises:
            DataError: if a name is unknown or a thing is not inside the picture.
        """
        if self.backdrop not in BACKDROPS:
            raise DataError(f"there is no backdrop {self.backdrop!r}")
        for thing in self.things:
            places = (thing.x, thing.y, thing.side)
            if not all(isinstance(place, int) for place in places):
                raise DataError("'x', 'y' and 'side' must be whole numbers")
            inside = 0 <= thing.x <= UNITS - thing.side and 0 <= thing.y <= UNITS - thing.side
            if thing.side <= 0 or not inside:
                raise DataError(f"the thing at {places} is not inside the picture")
            if not (isinstance(thing.colour, str) and isinstance(thing.style, str)):
                raise DataError("'colour' and 'style' must be words")
            if thing.colour and thing.colour not in HUES:
                raise DataError(f"there is no colour {thing.colour!r}")
            if thing.style not in STYLES:
                raise DataError(f"there is no style {thing.style!r}")


@dataclass(frozen=True)
class SceneImage:
    """A scene as a picture.

    Attributes:
        packs: Sprite packs by style.
        scene: Scene that the picture shows.
    """

    KIND: ClassVar = "scene:"

    packs: Mapping[str, SpritePack] = field(repr=False, compare=False)
    scene: Scene

    @property
    def key(self) -> str:
        return self._key

    @cached_property  # asking whether this is a `Picture` reads it, which happens for each row
    def _key(self) -> str:
        record_json = json.dumps(self.scene.record(), sort_keys=True)
        styles = sorted({thing.style for thing in self.scene.things})
        packs = ",".join(self.packs[style].digest[:16] for style in styles)
        return f"{self.KIND}{hashlib.sha256(f'{packs}{record_json}'.encode()).hexdigest()}"

    @property
    def record_value(self) -> dict[str, Any]:
        """The value that describes it in a record."""
        return {"scene": self.scene.record()}

    def load(self, size: int) -> np.ndarray:
        """The pixels as uint8 [size, size, 3].

        Raises:
            DataError: if a sprite cannot be read.
        """
        canvas_HW3 = paint(self.scene.backdrop, size).copy()
        for thing in self.scene.things:
            left, top = round(thing.x * size / UNITS), round(thing.y * size / UNITS)
            side = max(1, round(thing.side * size / UNITS))
            part_hw3 = canvas_HW3[top : top + side, left : left + side]
            high, wide, _ = part_hw3.shape
            pack = _pack_of(self.packs, thing)
            colour_hw3, clear_hw1 = _layer(pack, _look(thing), side)
            if thing.mirror:
                colour_hw3, clear_hw1 = colour_hw3[:, ::-1], clear_hw1[:, ::-1]
            below_hw3 = np.multiply(part_hw3, clear_hw1[:high, :wide], dtype=np.uint16)
            # An exact division by 255 with rounding, in 16 bits.
            below_hw3 += 128
            below_hw3 += below_hw3 >> 8
            below_hw3 >>= 8
            below_hw3 += colour_hw3[:high, :wide]
            np.minimum(below_hw3, 255, out=below_hw3)
            part_hw3[:] = below_hw3
        return canvas_HW3


def thing_pixels(packs: Mapping[str, SpritePack], thing: Thing, side: int) -> np.ndarray:
    """The pixels of a thing with colours multiplied by alpha: float32 [side, side, 4], 0..255.

    Args:
        packs: Sprite packs by style.
        thing: Thing to draw; its position and side are ignored.
        side: Side of the result in pixels.

    Raises:
        DataError: if the style or the sprite is not in the packs, or cannot be read.
    """
    colour_hw3, clear_hw1 = _layer(_pack_of(packs, thing), _look(thing), side)
    over_hw4 = np.concatenate([colour_hw3, 255 - clear_hw1], axis=-1).astype(np.float32)
    return np.ascontiguousarray(over_hw4[:, ::-1]) if thing.mirror else over_hw4


def contrast(packs: Mapping[str, SpritePack], thing: Thing, backdrop: str) -> float:
    """The share of a thing, by area, whose colour is clearly not that of the backdrop.

    Raises:
        DataError: if the style or the sprite is not in the packs, or cannot be read.
    """
    return _contrast(_pack_of(packs, thing), _look(thing), backdrop)


@lru_cache(maxsize=65536)
def _contrast(pack: SpritePack, look: _Look, backdrop: str) -> float:
    over_hw4 = np.asarray(
        _whole_pixels(pack, look).resize((16, 16), Image.Resampling.BOX), dtype=np.float32
    )
    cover_hw = over_hw4[..., 3] / 255
    # Things stand in the lower part of places.
    behind_3 = paint(backdrop, 16)[6:].reshape(-1, 3).mean(0)
    off_hw3 = over_hw4[..., :3] - cover_hw[..., None] * behind_3
    differs_hw = np.square(off_hw3).sum(-1) > np.square(CLEARLY * cover_hw)
    return float((cover_hw * differs_hw).sum() / max(cover_hw.sum(), 1e-6))


class _Look(NamedTuple):
    """What decides a thing's pixels, beside its pack and its side."""

    sprite: str
    colour: str
    grey: bool


def _look(thing: Thing) -> _Look:
    return _Look(thing.sprite, thing.colour, thing.grey)


def _pack_of(packs: Mapping[str, SpritePack], thing: Thing) -> SpritePack:
    pack = packs.get(thing.style)
    if pack is None or thing.sprite not in pack:
        raise DataError(f"there is no sprite {thing.sprite!r} in style {thing.style!r}")
    return pack


# Scenes repeat some hundreds of looks at two sides, and reading and scaling them is most of the
# work. At 128x128, an entry takes 31 KB on average.
@lru_cache(maxsize=6144)
def _layer(pack: SpritePack, look: _Look, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A thing's premultiplied colours [side, side, 3], and the share of what lies behind it that it
    lets through [side, side, 1], both uint8.
    """
    over_hw4 = np.array(_whole_pixels(pack, look).resize((side, side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(over_hw4[..., :3]), 255 - over_hw4[..., 3:]


# An entry takes 64 KB; an autoencoder is shown all of some four thousand.
@lru_cache(maxsize=4096)
def _whole_pixels(pack: SpritePack, look: _Look) -> Image.Image:
    """The stored picture of a look, with premultiplied alpha."""
    rgba = pack.rgba(look.sprite)
    if look.colour:
        rgba = recolour(rgba, look.colour)
    if look.grey:
        grey, alpha = rgba.convert("L"), rgba.getchannel("A")
        rgba = Image.merge("RGBA", (grey, grey, grey, alpha))
    return rgba.convert("RGBa")


def _without_defaults(thing: Thing) -> dict[str, Any]:
    """A thing as a JSON object, without attributes that have their default value."""
    return {"sprite": thing.sprite} | {
        name: value for name, plain in _DEFAULTS.items() if (value := getattr(thing, name)) != plain
    }


_DEFAULTS = {field.name: field.default for field in fields(Thing) if field.name != "sprite"}
