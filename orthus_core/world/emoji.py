"""Builds a sprite pack (a small tar) from emoji of one style and their Unicode names.

The pack is a WebDataset shard: `KEY.json` (names) and `KEY.webp` (picture) for each sprite. The
members are sorted and every date and owner is zero, so the same inputs give the same names, order
and headers.

Pictures, one source for each style: Fluent Emoji 3D, Microsoft (MIT), from the npm package
`@lobehub/fluent-emoji-3d`; Fluent Emoji Flat, Microsoft (MIT), from the npm package
`@iconify-json/fluent-emoji-flat`, whose SVG drawings the optional package `resvg-py` renders.
Names: the npm package `emojibase-data` (MIT), whose English words are Unicode CLDR's (Unicode
License v3).
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from orthus_core.atomic import staged_file
from orthus_core.errors import DataError
from orthus_core.world.sprites import scale_premultiplied
from orthus_core.wrong_content import true_cause

# Three of Unicode's five tones, at 60% of the bytes.
TONES = {1: "light", 3: "medium", 5: "dark"}

# Components are colour swatches without a meaning of their own; flags are text in another form.
LEFT_OUT_GROUPS = {"component", "flags"}

# Measured on the whole set: above these the pack passes 9 MB.
WEBP_QUALITY = 70
WEBP_ALPHA_QUALITY = 60

_WOMAN_SIGN, _MAN_SIGN = "-200d-2640", "-200d-2642"
_WOMAN, _MAN, _PERSON = "1f469-", "1f468-", "1f9d1-"


@dataclass(frozen=True)
class PackSummary:
    """Contents of a pack.

    Attributes:
        path: File of the pack.
        untoned: Number of sprites without a skin tone.
        toned: Number of sprites with one.
        size_bytes: Size of the file.
        without_picture: Names for which no picture was found.
    """

    path: Path
    untoned: int
    toned: int
    size_bytes: int
    without_picture: tuple[str, ...]


Renderer = Callable[[int], Image.Image]
"""Renders a square picture with alpha; the argument is its side in pixels."""


def fluent_3d(assets_dir: Path) -> dict[str, Renderer]:
    """Renderers for a folder of `<hex code>.webp`, by hex code.

    Raises:
        DataError: if the folder contains none.
    """
    pictures = {
        _normalise_hex(path.stem): partial(_resize_webp, path) for path in assets_dir.glob("*.webp")
    }
    if not pictures:
        raise DataError(
            "no .webp pictures found",
            where=str(assets_dir),
            hint="unpack the npm package @lobehub/fluent-emoji-3d, and name its assets folder",
        )
    return pictures


def iconify(package_dir: Path) -> dict[str, Renderer]:
    """Renderers for an unpacked `@iconify-json` package of emoji, by hex code.

    Raises:
        DataError: if the package is incomplete, or no SVG renderer is installed.
    """
    if not importlib.util.find_spec("resvg_py"):
        raise DataError(
            "these emoji are SVG drawings, and nothing that draws them is installed",
            where=str(package_dir),
            hint="pip install resvg-py",
        )
    icons = _read_json(package_dir / "icons.json")
    hexcodes = _read_json(package_dir / "chars.json")
    drawn: dict[str, Renderer] = {}
    for hexcode, name in hexcodes.items():
        icon = icons["icons"].get(name)
        if icon is None:
            continue
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        drawn[_normalise_hex(hexcode)] = partial(_render_svg, svg, f"{package_dir}: {name}")
    return drawn


def build_pack(
    pictures: Mapping[str, Renderer],
    emojibase_dir: Path,
    out: Path,
    size: int = 128,
    *,
    tones: bool = True,
) -> PackSummary:
    """Writes a sprite pack of every emoji that has both a name and a picture.

    Skin tones are kept for people and hands that are not the gendered twin of another sprite.

    Args:
        pictures: Renderers by hex code, from `fluent_3d(...)` or `iconify(...)`.
        emojibase_dir: Folder of the unpacked `emojibase-data` package.
        out: Tar file to write. It is written under another name, then renamed.
        size: Side of a picture in pixels.
        tones: Whether to keep skin tones at all.

    Raises:
        DataError: if a source file is missing or cannot be read.
        OutputError: if `out` cannot be written.
    """
    named = [meta for meta in _sprite_metadata(emojibase_dir) if tones or not meta["skin"]]
    kept = sorted((m for m in named if m["key"] in pictures), key=lambda meta: meta["key"])

    with (
        staged_file(out, parents=True, failure="the pack was not written") as unfinished,
        tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for meta in kept:
            names = {field: value for field, value in meta.items() if field != "key" and value}
            text = json.dumps(names, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            _add(tar, f"{meta['key']}.json", text.encode())
            _add(tar, f"{meta['key']}.webp", _as_webp(pictures[meta["key"]](size)))

    toned = sum(1 for meta in kept if meta["skin"])
    missing = tuple(m["label"] for m in named if m["key"] not in pictures and not m["skin"])
    return PackSummary(out, len(kept) - toned, toned, out.stat().st_size, missing)


def _sprite_metadata(emojibase_dir: Path) -> Iterator[dict]:
    """The metadata of each emoji and of each skin tone that is kept, with its key."""
    groups = _read_json(emojibase_dir / "meta" / "groups.json")
    entries = _read_json(emojibase_dir / "en" / "data.json")
    known = {_normalise_hex(entry["hexcode"]) for entry in entries}
    for entry in entries:
        group = groups["groups"].get(str(entry.get("group")))
        if group is None or group in LEFT_OUT_GROUPS:
            continue
        key = _normalise_hex(entry["hexcode"])
        gender, neutral = _gender(key, known)
        meta = {
            "key": key,
            "label": entry["label"],
            "tags": entry.get("tags", []),
            "group": group,
            "subgroup": groups["subgroups"][str(entry["subgroup"])],
            "skin": "",
            "gender": gender,
            "base": "",
            "neutral": neutral,
        }
        yield meta
        if not gender:
            for toned in entry.get("skins", []):
                # A couple with two tones has a list here.
                tone = TONES.get(toned["tone"]) if isinstance(toned["tone"], int) else None
                if tone:
                    yield meta | {
                        "key": _normalise_hex(toned["hexcode"]),
                        "skin": tone,
                        "base": key,
                    }


def _gender(key: str, known: set[str]) -> tuple[str, str]:
    """("woman" | "man" | "", key of the genderless twin), for both of Unicode's sequences."""
    for gender, sign, lead in (("woman", _WOMAN_SIGN, _WOMAN), ("man", _MAN_SIGN, _MAN)):
        if key.endswith(sign):
            return gender, key.removesuffix(sign)
        neutral = _PERSON + key.removeprefix(lead)
        if key.startswith(lead) and neutral in known:
            return gender, neutral
    return "", ""


