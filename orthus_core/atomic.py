"""Write files and folders completely or not at all: staged next to the target, flushed to disk,
then put in place.

If writing stops (an error, a full disk, a kill), the target keeps its previous state. Anything a
killed process leaves, `.NAME.partial-PID`, is removed by the next process that writes there.

A folder that exists is filled and never replaced: a shell may stand in it, it may be a mount point,
or its parent may be closed. The file that marks a finished result is moved last, and that of an
earlier result is taken away first, so that a half-filled folder is never taken for a finished one.
Inside such a folder, process N writes to `.orthus-partial-N`, moves the files of an earlier result
to `.orthus-former-N`, and renames what it wrote to `.orthus-moving-N` before it moves that out. If
it is killed, the next process to write there restores the earlier result, or completes the new one.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shlex
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from orthus_core.errors import OutputError, UnplacedError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME_BYTES = 255
"""What file systems take as one name."""
_OWNER_BYTES = len(".") + len(".partial-4194304-old")  # the largest process id of Linux

NO_RENAME = (errno.EXDEV, errno.EBUSY, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""Where a rename fails and a copy may not: mount points, bound files, some network file systems."""
_NO_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM)
"""What file systems answer that cannot flush a folder; the renames are then as safe as they get."""

TRAINING_SUFFIX = ".training"
"""Of the folder of a training's states. It may lie in the output; see `state.training_folder`."""
_STEPS = ("partial", "former", "moving", "probe")
_OURS = re.compile(rf"\.orthus-(?:{'|'.join(_STEPS)})-(\d+)")
# What the root of a new file system, and file managers, put into an empty folder.
_NOT_CONTENT = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini")

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
    with _as_output_error(target, failure, hint):
        place = real_path(target)
        if is_special(target):
            yield from _through(target)
            return
        if parents:
            place.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(place)
        partial = _beside(place)
        with _being_written(place):
            try:
                yield partial
                _sync_file(partial)
                _replace_file(partial, place)
                _sync_directory(place.parent)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)


def write_text(
    target: Path, text: str, *, failure: str = CANNOT_WRITE, hint: str = ANOTHER_PLACE
) -> None:
    """Write a UTF-8 text file completely or not at all; see `staged_file`."""
    with staged_file(target, failure=failure, hint=hint) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(
    target: Path,
    *,
    mark: str | None,
    replaces: Sequence[str] = (),
    overwrite: bool = False,
    failure: str = FOLDER_NOT_WRITTEN,
    hint: str = ANOTHER_PLACE,
) -> Iterator[Path]:
    """Yield a new folder to write into; its content becomes `target` when the block ends without an
    error.

    It lies next to a target that does not exist, and inside one that does, which is then filled: it
    may be the shell's working directory or a mount point, or its parent may be closed.

    Args:
        target: Folder to create or fill; links are followed. Missing parents are created.
        mark, overwrite: Which folders may be replaced; see `check_folder`. The mark is put in place
            last.
        replaces: Patterns of the names of an earlier result's files. They are removed when it is
            replaced; all other files stay.
        failure, hint: As for `staged_file`.

    Raises:
        OutputError: When `target` exists, cannot be written to, or the disk fills up.
        UnplacedError: When the folder is complete and cannot be put in place; it is kept, and the
            error names where.
    """
    check_folder(target, mark=mark, overwrite=overwrite)
    with _as_output_error(target, failure, hint):
        place = real_path(target)
        is_there = mark is not None and place.is_dir()
        partial = _staging_inside(place) if is_there else _beside(place)
        with _being_written(place):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                _clear_abandoned(place)
                partial.mkdir()
                yield partial
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            try:
                _sync_folder(partial)
                _put_in_place(partial, place, mark=mark, replaces=replaces, overwrite=overwrite)
            except BaseException as error:
                kept = _kept_folder(partial, place) if mark else None
                if kept is None:
                    shutil.rmtree(partial, ignore_errors=True)
                if kept is None or not isinstance(error, OSError):
                    raise
                raise UnplacedError(
                    _message(error, failure),
                    where=str(target),
                    hint=f"it is finished and kept in {shlex.quote(str(kept))}: use it there, or "
                    "move it to where it belongs",
                    kept=kept,
                ) from error


def check_folder(target: Path, *, mark: str | None, overwrite: bool = False) -> None:
    """Check, before hours of work, that a folder may be written at `target`, by writing there.

    What a killed process left inside is cleared first; see `_recover`.

    Args:
        target: Folder to create or fill.
        mark: File that identifies a finished folder of this kind; only such a folder may be
            replaced. None allows any folder to be replaced.
        overwrite: Whether a folder of this kind may be replaced at all.

    Raises:
        OutputError: When it is a file, a non-empty folder that may not be replaced, or cannot be
            written to.
    """
    check_name(target)
    with _as_output_error(target, FOLDER_NOT_WRITTEN, ANOTHER_PLACE):
        place = real_path(target)
        if place.exists() and not place.is_dir():
            raise OutputError("this is a file", where=str(target), hint="give a folder's name")
        if mark is not None:
            _recover(place, mark)
        content = content_of(place)
    if content and not overwrite:
        raise OutputError(
            "there is something at the output already: the folder is not empty",
            where=str(target),
            hint="choose another folder with -o, or replace this one with --overwrite",
        )
    if content and mark is not None and not (place / mark).is_file():
        raise OutputError(
            f"the folder holds no {mark}, so it will not be replaced",
            where=str(target),
            hint="choose another folder with -o, or remove this one yourself",
        )
    probe_folder(target)


