"""The common form of all data sets: texts and pictures in order, of the user or of the model.

A record in JSON is

    {"segments": [{"type": "text", "role": "user", "value": "a snowman"},
                  {"type": "image", "role": "model", "path": "snowman.png"}],
     "id": "1", "source": "mine"}

A picture is a "path", base64 "bytes", or a "value" of a registered kind of picture
(`register_picture_kind`), such as the small world's sprites and scenes:

    {"type": "image", "role": "user", "value": {"sprite": "2603", "background": [255, 255, 255]}}
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from orthus_core.data.pictures import (
    BytesPicture,
    FilePicture,
    Picture,
    picture_from_value,
    picture_kinds,
    value_of_picture,
)
from orthus_core.errors import DataError

Role = Literal["user", "model"]

_KEYS_NAMED = 8  # keys of a record that an error lists


@dataclass(frozen=True)
class Segment:
    """One text or one picture, with its role.

    Attributes:
        type: "text" or "image".
        role: "user" or "model".
        value: Text or picture.

    Raises:
        DataError: if the type, the role or the value is not one of these, or a text is no Unicode.
    """

    type: Literal["text", "image"]
    role: Role
    value: str | Picture

    def __post_init__(self) -> None:
        if self.type not in ("text", "image"):
            raise DataError(f"segment type {self.type!r}: it must be 'text' or 'image'")
        if self.role not in ("user", "model"):
            raise DataError(f"segment role {self.role!r}: it must be 'user' or 'model'")
        if self.type == "text" and not isinstance(self.value, str):
            raise DataError(f"a text segment holds {type(self.value).__name__}, not text")
        if self.type == "image" and not _is_picture(self.value):
            raise DataError(f"an image segment holds {type(self.value).__name__}, not a picture")
        if isinstance(self.value, str):
            check_unicode(self.value, "the text")


class Place(NamedTuple):
    """Where a document was read.

    Attributes:
        file: File of the record.
        line: Line of the record, from 1; 0 for a whole file.
        part: What names the record in a file without lines: "record 12", "row 3", "0001.jpg".
    """

    file: Path
    line: int = 0
    part: str = ""

    def __str__(self) -> str:
        part = f", {self.part}" if self.part else ""
        return f"{self.file}:{self.line}{part}" if self.line else f"{self.file}{part}"


class Turn(NamedTuple):
    """What one side says before the other answers.

    Attributes:
        role: "user" or "model".
        segments: Texts and pictures in order.
    """

    role: Role
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Document:
    """A training row before tokenization: turns of the user and of the model, in any order.

    Attributes:
        segments: Texts and pictures in order; neighbours of the same role are one turn.
        id: Identifier for messages.
        source: Name of the data set.
        place: Where it was read, for messages; None for documents that were not read.

    Raises:
        DataError: if there is no segment.
    """

    segments: tuple[Segment, ...]
    id: str = ""
    source: str = ""
    place: Place | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.segments:
            raise DataError("a document needs at least one segment", where=self.id)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns in order; two neighbours have different roles."""
        runs = [tuple(run) for _, run in groupby(self.segments, key=lambda each: each.role)]
        return tuple(Turn(run[0].role, run) for run in runs)

    @property
    def user(self) -> tuple[Segment, ...]:
        """The user's segments of all turns."""
        return tuple(segment for segment in self.segments if segment.role == "user")

    @property
    def model(self) -> tuple[Segment, ...]:
        """The model's segments of all turns."""
        return tuple(segment for segment in self.segments if segment.role == "model")

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of all turns in order."""
        values = (segment.value for segment in self.segments)
        return tuple(value for value in values if not isinstance(value, str))


def turn(role: Role, *values: str | Picture) -> tuple[Segment, ...]:
    """The segments of one turn: texts and pictures of one role, in order."""
    return tuple(Segment("text" if isinstance(v, str) else "image", role, v) for v in values)


def from_record(record: Mapping[str, Any], *, root: Path | None = None) -> Document:
    """The document of a record in the form above.

    Args:
        record: Record as read from JSON; "bytes" may also hold raw bytes.
        root: Folder that paths are relative to and must not lead out of; None allows any path.

    Raises:
        DataError: if the record is wrong; the error names the segment.
    """
    segments = record.get("segments") if isinstance(record, Mapping) else None
    if not isinstance(segments, (list, tuple)):
        keys = first_keys(record)
        raise DataError("a record needs a list of 'segments'" + (keys and f", and has {keys}"))
    parsed = []
    for number, segment in enumerate(segments):
        try:
            parsed.append(_segment_from(segment, root))
        except DataError as error:
            where = f"segments[{number}]" + (f", {error.where}" if error.where else "")
            raise DataError(error.message, where=where, hint=error.hint) from error
    names = {name: name_in(record, name) for name in ("id", "source")}
    return Document(tuple(parsed), names["id"], names["source"])


def first_keys(record: Any) -> str:
    """The first keys of a record, as an error lists them; "" for what has none."""
    return ", ".join([*map(repr, record)][:_KEYS_NAMED]) if isinstance(record, Mapping) else ""


def to_record(document: Document) -> dict[str, Any]:
    """The record of a document, ready for JSON; `from_record` reads it back.

    Raises:
        DataError: if a picture has no record form.
    """
    return {
        "segments": [_record_of(segment) for segment in document.segments],
        "id": document.id,
        "source": document.source,
    }


def check_unicode(text: str, what: str) -> None:
    """Check that a text can be written as UTF-8, which half of a surrogate pair cannot; JSON can
    escape one (`"\\ud83d"`).

    Raises:
        DataError: if it cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} is no Unicode: character {error.start + 1}, {ascii(text[error.start])}, is "
            "half of a surrogate pair",
            hint="write the whole character, or leave it out",
        ) from error