def _normalise_hex(hexcode: str) -> str:
    """The hex code in lower case, without variation selectors, which differ between sources."""
    return hexcode.lower().replace("-fe0f", "")


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        damaged = DataError(
            f"cannot read the emoji names: {error}",
            where=str(path),
            hint="unpack the npm package emojibase-data and point --names at it",
        )
        raise true_cause(damaged, path) from error


def _resize_webp(path: Path, size: int) -> Image.Image:
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            rgba = image.convert("RGBA")
    except (OSError, ValueError) as error:
        damaged = DataError(f"cannot read the picture: {error}", where=str(path))
        raise true_cause(damaged, path) from error
    return scale_premultiplied(rgba, size).convert("RGBA")


def _render_svg(svg: str, where: str, size: int) -> Image.Image:
    resvg_py = importlib.import_module("resvg_py")
    try:
        content = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
        with Image.open(io.BytesIO(bytes(content)), formats=["PNG"]) as image:
            rgba = image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot draw the picture: {error}", where=where) from error
    square = Image.new("RGBA", (size, size))
    square.paste(rgba, ((size - rgba.width) // 2, (size - rgba.height) // 2))
    return square


def _as_webp(rgba: Image.Image) -> bytes:
    buffer = io.BytesIO()
    rgba.save(buffer, "WEBP", quality=WEBP_QUALITY, alpha_quality=WEBP_ALPHA_QUALITY, method=6)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
