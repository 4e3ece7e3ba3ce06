"""Command lines that can be pasted: words quoted for a shell, whatever the console's encoding."""

from __future__ import annotations

import os
import shlex
import string
import subprocess
from collections.abc import Iterable

UNESCAPED = frozenset(string.ascii_letters + string.digits + " _.,:/")
"""Characters that no shell changes between the quotes of `printf`, history expansion included."""


def shell_quoted(words: Iterable[str], encoding: str = "utf-8") -> str:
    """The words as a shell command line, quoted where necessary.

    A word with characters that a console would lose or act on is written as the output of the
    shell's own `printf`, whose `%b` every POSIX shell has. Windows has none, so that there such
    a word is only quoted.

    Args:
        encoding: Encoding that the command line must fit into.
    """
    words = list(words)
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    return " ".join(
        shlex.quote(word) if is_plain(word, encoding) else _printf(word) for word in words
    )


def is_plain(word: str, encoding: str = "utf-8") -> bool:
    """Whether a word can be pasted from a console: its characters are visible, stand on one line,
    and are in the console's encoding the bytes that the shell hands on.
    """
    if not word.isprintable():
        return False
    try:
        return word.isascii() or word.encode(encoding) == os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _printf(word: str) -> str:
    """A word as the output of `printf`, its bytes in octal; a shell cuts the last line breaks off,
    so that they stand outside.
    """
    text = word.rstrip("\n")
    escaped = "".join(
        char if char in UNESCAPED else "".join(f"\\0{byte:03o}" for byte in _bytes(char))
        for char in text
    )
    return f"\"$(printf %b '{escaped}'){word[len(text) :]}\""


def _bytes(char: str) -> bytes:
    """UTF-8, and for half a character the byte of a file name that it stands for."""
    return char.encode("utf-8", "surrogateescape")
