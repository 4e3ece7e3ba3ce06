"""What users name and write: paths that begin with `~`, and texts in the encodings editors save."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LONGEST_MARK = 4
"""Bytes of the longest byte order mark."""

# Files that were joined have a mark at each seam.
_MARKS_OF_LINES = re.compile("^\N{ZERO WIDTH NO-BREAK SPACE}+", re.MULTILINE)


def user_path(named: str | os.PathLike[str]) -> Path:
    """The path a user named, with `~` and `~name` as home folders, as shells read them.

    A home that does not exist leaves the name as it is. The result is the same when it is expanded
    again: `./~`, which names a folder called "~", becomes absolute, because a Path drops the `./`.
    """
    text = os.fspath(named)
    path = Path(os.path.expanduser(text))
    if not text.startswith("~") and path.parts[:1] and path.parts[0].startswith("~"):
        return path.absolute()
    return path


def marked_encoding(content: bytes) -> tuple[str, int]:
    """The encoding that a byte order mark announces, and the mark's length; UTF-8 without one."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding, len(mark)
    return "utf-8", 0


def text_of(content: bytes, line: int = 1) -> str:
    """The text of a file's bytes: without byte order marks, and with "\\n" at the ends of lines.

    Args:
        content: UTF-8, or UTF-16 or UTF-32 with a byte order mark, as Windows editors save them.
        line: Number of the first line, for the error.

    Raises:
        ValueError: When it is in another encoding; the message says in which line, and what to do.
    """
    encoding, skipped = marked_encoding(content)
    try:
        text = content[skipped:].decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start if encoding == "utf-8" else 0
        line += content.count(b"\n", 0, at + skipped)
        raise ValueError(
            f"it is not UTF-8 text, from byte {at} on (line {line}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(
            "it holds NUL characters, as UTF-16 without a byte order mark does; save it as UTF-8"
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _MARKS_OF_LINES.sub("", text)


def read_text(path: Path) -> str:
    """The text of a file, as `text_of`.

    Raises:
        OSError: When the file cannot be read.
        ValueError: When it is no text.
    """
    return text_of(path.read_bytes())
