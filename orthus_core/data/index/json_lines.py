"""An index of a file with one JSON value in each line: where each line begins, and its length.

Blank lines are no records. A line that is no JSON is one, and cannot be read. Files in UTF-16 and
UTF-32 are recognised by their byte order mark, as Windows editors save them.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.index.file_part import read_part
from orthus_core.data.index.index_file import IndexArrays, as_numpy
from orthus_core.data.index.json_value import check_object, json_value
from orthus_core.data.index.record_hash import content_key, identity_of_keys
from orthus_core.data.index.store import Built, open_index
from orthus_core.errors import DataError
from orthus_core.events import Event, Progress
from orthus_core.user_files import LONGEST_MARK, marked_encoding, text_of
from orthus_core.wrong_content import true_cause

_BLOCK = 1 << 20
_PROGRESS_BLOCKS = 32
_LONGEST = 2**32 - 1
_UTF8_MARK = b"\xef\xbb\xbf"


class JsonLines:
    """The records of a file of JSON lines; see `RecordIndex`.

    Args:
        file: The file.
        arrays: Its index.
        objects: Whether each record must be an object.
    """

    def __init__(self, file: Path, arrays: IndexArrays, objects: bool) -> None:
        self.file = file
        self.identity: str = arrays.about["identity"]
        self._arrays = arrays
        self._objects = objects

    def __len__(self) -> int:
        return len(self._arrays["key"])

    def keys(self) -> np.ndarray:
        """A hash of each line without the white space around it: uint64 [N]."""
        return self._arrays["key"]

    def place(self, number: int) -> Place:
        return Place(self.file, int(self._arrays["line"][number]))

    def record(self, number: int) -> Any:
        """The value of record `number`.

        Raises:
            DataError: if the line is no JSON, or not an object where it must be one.
        """
        place = self.place(number)
        size = int(self._arrays["size"][number])
        content = read_part(self.file, int(self._arrays["offset"][number]), size)
        try:
            if size == _LONGEST:
                raise DataError("the line is longer than 4 GB")
            value = json_value(_text_of_line(content, self._arrays.about["encoding"], place.line))
            if self._objects:
                check_object(value, "the line")
        except DataError as error:
            raise DataError(error.message, where=str(place), hint=error.hint) from error
        except ValueError as error:
            raise DataError(f"the line is no JSON: {error}", where=str(place)) from error
        return value


def json_lines(
    file: Path, *, objects: bool = True, folder: Path | None = None
) -> Generator[Event, None, JsonLines]:
    """The records of a file of JSON lines.

    Args:
        file: The file.
        objects: Whether a record that is no object cannot be used.
        folder: Folder of indices; None takes the user's.

    Raises:
        DataError: if the file cannot be read, or holds something else, such as a web page.
    """
    arrays = yield from open_index("lines", [file], lambda: _build(file), folder)
    index = JsonLines(file, arrays, objects)
    if len(index):
        try:
            index.record(0)
        except DataError as fault:
            if (cause := true_cause(DataError(fault.message, where=str(file)), file)).message != (
                fault.message
            ):
                raise cause from fault
    return index


def _text_of_line(content: bytes, encoding: str, line: int) -> str:
    """The text of a line. Raises: DataError when it is not in the file's encoding."""
    if encoding != "utf-8":
        try:
            content = content.decode(encoding).encode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"the line is damaged {encoding.upper()}: {error.reason}", hint="save it as UTF-8"
            ) from error
    try:
        return text_of(content, line)
    except ValueError as error:
        raise DataError(str(error)) from error


def _build(file: Path) -> Generator[Event, None, Built]:
    offsets, sizes, lines, keys = array("Q"), array("I"), array("I"), array("Q")
    try:
        total = file.stat().st_size
        with file.open("rb") as opened:
            encoding, mark = marked_encoding(opened.read(LONGEST_MARK))
            if encoding == "utf-8":
                unit, mark = np.dtype("u1"), 0
            else:
                unit = np.dtype(("<" if encoding.endswith("le") else ">") + _UNITS[encoding[:6]])
            opened.seek(mark)
            begin, line, rest, blocks = mark, 0, b"", 0
            while True:
                read = opened.read(max(_BLOCK, len(rest)))
                block = rest + read
                whole = len(block) // unit.itemsize * unit.itemsize
                ends = np.flatnonzero(np.frombuffer(block[:whole], unit) == 10) * unit.itemsize
                at = 0
                last = [] if read or not block else [len(block)]
                for end in [*ends.tolist(), *last]:
                    line += 1
                    content = _bare(block[at:end], encoding)
                    if content:
                        offsets.append(begin + at)
                        sizes.append(min(end - at, _LONGEST))
                        lines.append(line)
                        keys.append(content_key(content))
                    at = end + unit.itemsize
                if not read:
                    break
                rest, begin, blocks = block[at:], begin + at, blocks + 1
                if blocks % _PROGRESS_BLOCKS == 0:
                    yield Progress("index", begin >> 20, total >> 20, unit="MB")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the records: {reason}", where=str(file)) from error
    yield Progress("index", total >> 20, total >> 20, unit="MB")
    key = as_numpy(keys)
    about = {"encoding": encoding, "identity": identity_of_keys(key)}
    return about, {
        "offset": as_numpy(offsets),
        "size": as_numpy(sizes),
        "line": as_numpy(lines),
        "key": key,
    }


_UNITS = {"utf-16": "u2", "utf-32": "u4"}


def _bare(line: bytes, encoding: str) -> bytes:
    """A line's content in UTF-8 where it can be, without white space and byte order marks around
    it: the same in each encoding and with each kind of line end."""
    if encoding != "utf-8":
        line = line.decode(encoding, "replace").encode()
    line = line.strip()
    while line.startswith(_UTF8_MARK):
        line = line[len(_UTF8_MARK) :].strip()
    return line
