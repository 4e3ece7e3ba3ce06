"""An index of a file with one JSON value in each line: where each line begins, and its length.

Blank lines are no records. A line that is no JSON is one, and cannot be read. Files in UTF-16 and
UTF-32 are recognised by their byte order mark, as Windows editors save them.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from pathlib import Path

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.index.index_file import as_numpy
from orthus_core.data.index.json_records import LONGEST, JsonRecords
from orthus_core.data.index.record_hash import content_key, identity_of_keys
from orthus_core.data.index.store import Built, open_index
from orthus_core.errors import DataError
from orthus_core.events import Event, Progress
from orthus_core.user_files import LONGEST_MARK, marked_encoding, text_of
from orthus_core.wrong_content import true_cause

_BLOCK = 1 << 20
_PROGRESS_BLOCKS = 32
_UTF8_MARK = b"\xef\xbb\xbf"


class JsonLines(JsonRecords):
    """The records of a file of JSON lines."""

    one = "line"

    def place(self, number: int) -> Place:
        return Place(self.file, int(self._arrays["line"][number]))

    def _text(self, content: bytes, place: Place) -> str:
        encoding = self._arrays.about["encoding"]
        if encoding != "utf-8":
            try:
                content = content.decode(encoding).encode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"the line is damaged {encoding.upper()}: {error.reason}",
                    hint="save it as UTF-8",
                ) from error
        try:
            return text_of(content, place.line)
        except ValueError as error:
            raise DataError(str(error)) from error

    def _bare(self, content: bytes) -> bytes:
        return _bare(content, self._arrays.about["encoding"])


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
                        sizes.append(min(end - at, LONGEST))
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
