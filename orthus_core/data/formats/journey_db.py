"""JourneyDB: pictures that Midjourney drew, with the prompt and a caption of each.

    {"img_path": "./000/0a3b.jpg", "prompt": "a cat --ar 3:2 --v 4",
     "Task2": {"Caption": "A cat sits."}}

The pictures lie in `imgs/000/` beside the file, `train_anno_realease_repath.jsonl` (the misspelling
is theirs). A row's words are its caption; where there is none, its prompt without what steers
Midjourney: parameters, weights and addresses of pictures. Sources: JourneyDB/JourneyDB (layout);
docs.midjourney.com, "Parameter List" and "Multi Prompts & Weights".
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orthus_core.data.document import Document, Place, bare, turn
from orthus_core.data.formats.annotation_file import annotation_file, open_annotations
from orthus_core.data.formats.picture_root import picture_at
from orthus_core.data.rows import IndexedRows, Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event

IMAGES = "imgs"

_ADDRESS = re.compile(r"<?https?://\S+")
# Editors turn two hyphens into a dash. What `--no` takes may be many words.
_PARAMETER = re.compile(
    r"(?:^|(?<=\s))(?:--|[—–])(?:no\b(?:(?!\s(?:--|[—–])).)*"  # noqa: RUF001
    r"|[a-z]\w*(?:\s+(?:[\d.,:x/]+(?=\s|$)|4[abc]\b|raw\b|cute\b"
    r"|expressive\b|scenic\b|original\b))?)",
    re.IGNORECASE | re.DOTALL,
)
_WEIGHT = re.compile(r"::-?\d*\.?\d*")


def recognises(path: Path) -> bool:
    """Whether a file, or one in a folder, is of JourneyDB."""
    return annotation_file(path, is_annotation) is not None


def is_annotation(record: Any) -> bool:
    """Whether a record is of JourneyDB."""
    return isinstance(record, Mapping) and "img_path" in record


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The pictures of a file, or of the one in a folder. Raises: DataError."""
    found = yield from open_annotations(path, options, is_annotation, _folders, _image)
    read = partial(parse, root=found.root, source=found.source)
    return IndexedRows(found.index, read, str(path))


def _folders(beside: Path) -> list[Path]:
    return [beside / IMAGES, beside, beside.parent / IMAGES, beside.parent]


def _image(record: Any) -> list[object]:
    return [record.get("img_path")]


def parse(record: Any, place: Place, visit: int, *, root: Path, source: str) -> Document:
    """The document of a picture: its words, then the picture.

    Args:
        record: JSON value.
        place: Where it lies.
        visit: Not used: a picture has one caption.
        root: Folder that picture paths are relative to.
        source: Name of the data set.

    Raises:
        DataError: if there are no words, or the picture is not there.
    """
    name = record.get("img_path")
    picture, words = picture_at(root, name), words_of(record)
    return Document(
        turn("user", words) + turn("model", picture), id=name.removeprefix("./"), source=source
    )


def words_of(record: Mapping[str, Any]) -> str:
    """The caption of a record, or its prompt as a caption. Raises: DataError if it has none."""
    task = record.get("Task2")
    caption = task.get("Caption") if isinstance(task, Mapping) else None
    if isinstance(caption, str) and bare(caption):
        return bare(caption)
    prompt = record.get("prompt")
    words = plain_prompt(bare(prompt)) if isinstance(prompt, str) else ""
    if not words:
        raise DataError("there are no words for the picture: neither a caption nor a prompt")
    return words


def plain_prompt(prompt: str) -> str:
    """A prompt without parameters (`--ar 3:2`), weights (`::2`) and addresses of pictures."""
    for pattern in (_ADDRESS, _PARAMETER, _WEIGHT):
        prompt = pattern.sub(" ", prompt)
    return " ".join(prompt.split()).strip(" ,")
