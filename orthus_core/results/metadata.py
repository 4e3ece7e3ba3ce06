"""PNG files that know how they were made.

The text chunk `parameters` reads as other tools write it; our own chunk `orthus` is one JSON object
with everything that is needed to draw the picture again, and a hash of its pixels to compare.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.results.output_names import write_file
from orthus_core.version import __version__

OUR_CHUNK = "orthus"
COMMON_CHUNK = "parameters"


class GenerationInfo(NamedTuple):
    """How a picture was made.

    recipe: The resolved recipe, the command's name in it.
    prompt: The words that asked for it.
    seed: Of its noise.
    sampling: The values it was sampled with, the model's own defaults filled in.
    model: Name and hash of the model.
    inputs: Pictures it was made from, as hashes of their pixels.
    files: Where those pictures lay, as they were named.
    panel: Its place in a story, from 1; None for a picture of its own.
    begun: How many rows of patches it keeps of the picture it was made from, as `{"rows": 8}`, and
        where their features came from; None for one that was drawn from its first patch on.
    among: Prompts, files and seeds of all that were drawn with it, each subject with each seed:
        rounding depends on how many rows a product has, so the last bit may hang on them.
    text: What the model wrote before it drew; None where it did not.
    """

    recipe: dict[str, Any]
    prompt: str
    seed: int
    sampling: dict[str, Any]
    model: dict[str, str]
    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    panel: int | None = None
    begun: dict[str, Any] | None = None
    among: dict[str, Any] | None = None
    text: str | None = None


def pixel_hash(image: Image.Image) -> str:
    """A hash of what is seen, size included; metadata and compression do not matter."""
    rgb = image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def record_of(image: Image.Image, info: GenerationInfo) -> dict[str, Any]:
    """What our chunk says."""
    said = {name: value for name, value in info._asdict().items() if value not in (None, ())}
    return {"version": __version__, **said, "pixels": pixel_hash(image)}


def png_bytes(image: Image.Image, info: GenerationInfo | None) -> bytes:
    """The picture as a PNG file; with both chunks if it was made here."""
    chunks = PngImagePlugin.PngInfo()
    if info is not None:
        chunks.add_text(COMMON_CHUNK, common_text(image, info))
        chunks.add_itxt(OUR_CHUNK, json.dumps(record_of(image, info), ensure_ascii=False))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def save_picture(
    image: Image.Image, path: Path, info: GenerationInfo | None, *, overwrite: bool = False
) -> None:
    """Writes the picture with its making; without a word about it when that is None.

    Raises:
        OutputError: When the name is taken or the place cannot be written to.
    """
    write_file(path, png_bytes(image, info), overwrite=overwrite)


def sidecar_of(path: Path) -> Path:
    """Where the record of a picture lies that is also kept beside it."""
    return path.with_suffix(".json")


def save_sidecar(
    image: Image.Image, path: Path, info: GenerationInfo, *, overwrite: bool = False
) -> None:
    """Writes what the chunk says as a JSON file beside the picture at `path`.

    Raises:
        OutputError: When the name is taken or the place cannot be written to.
    """
    record = {"file": path.name, **record_of(image, info)}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_file(sidecar_of(path), text.encode(), overwrite=overwrite)


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


def common_text(image: Image.Image, info: GenerationInfo) -> str:
    """Prompt, negative prompt, then one line of `Name: value`, as web interfaces write it."""
    sampling = info.sampling
    negative = sampling.get("negative_prompt")
    # Every task's sampling has an image guidance; an edit alone is guided by it.
    is_edit = info.recipe.get("command") == "edit"
    facts = {
        "Steps": sampling.get("steps"),
        "Sampler": common_sampler(sampling.get("scheduler")),
        "CFG scale": sampling.get("guidance"),
        "Image CFG scale": sampling.get("image_guidance") if is_edit else None,
        "Seed": info.seed,
        "Size": f"{image.width}x{image.height}",
        "Model hash": info.model.get("hash", "")[:10],
        "Model": info.model.get("name"),
        "Version": f"orthus {__version__}",
    }
    line = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    parts = [info.prompt, f"Negative prompt: {negative}" if negative else "", line]
    return "\n".join(part for part in parts if part)


def common_sampler(scheduler: str | None) -> str | None:
    """A scheduler's name in `parameters`: its display name where it is registered, the class name
    for `pkg.mod.Class`, None where nothing is denoised (a discrete Chameleon).
    """
    if scheduler in SOLVERS:
        return SOLVERS[scheduler].display_name
    return scheduler and scheduler.rpartition(".")[2]


# A picture names so many others that it was drawn with; beyond, its file would be mostly names.
MOST_TOLD = 64


def with_batch(infos: Sequence[GenerationInfo]) -> list[GenerationInfo]:
    """How each picture was made, and among which others."""
    run = _run(infos)
    return [made._replace(among=run) for made in infos]


def _run(infos: Sequence[GenerationInfo]) -> dict[str, Any] | None:
    """Prompts, seeds and files of all; nothing when a picture is alone, or they are many, or they
    are not each subject with each seed."""
    subjects = list(dict.fromkeys((made.prompt, made.files) for made in infos))
    seeds = list(dict.fromkeys(made.seed for made in infos))
    pairs = [(*subject, seed) for subject in subjects for seed in seeds]
    if not 1 < len(infos) <= MOST_TOLD:
        return None
    if pairs != [(made.prompt, made.files, made.seed) for made in infos]:
        return None
    files = [list(files) for _, files in subjects]
    return {
        "prompts": [prompt for prompt, _ in subjects],
        "seeds": seeds,
        **({"files": files} if any(files) else {}),
    }
