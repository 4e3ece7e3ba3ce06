"""Read and check the generation metadata of a picture, its sidecar or a story.

Files edited by hand or written by other tools produce an error message, not a traceback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.recipe import SCHEMAS, as_table, keys, shape
from orthus_core.results.answer_file import MADE, StoredAnswer, read_answers
from orthus_core.results.metadata import GenerationInfo, pixel_hash, read_record
from orthus_core.results.story_folder import MARK, read_story
from orthus_core.samplers.params import STORY_TEXT
from orthus_core.user_files import read_text, user_path
from orthus_core.wrong_content import true_cause

KINDS = {  # type of each field of a record
    "recipe": dict,
    "prompt": str,
    "seed": int,
    "sampling": dict,
    "model": dict,
    "inputs": list,
    "files": list,
    "panel": int,
    "begun": dict,
    "among": dict,
    "text": str,
    "best_of": dict,
}
ANSWERS = ".jsonl"
NEEDED = ("recipe", "prompt", "seed", "sampling", "model")


class Run(NamedTuple):
    """All pictures of a run: each subject with each seed.

    Attributes:
        prompts, files: Prompts and files of the subjects.
        seeds: Seeds of the pictures of a subject.
        place: Position of the picture in question among all of them.
    """

    prompts: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    place: int

    @property
    def pictures(self) -> int:
        return len(self.prompts) * len(self.seeds)


class Record(NamedTuple):
    """A result with its generation metadata.

    Attributes:
        path: File it was read from.
        making: The generation metadata.
        version: Version of the software that drew it; empty when unknown.
        pixels: Pixel hash of each picture described: one, or those of a story by panel; empty for
            answers about pictures.
        seen: Pixel hash of the picture in the file itself; None for a sidecar, which has none.
        stored: Pixel hash of that picture when it was written, if its file (a JPEG) does not hold
            the drawn pixels themselves; None if it does.
    """

    path: Path
    info: GenerationInfo
    version: str
    pixels: dict[int, str]
    seen: str | None = None
    stored: str | None = None

    @property
    def command(self) -> str:
        """The command that drew it."""
        return self.info.recipe["command"]

    @property
    def as_drawn(self) -> bool | None:
        """Whether the file's pixels are the drawn ones; None for a sidecar, which has none."""
        return None if self.seen is None else self.seen in self.pixels.values()

    @property
    def is_changed(self) -> bool:
        """Whether the file's pixels are neither the drawn ones, nor those that were written."""
        return not self.as_drawn and self.seen not in (None, self.stored)


def read_made(path: str | Path) -> Record:
    """The record in a picture file, in a sidecar or `story.json`, in a story's folder, or in the
    last line of a file of answers.

    Raises:
        DataError: When there is none, or it cannot be read.
    """
    path = user_path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, also accepts invalid names
        path = path / MARK
    if path.suffix.lower() == ANSWERS:
        return record_of_answer(path, read_answers(path)[-1])
    if path.suffix.lower() == ".json":
        return _checked(path, _sidecar(path))
    table = read_record(path)
    if table is None:
        raise DataError(
            "this picture does not say how it was made",
            where=str(path),
            hint="only files that the commands of orthus wrote do, and not with --no-metadata",
        )
    return _checked(path, table)._replace(seen=pixel_hash(open_image(path)))


def record_of_answer(path: Path, stored: StoredAnswer) -> Record:
    """The record of one answer in a file.

    Raises:
        DataError: When the answer has no such record.
    """
    asked, made = stored.question, stored.made
    if not all(made.get(name) for name in MADE):
        raise DataError(
            "these answers do not say how they were made",
            where=str(path),
            hint="those of an earlier version do not; ask again with --overwrite",
        )
    lora = adapters_of(made)
    recipe = {
        "command": "caption",
        "model": made["name"],
        "question": asked.question,
        "seed": stored.seed,
        "text": asked.sampling,
        **({"quantize": made["quantize"]} if made.get("quantize") else {}),
        **({"lora": [f"{a['path']}:{a['scale']}" for a in lora]} if lora else {}),
    }
    about = {"name": made["name"], "hash": asked.model}
    about |= {name: made[name] for name in ("device", "dtype")} | ({"lora": lora} if lora else {})
    info = GenerationInfo(
        recipe, asked.question, stored.seed, asked.sampling, about, files=(stored.image,)
    )
    return Record(path, info, made["version"], {})


