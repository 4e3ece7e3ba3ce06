"""A folder that is there whole or not at all: written beside its place, flushed to disk, then
renamed.

Whatever stops the writing (an error, a full disk, a kill) leaves the place as it was.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orthus_core.errors import OutputError


@contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `target` to write into; it takes `target`'s place when the block ends
    well.

    Args:
        target: The folder to make. An empty one is as good as none.
        overwrite: Replace a model folder that is there.

    Raises:
        OutputError: When `target` is taken, cannot be written to, or the disk fills up.
    """
    target = target.absolute()
    check_free(target, overwrite=overwrite)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(target)
        partial.mkdir()
        yield partial
        _sync(partial)
        _take_place(partial, target)
    except OSError as error:
        raise _output_error(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool = False) -> None:
    """Whether a folder may be written at `target`.

    Raises:
        OutputError: When something is there, unless it is an empty folder, or a model folder and
            `overwrite` is set.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise OutputError(
            "there is something at the output already",
            where=str(target),
            hint="choose another folder, or replace this one with --overwrite",
        )
    if not (target / "config.json").is_file():
        raise OutputError(
            "this is no model folder, so it will not be replaced",
            where=str(target),
            hint="choose another folder, or remove this one yourself",
        )


def check_room(target: Path, wanted: int) -> None:
    """Whether the disk under `target` has `wanted` bytes.

    Raises:
        OutputError: When it has not.
    """
    place = target.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise OutputError(
            f"not enough room: {wanted / 1e9:.1f} GB to write and {free / 1e9:.1f} GB free",
            where=str(target),
            hint="make room, or choose a folder on another disk",
        )


def _take_place(partial: Path, target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        # A kill between the two renames leaves the old folder under this name, and loses nothing.
        old = partial.with_name(partial.name + "-old")
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(target)  # onto an empty folder, or onto nothing
    _sync_directory(target.parent)


def _clear_abandoned(target: Path) -> None:
    """Removes what a killed process left beside `target`; one that still runs keeps its own."""
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        owner = re.fullmatch(r"partial-(\d+)", leftover.name.rpartition(".")[2])
        if owner and not _is_running(int(owner[1])):
            shutil.rmtree(leftover, ignore_errors=True)


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


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_directory(folder)


def _sync_directory(folder: Path) -> None:
    if os.name == "nt":  # which does not open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(error: OSError, target: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            f"the disk is full: {error.strerror}",
            where=str(target),
            hint="make room, or choose a folder on another disk; what was written has been removed",
        )
    return OutputError(
        f"the folder could not be written: {error.strerror or error}",
        where=str(error.filename or target),
        hint="choose another place, or make rights there",
    )
