"""The standard streams: whether they are there, who looks at them, and what they can show."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def printable(text: str) -> str:
    """The text without control characters, so that a file's name cannot steer the terminal, and
    without surrogates, which represent bytes that are not valid text."""
    return "".join(
        char
        if char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160 or is_half(char))
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def takes_bytes(stream: TextIO | None) -> bool:
    return hasattr(stream, "buffer")


def is_half(char: str) -> bool:
    """Whether it is a surrogate: half a character, or a byte that is no text."""
    return 0xD800 <= ord(char) < 0xE000


def stream_of(*, err: bool = False) -> TextIO | None:
    """Standard output, or standard error; None where there is none."""
    return sys.stderr if err else sys.stdout


def encoding_of(stream: TextIO | None) -> str:
    """The encoding that a stream is written in."""
    return getattr(stream, "encoding", None) or "utf-8"


def silence(stream: TextIO | None) -> None:
    """Leads a stream that cannot be written to any more to nowhere, so that what is still in its
    buffer is no error at exit.
    """
    with suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def occupy_closed() -> None:
    """Opens standard streams that the shell closed (`2>&-`) on nothing.

    Otherwise the next file that is opened would take their number, and what a library prints would
    land in it. Standard error stands for all that is said aside, so that Python gets it back;
    standard output stays None, because a result that nobody can see is an error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, for the whole run


def looked_at(stream: TextIO | None) -> bool:
    """Whether a person sees this stream on a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
