"""JSON files of records: which layout one has, which one of a folder is meant, its index, and where
its pictures lie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from orthus_core.data.document import first_keys
from orthus_core.data.formats.picture_root import picture_root
from orthus_core.data.formats.split_names import check_split, split_of
from orthus_core.data.index.json_array import json_array
from orthus_core.data.index.json_lines import json_lines
from orthus_core.data.listing import is_hidden
from orthus_core.data.rows import RecordIndex, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import marked_encoding

METADATA = "metadata.jsonl"
RECORDS = "records.jsonl"
SUFFIXES = (".json", ".jsonl", ".ndjson")

_HEAD_BYTES = 1 << 20
_FILES_LOOKED_AT = 32  # a folder may have a .json beside each of its pictures
_KEY = re.compile(r'"(\w+)"\s*:')
_SPACE = re.compile(r"\s*")
_NOT_BY_THEMSELVES = (METADATA, RECORDS)


class Head(NamedTuple):
    """How a JSON file begins.

    Attributes:
        form: Records in lines, in one array, or one object that is no record; "" for no JSON.
        record: The first record; of one that is too long to be read whole, its first keys.
    """

    form: Literal["lines", "array", "object", ""]
    record: Any


def head_of(file: Path) -> Head:
    """How a file begins; at most a mebibyte of it is read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return Head("", None)
    encoding, mark = marked_encoding(head)
    text = head[mark:].decode(encoding, "replace").strip("\ufeff")
    start, suffix = _after_space(text, 0), file.suffix.lower()
    if text[start : start + 1] == "[" and (suffix != ".jsonl" or _is_one_array(text, start)):
        return Head("array", _value(text, _after_space(text, start + 1)))
    if text[start : start + 1] == "{" and suffix == ".json":
        try:
            record, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            return Head("object", _value(text, start))
        return Head("lines" if text[end:].strip().startswith("{") else "object", record)
    for line in text.split("\n"):
        record = _value(line.strip(), 0)
        if isinstance(record, dict) and record:
            return Head("lines", record)
    return Head("lines" if suffix in (".jsonl", ".ndjson") else "", None)


def json_contents(file: Path) -> str:
    """What a JSON file of no known layout holds, as the end of a sentence; "" for another file."""
    head = head_of(file) if file.is_file() and _is_json(file.name) else Head("", None)
    keys = first_keys(head.record)
    match head.form:
        case "object":
            return ": it is one object, and not a list of records" + (keys and f", with {keys}")
        case "array" | "lines" if keys:
            return f": its first record has {keys}"
        case "array" if head.record is None or head.record == {}:
            return ": the list holds no record, or an empty one first"
        case "array":
            return f": its first record is a {type(head.record).__name__}, not an object"
    return ""


def _after_space(text: str, start: int) -> int:
    return _SPACE.match(text, start).end()  # type: ignore[union-attr]


def _is_one_array(text: str, start: int) -> bool:
    """Whether a text is one array of objects, rather than lines of which the first is an array."""
    if text[_after_space(text, start + 1) :][:1] != "{":
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):  # longer than what was read, or broken
        return True
    return not text[end:].strip()


def _value(text: str, start: int) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        # Cut at the end of what was read, or broken: its keys tell the layout.
        return dict.fromkeys(_KEY.findall(text, start, start + 4096))


def annotation_file(
    path: Path, accepts: Callable[[Any], bool], split: str | None = None
) -> Path | None:
    """The JSON file of records at a path: itself, or one in the folder.

    Args:
        path: File or folder.
        accepts: Whether a first record is of the layout.
        split: Which of several files in a folder: that whose name has this word; "" is "train"
            where there is one. None does not choose, and gives the first. A file by itself has to
            be of the split, too.

    Returns:
        The file; None if none is of the layout.

    Raises:
        DataError: if a folder has several, and `split` does not say which; or if a file is of
            another split.
    """
    found = annotation_files(path, accepts)
    if len(found) < 2 or split is None:
        if found:
            check_split(found[0], split or "")
        return found[0] if found else None
    wanted = split or "train"
    chosen = [file for file in found if wanted in re.split(r"[^a-z0-9]+", file.stem.lower())]
    same = split_of(wanted)
    chosen = chosen or [file for file in found if same and split_of(file.stem) == same]
    if len(chosen) != 1:
        raise DataError(
            f"{len(chosen) or 'none'} of {len(found)} files of records is "
            f"called {wanted!r}: {', '.join(file.name for file in found)}",
            where=str(path),
            hint="give the path of one of them, or its `split`",
        )
    return chosen[0]


def annotation_files(
    path: Path, accepts: Callable[[Any], bool], most: int = _FILES_LOOKED_AT
) -> list[Path]:
    """The JSON files of records at a path: itself, or those in the folder.

    Args:
        path: File or folder.
        accepts: Whether a first record is of the layout.
        most: Number of files of a folder that are looked at.
    """
    if path.is_file():
        return [path] if _is_json(path.name) and _accepted(path, accepts) else []
    return [file for file in json_files(path, most) if _accepted(file, accepts)]


def json_files(folder: Path, most: int = _FILES_LOOKED_AT) -> list[Path]:
    """The JSON files that lie in a folder itself, the first few by name."""
    try:
        names = sorted(
            each.name
            for each in folder.iterdir()
            if _is_json(each.name)
            and not is_hidden(each.name)
            and each.name not in _NOT_BY_THEMSELVES
        )
    except OSError:
        return []
    return [folder / name for name in names[:most] if (folder / name).is_file()]


def _is_json(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _accepted(file: Path, accepts: Callable[[Any], bool]) -> bool:
    head = head_of(file)
    return head.form in ("lines", "array") and accepts(head.record)


def indexed_json(file: Path, options: SourceOptions) -> Generator[Event, None, RecordIndex]:
    """The records of a JSON file, by number. Raises: DataError."""
    if head_of(file).form == "array":
        return (yield from json_array(file, folder=options.index))
    return (yield from json_lines(file, folder=options.index))


class Annotations(NamedTuple):
    """Records that name pictures, opened.

    Attributes:
        index: The records, by number.
        root: Folder that their pictures are relative to.
        source: Name of the data set: that of the file if it has no other.
    """

    index: RecordIndex
    root: Path
    source: str


def open_annotations(
    path: Path,
    options: SourceOptions,
    accepts: Callable[[Any], bool],
    folders: Callable[[Path], list[Path]],
    names_of: Callable[[Any], list[object]],
) -> Generator[Event, None, Annotations]:
    """Open the records of a file, or of the one in a folder.

    Args:
        path: File or folder.
        options: How the source is to be read.
        accepts: As for `annotation_file`.
        folders: Where pictures may lie, most likely first, of the folder that the file is in.
        names_of: The names of a record's pictures.

    Raises:
        DataError: if the file cannot be read, or its pictures are nowhere.
    """
    file = annotation_file(path, accepts, options.split) or path
    return (yield from opened_annotations(file, options, folders, names_of))


def opened_annotations(
    file: Path,
    options: SourceOptions,
    folders: Callable[[Path], list[Path]],
    names_of: Callable[[Any], list[object]],
) -> Generator[Event, None, Annotations]:
    """Open the records of one file; arguments and errors are those of `open_annotations`."""
    index = yield from indexed_json(file, options)
    root = picture_root(options.images, folders(file.parent), index, names_of, file)
    return Annotations(index, root, options.name or file.stem)
