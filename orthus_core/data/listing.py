"""Lists the pictures of folders: the one walk that data sets and commands share.

A file is a picture by its content, whatever its name says. Names that begin with a dot, and
`__MACOSX`, are no data, nor are the samples of a training that writes into the folder; the folder
that was named may be of these kinds itself. Links are followed, as a hub's cache consists of them,
and each folder is entered once. Whatever is passed over is counted and named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orthus_core.data.pixels import is_picture, picture_suffixes
from orthus_core.errors import DataError
from orthus_core.user_files import user_path

CAPTION_SUFFIX = ".txt"
# Companions of pictures that are no pictures, and need not be named.
_COMPANIONS = {CAPTION_SUFFIX, ".json", ".jsonl", ".csv", ".tsv", ".md", ".toml", ".yaml", ".yml"}
_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "icon\r"}
# Camera files begin as TIFF does, and what Pillow reads of them is a thumbnail.
_CAMERA_FILES = set(".arw .cr2 .cr3 .dng .nef .orf .pef .raf .rw2 .srw".split())

# Files that a training begins its folder with (`train.runs.RUN`, `train.metrics.METRICS`).
_OF_TRAININGS = {"run.json", "metrics.jsonl"}

NAMES_TOLD = 3
"""Number of files that are named as examples of what was passed over."""

HIDDEN = "hidden"
DANGLING = "behind broken links"
UPWARD = "linking to a folder above"
CLOSED = "in folders that may not be read"
TRAINED = "in the folders of trainings"
NO_FILE = "neither file nor folder"
NO_SUFFIX = "without a suffix"

Identity = tuple[int, int]


class PassedOver(NamedTuple):
    """Files of one kind that are not read.

    Attributes:
        kind: What they are, to be said after a number: a suffix, or words such as "hidden".
        count: How many there are.
        names: The first of them.
    """

    kind: str
    count: int
    names: list[str]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.count} {self.kind} ({', '.join(self.names)}{more})"


def passed_over_line(passed: Iterable[PassedOver]) -> str:
    """One line that counts and names what was passed over; empty when nothing was."""
    passed = [*passed]
    count = sum(each.count for each in passed)
    of = f"{count} {'file' if count == 1 else 'files'} passed over"
    return f"{of}: {', '.join(map(str, passed))}" if passed else ""


class FolderWalk:
    """A walk over a folder and its subfolders, real and linked.

    Args:
        folder: Folder to walk over.

    Attributes:
        other: What is no picture, by kind.
        texts: Files that may hold captions.
        companions: Number of files that go with pictures, by suffix.
        sniffed: The files that only their content says are pictures.
        linked: The files that links with a picture's suffix lead to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.other: dict[str, list[Path]] = {}
        self.texts: list[Path] = []
        self.companions: dict[str, int] = {}
        self.sniffed: dict[Path, Identity] = {}
        self.linked: set[Identity] = set()
        self._entered: set[Identity] = set()
        self._around: set[Identity] = set()

    def pictures(self) -> Iterator[Path]:
        """The pictures, unsorted. Folders come before links to folders, so that a file keeps the
        name that it has without links.

        Raises:
            DataError: When the folder itself cannot be read.
        """
        try:
            os.scandir(self.folder).close()
            self._around = {_identity(os.stat(path)) for path in self.folder.resolve().parents}
            self._entered = {_identity(os.stat(self.folder))}
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read this folder: {reason}", where=str(self.folder)) from error
        waiting, links = [self.folder], list[Path]()
        while waiting:
            while waiting:
                yield from self._pictures_in(waiting.pop(), waiting, links)
            # Those that lead into folders that were entered meanwhile are dropped when their turn
            # comes, so they are taken one by one.
            links.sort(reverse=True)
            while links and not waiting:
                waiting += self._entered_by(links.pop())

    def _entered_by(self, link: Path) -> list[Path]:
        """The link, if it leads to a folder that was not entered yet."""
        identity = _identity(os.stat(link))
        if identity in self._around:
            self._pass(UPWARD, link)
        elif identity not in self._entered:
            self._entered.add(identity)
            return [link]
        return []

    def _pictures_in(self, folder: Path, folders: list[Path], links: list[Path]) -> Iterator[Path]:
        """The pictures of one folder; its subfolders and links to folders go to the lists."""
        try:
            with os.scandir(folder) as scanned:
                entries = [*scanned]
        except OSError:
            self._pass(CLOSED, folder)
            return
        if folder != self.folder and {entry.name for entry in entries} >= _OF_TRAININGS:
            self._pass(TRAINED, folder)
            return
        for entry in entries:
            path, suffix = folder / entry.name, os.path.splitext(entry.name)[1].lower()
            is_link = entry.is_symlink()
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # such as a link to itself
                is_folder = is_file = False
            if is_hidden(entry.name):
                if is_folder or suffix in picture_suffixes():
                    self._pass(HIDDEN, path)
            elif is_folder and is_link:
                links.append(path)
            elif is_folder:
                folders += self._entered_by(path)
            elif not is_file:
                self._pass(DANGLING if is_link else NO_FILE, path)
            elif suffix in picture_suffixes():
                if is_link:
                    self.linked.add(_identity(entry.stat()))
                yield path
            elif suffix in _COMPANIONS:
                self.companions[suffix] = self.companions.get(suffix, 0) + 1
                if suffix == CAPTION_SUFFIX:
                    self.texts.append(path)
            elif suffix not in _CAMERA_FILES and is_picture(path):
                self.sniffed[path] = _identity(entry.stat())
                yield path
            elif entry.name.lower() not in _OF_SYSTEMS:
                self._pass(suffix or NO_SUFFIX, path)

    def _pass(self, kind: str, path: Path) -> None:
        self.other.setdefault(kind, []).append(path)