def check_empty(target: Path) -> None:
    """`check_folder` for a command that replaces nothing.

    Raises:
        OutputError: When it is no empty folder, or cannot be written to.
    """
    if content_of(target):
        raise OutputError(
            "the folder is not empty", where=str(target), hint="name another one, or empty it"
        )
    check_folder(target, mark=None)


def probe_folder(target: Path, failure: str = FOLDER_NOT_WRITTEN) -> None:
    """Write and remove a file where a folder will be written, with its missing parents.

    Permission bits do not tell it: root passes them by, and a file system may be read-only.

    Raises:
        OutputError: When that fails; names what is in the way.
    """
    check_name(target)
    with _as_output_error(target, failure, ANOTHER_PLACE):
        place = real_path(target)
        _check_lookup(place)
        if place.exists() and not place.is_dir():
            raise OutputError("this is a file", where=str(target), hint=ANOTHER_PLACE)
        is_there = place.is_dir()
        probe = _probe_inside(place) if is_there else _beside(place)

        def write() -> None:
            try:
                probe.mkdir()
                (probe / "file").write_bytes(b"orthus")
            finally:
                shutil.rmtree(probe, ignore_errors=True)

        _clear_abandoned(place)
        _try_in(probe.parent, write)


def probe_file(target: Path) -> None:
    """`probe_folder` for a file. An existing file is not opened: it is replaced, not rewritten."""
    check_name(target)
    with _as_output_error(target, CANNOT_WRITE, ANOTHER_PLACE):
        place = real_path(target)
        _check_lookup(place)
        if is_special(target):
            return
        probe = _beside(place)

        def write() -> None:
            try:
                probe.write_bytes(b"orthus")
            finally:
                probe.unlink(missing_ok=True)

        _clear_abandoned(place)
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
            f"not enough room: {_size(wanted)} to write and {_size(free)} free",
            where=str(target),
            hint="make room, or choose a folder on another disk",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _beside(target: Path) -> Path:
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


def _clear_abandoned(target: Path) -> None:
    """Remove what killed processes left next to `target`; running processes keep theirs."""
    prefix = _prefix(target)
    for leftover in target.parent.glob(f"{glob.escape(prefix)}*"):
        owner = re.fullmatch(r"\d+", leftover.name.removeprefix(prefix))
        if owner and _is_abandoned(int(owner[0]), target):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            _sync_file(file)
        elif file.is_dir():
            _sync_directory(file)
    _sync_directory(folder)


def _sync_file(file: Path) -> None:
    # Windows flushes only files that are open for writing.
    with file.open("r+b" if os.name == "nt" else "rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _as_output_error(target: Path, failure: str, hint: str) -> Iterator[None]:
    """Convert the system's errors to ours."""
    try:
        yield
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise OutputError(_message(cause, failure), where=str(target), hint=hint) from error


def _system_error(error: Exception) -> OSError | None:
    """The system's error behind one of a library that writes files itself; None for any other."""
    if isinstance(error, OSError):
        return error
    told = str(error)
    if "os error 28" in told:  # safetensors
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # torch's writer does not say why it failed; where its file could be created, it is room.
    return OSError(errno.ENOSPC, told) if "inline_container.cc" in told else None


def output_error(error: OSError, hint: str = ANOTHER_PLACE) -> OutputError:
    """The system's error as ours, with the file that it names."""
    return OutputError(_message(error, CANNOT_WRITE), where=str(error.filename or ""), hint=hint)


def _message(error: OSError, failure: str) -> str:
    is_full = error.errno in DISK_IS_FULL
    return "the disk is full" if is_full else f"{failure}: {error.strerror or error}"


# Finished folders, and how they get to their places.


def content_of(folder: Path) -> list[Path]:
    """The entries that make a folder non-empty; none for a folder that does not exist.

    The folder of its training's states, what a killed or running process left, and what the system
    puts there do not count.
    """
    if not folder.is_dir():
        return []
    passed_over = (*_NOT_CONTENT, folder.name + TRAINING_SUFFIX)
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.name not in passed_over and not _OURS.fullmatch(entry.name)
    ]


def _staging_inside(folder: Path) -> Path:
    """The path in an existing folder where this process writes its future content."""
    return _step(folder, "partial", os.getpid())


def _probe_inside(folder: Path) -> Path:
    """The path in an existing folder where this process tries whether it can write."""
    return _step(folder, "probe", os.getpid())


