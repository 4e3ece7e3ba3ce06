"""Output paths: a file, a folder, or a template such as `{prompt}_{seed}.png`. Each result is
written completely or not at all, and replaces no existing file unless requested. JSON that holds
names leads back to the files, in whatever bytes they are written.
"""

from __future__ import annotations

import json
import os
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.atomic import is_special, real_path, staged_file
from orthus_core.atomic_folder import staged_folder
from orthus_core.errors import OutputError
from orthus_core.output_checks import check_name, probe_file
from orthus_core.shell_words import shell_quoted

DEFAULT_TEMPLATE = "{prompt}_{seed}.png"
FIELDS = ("prompt", "seed", "number")
# Kinds of picture files, by their suffix.
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
TAKEN = "choose another name with -o, or replace it with --overwrite"
TAKEN_PICTURE = f"{TAKEN}; --skip-existing draws only what is missing"

# A name of 60 letters is readable. Emoji and Chinese take up to four bytes each, of the 255 that a
# file system takes (`atomic.LONGEST_NAME_BYTES`); seed, number and extension need some too.
LONGEST_SLUG = 60
LONGEST_SLUG_BYTES = 180
# Windows reserves these names for devices, with any extension.
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


class Named(NamedTuple):
    """The fields that a picture's name can contain."""

    prompt: str
    seed: int


def slug(text: str) -> str:
    """Convert a text to part of a portable file name: `a red fox!` becomes `a_red_fox`."""
    letters = "".join(char if char.isalnum() or char in "-" else " " for char in text.lower())
    joined = _cut("_".join(_nameable(letters).split())[:LONGEST_SLUG]).strip("_-")
    if not joined:
        return "picture"
    return f"_{joined}" if joined in DEVICES else joined


def picture_paths(
    output: str | Path | None,
    pictures: Sequence[Named],
    *,
    overwrite: bool = False,
    keep: bool = False,
) -> list[Path]:
    """A path for each picture, all different.

    Args:
        output: A `.png`, `.jpg` or `.webp` file, a folder (it exists, ends with a slash, or has no
            extension), or a template with `{prompt}`, `{seed}` and `{number}`; None is
            `{prompt}_{seed}.png` here. A plain file name for several pictures gets their seeds, or
            else their numbers.
        pictures: Pictures in the order of their numbers, from 1.
        overwrite: Whether existing files may be replaced.
        keep: Whether existing files are allowed because the caller leaves them as they are.

    Raises:
        OutputError: For another kind of file, an unknown field, a name that exists or is too long,
            or a folder that is not writable.
    """
    template = _template(output)
    paths = _filled(template, pictures)
    if len(set(paths)) < len(paths):
        suffix = Path(template).suffix
        stem = template.removesuffix(suffix)
        for distinct in ("{seed}", "{number}"):
            paths = _filled(f"{stem}_{distinct}{suffix}", pictures)
            if len(set(paths)) == len(paths):
                break
    for path in paths:
        check_free(path, overwrite=overwrite or keep, hint=TAKEN_PICTURE)
    return paths


def format_of(path: Path) -> str:
    """The kind of picture file that a path names, as Pillow calls it; PNG unless it is another."""
    return PICTURE_FORMATS.get(path.suffix.lower(), "PNG")


def check_free(path: Path, *, overwrite: bool = False, hint: str = TAKEN) -> None:
    """Check, before hours of work, that a file may be written at `path`.

    Raises:
        OutputError: When it is a folder, exists and may not be replaced, has an invalid name, or
            its folder is not writable.
    """
    check_writable(path)
    if path.is_dir():
        raise OutputError("this is a folder", where=str(path), hint="give a file's name")
    if os.path.lexists(path) and not overwrite and not is_special(path):
        raise OutputError(
            "there is a file of this name already",
            where=str(path),
            hint=hint,
        )