def adapters_of(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is recorded of the adapters that a result was made with; nothing that does not read."""
    found = made.get("lora")
    kinds = {"name": str, "path": str, "scale": (int, float), "hash": str}
    return [
        each
        for each in (found if isinstance(found, list) else ())
        if isinstance(each, dict)
        and all(isinstance(each.get(name), kind) for name, kind in kinds.items())
    ]


def asked_of(record: Record) -> dict[str, Any]:
    """The recipe of a result as a table, with the sampling values that were used filled in.

    A model's defaults may change; the record has those of the day it was drawn.

    Raises:
        RecipeError: When the record's recipe is no longer valid.
    """
    recipe, sampling = record.info.recipe, record.info.sampling
    schema = SCHEMAS[record.command]
    known = {key.name for key in keys(schema)}
    filled = {name: value for name, value in sampling.items() if name in known}
    text = {name: value for name, value in sampling.items() if f"text.{name}" in known}
    if text and isinstance(recipe.get("text", {}), Mapping):
        filled["text"] = {**recipe.get("text", {}), **text}
    panel, story = recipe.get("from_panel"), recipe.get("from_story")
    if counts_words(record) and isinstance(panel, int) and isinstance(story, str):
        filled["from_panel"] = panel - _panels_before(story)
    return as_table(shape(schema, {**recipe, **filled}, where=str(record.path)))


def counts_words(record: Record) -> bool:
    """Whether the numbers of a story's panels count an opening in words, as in stories of earlier
    versions.
    """
    return record.command == "story" and not {*STORY_TEXT} & set(record.info.sampling)


def _panels_before(story: str) -> int:
    """What the numbers of an earlier version are ahead of today's: 1 if the story opens in words
    alone. A story that is missing is found out when it is opened.
    """
    try:
        opening = read_story(Path(story)).opening
    except DataError:
        return 0
    return int(bool(opening) and opening[0].image is None)


def run_of(record: Record) -> Run | None:
    """The run that a picture was drawn in; None when it was drawn alone, or that is unknown."""
    among, info = record.info.among or {}, record.info
    prompts, seeds = among.get("prompts"), among.get("seeds")
    if not (isinstance(prompts, list) and isinstance(seeds, list)):
        return None
    named = among.get("files") or [list(info.files)] * len(prompts)
    if not isinstance(named, list) or not all(_is(list, files) for files in named):
        return None
    files = [tuple(each) for each in named]
    subjects = list(zip(prompts, files, strict=False))
    drawn = [(*subject, seed) for subject in subjects for seed in seeds]
    this = (info.prompt, info.files, info.seed)
    if this not in drawn or len(drawn) < 2:
        return None
    return Run(tuple(prompts), tuple(files), tuple(seeds), drawn.index(this))


def _sidecar(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        damaged = DataError(f"cannot read the record: {reason}", where=str(path))
        raise true_cause(damaged, path) from error
    if not isinstance(table, dict):
        raise DataError("it holds no record of a picture", where=str(path))
    return table


def _checked(path: Path, table: Mapping[str, Any]) -> Record:
    """Check the fields of a record.

    Raises:
        DataError: When a field is missing or has the wrong type.
    """
    try:
        json.dumps(_without_names(table), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half a character, which JSON can escape and no text holds
        raise DataError("its record holds broken text", where=str(path)) from error
    fields = {name: table[name] for name in KINDS if table.get(name) is not None}
    missing = [name for name in NEEDED if name not in fields]
    wrong = [name for name, value in fields.items() if not _is(KINDS[name], value)]
    if missing or wrong:
        problem = f"lacks {missing[0]!r}" if missing else f"has no usable {wrong[0]!r}"
        raise DataError(
            f"its record {problem}",
            where=str(path),
            hint="a picture that orthus drew, its sidecar or a story.json is needed",
        )
    if fields["recipe"].get("command") not in SCHEMAS:
        raise DataError("its record names no command that draws", where=str(path))
    for name in ("inputs", "files"):
        fields[name] = tuple(fields.get(name, ()))
    version, written = table.get("version", ""), table.get("stored")
    stored = written.get("pixels") if isinstance(written, Mapping) else None
    info, pixels = GenerationInfo(**fields), _pixels(path, table)
    return Record(
        path, info, str(version), pixels, stored=stored if isinstance(stored, str) else None
    )


def _without_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its files' names, which may hold bytes that are no text."""
    kept = {name: value for name, value in table.items() if name not in ("file", "files")}
    if isinstance(among := kept.get("among"), Mapping):
        kept["among"] = {name: value for name, value in among.items() if name != "files"}
    if isinstance(recipe := kept.get("recipe"), Mapping):
        kept["recipe"] = {name: value for name, value in recipe.items() if name != "from_story"}
    return kept


def _is(kind: type, value: Any) -> bool:
    """Whether a value has the given type; lists may hold only texts."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind) and not isinstance(value, bool)


def _pixels(path: Path, table: Mapping[str, Any]) -> dict[int, str]:
    if isinstance(table.get("pixels"), str):
        panel = table.get("panel")
        return {panel if isinstance(panel, int) else 1: table["pixels"]}
    panels: Any = table.get("panels")
    if not isinstance(panels, list) or not all(isinstance(panel, dict) for panel in panels):
        raise DataError("its record has no hash of its pixels", where=str(path))
    in_words = bool(panels) and panels[0].get("given") and "image" not in panels[0]
    return {
        number: panel["pixels"]
        for number, panel in enumerate(panels, start=0 if in_words else 1)
        if isinstance(panel.get("pixels"), str) and not panel.get("given")
    }


class Difference(NamedTuple):
    """A property that differs between two drawings."""

    what: str
    then: str
    now: str


class Distance(NamedTuple):
    """The difference between two pictures of the same size.

    Attributes:
        values: Number of colour values that differ, of `total`.
        largest: Largest difference of two values, up to 255.
    """

    values: int
    total: int
    largest: int


def circumstances(then: Record, now: Record) -> list[Difference]:
    """The differences in version, model, device and precision."""
    pairs = [
        ("version", then.version, now.version),
        *(
            (name, then.info.model.get(key, ""), now.info.model.get(key, ""))
            for name, key in (
                ("model hash", "hash"),
                ("device", "device"),
                ("dtype", "dtype"),
            )
        ),
    ]
    return [Difference(what, str(a), str(b)) for what, a, b in pairs if a and a != b]


def distance(one: Image.Image, other: Image.Image) -> Distance | None:
    """The distance between two pictures; None when their sizes differ."""
    if one.size != other.size:
        return None
    apart = np.abs(
        np.asarray(one.convert("RGB"), np.int16) - np.asarray(other.convert("RGB"), np.int16)
    )
    return Distance(int((apart > 0).sum()), apart.size, int(apart.max(initial=0)))


def find_inputs(record: Record, given: Sequence[Path] = ()) -> list[Path]:
    """Find a file for each input picture of a result, in order.

    Each is searched for among the `given` files, at its original path, and next to the result; a
    file matches only if its pixels are the same.

    Raises:
        DataError: When one is missing, or all candidates are different pictures.
    """
    info = record.info
    found = []
    for place, digest in enumerate(info.inputs):
        lay = [Path(info.files[place])] if place < len(info.files) else []
        beside = [record.path.parent / path.name for path in lay]
        fitting = [path for path in (*given, *lay, *beside) if _shows(path, digest)]
        if not fitting:
            name = f"{lay[0]} " if lay else ""
            changed = any(os.path.isfile(path) for path in (*lay, *beside))
            raise DataError(
                f"picture {place + 1} that it was made from is missing: {name}"
                + (f"is there with other pixels than {digest[:10]}" if changed else "is gone"),
                where=str(record.path),
                hint="name the file with --image; it is known by its pixels",
            )
        found.append(fitting[0])
    return found


def _shows(path: Path, digest: str) -> bool:
    try:
        return os.path.isfile(path) and pixel_hash(open_image(path)) == digest
    except DataError:
        return False
