"""Writes rows of the small world to a folder, for other tools and for inspection.

The records and their pictures have the format that `orthus_core.data.formats.jsonl` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from orthus_core.atomic_folder import staged_folder
from orthus_core.data.document import Document, to_record
from orthus_core.data.formats.sniff import RECORDS
from orthus_core.data.pictures import Picture
from orthus_core.events import Progress
from orthus_core.world.records import record
from orthus_core.world.scene import SceneImage
from orthus_core.world.world import World

IMAGES = "images"


def export(
    world: World, tasks: Mapping[str, float], folder: Path, *, rows: int, size: int, seed: int
) -> Iterator[Progress]:
    """Writes `rows` rows into a folder: records.jsonl with one row in each line, and
    images/ROW-NUMBER.png. The record of a scene's picture holds its exact content under "scene".

    Args:
        world: World to take rows from.
        tasks: Weight of each task of `MAKERS`.
        folder: Folder to write to, complete or not at all; an empty one is filled.
        rows: Number of rows.
        size: Side of the pictures in pixels.
        seed: Seed of the rows.

    Raises:
        OutputError: if the folder is not empty or cannot be written.
    """
    with staged_folder(folder, mark=RECORDS, failure="the rows were not written") as staged:
        (staged / IMAGES).mkdir()
        with (staged / RECORDS).open("w", encoding="utf-8") as file:
            for number in range(rows):
                row = _write_row(record(world, tasks, seed, number), number, staged, size)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                yield Progress("rows", number + 1, rows, unit="rows")


def _write_row(document: Document, number: int, folder: Path, size: int) -> dict[str, Any]:
    """Saves the pictures of a row and returns its record."""
    row = to_record(document)
    for index, segment in enumerate(document.segments):
        if not isinstance(segment.value, Picture):
            continue
        name = f"{IMAGES}/{number:06d}-{index}.png"
        Image.fromarray(segment.value.load(size)).save(folder / name)
        segment_record: dict[str, Any] = {"type": "image", "role": segment.role, "path": name}
        if isinstance(segment.value, SceneImage):
            segment_record["scene"] = segment.value.scene.record()
        row["segments"][index] = segment_record
    return row
