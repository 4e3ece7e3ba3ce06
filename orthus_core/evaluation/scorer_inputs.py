"""What callers hand to scorers, checked first: a text where a list belongs would be read letter by
letter, and give a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orthus_core.errors import DataError


def check_text(value: Any, what: str) -> None:
    """Check that a value is text.

    Args:
        value: The value.
        what: What it is, for the error.

    Raises:
        DataError: When it is something else.
    """
    if not isinstance(value, str):
        raise DataError(f"{what} is no text: {value!r}", hint="give it as a str")


def as_list(values: Iterable[Any], what: str) -> list[Any]:
    """Values as a list.

    Args:
        values: The values.
        what: What they are, for the error.

    Raises:
        DataError: When they are a single text, a mapping, or no values.
    """
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise DataError(
            f"{what}: a {type(values).__name__}, and no list", hint="give a list, even for one"
        )
    return [*values]


def check_record(record: Any, needed: Sequence[str], what: str) -> None:
    """Check that a record is a mapping with the fields that a scorer reads.

    Args:
        record: The record.
        needed: Names of the fields.
        what: Which record it is, for the error.

    Raises:
        DataError: When it is none, or fields are missing.
    """
    if not isinstance(record, Mapping):
        raise DataError(
            f"{what} is a {type(record).__name__}, and no record",
            hint=f"give a dict with {', '.join(needed)}",
        )
    lacking = [name for name in needed if name not in record]
    if lacking:
        raise DataError(
            f"{what} has no {', '.join(lacking)}",
            hint=f"its keys are {', '.join(map(repr, record)) or 'none'}",
        )
