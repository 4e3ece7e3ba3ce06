"""StoryStream: stories of up to 30 pictures with a caption each, told in chunks of ten.

    {"id": 102, "images": ["000258/000258_keyframe_0-19-49-688.jpg", ...],
     "captions": ["Once upon a time ...", ...], "orders": [0, 1, ...]}

A row is a chunk: the user gives its first picture, caption and the request to continue, the model
the others, each caption before its picture. Source: TencentARC/SEED-Story (layout).
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orthus_core.data.document import Document, Place, bare, name_in, turn
from orthus_core.data.formats.annotation_file import (
    annotation_file,
    annotation_files,
    opened_annotations,
)
from orthus_core.data.formats.joined_rows import joined
from orthus_core.data.formats.picture_root import picture_at
from orthus_core.data.formats.split_names import check_split, split_of
from orthus_core.data.rows import IndexedRows, RecordIndex, Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event, Note, Progress

CHUNK = 10
"""Pictures of a row at most."""

REQUEST = "Please continue this story."
_PROGRESS_RECORDS = 1000
_MOST_FILES = 10_000


def recognises(path: Path) -> bool:
    """Whether a file, or one in a folder, holds stories."""
    return annotation_file(path, is_story) is not None


def is_story(record: Any) -> bool:
    """Whether a record is a story."""
    return isinstance(record, Mapping) and {"images", "captions"} <= set(record)


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The chunks of the stories of a file, or of a folder.

    A subset of the published set has its stories in several files. Files of a folder are read
    together, unless their names speak of splits.

    Raises:
        DataError: if a file cannot be read, its pictures are nowhere, or there is no such split.
    """
    files = annotation_files(path, is_story, _MOST_FILES)
    if len(files) > 1 and not any(split_of(file.name) for file in files):
        check_split(path, options.split)
        yield Note(f"{path}: the stories of {len(files)} files are read together")
    else:
        files = [annotation_file(path, is_story, options.split) or path]
    parts = list[Rows]()
    for file in files:
        found = yield from opened_annotations(file, options, _folders, _first_image)
        chunks = StoryChunks(found.index, (yield from _chunk_counts(found.index)))
        read = partial(parse, root=found.root, source=found.source)
        parts.append(IndexedRows(chunks, read, str(path)))
    return joined(parts, str(path))


def _folders(beside: Path) -> list[Path]:
    return [beside, beside / "images", beside / "image", beside.parent]


def _first_image(story: Any) -> list[object]:
    images = story.get("images")
    return images[:1] if isinstance(images, list) else []


def _chunk_counts(index: RecordIndex) -> Generator[Event, None, np.ndarray]:
    """Chunks of each story; 1 for a story that cannot be read, which has to be named: [N]."""
    counts = array("I")
    for number in range(len(index)):
        try:
            images = index.record(number).get("images")
            count = len(images) if isinstance(images, list) else 0
        except DataError:
            count = 0
        # A rest of one picture has nothing that follows it.
        counts.append(max(1, count // CHUNK + (count % CHUNK > 1)))
        if number % _PROGRESS_RECORDS == _PROGRESS_RECORDS - 1:
            yield Progress("stories", number + 1, len(index), unit="stories")
    return np.frombuffer(counts, np.uint32) if counts else np.empty(0, np.uint32)


class StoryChunks:
    """The chunks of stories; a `RecordIndex` whose records are (story, number of the chunk).

    Args:
        index: The stories.
        counts: Chunks of each.
    """

    def __init__(self, index: RecordIndex, counts: np.ndarray) -> None:
        self.index = index
        self.identity = f"{index.identity}, {counts.sum()} chunks"
        self._counts = counts
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def keys(self) -> np.ndarray:
        """The key of each chunk's story, so that a story is held out as a whole: uint64 [N]."""
        return np.repeat(self.index.keys(), self._counts)

    def place(self, number: int) -> Place:
        story, chunk = self._find(number)
        place = self.index.place(story)
        return place._replace(part=f"chunk {chunk + 1}") if self._counts[story] > 1 else place

    def record(self, number: int) -> tuple[Any, int]:
        story, chunk = self._find(number)
        return self.index.record(story), chunk

    def _find(self, number: int) -> tuple[int, int]:
        story = int(np.searchsorted(self._ends, number, "right"))
        return story, number - int(self._ends[story] - self._counts[story])


def parse(
    record: tuple[Any, int], place: Place, visit: int, *, root: Path, source: str
) -> Document:
    """The document of a chunk.

    Args:
        record: The story, and the number of the chunk in it.
        place: Where it lies.
        visit: Not used: a chunk holds no choice.
        root: Folder that picture paths are relative to.
        source: Name of the data set.

    Raises:
        DataError: if captions, pictures and orders are not equally many, fewer than two, or one is
            empty or not there.
    """
    story, chunk = record
    panels = _panels(story)[chunk * CHUNK : (chunk + 1) * CHUNK]
    first, *others = ((picture_at(root, name), caption) for name, caption in panels)
    segments = turn("user", first[0], first[1], REQUEST)
    for picture, caption in others:
        segments += turn("model", caption, picture)
    name = name_in(story)
    return Document(segments, id=f"{name}/{chunk}" if chunk else name, source=source)


def _panels(story: Any) -> list[tuple[object, str]]:
    """Picture and caption of each panel, in the story's order."""
    images, captions = story.get("images"), story.get("captions")
    if not isinstance(images, list) or not isinstance(captions, list):
        raise DataError("the story needs lists of 'images' and 'captions'")
    if len(images) != len(captions):
        raise DataError(f"the story has pictures: {len(images)}, captions: {len(captions)}")
    if len(images) < 2:
        raise DataError("the story has less than two pictures: nothing follows the first")
    texts = list[str]()
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str) or not bare(caption):
            raise DataError(f"caption {number} of the story is empty")
        texts.append(bare(caption))
    orders = story.get("orders") or [*range(len(images))]
    is_list = isinstance(orders, list) and len(orders) == len(images)
    if not is_list or not all(isinstance(each, int) for each in orders):
        raise DataError(f"the story has pictures: {len(images)}, and 'orders' is {orders}")
    panels = sorted(zip(orders, images, texts, strict=True), key=lambda panel: panel[0])
    return [(image, caption) for _, image, caption in panels]
