"""Conversations about pictures: LLaVA, ShareGPT4V, and whatever else is written in their form.

A file is one JSON array, or has one object in each line:

    {"id": "1", "image": "gqa/images/2327515.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nAre there scarves?"},
                       {"from": "gpt", "value": "Yes"}]}

`<image>` stands where the picture goes; several pictures are a list. The form of chat interfaces is
read as well: `messages` of `role` and `content`. Source of the rules for a first turn of the model:
haotian-liu/LLaVA, llava/train/train.py (`preprocess_v1`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.data.document import Document, Place, Role, Segment, turn
from orthus_core.data.formats.annotation_file import annotation_file, open_annotations
from orthus_core.data.formats.picture_root import picture_at
from orthus_core.data.pictures import Picture
from orthus_core.data.rows import IndexedRows, Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event

IMAGE = "<image>"
TURNS = ("conversations", "messages")
ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "model",
    "assistant": "model",
    "model": "model",
    "chatgpt": "model",
    "bot": "model",
}
SYSTEM = "system"


class ChatTurn(NamedTuple):
    """One turn: who speaks, and the words with `<image>` where pictures go."""

    role: Role
    words: str


def recognises(path: Path) -> bool:
    """Whether a file, or the annotation files of a folder, hold conversations."""
    return annotation_file(path, is_chat) is not None


def is_chat(record: Any) -> bool:
    """Whether a record is a conversation."""
    return isinstance(record, Mapping) and any(name in record for name in TURNS)


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The conversations of a file, or of the one in a folder. Raises: DataError."""
    found = yield from open_annotations(path, options, is_chat, _folders, picture_names)
    read = partial(parse, root=found.root, source=found.source)
    return IndexedRows(found.index, read, str(path))


def _folders(beside: Path) -> list[Path]:
    near = [beside, beside / "images", beside / "data"]
    return [*near, beside.parent, beside.parent / "images"]


def picture_names(record: Any) -> list[object]:
    """The pictures that a record names, in order; none when it is text alone."""
    if not isinstance(record, Mapping):
        return []
    named = record.get("image") or record.get("images") or []
    return list(named) if isinstance(named, list) else [named]


def parse(record: Any, place: Place, visit: int, *, root: Path, source: str) -> Document:
    """The document of a conversation.

    Args:
        record: JSON value.
        place: Where it lies.
        visit: Not used: a conversation holds no choice.
        root: Folder that picture paths are relative to.
        source: Name of the data set.

    Raises:
        DataError: if it has no turns or no answer, a turn of unknown role or without words, another
            number of pictures than `<image>`, or a picture is not there.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"the record is a {type(record).__name__}, not an object")
    if record.get("video"):
        raise DataError("the record has a video, which cannot be read")
    pictures = [picture_at(root, name) for name in picture_names(record)]
    return conversation(record, pictures, source)


def conversation(record: Mapping[str, Any], pictures: Sequence[Picture], source: str) -> Document:
    """The document of a conversation whose pictures are known.

    Args:
        record: The turns, and an `id`.
        pictures: What `<image>` stands for, in order.
        source: Name of the data set.

    Raises:
        DataError: as `parse`.
    """
    turns, remaining = _placed(_turns(record), len(pictures)), iter(pictures)
    segments = [
        segment for each in turns for segment in _segments(each, remaining if pictures else None)
    ]
    return Document(tuple(segments), id=str(record.get("id", "")), source=source)


def _turns(record: Mapping[str, Any]) -> list[ChatTurn]:
    """The turns from the user's first to the model's last."""
    listed = next((record[name] for name in TURNS if record.get(name) is not None), None)
    if not isinstance(listed, list) or not listed:
        raise DataError("the record has no turns: 'conversations' is missing or empty")
    turns, system = list[ChatTurn](), list[str]()
    for number, each in enumerate(listed, start=1):
        if not isinstance(each, Mapping):
            raise DataError(f"turn {number} is a {type(each).__name__}, not an object")
        said, content = each.get("from", each.get("role")), each.get("value", each.get("content"))
        named = said.lower() if isinstance(said, str) else ""
        if named == SYSTEM and content in (None, "", []):
            continue  # many sets write an empty one into each record
        words, role = _words(content, number), ROLES.get(named)
        if named == SYSTEM and turns:
            turns.append(ChatTurn("user", words))
        elif named == SYSTEM:
            system.append(words.strip())
        elif role is None:
            raise DataError(
                f"turn {number} is of {said!r}", hint=f"roles are {', '.join((*ROLES, SYSTEM))}"
            )
        elif turns or role == "user":  # what the model says before the user has no question
            turns.append(ChatTurn(role, words))
        elif IMAGE in words:
            raise DataError(f"turn {number} has the picture, before the user's first turn")
    while turns and turns[-1].role == "user":
        turns.pop()
    if not turns:
        raise DataError("the record has no answer of the model to a turn of the user")
    if system:
        turns[0] = turns[0]._replace(words="\n\n".join([*system, turns[0].words]))
    return turns


def _words(content: Any, number: int) -> str:
    """The words of a turn, with `<image>` for the pictures of a list of parts."""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        content = "\n".join(
            str(part.get("text", "")) if part.get("type") == "text" else IMAGE for part in content
        )
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"turn {number} has no words")
    return content


def _placed(turns: list[ChatTurn], count: int) -> list[ChatTurn]:
    """The turns with an `<image>` for each picture.

    Raises:
        DataError: if they have another number of them than there are pictures, but none at all:
            then the pictures come first.
    """
    marks = sum(each.words.count(IMAGE) for each in turns)
    first = turns[0].words.strip()
    if not count:
        if first.startswith(IMAGE) or first.endswith(IMAGE):
            raise DataError(f"the record has {IMAGE}, and no picture")
        return turns  # a text may speak of the tag
    if not marks:
        return [turns[0]._replace(words=IMAGE * count + turns[0].words), *turns[1:]]
    if marks != count:
        raise DataError(f"the record has {count} pictures, and {marks} times {IMAGE}")
    return turns


def _segments(each: ChatTurn, pictures: Iterator[Picture] | None) -> tuple[Segment, ...]:
    if pictures is None:
        return turn(each.role, each.words.strip())
    values: list[str | Picture] = []
    for number, words in enumerate(each.words.split(IMAGE)):
        if number:
            values.append(next(pictures))
        if words.strip():
            values.append(words.strip())
    return turn(each.role, *values)
