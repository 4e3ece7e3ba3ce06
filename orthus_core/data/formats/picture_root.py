"""The folder that the pictures of records are relative to, and the pictures in it."""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from orthus_core.data.document import path_inside
from orthus_core.data.pictures import BytesPicture, FilePicture, Picture
from orthus_core.data.rows import RecordIndex
from orthus_core.errors import DataError
from orthus_core.wrong_content import wrong_content

LOOKED_AT = 64
"""Records whose pictures are looked for before a root is chosen."""


def picture_at(root: Path, name: object) -> FilePicture:
    """The picture that a record names. It is not decoded.

    Args:
        root: Folder that the name is relative to.
        name: The name in the record; where no such file exists, a backslash separates folders,
            letters may be split from their accents, and the suffix may be in capitals or not.

    Raises:
        DataError: if the name is no text, leads out of the root, or no such file is there, or a
            pointer in its place.
    """
    path = file_at(root, name)
    if path is None:
        raise DataError(f"there is no picture {name!r}{did_you_mean(root, str(name))}")
    if path.stat().st_size < _POINTER_BYTES and (wrong := wrong_content(path)):
        raise DataError(f"{name}: this is {wrong.what}", hint=wrong.hint)
    return FilePicture(path)


# Git LFS says that a pointer is smaller than this; a picture seldom is, so few files are opened.
_POINTER_BYTES = 1024

ADDRESSES = ("http://", "https://")
_DATA = "data:"


def picture_of(value: object, root: Path) -> Picture:
    """The picture that a value in a record stands for. It is not decoded.

    Args:
        value: A name, as for `picture_at`; the content of a picture's file; a `data:` URL that
            holds it in base64; or `bytes` and `path`, as `datasets` stores a picture.
        root: Folder that names are relative to.

    Raises:
        DataError: as `picture_at`; if there is none of these, the content is a pointer, or the name
            is an address: nothing is fetched.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str) and value.startswith(_DATA):
        value = _content_of(value)
    if isinstance(value, bytes):
        if len(value) < _POINTER_BYTES and (wrong := wrong_content(value)):
            raise DataError(f"the picture is {wrong.what}", hint=wrong.hint)
        return BytesPicture(value)
    if value is None:
        raise DataError("there is neither a picture nor its path")
    if isinstance(value, str) and value.startswith(ADDRESSES):
        raise DataError(
            f"the picture is an address, {value}, and nothing is fetched",
            hint="download the pictures, and name the files",
        )
    return picture_at(root, value)


def _content_of(url: str) -> bytes:
    """What a `data:` URL holds (RFC 2397), in base64."""
    head, comma, encoded = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise DataError(f"the picture's data: URL is not in base64: {url[:40]!r}")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise DataError(f"the picture's data: URL is no base64: {error}") from error


def file_at(root: Path, name: object) -> Path | None:
    """The file of a name under a root; None when there is none.

    Raises:
        DataError: if the name is no text, is empty, or leads out of the root.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"the name of a picture is {name!r}, and must be a text")
    for each in _spellings(name):
        path = path_inside(root, each)
        if os.path.isfile(path):
            return path
    return None


def _spellings(name: str) -> Iterator[str]:
    """The ways in which a system may have written a file's name, as it is written first: Windows
    separates folders by a backslash, macOS splits letters from their accents, and cameras write
    suffixes in capitals, which only Linux tells apart."""
    names = [name, name.replace("\\", "/")] if "\\" in name else [name]
    if not name.isascii():
        forms = ("NFC", "NFD")
        names += [unicodedata.normalize(form, each) for form in forms for each in names]
    yield from names
    for each in names:
        stem, suffix = os.path.splitext(each)
        yield from (stem + other for other in (suffix.lower(), suffix.upper()) if other != suffix)


def did_you_mean(root: Path, name: str) -> str:
    """The end of a message about a name that no file has: the one file whose name is equal but for
    case, as names are on Windows and macOS; "" where there is none or several.

    It is named and not read, since two files may differ in case alone.

    Args:
        root: Folder that the name is relative to; it does not lead out of it.
        name: The name.
    """
    root = root.absolute()
    found = root
    for part in path_inside(root, name.replace("\\", "/")).relative_to(root).parts:
        if not os.path.lexists(found / part):
            part = _by_folded_name(found).get(_folded(part), "")
            if not part:
                return ""
        found /= part
    return f" (did you mean {found.relative_to(root).as_posix()!r}?)" if found.is_file() else ""


# A hint is not worth more time and memory. Where a folder's name differs, its parent is short.
_MOST_NAMES = 50_000


@lru_cache(maxsize=4)
def _by_folded_name(folder: Path) -> Mapping[str, str]:
    """The names in a folder by what they are without case; "" for several that are then equal.
    None at all of a folder that is large."""
    found = dict[str, str]()
    try:
        with os.scandir(folder) as scanned:
            for count, each in enumerate(scanned):
                if count == _MOST_NAMES:
                    return {}
                folded = _folded(each.name)
                found[folded] = "" if folded in found else each.name
    except OSError:
        return {}
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def picture_root(
    named: Path | None,
    folders: Sequence[Path],
    index: RecordIndex,
    names_of: Callable[[Any], list[object]],
    where: Path,
) -> Path:
    """The folder that pictures are relative to: the named one, else that in which most are found.

    Args:
        named: The folder that the user names.
        folders: Where they may lie, most likely first.
        index: The records; some of them, evenly spread, are looked at.
        names_of: The names of a record's pictures.
        where: The records, for the error.

    Raises:
        DataError: if the named folder does not exist, or none of the pictures is in any folder.
    """
    if named is not None and not named.is_dir():
        raise DataError(
            "the folder of the pictures does not exist",
            where=str(named),
            hint="`images` names the folder that the paths of the pictures are relative to",
        )
    folders = [named] if named is not None else [each for each in folders if each.is_dir()]
    looked_for = [
        name
        for number in range(0, len(index), max(1, len(index) // LOOKED_AT))
        for name in _names_in(index, number, names_of)
    ]
    found = {folder: sum(_is_there(folder, name) for name in looked_for) for folder in folders}
    best = max(folders, key=lambda folder: found[folder])
    if looked_for and not found[best]:
        first = looked_for[0]
        near = next((near for each in folders if (near := _near(each, first))), "")
        few = first + near + (", ..." if len(looked_for) > 1 else "")
        places = ", ".join(map(str, folders))
        raise DataError(
            f"none of {len(looked_for)} pictures that were looked for is there ({few})",
            where=str(where),
            hint=f"give the folder that they are relative to as `images`; tried: {places}",
        )
    return best


def _names_in(
    index: RecordIndex, number: int, names_of: Callable[[Any], list[object]]
) -> list[str]:
    try:
        names = names_of(index.record(number))
    except DataError:
        return []
    return [
        name
        for name in names
        if isinstance(name, str) and name.strip() and not name.startswith((_DATA, *ADDRESSES))
    ]


def _near(folder: Path, name: str) -> str:
    try:
        return did_you_mean(folder, name)
    except DataError:
        return ""


def _is_there(folder: Path, name: str) -> bool:
    try:
        return file_at(folder, name) is not None
    except DataError:
        return False
