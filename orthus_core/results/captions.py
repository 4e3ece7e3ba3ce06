"""Answers about pictures in a JSON Lines file that a second run goes on with.

Each line stands for itself: the picture, a hash of its file, what was asked of which model and how,
and the answer. What a line answers already is not asked again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import OutputError
from orthus_core.results.names import check_writable

NEEDED = ("image", "text", "question", "content", "model", "sampling")


class Question(NamedTuple):
    """What is asked, of whom, and how the answer is chosen; another one is another answer."""

    question: str
    model: str
    sampling: dict[str, Any]


class Captions:
    """A file of answers: what it holds of one question, and room for more.

    Args:
        path: The file; it may be there already.
        asked: The question at hand. Lines of other questions stay as they are.
        anew: Start over; what is there is replaced by the first answer.

    known: Answers to this question by the hash of the picture's file.

    Raises:
        OutputError: When a folder or another kind of file is there, or it cannot be written to.
    """

    def __init__(self, path: Path, asked: Question, *, anew: bool = False) -> None:
        self.path, self._asked, self._anew = path, asked, anew
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
        line |= {"content": content, "seed": seed}
        written = (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="replace")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb" if self._anew else "ab") as file:
                # What an interrupted run left of a last line goes.
                file.truncate(self._whole)
                file.write(written)
        except OSError as error:
            raise OutputError(
                f"cannot write there: {error.strerror or error}",
                where=str(self.path),
                hint="make room or rights there; the same command then goes on",
            ) from error
        self._anew, self._whole = False, self._whole + len(written)
        self._written.add((image, content))
        self.known[content] = text
        return True

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
