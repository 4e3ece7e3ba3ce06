"""Files and folders that are there whole or not at all, and replace nothing unless told to."""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

from orthus_core.errors import OutputError
from orthus_core.results.output_names import check_free


def write_file(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Writes beside `path`, then puts it there.

    Raises:
        OutputError: When something is there and is not to be replaced, or the place cannot be
            written to; what was there stays, and nothing half-written is left.
    """
    check_free(path, overwrite=overwrite)
    # A name of its own: with more in front, a long one would be longer than file systems take.
    beside = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_folder(
    folder: Path, files: Mapping[str, bytes], *, mark: str, overwrite: bool = False
) -> None:
    """Writes all files of a folder beside its place, then puts the folder there.

    Args:
        folder: Where to; an empty folder is as good as none.
        files: Content by name.
        mark: The file by which a folder of this kind is known; only such a one is replaced.
        overwrite: Whether a folder of this kind may be replaced.

    Raises:
        OutputError: As `write_file`.
    """
    check_folder(folder, mark=mark, overwrite=overwrite)
    folder = folder.absolute()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        try:
            beside.mkdir(parents=True)
            for name, content in files.items():
                (beside / name).write_bytes(content)
            if folder.exists():
                folder.rename(old)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def check_folder(folder: Path, *, mark: str, overwrite: bool = False) -> None:
    """Whether a folder may be written there.

    Raises:
        OutputError: When it is a file, or is not empty and is not to be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError("this is a file", where=str(folder), hint="give a folder's name")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            "the folder is not empty",
            where=str(folder),
            hint="choose another one with -o, or replace it with --overwrite",
        )
    if not (folder / mark).is_file():
        raise OutputError(
            f"the folder holds no {mark}, so it will not be replaced",
            where=str(folder),
            hint="choose another one with -o, or remove this one yourself",
        )


def _cannot_write(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = "the disk is full"
    else:
        message = f"cannot write there: {error.strerror or error}"
    return OutputError(
        message, where=str(path), hint="choose another place with -o, or make room and rights there"
    )
