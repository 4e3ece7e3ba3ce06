"""Picture files with generation metadata.

The text chunk `parameters` has the format of other tools; our own chunk `orthus` is one JSON
object with everything needed to reproduce the picture, and a hash of its pixels for comparison.
PNG files have both as text chunks, JPEG and WebP files as EXIF fields (`exif_pictures`).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.results.output_names import format_of, json_text, write_file
from orthus_core.version import __version__

OUR_CHUNK = "orthus"
COMMON_CHUNK = "parameters"
# Begins the negative prompt in `parameters`. Readers split lines at line feeds and strip them.
NEGATIVE = "Negative prompt:"
_MARKED_LINE = re.compile(rf"^(?=\s*{NEGATIVE})", re.M)


class GenerationInfo(NamedTuple):
    """How a picture was made.

    Attributes:
        recipe: The resolved recipe, including the command's name.
        prompt: Prompt of the picture.
        seed: Seed of its noise.
        sampling: Sampling parameters, including the model's defaults.
        model: Name and hash of the model, and the adapters that were added to it.
        inputs: Pixel hashes of the input pictures.
        files: Paths of the input pictures, as the user named them.
        panel: Number of its panel in a story, from 1; None for a single picture.
        begun: Number of rows of patches kept from the source picture, as `{"rows": 8}`, and where
            their features came from; None when every patch was drawn.
        among: Prompts, files and seeds of the whole run, each subject with each seed: matrix
            products round differently at different batch sizes, so an image's last bit can depend
            on its batch.
        text: Text that the model wrote before the picture; None without text.
        best_of: How it was chosen among several candidates: their number, the seed that was asked
            for, the score of each seed, and how probable the model found the right answers about
            the picture. Its own seed draws it alone. None where nothing was chosen.
    """

    recipe: dict[str, Any]
    prompt: str
    seed: int
    sampling: dict[str, Any]
    model: dict[str, Any]
    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    panel: int | None = None
    begun: dict[str, Any] | None = None
    among: dict[str, Any] | None = None
    text: str | None = None
    best_of: dict[str, Any] | None = None

    @property
    def scale(self) -> int | None:
        """How many times the drawn picture was enlarged; None when it was not."""
        return self.recipe.get("scale")

    def enlargement(self, size: tuple[int, int]) -> dict[str, Any]:
        """What is recorded of an enlarged picture of this size: by how much, and from what."""
        times = self.scale or 1
        drawn = f"{size[0] // times}x{size[1] // times}"
        return {"times": times, "from": drawn, "filter": "Lanczos"}


def pixel_hash(image: Image.Image) -> str:
    """A hash of the pixels and size; independent of metadata and compression."""
    rgb = image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def record_of(image: Image.Image, info: GenerationInfo) -> dict[str, Any]:
    """The contents of our chunk."""
    said = {name: value for name, value in info._asdict().items() if value not in (None, ())}
    larger = {"enlarged": info.enlargement(image.size)} if info.scale else {}
    return {"version": __version__, **said, **larger, "pixels": pixel_hash(image)}


def png_bytes(image: Image.Image, info: GenerationInfo | None) -> bytes:
    """The picture as a PNG file, with both chunks if `info` is given."""
    chunks = PngImagePlugin.PngInfo()
    if info is not None:
        chunks.add_text(COMMON_CHUNK, common_text(image, info))
        chunks.add_itxt(OUR_CHUNK, json_text(record_of(image, info)))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def picture_bytes(image: Image.Image, info: GenerationInfo | None, path: Path) -> bytes:
    """The picture as a file of the kind that its path names.

    Raises:
        OutputError: When the metadata is too long for that kind.
    """
    kind = format_of(path)
    if kind == "PNG":
        return png_bytes(image, info)
    from orthus_core.results.exif_pictures import exif_picture

    return exif_picture(image, info, kind)


def save_picture(
    image: Image.Image, path: Path, info: GenerationInfo | None, *, overwrite: bool = False
) -> None:
    """Write the picture with its generation metadata, or without any when `info` is None.

    Raises:
        OutputError: When the file exists or the location is not writable, or the metadata is too
            long for that kind of file.
    """
    write_file(path, picture_bytes(image, info, path), overwrite=overwrite)


def sidecar_of(path: Path) -> Path:
    """The path of a picture's sidecar."""
    return path.with_suffix(".json")


