"""PNG files that know how they were made.

The text chunk `parameters` reads as other tools write it; our own chunk `orthus` is one JSON object
with everything that is needed to draw the picture again, and a hash of its pixels to compare.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.results.files import write_file
from orthus_core.version import __version__

OUR_CHUNK = "orthus"
COMMON_CHUNK = "parameters"


class Making(NamedTuple):
    """How a picture was made.

    recipe: The resolved recipe, the command's name in it.
    prompt: The words that asked for it.
    seed: Of its noise.
    sampling: The values it was sampled with, the model's own defaults filled in.
    model: Name and hash of the model.
    inputs: Pictures it was made from, as hashes of their pixels.
    panel: Its place in a story, from 1; None for a picture of its own.
    """

    recipe: dict[str, Any]
    prompt: str
    seed: int
    sampling: dict[str, Any]
    model: dict[str, str]
    inputs: tuple[str, ...] = ()
    panel: int | None = None


def pixel_hash(image: Image.Image) -> str:
    """A hash of what is seen, size included; metadata and compression do not matter."""
    rgb = image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def record_of(image: Image.Image, making: Making) -> dict[str, Any]:
    """What our chunk says."""
    said = {name: value for name, value in making._asdict().items() if value is not None}
    return {"version": __version__, **said, "pixels": pixel_hash(image)}


def png_bytes(image: Image.Image, making: Making | None) -> bytes:
    """The picture as a PNG file; with both chunks if it was made here."""
    chunks = PngImagePlugin.PngInfo()
    if making is not None:
        chunks.add_text(COMMON_CHUNK, common_text(image, making))
        chunks.add_itxt(OUR_CHUNK, json.dumps(record_of(image, making), ensure_ascii=False))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def save_picture(
    image: Image.Image, path: Path, making: Making, *, overwrite: bool = False
) -> None:
    """Writes the picture with its making.

    Raises:
        OutputError: When the name is taken or the place cannot be written to.
    """
    write_file(path, png_bytes(image, making), overwrite=overwrite)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """What our chunk in a PNG file says, or None where there is no such chunk.

    Raises:
        DataError: When the file is no picture, or the chunk does not read.
    """
    open_image(path)  # refuses whatever is no whole picture
    with Image.open(path) as image:
        image.load()
        text = image.info.get(OUR_CHUNK)
    if not isinstance(text, str):
        return None
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"its chunk {OUR_CHUNK!r} does not read: {error}", where=str(path)
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"its chunk {OUR_CHUNK!r} holds no object", where=str(path))
    return record


def common_text(image: Image.Image, making: Making) -> str:
    """Prompt, negative prompt, then one line of `Name: value`, as web interfaces write it."""
    sampling = making.sampling
    negative = sampling.get("negative_prompt")
    facts = {
        "Steps": sampling.get("steps"),
        "Sampler": "DDIM" if sampling.get("steps") else None,
        "CFG scale": sampling.get("guidance"),
        "Image CFG scale": sampling.get("image_guidance"),
        "Seed": making.seed,
        "Size": f"{image.width}x{image.height}",
        "Model hash": making.model.get("hash", "")[:10],
        "Model": making.model.get("name"),
        "Version": f"orthus {__version__}",
    }
    line = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    parts = [making.prompt, f"Negative prompt: {negative}" if negative else "", line]
    return "\n".join(part for part in parts if part)
