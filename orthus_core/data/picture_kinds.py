"""Kinds of pictures that a record may describe by a value instead of naming a file.

The value of a picture is an object such as `{"type": "image", "value": {"scene": {...}}}`. This
module does not know any kinds: a package that can draw pictures registers a function that reads
such values, by the key that they contain. Its pictures have their value as `record_value`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orthus_core.data.pictures import Picture

Reader = Callable[[Mapping[str, Any]], Picture]

_READERS: dict[str, Reader] = {}


def register(name: str, read: Reader) -> None:
    """Registers a kind of picture; it replaces an earlier kind with this name.

    Args:
        name: Key that the values of such pictures contain.
        read: Function from a value to its picture. It must raise DataError for a wrong value.
    """
    _READERS[name] = read


def names() -> tuple[str, ...]:
    """Names of the registered kinds, in the order of registration."""
    return tuple(_READERS)


def from_value(value: Any) -> Picture | None:
    """The picture that a record's value describes; None if it is not of a registered kind.

    Raises:
        DataError: if the value is of a registered kind, but wrong.
    """
    if isinstance(value, Mapping):
        for name, read in _READERS.items():
            if name in value:
                return read(value)
    return None


def to_value(picture: Any) -> Mapping[str, Any] | None:
    """The value that describes a picture in a record; None if it has none."""
    return getattr(picture, "record_value", None)
