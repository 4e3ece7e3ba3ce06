"""Conversations about pictures: LLaVA, ShareGPT4V, and whatever else is written in their form.

A file is one JSON array, or has one object in each line:

    {"id": "1", "image": "gqa/images/2327515.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nAre there scarves?"},
                       {"from": "gpt", "value": "Yes"}]}

`<image>` stands where the picture goes; several pictures are a list. The form of chat interfaces is
read as well: `messages` of `role` and `content`, which is a text or a list of parts. A part that is
a picture may name it, {"type": "image", "image": "cup.png"} or {"type": "image_url", "image_url":
{"url": "data:image/png;base64,..."}}; where the record names pictures as well, those count. Source
of the rules for a first turn of the model: haotian-liu/LLaVA, llava/train/train.py
(`preprocess_v1`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.data.document import Document, Place, Role, Segment, name_in, turn
from orthus_core.data.formats.annotation_file import annotation_file, open_annotations
from orthus_core.data.formats.picture_root import picture_of
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
TEXT_PARTS = ("text", "input_text", "output_text")
PICTURE_PARTS = ("image", "image_url", "input_image")
KNOWN_PARTS = (*TEXT_PARTS, *PICTURE_PARTS)
PART_KEYS = ("image", "image_url", "path", "url", "file_name", "source")
"""Where a part of a turn names its picture."""


class ChatTurn(NamedTuple):
    """One turn.

    Attributes:
        role: Who speaks.
        words: The words, with `<image>` where pictures go.
        named: What its parts name as pictures, in order.
    """

    role: Role
    words: str
    named: tuple[object, ...] = ()


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
    return _named_beside(record) or _names_in_turns(record)


def _named_beside(record: Mapping[str, Any]) -> list[object]:
    """The pictures that a record names beside its turns."""
    named = record.get("image") or record.get("images") or []
    return list(named) if isinstance(named, list) else [named]


def _names_in_turns(record: Mapping[str, Any]) -> list[object]:
    """What the parts of the turns name as pictures, in order."""
    turns = [each for each in _listed(record) if isinstance(each, Mapping)]
    named = [name for each in turns for name in _names_in(_content(each))]
    return [name for name in named if name is not None]


def _names_in(content: Any) -> list[object]:
    """What the parts of one turn that are pictures name, in order; None where one names none."""
    return [_named_by(part) for part in _parts(content) if _kind(part) in PICTURE_PARTS]


def _listed(record: Mapping[str, Any]) -> list[Any]:
    """The turns as they stand in a record; none where it holds something else."""
    listed = next((record[name] for name in TURNS if record.get(name)), None)
    return listed if isinstance(listed, list) else []


def _content(each: Mapping[str, Any]) -> Any:
    """What a turn says: a text, or a list of parts."""
    return each["value"] if each.get("value") is not None else each.get("content")


def _parts(content: Any) -> list[Mapping[str, Any]]:
    """The parts of a turn that has some; a text among them is one."""
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        return []
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return parts if all(isinstance(part, Mapping) for part in parts) else []


def _named_by(part: Mapping[str, Any]) -> object:
    """What a part names as its picture; None where it only says that there is one."""
    named = next((part[key] for key in PART_KEYS if part.get(key) not in (None, "")), None)
    if isinstance(named, Mapping):
        return named.get("url") or named.get("data") or named
    return named


def _kind(part: Mapping[str, Any]) -> str:
    """The type of a part; where it is left out, its text or its picture says it."""
    kind = part.get("type")
    if isinstance(kind, str) and kind:
        return kind.lower()
    return "text" if part.get("text") is not None else "image"


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
    beside = [picture_of(name, root) for name in _named_beside(record)]
    return conversation(record, beside, source, root)


def conversation(
    record: Mapping[str, Any], pictures: Sequence[Picture], source: str, root: Path
) -> Document:
    """The document of a conversation.

    Args:
        record: The turns, and an `id`.
        pictures: What `<image>` stands for, in order; those that the turns name if there are none.
        source: Name of the data set.
        root: Folder that names of pictures in the turns are relative to.

    Raises:
        DataError: as `parse`.
    """
    found = _turns(record)
    pictures = pictures or [picture_of(name, root) for each in found for name in each.named]
    turns, remaining = _placed(found, len(pictures)), iter(pictures)
    segments = [
        segment for each in turns for segment in _segments(each, remaining if pictures else None)
    ]
    return Document(tuple(segments), id=name_in(record), source=source)


def _turns(record: Mapping[str, Any]) -> list[ChatTurn]:
    """The turns from the user's first to the model's last."""
    if not (listed := _listed(record)):
        raise DataError("the record has no turns: 'conversations' is missing or empty")
    turns, system = list[ChatTurn](), list[ChatTurn]()
    for number, each in enumerate(listed, start=1):
        if not isinstance(each, Mapping):
            raise DataError(f"turn {number} is a {type(each).__name__}, not an object")
        said, content = each.get("from") or each.get("role"), _content(each)
        named = said.strip().lower() if isinstance(said, str) else ""
        if named == SYSTEM and content in (None, "", []):
            continue  # many sets write an empty one into each record
        role = ROLES.get(named)
        read = ChatTurn(role or "user", _words(content, number), tuple(_names_in(content)))
        if named == SYSTEM and turns:
            turns.append(read)
        elif named == SYSTEM:
            system.append(read)
        elif role is None:
            raise DataError(
                f"turn {number} is of {said!r}", hint=f"roles are {', '.join((*ROLES, SYSTEM))}"
            )
        elif turns or role == "user":  # what the model says before the user has no question
            turns.append(read)
        elif IMAGE in read.words:
            raise DataError(f"turn {number} has the picture, before the user's first turn")
    while turns and turns[-1].role == "user":
        turns.pop()
    if not turns:
        raise DataError("the record has no answer of the model to a turn of the user")
    if system:
        first = [each.words.strip() for each in system] + [turns[0].words]
        named_first = tuple(name for each in [*system, turns[0]] for name in each.named)
        turns[0] = turns[0]._replace(words="\n\n".join(first), named=named_first)
    return turns


def _words(content: Any, number: int) -> str:
    """The words of a turn, with `<image>` for the pictures of a list of parts."""
    if parts := _parts(content):
        if other := next((kind for kind in map(_kind, parts) if kind not in KNOWN_PARTS), ""):
            raise DataError(
                f"turn {number} has a part of type {other!r}, which cannot be read",
                hint=f"types are {', '.join(KNOWN_PARTS)}",
            )
        content = "\n".join(
            _text(part.get("text"), number) if _kind(part) in TEXT_PARTS else IMAGE
            for part in parts
        )
    words = _text(content, number)
    if not words.strip():
        raise DataError(f"turn {number} has no words")
    return words


def _text(value: Any, number: int) -> str:
    """A text of a turn: a number counts as one, null and an empty list as none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value and not isinstance(value, str):
        raise DataError(f"turn {number} has a {type(value).__name__} in place of a text")
    return value.lstrip("\N{ZERO WIDTH NO-BREAK SPACE}") if isinstance(value, str) else ""


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
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        raise DataError(f"the record has {pictures}, and {marks} times {IMAGE}")
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
