"""An index of a file that is one JSON array of any size: where each element begins, its length.

The file is read once, by a window. It is decoded as Latin-1, in which each byte is a character, so
that places in the text are places in the file; JSON's own characters are the same in UTF-8.

An element that is no JSON is a record that cannot be read, if the next element can be found. Where
the array ends too early, one more record stands for the rest: reading it says what is wrong.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from orthus_core.data.document import Place
from orthus_core.data.index.index_file import as_numpy
from orthus_core.data.index.json_records import LONGEST, JsonRecords
from orthus_core.data.index.record_hash import content_key, identity_of_keys
from orthus_core.data.index.store import Built, open_index
from orthus_core.errors import DataError
from orthus_core.events import Event, Progress
from orthus_core.user_files import LONGEST_MARK, marked_encoding, text_of
from orthus_core.wrong_content import true_cause

_WINDOW = 1 << 20
_SEARCHED = 16 << 20
"""Bytes in which the element after a broken one is looked for."""

_LONGEST_NUMBER = 32
_PROGRESS_BYTES = 32 << 20

_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_KEY = re.compile(r'\{[ \t\r\n]*"(?:[^"\\]|\\.)*"[ \t\r\n]*:')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.S)
_NEXT_OBJECT = r",[ \t\r\n]*\{[ \t\r\n]*"
_AFTER = re.compile(r"[ \t\r\n]*[],]")


class JsonArray(JsonRecords):
    """The elements of a file that is a JSON array."""

    one = "record"

    def place(self, number: int) -> Place:
        """The elements are counted from 1."""
        return Place(self.file, part=f"record {number + 1}")

    def record(self, number: int) -> Any:
        """As `JsonRecords.record`; the last may stand for a rest that cannot be read."""
        problem = self._arrays.about["problem"]
        if problem and number == len(self) - 1:
            where = str(self.place(number))
            raise DataError(problem, where=where, hint="copy or download it again")
        return super().record(number)

    def _text(self, content: bytes, place: Place) -> str:
        return text_of(content)

    def _bare(self, content: bytes) -> bytes:
        return content


def json_array(
    file: Path, *, objects: bool = True, folder: Path | None = None
) -> Generator[Event, None, JsonArray]:
    """The records of a file that is one JSON array.

    Args:
        file: The file.
        objects: Whether a record that is no object cannot be used.
        folder: Folder of indices; None takes the user's.

    Raises:
        DataError: if the file cannot be read, or is no array.
    """
    arrays = yield from open_index("array", [file], lambda: _build(file), folder)
    return JsonArray(file, arrays, objects)


class _Window:
    """A part of the file as text, which begins where the scan is and grows at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self.text = ""
        self.begin = file.tell()
        self.at_end = False
        self._file = file

    def grow(self, at: int = 0) -> None:
        """Drop the text before `at`, and read as much as is kept, or a window's size."""
        kept = self.text[at:]
        read = self._file.read(max(_WINDOW, len(kept)))
        self.text, self.begin, self.at_end = (
            kept + read.decode("latin-1"),
            self.begin + at,
            not read,
        )

    def drop(self, at: int) -> None:
        """Drop the text before `at`."""
        self.text, self.begin = self.text[at:], self.begin + at

    def skip_space(self, at: int) -> int:
        """The place of the next character that is no white space; the end of the text when the file
        ends before."""
        while True:
            match = _SPACE.match(self.text, at)
            assert match is not None, "it matches the empty text too"
            if match.end() < len(self.text) or self.at_end:
                return match.end()
            self.grow(match.end())
            at = 0


class _Element:
    """One element as it lies in the file: its bytes as Latin-1 text, and where they begin."""

    def __init__(self, text: str, offset: int, problem: str = "") -> None:
        self.text, self.offset, self.problem = text, offset, problem


def _build(file: Path) -> Generator[Event, None, Built]:
    offsets, sizes, keys = array("Q"), array("I"), array("Q")
    problem, next_progress = "", _PROGRESS_BYTES
    try:
        total = file.stat().st_size
        with file.open("rb") as opened:
            for element in _elements(opened, file):
                offsets.append(element.offset)
                sizes.append(min(len(element.text), LONGEST))
                keys.append(content_key(element.text.encode("latin-1")))
                problem = element.problem
                if element.offset > next_progress:
                    yield Progress("index", element.offset >> 20, total >> 20, unit="MB")
                    next_progress = element.offset + _PROGRESS_BYTES
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read the records: {reason}", where=str(file)) from error
    yield Progress("index", total >> 20, total >> 20, unit="MB")
    key = as_numpy(keys)
    about = {"problem": problem, "identity": identity_of_keys(key)}
    return about, {"offset": as_numpy(offsets), "size": as_numpy(sizes), "key": key}