def bare(text: str) -> str:
    """A text without white space and byte order marks at its ends: files that begin with a mark
    were copied into the fields of many sets."""
    return text.strip().strip("\N{ZERO WIDTH NO-BREAK SPACE}").strip()


def name_in(record: Mapping[str, Any], key: str = "id") -> str:
    """What a record is called; "" where it does not say so, or the key holds null.

    Raises:
        DataError: if it is no Unicode.
    """
    name = "" if record.get(key) is None else str(record[key])
    check_unicode(name, f"the {key}")
    return name


def from_base64(text: str, what: str) -> bytes:
    """The content that a text holds in base64. White space may break it, as in e-mails.

    Args:
        text: The text.
        what: What it is, for the error.

    Raises:
        DataError: if it is none.
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:  # also for characters that are no ASCII
        raise DataError(f"{what} is no base64: {error}") from error


def check_path(path: str) -> None:
    """Check that a path can name a file, which one with NUL or half of a surrogate pair cannot.

    Raises:
        DataError: if it cannot.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        check_unicode(path, "the path")
        raise
    if b"\0" in encoded:
        raise DataError(f"the path {path!r} holds a NUL character, which no file name can")


def path_inside(root: Path, name: str) -> Path:
    """The path `name` under `root`, with its ".." taken out.

    The name is judged as it is written, and not where links lead: the files of a hub's snapshot are
    links out of it, and a record cannot make links.

    Raises:
        DataError: if no file can have this name, or if it leads out of `root`, as in a malicious
            record.
    """
    check_path(name)
    folder = root.absolute()
    path = Path(os.path.normpath(folder / name))
    for inside in (folder, Path(os.path.normpath(folder)), folder.resolve()):
        if path.is_relative_to(inside):
            return folder / path.relative_to(inside)
    raise DataError(
        f"the path {name!r} leads out of the data folder {root} (`images` sets another)",
        hint="paths are relative to that folder; an absolute one has to lie in it",
    )


def _is_picture(value: Any) -> bool:
    # isinstance with a protocol would compute the key, which hashes a scene or looks up a file.
    return hasattr(type(value), "key") and hasattr(type(value), "load")


def _segment_from(segment: Any, root: Path | None) -> Segment:
    if not isinstance(segment, Mapping):
        raise DataError(f"a segment is a {type(segment).__name__}, not an object")
    kind, role = segment.get("type"), segment.get("role")
    if kind == "image":
        return Segment("image", role, _picture_from(segment, root))  # type: ignore[arg-type]
    return Segment(kind, role, segment.get("value"))  # type: ignore[arg-type]


def _picture_from(segment: Mapping[str, Any], root: Path | None) -> Picture:
    if isinstance(path := segment.get("path"), str):
        if root is None:
            check_path(path)
        return FilePicture(Path(path) if root is None else path_inside(root, path))
    content = segment.get("bytes")
    if isinstance(content, str):
        content = from_base64(content, "'bytes'")
    if isinstance(content, bytes):
        return BytesPicture(content)
    picture = picture_from_value(segment.get("value"))
    if picture is None:
        kinds = " or ".join(repr(name) for name in picture_kinds())
        needed = f"a 'path', 'bytes' or a 'value' with {kinds}" if kinds else "a 'path' or 'bytes'"
        raise DataError(f"an image segment needs {needed}")
    return picture


def _record_of(segment: Segment) -> dict[str, Any]:
    record: dict[str, Any] = {"type": segment.type, "role": segment.role}
    match segment.value:
        case FilePicture(path=path):
            record["path"] = str(path)
        case BytesPicture(content=content):
            record["bytes"] = base64.b64encode(content).decode("ascii")
        case str() as text:
            record["value"] = text
        case other:
            value = value_of_picture(other)
            if value is None:
                raise DataError(f"a {type(other).__name__} has no record form")
            record["value"] = value
    return record