def _put_in_place(
    finished: Path, target: Path, *, mark: str | None, replaces: Sequence[str], overwrite: bool
) -> None:
    """Make `finished` the content of `target`; see `staged_folder` for the arguments.

    Without a mark, a half-filled folder could not be told from a finished one, so the whole folder
    is exchanged.

    Raises:
        OSError: When that fails; what was there is there again, and `_kept_folder` finds the new.
    """
    if mark is None:
        _exchange(finished, target)
    elif not os.path.lexists(target):
        try:
            finished.rename(target)
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            target.mkdir()
            _fill(finished, target, mark, replaces, overwrite=overwrite)
    else:
        _fill(finished, target, mark, replaces, overwrite=overwrite)
    _sync_directory(target.parent)


def _kept_folder(partial: Path, target: Path) -> Path | None:
    """Give a finished folder that found no place a name that no later process clears; None when it
    is gone.
    """
    places = (partial, _step(target, "moving", os.getpid()), _staging_inside(target))
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        return None
    names = (f"{target.name}.kept{number}" for number in ("", *(f"-{n}" for n in range(2, 1000))))
    kept = next(found.with_name(name) for name in names if not (found.parent / name).exists())
    try:
        os.rename(found, kept)
    except OSError:
        return found
    return kept


def _recover(target: Path, mark: str) -> None:
    """Finish what killed processes began inside a folder: complete a result that was being moved,
    restore one that was being replaced, and remove what was not finished.

    Raises:
        OSError: When it cannot.
    """
    if not target.is_dir():
        return
    found = [_OURS.fullmatch(entry.name) for entry in target.iterdir()]
    for process in {int(match[1]) for match in found if match}:
        if not _is_abandoned(process, target):
            continue
        leftovers = [_step(target, name, process) for name in _STEPS]
        _, former, moving, _ = leftovers
        if moving.is_dir():
            for entry in _last(mark, moving.iterdir()):
                _move(entry, target / entry.name)
        elif former.is_dir():
            for entry in _last(mark, former.iterdir()):
                _move(entry, target / entry.name)
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)


def _fill(
    finished: Path, target: Path, mark: str, replaces: Sequence[str], *, overwrite: bool
) -> None:
    """Move the content of a finished folder into one that exists."""
    there = content_of(target)
    if there and not (overwrite and (target / mark).is_file()):
        reason = "something was put there while this was made"
        raise OSError(errno.ENOTEMPTY, reason, str(target))
    partial, former, moving, _ = (_step(target, name, os.getpid()) for name in _STEPS)
    if finished != partial:
        _move(finished, partial)
    new = {entry.name for entry in partial.iterdir()}
    old = [
        entry
        for entry in there
        if entry.name in new or any(fnmatchcase(entry.name, pattern) for pattern in replaces)
    ]
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, goal: Path) -> None:
        _move(source, goal)
        moved.append((source, goal))

    try:
        if old:
            former.mkdir()
            for entry in reversed(_last(mark, old)):
                move(entry, former / entry.name)
            _sync_directory(target)
        try:
            partial.rename(moving)  # from here on, the new result is completed after a kill
            moved.append((partial, moving))
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            moving = partial  # a copy could be cut short, and would then pass for complete
        for entry in _last(mark, moving.iterdir()):
            if entry.name == mark:
                _sync_directory(target)
            move(entry, target / entry.name)
    except BaseException:
        for source, goal in reversed(moved):
            with suppress(OSError):  # the others still go back
                _move(goal, source)
        with suppress(OSError):
            former.rmdir()
        raise
    shutil.rmtree(moving, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)
    _sync_directory(target)


def _exchange(finished: Path, target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        # A kill between the two renames leaves the old folder under this name; no data is lost.
        old = finished.with_name(finished.name + "-old")
        target.rename(old)
        try:
            finished.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        finished.rename(target)  # onto an empty folder, or onto nothing


def _step(target: Path, name: str, process: int) -> Path:
    return target / f".orthus-{name}-{process}"


def _last(mark: str, entries: Iterable[Path]) -> list[Path]:
    return sorted(entries, key=lambda entry: (entry.name == mark, entry.name))


def _move(source: Path, goal: Path) -> None:
    """Rename a file or folder, or copy it where that is not possible."""
    try:
        os.rename(source, goal)
        return
    except OSError as error:
        if error.errno not in NO_RENAME:
            raise
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, goal, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(source)
    else:
        shutil.copyfile(source, goal, follow_symlinks=False)
        source.unlink()


_targets: set[Path] = set()
"""What this process is writing. Its number may be that of a killed one: in containers, it often
is."""


@contextmanager
def _being_written(target: Path) -> Iterator[None]:
    """Marks what this process writes to a target as in use."""
    _targets.add(target)
    try:
        yield
    finally:
        _targets.discard(target)


def _is_abandoned(process: int, target: Path) -> bool:
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


def _sync_directory(folder: Path) -> None:
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
