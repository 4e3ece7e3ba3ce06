"""Kinds of pictures that a record may describe instead of naming a file.

A record may hold a value in place of a picture, `{"type": "image", "value": {"scene": {...}}}`.
Which kinds exist is not known here: a package that can draw one registers how its value is read,
under the key that the value holds. Its pictures give their own value (`record_value`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orthus_core.data.pictures import Picture

Reader = Callable[[Mapping[str, Any]], Picture]

_READERS: dict[str, Reader] = {}


def register(name: str, read: Reader) -> None:
    """Makes a kind known, in place of an earlier one of that name.

    Args:
        name: Key that the value of such a picture holds.
        read: The picture that a value describes. Raises DataError when it describes none.
    """
    _READERS[name] = read


def names() -> tuple[str, ...]:
    """Names of the kinds that are known, in the order they were registered."""
    return tuple(_READERS)


def from_value(value: Any) -> Picture | None:
    """The picture that a record's value describes; None when it is of no kind that is known.

    Raises:
        DataError: when the value names a kind and describes no such picture.
    """
    if isinstance(value, Mapping):
        for name, read in _READERS.items():
            if name in value:
                return read(value)
    return None


def to_value(picture: Any) -> Mapping[str, Any] | None:
    """The value that describes a picture in a record; None when it has none."""
    return getattr(picture, "record_value", None)
