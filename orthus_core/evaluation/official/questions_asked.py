"""What a model is asked for a benchmark: each question once, and those about a picture together.

Several questions of a set may be the same to a model (POPE asks the same of a picture in each
split), and many are about one picture, which is then read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation.official.read_files import check_unique, missing_pictures
from orthus_core.evaluation.official.task import AskedItem


class Ask(NamedTuple):
    """One thing that a model is asked, or one picture that it draws.

    Attributes:
        key: The key of the first question that it answers, or the path of the picture.
        parts: Texts and pictures that the model reads, in order.
        seed: Seed of a picture that is drawn.
    """

    key: str
    parts: tuple[Any, ...]
    seed: int = 0


class Asks(NamedTuple):
    """All that a model is asked.

    Attributes:
        asks: In the order of their pictures' first appearance.
        key_of: The key of the ask that answers a question, by the question's key.
    """

    asks: list[Ask]
    key_of: dict[str, str]


def asks_of(items: Sequence[AskedItem]) -> Asks:
    """What a model is asked for these questions."""
    by_pictures: dict[Any, dict[Any, Ask]] = {}
    key_of = {}
    for item in items:
        pictures = tuple(part for part in item.read if not isinstance(part, str))
        alike = by_pictures.setdefault(pictures, {})
        key_of[item.key] = alike.setdefault(item.read, Ask(item.key, item.read)).key
    return Asks([ask for alike in by_pictures.values() for ask in alike.values()], key_of)


def drawings_of(
    items: Sequence[AskedItem], seeds: Sequence[int], drawn: Callable[[str, int], str]
) -> Asks:
    """The pictures of these prompts, in the official folders: one of each seed."""
    asks = [
        Ask(drawn(item.key, number), item.read, seed)
        for item in items
        for number, seed in enumerate(seeds)
    ]
    return Asks(asks, {})


def check_asked(items: Sequence[AskedItem], data: Path) -> None:
    """Check, before a model is opened, that questions are different and their pictures are there.

    Raises:
        DataError: When there are no questions, an id occurs twice, or pictures are missing.
    """
    if not items:
        raise DataError("there are no questions", where=str(data))
    check_unique([item.key for item in items], data)
    pictures = dict.fromkeys(item.picture for item in items if isinstance(item.picture, Path))
    missing = missing_pictures(items)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(pictures)} pictures are missing, such as {missing[0].name}",
            where=str(missing[0].parent),
            hint="put the set's pictures there; `orthus eval describe TASK` says where to get them",
        )
    for picture in _in_tables(items):
        picture.check()


def _in_tables(items: Iterable[AskedItem]) -> list[Any]:
    """Pictures in tables, those of a column together."""
    held = [part for item in items for part in item.read if not isinstance(part, (str, Path))]
    return sorted(set(held), key=lambda picture: (picture.path, picture.column, picture.row))
