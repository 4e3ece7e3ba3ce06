"""What a finished picture, its sidecar or a story says of how it was made, read back and checked.

Whoever edited a file by hand, or brings one of another tool, gets a sentence and not a traceback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.recipe import SCHEMAS, as_table, keys, shape
from orthus_core.results.captions import MADE, Told, read_answers
from orthus_core.results.picture import Making, pixel_hash, read_record
from orthus_core.results.story import MARK

KINDS = {  # what a field of a record must be
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
}
ANSWERS = ".jsonl"
NEEDED = ("recipe", "prompt", "seed", "sampling", "model")


class Run(NamedTuple):
    """All that were drawn in one go: each subject with each seed.

    prompts, files: Of each subject.
    seeds: Of each picture of a subject.
    place: Of the picture it is about, among all of them.
    """

    prompts: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    place: int

    @property
    def pictures(self) -> int:
        return len(self.prompts) * len(self.seeds)


class Record(NamedTuple):
    """A result that tells how it was made.

    path: The file it was read from.
    making: How.
    version: Of the software that drew it; empty where it does not say.
    pixels: Hash of each picture it is about: one, or those that a story drew, by panel; none for
        answers about pictures.
    seen: Hash of the picture in the file itself; None for a sidecar, which holds none.
    """

    path: Path
    making: Making
    version: str
    pixels: dict[int, str]
    seen: str | None = None

    @property
    def command(self) -> str:
        """Which command drew it."""
        return self.making.recipe["command"]


def read_made(path: str | Path) -> Record:
    """The record in a PNG file, in a sidecar or `story.json`, in a story's folder, or in the last
    line of a file of answers.

    Raises:
        DataError: When there is none, or it does not read.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, also of a name that no system takes
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
            hint="only pictures that orthus drew do, and not with --no-metadata",
        )
    return _checked(path, table)._replace(seen=pixel_hash(open_image(path)))


def record_of_answer(path: Path, told: Told) -> Record:
    """How one answer of a file came about.

    Raises:
        DataError: When it does not say.
    """
    asked, made = told.question, told.made
    if not all(made.get(name) for name in MADE):
        raise DataError(
            "these answers do not say how they were made",
            where=str(path),
            hint="those of an earlier version do not; ask again with --overwrite",
        )
    recipe = {
        "command": "caption",
        "model": made["name"],
        "question": asked.question,
        "seed": told.seed,
        "text": asked.sampling,
        **({"quantize": made["quantize"]} if made.get("quantize") else {}),
    }
    about = {"name": made["name"], "hash": asked.model}
    about |= {name: made[name] for name in ("device", "dtype")}
    making = Making(recipe, asked.question, told.seed, asked.sampling, about, files=(told.image,))
    return Record(path, making, made["version"], {})


def asked_of(record: Record) -> dict[str, Any]:
    """The recipe of a result as a table, with every value filled in that it was sampled with.

    A model's own defaults may be others tomorrow; those of the day it was drawn are in it.

    Raises:
        RecipeError: When the record's recipe is none of ours any more.
    """
    recipe, sampling = record.making.recipe, record.making.sampling
    schema = SCHEMAS[record.command]
    known = {key.name for key in keys(schema)}
    filled = {name: value for name, value in sampling.items() if name in known}
    return as_table(shape(schema, {**recipe, **filled}, where=str(record.path)))


def run_of(record: Record) -> Run | None:
    """The run that a picture was drawn in; None when it was drawn alone, or that is not known."""
    among, making = record.making.among or {}, record.making
    prompts, seeds = among.get("prompts"), among.get("seeds")
    if not (isinstance(prompts, list) and isinstance(seeds, list)):
        return None
    named = among.get("files") or [list(making.files)] * len(prompts)
    if not isinstance(named, list) or not all(_is(list, files) for files in named):
        return None
    files = [tuple(each) for each in named]
    subjects = list(zip(prompts, files, strict=False))
    drawn = [(*subject, seed) for subject in subjects for seed in seeds]
    this = (making.prompt, making.files, making.seed)
    if this not in drawn or len(drawn) < 2:
        return None
    return Run(tuple(prompts), tuple(files), tuple(seeds), drawn.index(this))


def _sidecar(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the record: {reason}", where=str(path)) from error
    if not isinstance(table, dict):
        raise DataError("it holds no record of a picture", where=str(path))
    return table


def _checked(path: Path, table: Mapping[str, Any]) -> Record:
    """Raises: DataError when a field is missing or of another kind."""
    try:
        json.dumps(table, ensure_ascii=False).encode()
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
            hint="a PNG that orthus drew, its sidecar or a story.json is needed",
        )
    if fields["recipe"].get("command") not in SCHEMAS:
        raise DataError("its record names no command that draws", where=str(path))
    for name in ("inputs", "files"):
        fields[name] = tuple(fields.get(name, ()))
    version = table.get("version", "")
    return Record(path, Making(**fields), str(version), _pixels(path, table))


def _is(kind: type, value: Any) -> bool:
    """Whether a value is of its kind; lists hold texts only."""
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind) and not isinstance(value, bool)


def _pixels(path: Path, table: Mapping[str, Any]) -> dict[int, str]:
    if isinstance(table.get("pixels"), str):
        panel = table.get("panel")
        return {panel if isinstance(panel, int) else 1: table["pixels"]}
    panels = table.get("panels")
    if not isinstance(panels, list) or not all(isinstance(panel, dict) for panel in panels):
        raise DataError("its record has no hash of its pixels", where=str(path))
    return {
        number: panel["pixels"]
        for number, panel in enumerate(panels, start=1)
        if isinstance(panel.get("pixels"), str) and not panel.get("given")
    }
