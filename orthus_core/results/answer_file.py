"""Answers about pictures in a JSON Lines file that a second run continues.

Each line is self-contained: the picture, a hash of its file, the question, the model and settings,
and the answer. Questions that the file answers are skipped, and each line has all that is needed
to repeat its question. Several processes may add to one file: each locks it for a line, and first
reads what the others have added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.atomic import CANNOT_WRITE, failure_message, is_special
from orthus_core.errors import DataError, OutputError
from orthus_core.results.output_names import check_writable, json_text, write_file
from orthus_core.user_files import marked_encoding, text_of
from orthus_core.wrong_content import true_cause

try:
    import fcntl
except ImportError:  # Windows has none; there two processes are not kept apart
    fcntl = None

NEEDED = ("image", "text", "question", "content", "model", "sampling")
# Entries of a repeatable answer: the software version, the model's name, its device and dtype.
MADE = ("version", "name", "device", "dtype")


class Question(NamedTuple):
    """Question, model and sampling; a change in any of them makes it a different question."""

    question: str
    model: str
    sampling: dict[str, Any]


class StoredAnswer(NamedTuple):
    """An answer read from a file.

    Attributes:
        image: Path of the picture, as the user named it.
        content: Hash of the picture's file.
        seed: Seed of the sampled text.
        question: Question, hash of the model, and sampling.
        made: Version, model name, device, precision and bits; empty when an older version wrote the
            line.
    """

    image: str
    content: str
    text: str
    seed: int
    question: Question
    made: dict[str, Any]


class AnswerFile:
    """A file of answers: its answers to one question, to which more can be added.

    Args:
        path: Path of the file, which may exist.
        asked: The current question. Lines of other questions are kept.
        made: Further entries of each line, needed to repeat the question.
        anew: Whether to start over; the first answer then replaces the existing file.

        known: Answers to this question by the hash of the picture's file.

    Raises:
        OutputError: When the path is a folder or another kind of file, or is not writable.
    """

    def __init__(
        self,
        path: Path,
        asked: Question,
        made: Mapping[str, Any] | None = None,
        *,
        anew: bool = False,
    ) -> None:
        self.path, self._asked, self._anew = path, asked, anew
        self._made = dict(made or {})
        self.known: dict[str, str] = {}
        self._written: set[tuple[str, str]] = set()
        self._whole = 0  # bytes of the complete lines
        self._lines = 0  # their number
        self._inode: int | None = None  # of the file that they were read from
        check_answers(path)
        if path.exists() and not anew:
            self._read()

    def add(self, image: str, content: str, text: str, seed: int) -> bool:
        """Append an answer, and return whether it was new.

        Raises:
            OutputError: When that fails; earlier answers stay.
        """
        if (image, content) in self._written:
            return False
        line = {"image": image, "text": text, **self._asked._asdict()}
        line |= {"content": content, "seed": seed, **({"made": self._made} if self._made else {})}
        written = (json_text(line) + "\n").encode()
        try:
            if self._anew:  # the first complete answer replaces the file
                write_file(self.path, written, overwrite=True)
                self._anew = False
                self._read()
            elif not self._append(written, (image, content)):
                return False
        except OSError as error:
            raise OutputError(
                failure_message(error, CANNOT_WRITE),
                where=str(self.path),
                hint="make room or rights there; the same command then goes on",
            ) from error
        self._written.add((image, content))  # a name that is no text reads back as another
        self.known[content] = text
        return True

    def _append(self, written: bytes, key: tuple[str, str]) -> bool:
        """Append a line after the complete ones, unless another process has; a failed write leaves
        nothing behind.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self._locked() as file:
            about = os.fstat(file.fileno())
            if (about.st_ino, about.st_size) != (self._inode, self._whole):
                self._read()
            if key in self._written:
                return False
            # Remove an incomplete last line of an interrupted run.
            file.truncate(self._whole)
            try:
                rest = memoryview(written)
                while rest:  # a disk that fills up takes a part, and refuses the next
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(self._whole)
                if is_new and not self._whole:
                    self.path.unlink()
                raise
            self._read()
        return True

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        """The file, open to append and not buffered, so that what could not be written is not
        written again as it is closed; no other process adds to it meanwhile.

        A process that fails removes a file that it made, and `--overwrite` replaces one: whoever
        has waited for such a file opens the one that is there now.
        """
        while True:
            with self.path.open("ab", buffering=0) as file:
                if fcntl is not None:
                    with suppress(OSError):  # a file system without locks
                        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                if self._is_at_path(file):
                    yield file
                    return

    def _is_at_path(self, file: Any) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _read(self) -> None:
        """Read the lines that came after those that were read; all, if this is another file."""
        try:
            with self.path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._inode or about.st_size < self._whole:
                    self._inode, self._whole, self._lines = about.st_ino, 0, 0
                    self._written.clear()
                file.seek(self._whole)
                content = file.read()
        except OSError as error:
            raise OutputError(
                f"cannot read what is there: {error.strerror or error}", where=str(self.path)
            ) from error
        if not self._whole and marked_encoding(content)[0] != "utf-8":
            raise OutputError(
                "an answer cannot be added to it, as it is UTF-16 text",
                where=str(self.path),
                hint="save it as UTF-8, or choose another name with -o",
            )
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            self._lines += 1
            entry = _entry(line)
            if entry is None:
                other = OutputError(
                    f"there is another kind of file of this name: line {self._lines} is no answer",
                    where=str(self.path),
                    hint="choose another name with -o, or replace it with --overwrite",
                )
                raise true_cause(other, content)
            if all(entry[name] == value for name, value in self._asked._asdict().items()):
                self.known[entry["content"]] = entry["text"]
                self._written.add((entry["image"], entry["content"]))
        self._whole += whole
        if content and not self._whole and _cut(content) is False:
            raise OutputError(
                "there is another kind of file of this name",
                where=str(self.path),
                hint="choose another name with -o, or replace it with --overwrite",
            )


