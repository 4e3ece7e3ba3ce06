"""Write folders completely or not at all: staged, flushed to disk, then put in place.

A folder that exists is filled and never replaced: a shell may stand in it, it may be a mount point,
or its parent may be closed. The file that marks a finished result is moved last, and that of an
earlier result is taken away first, so that a half-filled folder is never taken for a finished one.
Inside such a folder, process N writes to `.orthus-partial-N`, moves the files of an earlier result
to `.orthus-former-N`, and renames what it wrote to `.orthus-moving-N` before it moves that out. If
it is killed, the next process to write there restores the earlier result, or completes the new one.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from orthus_core.atomic import (
    ANOTHER_PLACE,
    FOLDER_NOT_WRITTEN,
    NO_RENAME,
    as_output_error,
    being_written,
    clear_abandoned,
    failure_message,
    is_abandoned,
    real_path,
    staging_path,
    sync_directory,
    sync_folder,
)
from orthus_core.errors import OutputError, UnplacedError
from orthus_core.output_checks import (
    check_name,
    probe_folder,
)

TRAINING_SUFFIX = ".training"
"""Of the folder of a training's states. It may lie in the output; see `state.training_folder`."""


_STEPS = ("partial", "former", "moving", "probe")


_OURS = re.compile(rf"\.orthus-(?:{'|'.join(_STEPS)})-(\d+)")


# What the root of a new file system, and file managers, put into an empty folder.
_NOT_CONTENT = ("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini")


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
    with as_output_error(target, failure, hint):
        place = real_path(target)
        is_there = mark is not None and place.is_dir()
        partial = _staging_inside(place) if is_there else staging_path(place)
        with being_written(place):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                clear_abandoned(place)
                partial.mkdir()
                yield partial
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            try:
                _share_as_folder(partial)
                sync_folder(partial)
                _put_in_place(partial, place, mark=mark, replaces=replaces, overwrite=overwrite)
            except BaseException as error:
                kept = _kept_folder(partial, place) if mark else None
                if kept is None:
                    shutil.rmtree(partial, ignore_errors=True)
                if kept is None or not isinstance(error, OSError):
                    raise
                raise UnplacedError(
                    failure_message(error, failure),
                    where=str(target),
                    hint=f"it is finished and kept in {shlex.quote(str(kept))}: use it there, or "
                    "move it to where it belongs",
                    kept=kept,
                ) from error


def _share_as_folder(folder: Path) -> None:
    """Whoever may read or write the folder may do so with its files. The safetensors library makes
    files that only their owner may read, whatever the umask is.
    """
    shared = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and (mode := file.stat().st_mode) | shared != mode:
            file.chmod(mode | shared)


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
    with as_output_error(target, FOLDER_NOT_WRITTEN, ANOTHER_PLACE):
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
    sync_directory(target.parent)


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
        if not is_abandoned(process, target):
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
            sync_directory(target)
        try:
            partial.rename(moving)  # from here on, the new result is completed after a kill
            moved.append((partial, moving))
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            moving = partial  # a copy could be cut short, and would then pass for complete
        for entry in _last(mark, moving.iterdir()):
            if entry.name == mark:
                sync_directory(target)
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
    sync_directory(target)


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