class FolderListing:
    """The files of a folder and its subfolders, sorted.

    Attributes:
        pictures: The pictures.
        texts: The files that may hold their captions.

    Raises:
        DataError: When the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._walk = walk = FolderWalk(folder)
        found = [*walk.pictures()]
        # A blob of a hub's cache has no suffix; the link to it has its name.
        self.pictures = sorted(path for path in found if walk.sniffed.get(path) not in walk.linked)
        self.texts = sorted(walk.texts)

    def not_in(self, named: set[Path]) -> list[Path]:
        """The pictures that are not among these absolute paths."""
        return [path for path in self.pictures if path.absolute() not in named]

    def passed_over(self, also: Mapping[str, Sequence[Path]] | None = None) -> list[PassedOver]:
        """What is not read, by kind, most first.

        Args:
            also: Further files that are not read, by kind.
        """
        kinds = [
            PassedOver(
                kind, len(paths), [self._name_of(path) for path in sorted(paths)[:NAMES_TOLD]]
            )
            for kind, paths in {**self._walk.other, **(also or {})}.items()
            if paths
        ]
        return sorted(kinds, key=lambda each: (-each.count, each.kind))

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def contents(self) -> str:
        """What the folder holds in place of pictures, for an error."""
        held = [(count, f"{count} {suffix}") for suffix, count in self._walk.companions.items()]
        held += [(each.count, str(each)) for each in self.passed_over()]
        kinds = ", ".join(text for _, text in sorted(held, reverse=True))
        return f"only {kinds}" if kinds else "which is empty"


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in a folder; stops at the first."""
    return any(True for _ in FolderWalk(folder).pictures())


def files_ending(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder and its subfolders by the ends of their names, sorted.

    Only names are looked at, and hidden folders are not entered, nor are links to folders: a folder
    of a million pictures is asked for its tables, too.

    Args:
        folder: The folder.
        suffixes: The ends in lower case; names are compared without case.
    """
    ends, found = tuple(suffixes), list[Path]()
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [
            Path(inside, name)
            for name in names
            if name.lower().endswith(ends) and not is_hidden(name)
        ]
    return sorted(path for path in found if path.is_file())


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data."""
    return name.startswith(".") or name == "__MACOSX"


def picture_files(named: Iterable[Path], note: Callable[[str], None] | None = None) -> list[Path]:
    """The named files, and the pictures in named folders and their subfolders, sorted by name.

    A named file is returned whatever its suffix, and even if it does not exist: opening it will
    raise the error.

    Args:
        named: Files and folders.
        note: Called with a line about what was passed over in each folder.

    Raises:
        DataError: if a folder contains no picture.
    """
    found: list[Path] = []
    for path in map(user_path, named):
        if not os.path.isdir(path):  # unlike Path.is_dir, also accepts invalid names
            found.append(path)
            continue
        listing = FolderListing(path)
        if not listing.pictures:
            raise no_picture_in(listing)
        if note and (line := passed_over_line(listing.passed_over())):
            note(f"{path}: {line}")
        found += listing.pictures
    return found


def no_picture_in(listing: FolderListing) -> DataError:
    """The error for a folder without a picture; it says what is there."""
    return DataError(
        f"there is no picture in this folder, {listing.contents()}",
        where=str(listing.folder),
        hint="pictures are PNG, JPEG, WebP, GIF, BMP, TIFF and whatever else Pillow reads; convert "
        "others",
    )


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino
