"""What a detector finds in GenEval's pictures on disk, in the form that `geneval_files` judges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.evaluation.geneval import MOST_OBJECTS
from orthus_core.evaluation.geneval_detector import (
    DEVIATIONS,
    ColorReader,
    FoundThing,
    ThingDetector,
)
from orthus_core.evaluation.official.geneval_files import PROMPTS, is_prompt, read_prompts
from orthus_core.evaluation.official.read_files import read_json_lines
from orthus_core.events import Progress

PICTURES = "DIR/00000/samples/0000.png and DIR/00000/metadata.jsonl, a folder for each prompt"
NAME = re.compile(r"\d+\.png")
DETECTIONS_FILE = "detections.jsonl"


class PromptPicture(NamedTuple):
    """A drawn picture, its name in the folder, and the record of its prompt."""

    path: Path
    name: str
    metadata: dict[str, Any]


def drawn_pictures(folder: Path, data: Path | None) -> list[PromptPicture]:
    """The pictures of a folder in the official layout, by prompt and number.

    Args:
        folder: Folder of the pictures.
        data: The prompts, for folders without their records.

    Raises:
        DataError: When there are none, or the prompt of some is not known or of another layout.
    """
    prompts = read_prompts(data)[1] if data is not None else []
    found = []
    numbered = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    for place in sorted(numbered, key=lambda path: int(path.name)):
        about = place / "metadata.jsonl"
        if about.is_file():
            metadata = read_json_lines(about, PICTURES)[0]
            if not is_prompt(metadata):
                raise DataError(
                    "the record of a prompt is of another layout",
                    where=str(about),
                    hint=f"expected: {PROMPTS}",
                )
        elif int(place.name) < len(prompts):
            metadata = prompts[int(place.name)]
        else:
            raise DataError(
                "the prompt of a picture is not known",
                where=str(place),
                hint=f"expected: {PICTURES}; or give the prompts with --data",
            )
        samples = place / "samples"
        for path in sorted(samples.iterdir()) if samples.is_dir() else ():
            if NAME.fullmatch(path.name):
                name = path.relative_to(folder).as_posix()
                found.append(PromptPicture(path, name, metadata))
    if not found:
        raise DataError(
            "there are no pictures of GenEval", where=str(folder), hint=f"expected: {PICTURES}"
        )
    return found


def detect_things(
    pictures: Sequence[PromptPicture], detector: ThingDetector, reader: ColorReader
) -> Iterator[Progress | dict[str, Any]]:
    """Looks at each picture, and yields a record of it.

    Raises:
        DataError: When a picture cannot be read.
    """
    for number, each in enumerate(pictures, start=1):
        image = open_image(each.path)
        (things,) = detector.detect([image])
        asked = [
            wanted["class"] for wanted in each.metadata.get("include", ()) if "color" in wanted
        ]
        colors: dict[int, str] = {}
        for name in dict.fromkeys(asked):
            # The judge looks at the most certain ones; the last of equal ones comes first.
            numbers = [at for at, thing in enumerate(things) if thing.name == name]
            numbers = sorted(numbers, key=lambda at: things[at].score)[::-1][:MOST_OBJECTS]
            named = reader.colors(image, [things[at] for at in numbers])
            colors |= dict(zip(numbers, named, strict=True))
        yield {
            "filename": each.name,
            "metadata": each.metadata,
            "detections": [_record(thing, colors.get(at)) for at, thing in enumerate(things)],
        }
        yield Progress("detecting", number, len(pictures), "pictures")


def _record(thing: FoundThing, color: str | None) -> dict[str, Any]:
    found = {"class": thing.name, "box": [*thing.box], "score": thing.score}
    return found if color is None else {**found, "color": color}


def detection_lines(records: Sequence[dict[str, Any]]) -> bytes:
    """The content of a file of detections."""
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()


def detection_settings(detector: ThingDetector, reader: ColorReader) -> dict[str, Any]:
    """What has to be the same to repeat the numbers, for result.json."""
    return {
        "detector": detector.kind,
        "detector_folder": detector.name,
        "clip": reader.encoder.name,
        "deviations": [*DEVIATIONS[detector.kind]],
    }
