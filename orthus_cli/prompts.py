"""Where prompts come from: the command line, files with one prompt per line, standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from orthus_cli.console import Reporter, Settings
from orthus_cli.streams import is_half
from orthus_core.errors import PromptError
from orthus_core.samplers.seeds import MOST_PICTURES

STANDARD_INPUT = "-"


def read_prompts(said: Sequence[str], file: Path | None) -> list[str]:
    """All prompts in order: the arguments, where `-` means the lines of standard input, then the
    lines of the file.

    Raises:
        PromptError: When there is none, the file cannot be read, or a prompt is not text.
    """
    found: list[str] = []
    for text in said:
        found += _typed_lines("prompts, one a line") if text == STANDARD_INPUT else [as_text(text)]
    if file == Path(STANDARD_INPUT):
        found += _typed_lines("prompts, one a line")
    elif file is not None:
        found += _lines(_content(file), str(file))
    if not all(text.strip() for text in found):  # the model would refuse it, once it is opened
        raise PromptError("the prompt is empty", where="prompt", hint="say what you want to see")
    if not found:
        read = STANDARD_INPUT in (*said, str(file))
        raise PromptError(
            "standard input holds no prompt" if read else "there is no prompt",
            where="generate",
            hint='say what you want to see, as in: orthus generate "a snowman"'
            + ("" if read else add_dash("orthus generate -")),
        )
    return found


def hint_at_slips(r: Reporter, said: Sequence[str]) -> None:
    """Reports what a prompt's shape suggests was meant otherwise: words without quotes, each of
    which is a prompt of its own, or the name of a file of prompts.
    """
    words = [text for text in said if text != STANDARD_INPUT]
    if len(words) > 1 and not any(" " in text for text in words):
        r.say(
            f"{len(words)} prompts, each its own picture: {', '.join(map(repr, words[:3]))}"
            f"{' ...' if len(words) > 3 else ''}; put words that belong together in quotes"
        )
    for name in (text for text in words if text.endswith((".txt", ".csv", ".jsonl"))):
        r.say(f"{name!r} is drawn as words; --prompt-file {name} reads prompts from a file")


def read_text(said: str | None) -> str | None:
    """A text from the command line; `-` is all of standard input.

    Raises:
        PromptError: When it is not text, or standard input has none.
    """
    if said != STANDARD_INPUT:
        return as_text(said) if said else said
    text = " ".join(_typed_lines("a text"))
    if not text:
        raise PromptError("standard input is empty, so there is no text", where=STANDARD_INPUT)
    return text


def as_text(said: str) -> str:
    """An argument as text. Where the locale knows ASCII alone, Python hands on other letters as
    bytes, which are UTF-8 nevertheless.

    Raises:
        PromptError: When it has bytes that are not UTF-8.
    """
    try:
        text = os.fsencode(said).decode() if any(map(is_half, said)) else said
        text.encode()
    except UnicodeError as error:
        raise PromptError(
            "the prompt is not UTF-8 text", where=ascii(said)[:80], hint="type it again"
        ) from error
    return text


def add_dash(command: str) -> str:
    """A hint that standard input is read only when asked for; empty where nothing can wait there.

    It is not read unasked: in a script or under a scheduler it may be a pipe that never ends.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return ""
    waits = stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
    return f"; what is on standard input is read with: {command}" if waits else ""


def check_count(prompts: int, seeds: int) -> None:
    """Raises: PromptError when the number of pictures is implausibly large."""
    if prompts * seeds > MOST_PICTURES:
        raise PromptError(
            f"{prompts} prompts times {seeds} seeds are {prompts * seeds:,} pictures",
            where="--num-images",
            hint=f"draw at most {MOST_PICTURES:,} in one run",
        )


def _lines(content: bytes, where: str) -> Iterable[str]:
    """The lines that are not blank; no other rule, so that a prompt may begin with anything."""
    from orthus_core.user_files import text_of
    from orthus_core.wrong_content import wrong_content

    if content and (wrong := wrong_content(content)):
        raise PromptError(f"this is {wrong.what}", where=where, hint=wrong.hint)
    try:
        text = text_of(content)
    except ValueError as error:
        raise PromptError(f"cannot read the prompts: {error}", where=where) from error
    # Other separators that `splitlines` knows, such as U+2028, may stand within a prompt.
    return [line.strip() for line in text.split("\n") if line.strip()]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PromptError(f"cannot read the prompts: {reason}", where=str(file)) from error


def _typed_lines(what: str) -> list[str]:
    """The lines of standard input; at a terminal it is said what is awaited.

    Raises:
        PromptError: When standard input is closed or cannot be read.
    """
    if sys.stdin is None:
        raise PromptError(
            "standard input is closed, so nothing can be read from it",
            where=STANDARD_INPUT,
            hint=f"give {what.partition(',')[0]} as an argument instead of -",
        )
    if sys.stdin.isatty():
        end = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
        Reporter(Settings()).say(f"reading {what}, from this terminal; {end} ends")
    try:
        content = sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PromptError(f"cannot read standard input: {reason}", where=STANDARD_INPUT) from error
    try:
        return [*_lines(content, "standard input")]
    except PromptError:
        # A terminal or pipe of another encoding, as PYTHONIOENCODING or the locale names it.
        with suppress(UnicodeError, LookupError):
            text = content.decode(sys.stdin.encoding)
            return [*_lines(text.encode(), "standard input")]
        raise
