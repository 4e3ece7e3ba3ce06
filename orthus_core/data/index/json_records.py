"""Records of a JSON file that are read one by one, each from where its index says that it lies."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.index.file_part import read_part
from orthus_core.data.index.index_file import IndexArrays, changed
from orthus_core.data.index.record_hash import content_key
from orthus_core.errors import ChangedDataError, DataError

LONGEST = 2**32 - 1
"""Bytes of a record, as its index holds them, where it has as many or more."""


class JsonRecords(ABC):
    """The records of a file; see `RecordIndex`.

    Args:
        file: The file.
        arrays: Its index: offset, size and key of each record.
        objects: Whether each record must be an object.
    """

    one: str
    """What a record is called in errors."""

    def __init__(self, file: Path, arrays: IndexArrays, objects: bool) -> None:
        self.file = file
        self.identity: str = arrays.about["identity"]
        self._arrays = arrays
        self._objects = objects

    def __len__(self) -> int:
        return len(self._arrays["key"])

    def keys(self) -> np.ndarray:
        """A hash of each record's bytes, without the white space around them: uint64 [N]."""
        return self._arrays["key"]

    @abstractmethod
    def place(self, number: int) -> Place: ...

    @abstractmethod
    def _text(self, content: bytes, place: Place) -> str:
        """The text of a record's bytes. Raises: DataError or ValueError where they are none."""

    @abstractmethod
    def _bare(self, content: bytes) -> bytes:
        """What the key of a record with these bytes is a hash of."""

    def record(self, number: int) -> Any:
        """The value of record `number`.

        Raises:
            DataError: if it is no JSON, or not an object where it must be one.
            ChangedDataError: if it is not what was indexed.
        """
        place = self.place(number)
        size = int(self._arrays["size"][number])
        content = read_part(self.file, int(self._arrays["offset"][number]), size)
        try:
            if size == LONGEST:
                raise DataError(f"the {self.one} is longer than 4 GB")
            if content_key(self._bare(content)) != int(self._arrays["key"][number]):
                raise changed(place)
            value = json_value(self._text(content, place))
            if self._objects and not isinstance(value, dict):
                raise DataError(f"the {self.one} is a {type(value).__name__}, not an object")
        except ChangedDataError:
            raise
        except DataError as error:
            raise DataError(error.message, where=str(place), hint=error.hint) from error
        except ValueError as error:
            raise DataError(f"the {self.one} is no JSON: {error}", where=str(place)) from error
        return value


def json_value(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is no JSON, or a key is there twice: one of the two would be lost.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return table
