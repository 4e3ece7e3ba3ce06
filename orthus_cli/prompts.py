"""Where prompts come from: the command line, files with one prompt per line, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

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
        found += _lines(_typed_in(), "standard input") if text == STANDARD_INPUT else [text]
    if file is not None:
        found += _lines(_content(file), str(file))
    if not found:
        raise PromptError(
            "there is no prompt",
            where="generate",
            hint='say what you want to see, as in: orthus generate "a snowman"',
        )
    for prompt in found:
        check_text(prompt)
    return found


def check_text(prompt: str) -> None:
    """Raises: PromptError when a prompt has bytes that are not UTF-8."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            "the prompt is not UTF-8 text", where=ascii(prompt)[:80], hint="type it again"
        ) from error


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


def _typed_in() -> bytes:
    return sys.stdin.buffer.read()
