"""`orthus info MODEL --words`: everything that a small model can draw."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill
from typing import TYPE_CHECKING

from orthus_cli.console import Reporter
from orthus_core.errors import DataError

if TYPE_CHECKING:
    from orthus_core.data.known_words import WordList

WIDTH = 100  # columns of a list
TITLES = {
    "cast": "in scenes, with others or several",
    "colours": "colours of things",
    "backgrounds": "backgrounds",
    "counts": "counts",
    "styles": "styles",
    "edits": "edits (orthus edit)",
    "questions": "questions (orthus caption --question)",
    "phrases": "requests",
    "captions": "captions of its own pictures",
}


def tell_words(r: Reporter, model: str) -> None:
    """Lists the words of a model.

    Raises:
        CheckpointError, HubError: When there is no such model.
        DataError: When its folder does not list what it draws.
    """
    from orthus_core.checkpoint.hub import resolve
    from orthus_core.data.known_words import WORDS, KnownWords, WordList

    folder = resolve(model)
    listed = WordList.of(folder)
    known = None if listed else KnownWords.of(folder)
    if listed:
        r.result(
            {"path": str(folder), **listed.record()},
            text=_text(listed),
            quiet=[thing.name for thing in listed.every_thing],
        )
    elif known:
        words = sorted(known.words)
        r.result(
            {"path": str(folder), "words": words},
            text=f"words in its training, by letter:\n{_lines(words)}",
            quiet=words,
        )
    else:
        raise DataError(
            "this model does not list what it draws",
            where=str(folder / WORDS),
            hint="a large model takes prompts in free words; only small ones list theirs, such as "
            "mini",
        )


def _text(listed: WordList) -> str:
    parts = [
        f"{group} ({len(things)}):\n{_lines(thing.name for thing in things)}"
        for group, things in listed.things.items()
    ]
    parts += [
        f"{title} ({len(words)}):\n{_lines(words)}"
        for name, title in TITLES.items()
        if (words := listed.lists[name])
    ]
    parts += [
        f"{name}:\n" + "\n".join(_lines([f"{meaning}: {', '.join(words)}"]) for meaning, words in t)
        for name, table in listed.tables.items()
        if (t := list(table.items()))
    ]
    return "\n\n".join(parts)


def _lines(words: Iterable[str]) -> str:
    return fill(
        ", ".join(words),
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
