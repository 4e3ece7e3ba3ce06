"""A value written as JSON, in which no key of an object is there twice."""

from __future__ import annotations

import json
from typing import Any

from orthus_core.errors import DataError


def json_value(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is no JSON, or a key is there twice: one of the two would be lost.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def check_object(value: Any, what: str) -> None:
    """Check that a record is an object.

    Args:
        value: The record.
        what: What it is called in the error, such as "the line".

    Raises:
        DataError: if it is not.
    """
    if not isinstance(value, dict):
        raise DataError(f"{what} is a {type(value).__name__}, not an object")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return table
