"""Whether an output can be written, checked before the work begins: its name, its place, by writing
there, and the room on its disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orthus_core.atomic import (
    ANOTHER_PLACE,
    CANNOT_WRITE,
    FOLDER_NOT_WRITTEN,
    LONGEST_NAME_BYTES,
    as_output_error,
    clear_abandoned,
    is_special,
    real_path,
    staging_path,
)
from orthus_core.errors import OutputError


def probe_folder(target: Path, failure: str = FOLDER_NOT_WRITTEN) -> None:
    """Write and remove a file where a folder will be written, with its missing parents.

    Permission bits do not tell it: root passes them by, and a file system may be read-only.

    Raises:
        OutputError: When that fails; names what is in the way.
    """
    check_name(target)
    with as_output_error(target, failure, ANOTHER_PLACE):
        place = real_path(target)
        _check_lookup(place)
        if place.exists() and not place.is_dir():
            raise OutputError("this is a file", where=str(target), hint=ANOTHER_PLACE)
        is_there = place.is_dir()
        probe = _probe_path(place) if is_there else staging_path(place)

        def write() -> None:
            try:
                probe.mkdir()
                (probe / "file").write_bytes(b"orthus")
            finally:
                shutil.rmtree(probe, ignore_errors=True)

        clear_abandoned(place)
        _try_in(probe.parent, write)


def probe_file(target: Path) -> None:
    """`probe_folder` for a file. An existing file is not opened: it is replaced, not rewritten."""
    check_name(target)
    with as_output_error(target, CANNOT_WRITE, ANOTHER_PLACE):
        place = real_path(target)
        _check_lookup(place)
        if is_special(target):
            return
        probe = staging_path(place)

        def write() -> None:
            try:
                probe.write_bytes(b"orthus")
            finally:
                probe.unlink(missing_ok=True)

        clear_abandoned(place)
        _try_in(place.parent, write)


def check_name(path: Path) -> None:
    """Check that file systems accept a name.

    Raises:
        OutputError: When they do not.
    """
    if "\0" in str(path):
        raise OutputError("a name cannot hold the character NUL", where=str(path))
    if any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in path.parts):
        raise OutputError(
            f"the name is longer than {LONGEST_NAME_BYTES} bytes",
            where=str(path),
            hint="choose a shorter one with -o",
        )


def free_disk(folder: Path) -> int:
    """Free disk space in bytes below a folder, which need not exist yet."""
    place = real_path(folder)
    nearest = next(each for each in (place, *place.parents) if each.exists())
    return shutil.disk_usage(nearest).free


def check_room(target: Path, wanted: int) -> None:
    """Check that the disk of `target` has `wanted` free bytes.

    Raises:
        OutputError: When it does not.
    """
    free = free_disk(target)
    if free < wanted:
        raise OutputError(
            f"not enough room: {size_text(wanted)} to write and {size_text(free)} free",
            where=str(target),
            hint="make room, or choose a folder on another disk",
        )


def size_text(count: int) -> str:
    """Bytes in words."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= 0.9995 * size:  # rounded, it would be 1000 of the next smaller unit
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _check_lookup(place: Path) -> None:
    """Ask the file system for a path, which finds names that this one does not take.

    Raises:
        OSError: For anything but a missing file.
    """
    with suppress(FileNotFoundError):
        os.lstat(place)


def _try_in(folder: Path, write: Callable[[], object]) -> None:
    """Call `write` with a folder and its missing parents made; they are removed again.

    Raises:
        OSError: When a folder cannot be made, or from `write`.
    """
    for last_try in (False, False, True):
        made: list[Path] = []
        try:
            for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
                each.mkdir(exist_ok=True)
                made.append(each)
            write()
            return
        except FileNotFoundError:  # another process that checks the same place removed its own
            if last_try:
                raise
        finally:
            for each in reversed(made):
                with suppress(OSError):
                    each.rmdir()


def _probe_path(folder: Path) -> Path:
    """The path in an existing folder where this process tries whether it can write."""
    return folder / f".orthus-probe-{os.getpid()}"
