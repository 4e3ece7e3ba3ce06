"""The folder that the pictures of records are relative to, and the pictures in it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from orthus_core.data.document import from_base64, path_inside
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
        name = str(name)
        raise DataError(f"there is no picture {shown(name)!r}{did_you_mean(root, name)}")
    if path.stat().st_size < _POINTER_BYTES and (wrong := wrong_content(path)):
        raise DataError(f"{name}: this is {wrong.what}", hint=wrong.hint)
    return FilePicture(path)


# Git LFS says that a pointer is smaller than this; a picture seldom is, so few files are opened.
_POINTER_BYTES = 1024

_SCHEME = re.compile(r"(data):|([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# How the content of PNG, JPEG, GIF and WebP files begins in base64, and all of it. A name as long
# has a dot in it.
_ENCODED = re.compile(r"\s*(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_LONGEST_SHOWN = 200


def picture_of(value: object, root: Path) -> Picture:
    """The picture that a value in a record stands for. It is not decoded.

    Args:
        value: A name, as for `picture_at`, or a `file://` URL of one; the content of a picture's
            file, as it is or in base64; a `data:` URL that holds it in base64; or `bytes` and
            `path`, as `datasets` stores a picture.
        root: Folder that names are relative to.

    Raises:
        DataError: as `picture_at`; if there is none of these, the content is a pointer, or the name
            is an address: nothing is fetched.
    """
    if isinstance(value, Mapping):
        content = value.get("bytes")
        if isinstance(content, str):
            content = from_base64(content, "'bytes'")
        value = content if content is not None else value.get("path")
    if isinstance(value, str):
        value = _named_or_held(value)
    if isinstance(value, bytes):
        if len(value) < _POINTER_BYTES and (wrong := wrong_content(value)):
            raise DataError(f"the picture is {wrong.what}", hint=wrong.hint)
        return BytesPicture(value)
    if value is None:
        raise DataError("there is neither a picture nor its path")
    return picture_at(root, value)


def _named_or_held(text: str) -> str | bytes:
    """The name that a text gives, or the content that it holds. Raises: DataError."""
    if _ENCODED.fullmatch(text):
        return from_base64(text, "the picture")
    match _scheme(text):
        case "":
            return text
        case "file":
            return _of_file_url(text)
        case "data":
            head, comma, encoded = text.partition(",")  # RFC 2397
            if not comma or not head.lower().endswith(";base64"):
                raise DataError(f"the picture's data: URL is not in base64: {text[:40]!r}")
            return from_base64(encoded, "the picture's data: URL")
    raise DataError(
        f"the picture is an address, {shown(text)}, and nothing is fetched",
        hint="download the pictures, and name the files",
    )


def name_of(value: object) -> str | None:
    """The file that a value in a record names, as for `picture_of`; None where it names none, but
    holds a picture or is an address."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else None
    if not isinstance(value, str) or not value.strip() or _ENCODED.fullmatch(value):
        return None
    scheme = _scheme(value)
    if scheme == "file":
        return _of_file_url(value)
    return None if scheme else value


def is_address(value: object) -> bool:
    """Whether a value in a record is an address of a picture elsewhere, or has one as its path."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else None
    return isinstance(value, str) and _scheme(value) not in ("", "file", "data")


def _scheme(text: str) -> str:
    """The scheme of an address, in small letters; "" for a name."""
    found = _SCHEME.match(text)
    return (found[1] or found[2]).lower() if found else ""


def _of_file_url(url: str) -> str:
    return unquote(url[len("file://") :].removeprefix("localhost"))


def shown(text: str) -> str:
    """A text that a record gives, as short as a message has room for."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


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
        names_of: What a record names as its pictures, as for `picture_of`.
        where: The records, for the error.

    Raises:
        DataError: if none of the pictures is in any folder.
    """
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
        few = shown(first) + near + (", ..." if len(looked_for) > 1 else "")
        places = ", ".join(map(str, folders))
        raise DataError(
            f"none of {len(looked_for)} pictures that were looked for is there ({few})",
            where=str(where),
            hint=f"give the folder that they are relative to as `images`; tried: {places}",
        )
    return best


def check_root(named: Path | None) -> None:
    """Check that the folder that the user names for pictures exists, if one is named.

    Raises:
        DataError: if it does not.
    """
    if named is not None and not named.is_dir():
        raise DataError(
            "the folder of the pictures does not exist",
            where=str(named),
            hint="`images` names the folder that the paths of the pictures are relative to",
        )


def _names_in(
    index: RecordIndex, number: int, names_of: Callable[[Any], list[object]]
) -> list[str]:
    try:
        names = names_of(index.record(number))
    except DataError:
        return []
    return [name for value in names if (name := name_of(value)) is not None]


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