def check_answers(path: Path) -> None:
    """Check, before the model is read, that a file of answers may be written at `path`.

    Raises:
        OutputError: When it is a folder, a device or a pipe, or is not writable.
    """
    check_writable(path)
    if path.is_dir():
        raise OutputError("this is a folder", where=str(path), hint="give a file's name")
    if is_special(path):
        raise OutputError(
            "this is a device or a pipe, which a second run could not continue",
            where=str(path),
            hint="give a file's name, or leave out -o: the answers are printed",
        )


def read_answers(path: Path) -> list[StoredAnswer]:
    """The answers of a file, in its order.

    Raises:
        DataError: When the file cannot be read, is empty, or has a line in another format.
    """
    try:
        lines = text_of(path.read_bytes()).split("\n")
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the answers: {reason}", where=str(path)) from error
    found = [_read_line(line) for line in lines if line.strip()]
    if not found or None in found:
        what = f"line {found.index(None) + 1} is no answer" if found else "it holds no answer"
        other = DataError(
            f"this is no file of answers: {what}",
            where=str(path),
            hint="give one that `orthus caption -o` wrote",
        )
        raise true_cause(other, path)
    return [answer for answer in found if answer]


def _read_line(line: str) -> StoredAnswer | None:
    entry = _entry(line)
    if entry is None:
        return None
    made = entry.get("made", {})
    texts = (*(entry[name] for name in ("image", "text", "question", "content", "model")),)
    is_whole = isinstance(made, dict) and all(isinstance(made.get(n, ""), str) for n in MADE)
    if not (is_whole and isinstance(entry["sampling"], dict)):
        return None
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry.get("seed"), int):
        return None
    asked = Question(entry["question"], entry["model"], entry["sampling"])
    return StoredAnswer(entry["image"], entry["content"], entry["text"], entry["seed"], asked, made)


def _entry(line: str | bytes) -> dict[str, Any] | None:
    """Parse a line in our format."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and all(name in entry for name in NEEDED) else None


def _cut(content: bytes) -> bool:
    """Whether this could be the start of one of our lines."""
    return content.startswith(b'{"image": ')
