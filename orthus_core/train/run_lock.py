"""One process at a time trains into a folder: a second one is refused by name.

The lock is the operating system's own on a file (POSIX record lock), so that it ends with the
process that holds it, however that ends. The file's text only names the holder.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orthus_core.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has none; there two processes are not kept apart
    fcntl = None

LOCK = "run.lock"

# A record lock does not exclude its own process, and ends when the process closes the file once.
_HELD: set[Path] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a training folder, which is created where it is missing.

    Raises:
        OutputError: When another training holds it, or the folder cannot be written to.
    """
    path = folder.resolve() / LOCK
    if path in _HELD:
        raise _taken(folder, f"process {os.getpid()}, this one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_and_lock(path)
    except OSError as error:
        raise OutputError(
            f"cannot write there: {error.strerror or error}",
            where=str(folder),
            hint="choose another place with -o, or make room and rights there",
        ) from error
    if descriptor is None:
        raise _taken(folder, _holder(path))
    _HELD.add(path)
    try:
        with suppress(OSError):  # a full disk; the text is only for the message
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        _HELD.discard(path)
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        with suppress(OSError):
            folder.rmdir()  # where nothing came of the training


def check_unlocked(folder: Path) -> None:
    """Check that no other training works in a folder; nothing is written. The file of one that was
    killed is removed.

    Raises:
        OutputError: When one does.
    """
    path = folder.resolve() / LOCK
    if path in _HELD:
        raise _taken(folder, f"process {os.getpid()}, this one")
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return
    try:
        if not _lock(descriptor):
            raise _taken(folder, _holder(path))
        with suppress(OSError):
            if fcntl and os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                path.unlink()
    finally:
        os.close(descriptor)


def _open_and_lock(path: Path) -> int | None:
    """The locked file; None when another process holds it.

    Whoever ends removes the file, so a process may have opened one that is gone by the time it is
    locked; then it tries again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                os.ftruncate(descriptor, 0)
                return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False when another process holds it.

    File systems that know no locks (some network ones) lock nothing, and True is returned.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the system likes
        return False
    except OSError:
        return True
    return True


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    return "another process"


def _taken(folder: Path, holder: str) -> OutputError:
    return OutputError(
        f"a training is at work here: {holder}",
        where=str(folder),
        hint="wait until it ends, or choose another folder with -o",
    )
