"""The errors a user meets: each says what went wrong, where, and what to do next; and how a command
that a message names is written, so that it works when it is pasted into a shell.
"""

from __future__ import annotations

import os
import shlex
import string
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

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


class OrthusError(Exception):
    """A mistake or a missing thing that the person at the keyboard can do something about.

    Args:
        message: What is wrong, in one line.
        where: The file, key or argument it was found in.
        hint: What to do next, in one line.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.hint:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)


# More hints than this under one message are no longer read.
MOST_HINTS = 3
ALL_KEYS = "`orthus recipes keys COMMAND` lists the keys"


class RecipeError(OrthusError):
    """A recipe that does not read, or asks for something that cannot be."""


class RecipeErrors(RecipeError):
    """Several mistakes in recipes, all told at once.

    Attributes:
        errors: Each mistake.
    """

    def __init__(self, errors: Sequence[RecipeError]) -> None:
        lines = [
            f"{each.message} ({each.where})" if each.where else each.message for each in errors
        ]
        hints = dict.fromkeys(each.hint for each in errors if each.hint)
        super().__init__(
            f"{len(errors)} mistakes:\n" + "\n".join(f"- {line}" for line in lines),
            hint="; ".join(hints) if len(hints) <= MOST_HINTS else ALL_KEYS,
        )
        self.errors = tuple(errors)


class ArgumentError(RecipeError, TypeError, ValueError):
    """An argument of a Python call that is unknown, or has a value that cannot be."""


class CheckpointError(OrthusError):
    """A model folder that is missing, broken, unsafe or of the wrong kind."""


class HubError(OrthusError):
    """A model that has to come from a hub which is out of reach or says no."""


class DataError(OrthusError):
    """A picture, record or data set that cannot be used."""


class PromptError(OrthusError):
    """A request that the model cannot draw or answer as it stands."""


class OutputError(OrthusError):
    """A place to write to that is taken, closed or full."""


class UnplacedError(OutputError):
    """A finished folder that could not be put in its place.

    Args:
        kept: Where it is kept instead.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "", kept: Path) -> None:
        super().__init__(message, where=where, hint=hint)
        self.kept = kept


class TrainingError(OrthusError):
    """A training that must stop: a loss that is not finite, a stage out of order."""