def _elements(opened: BinaryIO, file: Path) -> Iterator[_Element]:
    """The elements of an array; the last may stand for what cannot be read."""
    encoding, mark = marked_encoding(opened.read(LONGEST_MARK))
    if encoding != "utf-8":
        raise DataError(
            f"a JSON array in {encoding.upper()} is not read", where=str(file), hint="save as UTF-8"
        )
    opened.seek(mark)
    window, decode = _Window(opened), json.JSONDecoder().raw_decode
    at = window.skip_space(0)
    if window.text[at : at + 1] != "[":
        kind = "one object" if window.text[at : at + 1] == "{" else "no JSON array"
        no_array = DataError(
            f"this is {kind}, and not a list of records", where=str(file), hint="write [...] around"
        )
        raise true_cause(no_array, file)
    at = window.skip_space(at + 1)
    if window.text[at : at + 1] == "]":
        return
    count = 0
    while True:
        # 1. One element, with whatever must follow it.
        try:
            _, end = decode(window.text, at)
            incomplete = False
        except json.JSONDecodeError as error:
            end, near_end = -1, error.pos > len(window.text) - 16
            incomplete = near_end or error.msg.startswith("Unterminated string")
        except RecursionError:
            end, incomplete = -1, False
        # A number may go on in the next window, and is a whole number up to its dot.
        if end >= 0 and not window.at_end:
            incomplete = len(window.text) - end < _LONGEST_NUMBER
        if incomplete and not window.at_end:
            window.grow(at)
            at = 0
            continue
        # 2. A broken element ends where the next one begins.
        if end < 0:
            end = _end_of_broken(window, at)
            if end < 0:
                what = "is cut short or broken in" if incomplete else "cannot be read from"
                yield _rest(window, at, f"the file {what} record {count + 1}: byte ")
                return
        yield _Element(window.text[at:end], window.begin + at)
        count += 1
        # 3. What follows it.
        offset = window.begin + end
        at = window.skip_space(end)
        follows = window.text[at : at + 1]
        if follows == "]":
            at = window.skip_space(at + 1)
            if at < len(window.text):
                yield _rest(window, at, "the file goes on after the end of the array: byte ")
            return
        if follows != ",":
            what = f"has no comma after record {count}" if follows else "ends without its ']'"
            yield _Element(window.text[at : at + 64], offset, f"the file {what}: byte {offset}")
            return
        at = window.skip_space(at + 1)
        if window.text[at : at + 1] == "]":  # a comma too many, with which nothing is lost
            return
        if at == len(window.text):
            yield _rest(window, at, f"the file is cut short after record {count}: byte ")
            return
        if at > _WINDOW:
            window.drop(at)
            at = 0


def _rest(window: _Window, at: int, what: str) -> _Element:
    offset = window.begin + at
    return _Element(window.text[at : at + 64], offset, f"{what}{offset}")


def _end_of_broken(window: _Window, at: int) -> int:
    """Where an element ends that is no JSON, as a place in the window, which begins at or before
    it; -1 when that cannot be told."""
    while True:
        ends = [end for end in (_next_alike(window.text, at), _closed(window.text, at)) if end > 0]
        if ends or window.at_end or len(window.text) - at > _SEARCHED:
            return min(ends, default=-1)
        window.grow()


def _next_alike(text: str, at: int) -> int:
    """Where the next object begins whose first key is that of this one; -1 where none does."""
    first = _FIRST_KEY.match(text, at)
    if first is None:
        return -1
    name = re.escape(first[0][1:-1].strip())
    found = re.compile(_NEXT_OBJECT + name + r"[ \t\r\n]*:").search(text, first.end())
    return found.start() if found else -1


def _closed(text: str, at: int) -> int:
    """Where all brackets of an element are closed and something else follows; -1 if nowhere."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth <= 0 and token[0] in "]}":
            return token.end() if depth == 0 and _AFTER.match(text, token.end()) else -1
    return -1