def save_sidecar(
    image: Image.Image, path: Path, info: GenerationInfo, *, overwrite: bool = False
) -> None:
    """Write the chunk's contents as a JSON file next to the picture at `path`.

    Raises:
        OutputError: When the file exists or the location is not writable.
    """
    record = {"file": path.name, **record_of(image, info)}
    text = json_text(record, indent=2) + "\n"
    write_file(sidecar_of(path), text.encode(), overwrite=overwrite)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """The contents of our chunk in a picture file, or None without one.

    Raises:
        DataError: When the file is not a picture, or the chunk cannot be read.
    """
    text = read_text(path, OUR_CHUNK)
    if text is None:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken_chunk(path, OUR_CHUNK, error) from error
    if not isinstance(record, dict):
        raise DataError(f"its chunk {OUR_CHUNK!r} holds no object", where=str(path))
    return record


def read_text(path: str | Path, chunk: str) -> str | None:
    """The text of a chunk of a picture, or None without one.

    Other chunks of a PNG file may be broken: they are not looked at. In JPEG and WebP files the
    chunks are EXIF fields.

    Raises:
        DataError: When the file is not a picture, or the chunk cannot be read.
    """
    from orthus_core.data import exif_texts, png_chunks

    image = open_image(path)  # rejects incomplete and invalid pictures
    content = Path(path).read_bytes()
    try:
        if png_chunks.is_png(content):
            return png_chunks.text_of(content, chunk)
        if exif_texts.is_exif_format(content):
            return exif_texts.text_of(content, chunk)
    except ValueError as error:
        raise _broken_chunk(path, chunk, error) from error
    text = image.info.get(chunk)
    return text if isinstance(text, str) else None


def _broken_chunk(path: str | Path, chunk: str, error: Exception) -> DataError:
    return DataError(
        f"its chunk {chunk!r} does not read: {error}",
        where=str(path),
        hint="the picture itself is whole and can be used; only how it was made is lost",
    )


def common_text(image: Image.Image, info: GenerationInfo) -> str:
    """Prompt, negative prompt, then one line of `Name: value`, in the format of web interfaces."""
    sampling = info.sampling
    negative = sampling.get("negative_prompt")
    # Every task's sampling has an image guidance scale; only an edit uses it.
    is_edit = info.recipe.get("command") == "edit"
    # Readers take Size for the size that was drawn, and know these names for what came after it.
    times = info.scale or 1
    facts = {
        "Steps": sampling.get("steps"),
        "Sampler": common_sampler(sampling.get("scheduler")),
        "CFG scale": sampling.get("guidance"),
        "Image CFG scale": sampling.get("image_guidance") if is_edit else None,
        "Seed": info.seed,
        "Size": f"{image.width // times}x{image.height // times}",
        "Model hash": info.model.get("hash", "")[:10],
        "Model": info.model.get("name"),
        "Lora hashes": lora_hashes(info.model),
        "Postprocess upscale by": info.scale,
        "Postprocess upscaler": "Lanczos" if info.scale else None,
        "Version": f"orthus {__version__}",
    }
    # Readers stop at an empty value.
    said = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    line = ", ".join(f"{name}: {quoted(value)}" for name, value in said.items())
    prompt = _without_marker(info.prompt)
    parts = [prompt, f"{NEGATIVE} {_without_marker(negative)}" if negative else "", line]
    return "\n".join(part for part in parts if part)


def lora_hashes(model: dict[str, Any]) -> str:
    """The adapters as `parameters` has them: name and start of the hash of each."""
    found = model.get("lora") or ()
    return ", ".join(f"{each['name']}: {each['hash'][:10]}" for each in found)


def quoted(value: str) -> str:
    """A value of the last line of `parameters`: as a JSON string where the plain text would end
    early, lose its spaces or be taken for such a string.
    """
    is_plain = not set(value) & set(",:") and value.isprintable() and value == value.strip()
    is_plain &= not value.startswith('"')
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _without_marker(text: str) -> str:
    """A prompt none of whose lines begins as the negative prompt does.

    The format has no escape for that; a zero-width space in front keeps the line in its prompt.
    """
    return _MARKED_LINE.sub("\u200b", text)


def common_sampler(scheduler: str | None) -> str | None:
    """A scheduler's name in `parameters`: its display name where it is registered, the class name
    for `pkg.mod.Class`, None where nothing is denoised (a discrete Chameleon).
    """
    if scheduler in SOLVERS:
        return SOLVERS[scheduler].display_name
    return scheduler and scheduler.rpartition(".")[2]


# Limit on the pictures of a batch that are recorded; more would make the file mostly names.
MOST_TOLD = 64


def with_batch(infos: Sequence[GenerationInfo]) -> list[GenerationInfo]:
    """Add to each picture's metadata the other pictures of its run."""
    run = _run(infos)
    return [made._replace(among=run) for made in infos]


def _run(infos: Sequence[GenerationInfo]) -> dict[str, Any] | None:
    """Prompts, seeds and files of the run; None for a single picture, for too many, or when the run
    is not each subject with each seed.
    """
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
