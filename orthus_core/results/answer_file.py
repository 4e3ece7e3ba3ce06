"""Answers about pictures in a JSON Lines file that a second run goes on with.

Each line stands for itself: the picture, a hash of its file, what was asked of which model and how,
and the answer. What a line answers already is not asked again, and each line says what is needed to
ask again.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError, OutputError
from orthus_core.results.output_names import check_writable, write_file

NEEDED = ("image", "text", "question", "content", "model", "sampling")
# Of an answer that can be asked for again: the model's name, where it ran, and in which version.
MADE = ("version", "name", "device", "dtype")


class Question(NamedTuple):
    """What is asked, of whom, and how the answer is chosen; another one is another answer."""

    question: str
    model: str
    sampling: dict[str, Any]


class StoredAnswer(NamedTuple):
    """An answer that was written down.

    image: Its picture, as it was named.
    content: A hash of that file.
    seed: Of its sampled text.
    question: What was asked, of a model with which hash, and how.
    made: The model's name, device, precision and bits, and the version; empty where a line of an
        earlier version does not say.
    """

    image: str
    content: str
    text: str
    seed: int
    question: Question
    made: dict[str, Any]


class AnswerFile:
    """A file of answers: what it holds of one question, and room for more.

    Args:
        path: The file; it may be there already.
        asked: The question at hand. Lines of other questions stay as they are.
        made: What each line says besides, to be asked again.
        anew: Start over; what is there is replaced by the first answer.

    known: Answers to this question by the hash of the picture's file.

    Raises:
        OutputError: When a folder or another kind of file is there, or it cannot be written to.
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
        self._whole = 0  # bytes of the lines that are whole
        check_writable(path)
        if path.is_dir():
            raise OutputError("this is a folder", where=str(path), hint="give a file's name")
        if path.exists() and not anew:
            self._read()

    def add(self, image: str, content: str, text: str, seed: int) -> bool:
        """Writes an answer down, and says whether it was not there yet.

        Raises: OutputError when that fails; what was written before stays.
        """
        if (image, content) in self._written:
            return False
        line = {"image": image, "text": text, **self._asked._asdict()}
        line |= {"content": content, "seed": seed, **({"made": self._made} if self._made else {})}
        written = (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="replace")
        try:
            if self._anew:  # what is there goes when the first answer is whole, not before
                write_file(self.path, written, overwrite=True)
            else:
                self._append(written)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise OutputError(
                "the disk is full" if full else f"cannot write there: {error.strerror or error}",
                where=str(self.path),
                hint="make room or rights there; the same command then goes on",
            ) from error
        self._anew, self._whole = False, self._whole + len(written)
        self._written.add((image, content))
        self.known[content] = text
        return True

    def _append(self, written: bytes) -> None:
        """Writes a line behind those that are whole; one that does not fit leaves nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("ab") as file:
            # What an interrupted run left of a last line goes.
            file.truncate(self._whole)
            try:
                file.write(written)
                file.flush()
            except OSError:
                file.truncate(self._whole)
                if is_new:
                    self.path.unlink()
                raise

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise OutputError(
                f"cannot read what is there: {error.strerror or error}", where=str(self.path)
            ) from error
        self._whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[: self._whole].splitlines(), start=1):
            entry = _entry(line)
            if entry is None:
                raise OutputError(
                    f"there is another kind of file of this name: line {number} is no answer",
                    where=str(self.path),
                    hint="choose another name with -o, or replace it with --overwrite",
                )
            if all(entry[name] == value for name, value in self._asked._asdict().items()):
                self.known[entry["content"]] = entry["text"]
                self._written.add((entry["image"], entry["content"]))
        if content and not self._whole and _cut(content) is False:
            raise OutputError(
                "there is another kind of file of this name",
                where=str(self.path),
                hint="choose another name with -o, or replace it with --overwrite",
            )


def read_answers(path: Path) -> list[StoredAnswer]:
    """The answers of a file, in its order.

    Raises:
        DataError: When it does not read, holds none, or one that is none of ours.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the answers: {reason}", where=str(path)) from error
    found = [_told(line) for line in lines if line.strip()]
    if not found or None in found:
        what = f"line {found.index(None) + 1} is no answer" if found else "it holds no answer"
        raise DataError(
            f"this is no file of answers: {what}",
            where=str(path),
            hint="give one that `orthus caption -o` wrote",
        )
    return [told for told in found if told]


def _told(line: bytes) -> StoredAnswer | None:
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


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line that is one of ours."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and all(name in entry for name in NEEDED) else None


def _cut(content: bytes) -> bool:
    """Whether this could be the beginning of one of our lines."""
    return content.startswith(b'{"image": ')
