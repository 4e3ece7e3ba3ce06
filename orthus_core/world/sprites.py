"""A sprite pack: small named pictures with alpha, read directly from one tar file.

Nothing is unpacked to disk. Packs from untrusted sources are safe to open: the names, types, number
and sizes of all members are checked before any of them is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from orthus_core.errors import DataError

STARTER_SPRITES = Path(__file__).parents[1] / "starter" / "sprites"
STARTER_PACK = STARTER_SPRITES / "fluent-3d-128.tar"
# Packs of the same things in several styles. The first one has the names and the skin tones.
STARTER_STYLES = {
    "3d": STARTER_PACK,
    "flat": STARTER_SPRITES / "fluent-flat-128.tar",
}

MAX_SPRITES = 100_000
MAX_PICTURE_BYTES = 1 << 20
MAX_NAMES_BYTES = 1 << 16
MAX_PICTURE_SIDE = 1024

_MEMBER = re.compile(r"([0-9A-Za-z_-]{1,80})\.(json|webp|png)")
_TEXT_FIELDS = ("label", "group", "subgroup", "skin", "gender", "base", "neutral")

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Sprite:
    """One named picture.

    Attributes:
        key: Key in the pack; the hex code for emoji.
        label: Unicode's name: "red apple".
        tags: Further words for it.
        group: Unicode's group, such as "animals-nature".
        subgroup: Unicode's subgroup, such as "animal-mammal".
        skin: Skin tone: "light", "medium", "dark", or "" for none.
        gender: "woman" or "man" if there is a twin without a gender, otherwise "".
        base: Key of the sprite without the skin tone (its own key if it has none).
        neutral: Key of the sprite without the gender (its own key if it has none).
    """

    key: str
    label: str
    tags: tuple[str, ...] = ()
    group: str = ""
    subgroup: str = ""
    skin: str = ""
    gender: str = ""
    base: str = ""
    neutral: str = ""


class SpritePack:
    """The sprites of one tar file, in the order of their keys.

    `pack["1f431"]` is a `Sprite`, and `pack.image(sprite, 64)` are its pixels. Only the names are
    held in memory; a picture is read when it is needed. Packs can be pickled for worker processes.
    """

    def __init__(
        self, path: Path, digest: str, sprites: list[Sprite], places: dict[str, tuple[int, int]]
    ) -> None:
        self.path = path
        self.digest = digest
        self._sprites = {sprite.key: sprite for sprite in sprites}
        self._places = places

    @classmethod
    def open(cls, path: Path | str | None = None) -> SpritePack:
        """Reads the names of a pack, by default of the bundled one.

        Raises:
            DataError: if the file is missing, is not a tar file, or exceeds this module's limits.
        """
        path = Path(path) if path is not None else STARTER_PACK
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            with tarfile.open(path, "r:") as tar:
                names, places = _read_index(tar, path)
        except (OSError, tarfile.TarError) as error:
            from orthus_core.wrong_content import true_cause

            damaged = DataError(
                f"cannot open the sprite pack: {error}",
                where=str(path),
                hint="make one with `orthus data prepare emoji`",
            )
            raise true_cause(damaged, path) from error
        unpaired = sorted(names.keys() ^ places.keys())
        if unpaired:
            raise DataError(
                f"sprite {unpaired[0]!r} lacks its picture or its names", where=str(path)
            )
        sprites = [_sprite(key, names[key], path) for key in sorted(names)]
        return cls(path, digest, sprites, places)

    def __len__(self) -> int:
        return len(self._sprites)

    def __iter__(self) -> Iterator[Sprite]:
        return iter(self._sprites.values())

    def __contains__(self, key: str) -> bool:
        return key in self._sprites

    def __getitem__(self, key: str) -> Sprite:
        return self._sprites[key]

    def image(
        self, sprite: Sprite | str, size: int, background: Colour = WHITE, mirror: bool = False
    ) -> np.ndarray:
        """The sprite on a plain background, as uint8 [size, size, 3].

        It is scaled with premultiplied alpha (Lanczos) before it is composited, so that the colours
        of transparent pixels do not bleed into the edges.

        Raises:
            DataError: if the picture cannot be read.
        """
        key = sprite.key if isinstance(sprite, Sprite) else sprite
        over_HW4 = _scaled_pixels(self, key, size).astype(np.float32)
        colour_HW3, cover_HW1 = over_HW4[..., :3], over_HW4[..., 3:] / 255.0
        laid_HW3 = colour_HW3 + (1.0 - cover_HW1) * np.asarray(background, dtype=np.float32)
        pixels_HW3 = np.clip(np.rint(laid_HW3), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels_HW3[:, ::-1]) if mirror else pixels_HW3

    def rgba(self, sprite: Sprite | str) -> Image.Image:
        """The stored picture of the sprite, with alpha.

        Raises:
            DataError: if the picture cannot be read.
        """
        key = sprite.key if isinstance(sprite, Sprite) else sprite
        offset, length = self._places[key]
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
        try:
            with Image.open(io.BytesIO(content), formats=["WEBP", "PNG"]) as image:
                if max(image.size) > MAX_PICTURE_SIDE:
                    raise DataError(f"sprite {key!r} is {image.size} pixels", where=str(self.path))
                return image.convert("RGBA")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"cannot read sprite {key!r}: {error}", where=str(self.path)) from error


@lru_cache(maxsize=4096)
def _scaled_pixels(pack: SpritePack, key: str, size: int) -> np.ndarray:
    """A scaled sprite with premultiplied alpha: uint8 [size, size, 4].

    It is cached and shared, because trainings repeat the same few thousand sprites.
    """
    return np.array(scale_premultiplied(pack.rgba(key), size))


def scale_premultiplied(rgba: Image.Image, size: int) -> Image.Image:
    """A picture with alpha scaled to a square (Lanczos), with premultiplied alpha ("RGBa").

    With premultiplied alpha, colours of transparent pixels do not bleed into the edges.
    """
    return rgba.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)


def starter_packs() -> dict[str, SpritePack]:
    """The bundled sprite packs by style."""
    return {style: SpritePack.open(path) for style, path in STARTER_STYLES.items()}


def _read_index(
    tar: tarfile.TarFile, path: Path
) -> tuple[dict[str, bytes], dict[str, tuple[int, int]]]:
    """By key: the names as JSON, and the (offset, length) of each picture in the file."""
    names: dict[str, bytes] = {}
    places: dict[str, tuple[int, int]] = {}
    for count, member in enumerate(tar):
        matched = _MEMBER.fullmatch(member.name)
        if matched is None or not member.isreg() or count >= 2 * MAX_SPRITES:
            raise DataError(f"{member.name!r} does not belong in a sprite pack", where=str(path))
        key, kind = matched.groups()
        if member.size > (MAX_NAMES_BYTES if kind == "json" else MAX_PICTURE_BYTES):
            raise DataError(f"{member.name!r} is {member.size} bytes long", where=str(path))
        if key in (names if kind == "json" else places):
            raise DataError(f"{member.name!r} appears twice", where=str(path))
        if kind == "json":
            content = tar.extractfile(member)
            assert content is not None  # isreg() above
            names[key] = content.read()
        else:
            places[key] = (member.offset_data, member.size)
    return names, places


def _sprite(key: str, text: bytes, path: Path) -> Sprite:
    try:
        names = json.loads(text)
        fields = {field: names[field] for field in _TEXT_FIELDS if field in names}
        tags = tuple(names.get("tags", ()))
        if not all(isinstance(value, str) for value in (*fields.values(), *tags)):
            raise ValueError("a name is not text")
        if not fields.get("label"):
            raise ValueError("no label")
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"cannot read the names of sprite {key!r}: {error}", where=str(path)
        ) from error
    links = {"base": fields.pop("base", key), "neutral": fields.pop("neutral", key)}
    return Sprite(key, tags=tags, **fields, **links)