def check_writable(path: Path) -> None:
    """Check that `path` can be created, including its parent folders, by writing there.

    Raises:
        OutputError: When its name is too long, or a parent is a file or a folder that is not
            writable.
    """
    check_name(path)
    if is_special(path):
        return
    try:
        nearest = next(parent for parent in real_path(path).parents if parent.exists())
    except OSError as error:  # such as a parent folder that is not readable
        raise OutputError(
            f"cannot write there: {error.strerror or error}", where=str(path)
        ) from error
    if not nearest.is_dir():
        raise OutputError(
            "a file is in the way of this folder",
            where=str(nearest),
            hint="choose another place with -o",
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(
            "this folder may not be written to",
            where=str(nearest),
            hint="choose another place with -o, or make rights there",
        )
    probe_file(path)


def check_distinct(paths: Sequence[Path]) -> None:
    """Check that no two results share a path.

    Raises:
        OutputError: When two do.
    """
    seen: set[Path] = set()
    for path in paths:
        place = path.absolute()
        if place in seen:
            raise OutputError(
                "two results would be written to the same file",
                where=str(path),
                hint="give each a name of its own",
            )
        seen.add(place)


def write_file(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file completely or not at all.

    Raises:
        OutputError: When the file exists and may not be replaced, or the location is not writable;
            an existing file stays, and no partial file is left.
    """
    check_free(path, overwrite=overwrite)
    with staged_file(path, parents=True) as beside:
        beside.write_bytes(content)


def write_folder(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    mark: str,
    replaces: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a folder with all its files completely or not at all.

    Args:
        folder: Folder to write; an empty folder may exist.
        files: Contents by file name.
        mark, replaces, overwrite: Which folders and files may be replaced; see `staged_folder`.

    Raises:
        OutputError: As for `staged_folder`; a finished folder that finds no place is kept.
    """
    with staged_folder(folder, mark=mark, replaces=replaces, overwrite=overwrite) as beside:
        for name, content in files.items():
            (beside / name).write_bytes(content)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON that UTF-8 can hold: a byte of a file's name that is not UTF-8, which
    Python keeps as half a character, is escaped (`\\udce9`), and reads back as the same name.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()


def _nameable(text: str) -> str:
    """The letters that file names can have; in an ASCII locale Python writes no others."""
    encoding = sys.getfilesystemencoding()
    return text.encode(encoding, "ignore").decode(encoding)


def _cut(text: str) -> str:
    """The longest beginning that fits into `LONGEST_SLUG_BYTES`, without splitting a character."""
    return text.encode()[:LONGEST_SLUG_BYTES].decode(errors="ignore")


def _template(output: str | Path | None) -> str:
    if output is None:
        return DEFAULT_TEMPLATE
    text = os.path.expanduser(os.fspath(output))
    check_name(Path(text))
    ends_open = isinstance(output, str) and output.endswith(("/", os.sep))
    if ends_open or Path(text).is_dir() or not Path(text).suffix:
        return str(Path(_literal(text)) / DEFAULT_TEMPLATE)
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise OutputError(f"the template does not read: {error}", where=text) from error
    for field in fields:
        if field not in FIELDS:
            raise OutputError(
                f"the template's field {{{field}}} is unknown",
                where=text,
                hint="the fields are " + ", ".join(f"{{{name}}}" for name in FIELDS),
            )
    check_format(Path(text))
    return text


def check_format(path: Path) -> None:
    """Raises: OutputError when pictures are not written as files of this suffix."""
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise OutputError(
            f"pictures are written as PNG, JPEG or WebP, not as {path.suffix}",
            where=str(path),
            hint=f"-o {shell_quoted([str(path.with_suffix('.png'))])}",
        )


def _literal(text: str) -> str:
    """A folder's name with its braces escaped."""
    return text.replace("{", "{{").replace("}", "}}")


def _filled(template: str, pictures: Sequence[Named]) -> list[Path]:
    return [
        Path(template.format(prompt=slug(picture.prompt), seed=picture.seed, number=number))
        for number, picture in enumerate(pictures, start=1)
    ]
