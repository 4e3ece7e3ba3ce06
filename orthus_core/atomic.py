"""Files and folders that are there whole or not at all: written beside their place, flushed to
disk, then renamed.

Whatever stops the writing (an error, a full disk, a kill) leaves the place as it was. What a killed
process leaves beside it, `.NAME.partial-PID`, is removed by the next one that writes there.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orthus_core.errors import OutputError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME_BYTES = 255
"""What file systems take as one name."""
_OWNER_BYTES = len(".") + len(".partial-4194304-old")  # the largest process id of Linux

CANNOT_WRITE = "cannot write there"
ANOTHER_PLACE = "choose another place with -o, or make room and rights there"


@contextmanager
def staged_file(
    target: Path,
    *,
    parents: bool = False,
    failure: str = CANNOT_WRITE,
    hint: str = ANOTHER_PLACE,
) -> Iterator[Path]:
    """A path beside `target` to write a file at; it takes `target`'s place when the block ends
    well, and replaces a file that is there.

    Args:
        target: The file to make.
        parents: Whether folders on the way are made; otherwise they have to be there.
        failure: What an error says first when the file cannot be written.
        hint: What it says to do next.

    Raises:
        OutputError: When `target` cannot be written to, or the disk fills up.
    """
    target = Path(target)
    with _as_output_error(target, failure, hint):
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(target)
        partial = _beside(target)
        try:
            yield partial
            _sync_file(partial)
            os.replace(partial, target)
            _sync_directory(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_text(
    target: Path, text: str, *, failure: str = CANNOT_WRITE, hint: str = ANOTHER_PLACE
) -> None:
    """Writes a text file in UTF-8, whole or not at all; see `staged_file`."""
    with staged_file(target, failure=failure, hint=hint) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(
    target: Path,
    *,
    mark: str | None,
    overwrite: bool = False,
    failure: str = "the folder could not be written",
    hint: str = ANOTHER_PLACE,
) -> Iterator[Path]:
    """A new folder beside `target` to write into; it takes `target`'s place when the block ends
    well.

    Args:
        target: The folder to make. An empty one is as good as none; folders on the way are made.
        mark, overwrite: What may be replaced, see `check_folder`.
        failure, hint: As for `staged_file`.

    Raises:
        OutputError: When `target` is taken, cannot be written to, or the disk fills up.
    """
    target = target.absolute()
    check_folder(target, mark=mark, overwrite=overwrite)
    with _as_output_error(target, failure, hint):
        partial = _beside(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(target)
            partial.mkdir()
            yield partial
            _sync_folder(partial)
            _take_place(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_folder(target: Path, *, mark: str | None, overwrite: bool = False) -> None:
    """Whether a folder may be written at `target`; asked before hours are spent on its content.

    Args:
        target: The folder to make.
        mark: The file by which a folder of this kind is known: only such a folder is replaced. None
            leaves every folder replaceable.
        overwrite: Whether a folder of this kind may be replaced at all.

    Raises:
        OutputError: When it is a file, or is not empty and is not to be replaced.
    """
    if target.exists() and not target.is_dir():
        raise OutputError("this is a file", where=str(target), hint="give a folder's name")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            "there is something at the output already: the folder is not empty",
            where=str(target),
            hint="choose another folder with -o, or replace this one with --overwrite",
        )
    if mark is not None and not (target / mark).is_file():
        raise OutputError(
            f"the folder holds no {mark}, so it will not be replaced",
            where=str(target),
            hint="choose another folder with -o, or remove this one yourself",
        )


def free_disk(folder: Path) -> int:
    """Bytes that can still be written below a folder, which need not exist yet."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(nearest).free


def check_room(target: Path, wanted: int) -> None:
    """Whether the disk under `target` has `wanted` bytes.

    Raises:
        OutputError: When it has not.
    """
    free = free_disk(target)
    if free < wanted:
        raise OutputError(
            f"not enough room: {wanted / 1e9:.1f} GB to write and {free / 1e9:.1f} GB free",
            where=str(target),
            hint="make room, or choose a folder on another disk",
        )


def _beside(target: Path) -> Path:
    """Where this process writes what will be `target`."""
    return target.with_name(f"{_prefix(target)}{os.getpid()}")


def _prefix(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) > LONGEST_NAME_BYTES - _OWNER_BYTES:
        name = f"{zlib.crc32(os.fsencode(name)):08x}"
    return f".{name}.partial-"


def _take_place(partial: Path, target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        # A kill between the two renames leaves the old folder under this name, and loses nothing.
        old = partial.with_name(partial.name + "-old")
        target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(target)  # onto an empty folder, or onto nothing
    _sync_directory(target.parent)


def _clear_abandoned(target: Path) -> None:
    """Removes what a killed process left beside `target`; one that still runs keeps its own."""
    prefix = _prefix(target)
    for leftover in target.parent.glob(f"{glob.escape(prefix)}*"):
        owner = re.fullmatch(r"\d+", leftover.name.removeprefix(prefix))
        if owner and not _is_running(int(owner[0])):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process that is asked after
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's, so it is there
        return True
    return True


def _sync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            _sync_file(file)
        elif file.is_dir():
            _sync_directory(file)
    _sync_directory(folder)


def _sync_file(file: Path) -> None:
    # Windows flushes only what is open for writing.
    with file.open("r+b" if os.name == "nt" else "rb") as stream:
        os.fsync(stream.fileno())


def _sync_directory(folder: Path) -> None:
    if os.name == "nt":  # which does not open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_output_error(target: Path, failure: str, hint: str) -> Iterator[None]:
    """Turns the system's errors into ours."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in DISK_IS_FULL
        message = "the disk is full" if is_full else f"{failure}: {error.strerror or error}"
        raise OutputError(message, where=str(target), hint=hint) from error
