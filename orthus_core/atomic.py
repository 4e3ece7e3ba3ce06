"""Write files completely or not at all: staged next to the target, flushed to disk, then renamed.

If writing stops (an error, a full disk, a kill), the target keeps its previous state. Anything a
killed process leaves, `.NAME.partial-PID`, is removed by the next process that writes there.
`atomic_folder` does the same for folders.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orthus_core.errors import OutputError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


LONGEST_NAME_BYTES = 255
"""What file systems take as one name."""


_OWNER_BYTES = len(".") + len(".partial-4194304-old")  # the largest process id of Linux


NO_RENAME = (errno.EXDEV, errno.EBUSY, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""Where a rename fails and a copy may not: mount points, bound files, some network file systems."""


_NO_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM)
"""What file systems answer that cannot flush a folder; the renames are then as safe as they get."""


CANNOT_WRITE = "cannot write there"


FOLDER_NOT_WRITTEN = "the folder could not be written"


ANOTHER_PLACE = "choose another place with -o, or make room and rights there"


@contextmanager
def staged_file(
    target: Path,
    *,
    parents: bool = False,
    failure: str = CANNOT_WRITE,
    hint: str = ANOTHER_PLACE,
) -> Iterator[Path]:
    """Yield a path next to `target` to write to; it replaces `target` when the block ends without
    an error.

    Args:
        target: File to write. A link is followed; a device or a pipe is written to, not replaced.
        parents: Whether to create missing parent folders; otherwise they must exist.
        failure: First part of the error message when the file cannot be written.
        hint: Suggested next step in that error.

    Raises:
        OutputError: When `target` cannot be written to, or the disk fills up.
    """
    target = Path(target)
    with as_output_error(target, failure, hint):
        place = real_path(target)
        if is_special(target):
            yield from _through(target)
            return
        if parents:
            place.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(place)
        partial = staging_path(place)
        with being_written(place):
            try:
                yield partial
                _sync_file(partial)
                _replace_file(partial, place)
                sync_directory(place.parent)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)


def write_text(
    target: Path, text: str, *, failure: str = CANNOT_WRITE, hint: str = ANOTHER_PLACE
) -> None:
    """Write a UTF-8 text file completely or not at all; see `staged_file`."""
    with staged_file(target, failure=failure, hint=hint) as partial:
        partial.write_text(text, encoding="utf-8")


def real_path(path: Path) -> Path:
    """The path with links followed and `.` and `..` resolved, so that it has a name and a parent.

    Raises:
        FileNotFoundError: When the working directory was removed.
    """
    return Path(os.path.realpath(path))


def is_special(path: Path) -> bool:
    """Whether a path is written to rather than replaced: a device or a pipe, as /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    is_plain = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return not is_plain or str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))


def staging_path(target: Path) -> Path:
    """The path where this process writes the future `target`."""
    return target.with_name(f"{_prefix(target)}{os.getpid()}")


def _prefix(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) > LONGEST_NAME_BYTES - _OWNER_BYTES:
        name = f"{zlib.crc32(os.fsencode(name)):08x}"
    return f".{name}.partial-"


def _replace_file(partial: Path, target: Path) -> None:
    try:
        os.replace(partial, target)
    except OSError as error:
        if error.errno not in NO_RENAME:
            raise
        shutil.copyfile(partial, target)  # such as a single file that is mounted
        _sync_file(target)


def _through(target: Path) -> Iterator[Path]:
    """Stage a file elsewhere, then write its bytes to a device or a pipe."""
    with tempfile.TemporaryDirectory() as elsewhere:
        partial = Path(elsewhere) / "file"
        yield partial
        with target.open("wb") as stream:
            stream.write(partial.read_bytes())


def clear_abandoned(target: Path) -> None:
    """Remove what killed processes left next to `target`; running processes keep theirs."""
    prefix = _prefix(target)
    for leftover in target.parent.glob(f"{glob.escape(prefix)}*"):
        owner = re.fullmatch(r"\d+", leftover.name.removeprefix(prefix))
        if owner and is_abandoned(int(owner[0]), target):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            _sync_file(file)
        elif file.is_dir():
            sync_directory(file)
    sync_directory(folder)


def _sync_file(file: Path) -> None:
    # Windows flushes only files that are open for writing.
    with file.open("r+b" if os.name == "nt" else "rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def as_output_error(target: Path, failure: str, hint: str) -> Iterator[None]:
    """Convert the system's errors to ours."""
    try:
        yield
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise OutputError(failure_message(cause, failure), where=str(target), hint=hint) from error


def _system_error(error: Exception) -> OSError | None:
    """The system's error behind one of a library that writes files itself; None for any other."""
    if isinstance(error, OSError):
        return error
    message = str(error)
    if "os error 28" in message:  # safetensors
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # torch's writer does not say why it failed; where its file could be created, it is room.
    return OSError(errno.ENOSPC, message) if "inline_container.cc" in message else None


def output_error(error: OSError, hint: str = ANOTHER_PLACE) -> OutputError:
    """The system's error as ours, with the file that it names."""
    return OutputError(
        failure_message(error, CANNOT_WRITE), where=str(error.filename or ""), hint=hint
    )


def failure_message(error: OSError, failure: str) -> str:
    is_full = error.errno in DISK_IS_FULL
    return "the disk is full" if is_full else f"{failure}: {error.strerror or error}"


_targets: set[Path] = set()
"""What this process is writing. Its number may be that of a killed one: in containers, it often
is."""


@contextmanager
def being_written(target: Path) -> Iterator[None]:
    """Marks what this process writes to a target as in use."""
    _targets.add(target)
    try:
        yield
    finally:
        _targets.discard(target)


def is_abandoned(process: int, target: Path) -> bool:
    """Whether the process that began to write a target has ended."""
    return target not in _targets if process == os.getpid() else not _is_running(process)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, so it exists
        return True
    return True


def sync_directory(folder: Path) -> None:
    """Flush a folder's entries to disk, where its file system can."""
    if os.name == "nt":  # Windows cannot open folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
