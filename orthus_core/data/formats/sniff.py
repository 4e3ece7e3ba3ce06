"""Data formats by name, and which of them a path is in.

`FORMATS` has ours. Others come from installed distributions, as entry points of the group
`orthus.data_formats` that name a `DataFormat`; they are asked about a path that none of ours
recognises, and loaded only then or when one of them is named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from orthus_core.data.formats.image_folder import METADATA, read_folder
from orthus_core.data.formats.jsonl import read_records
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.listing import FolderListing, holds_pictures
from orthus_core.data.pictures import FilePicture
from orthus_core.entry_points import DATA_FORMATS, OURS, Plugin, installed
from orthus_core.errors import DataError, OrthusError
from orthus_core.user_files import user_path

RECORDS = "records.jsonl"
_HEAD_BYTES = 4096


class Reader(Protocol):
    def __call__(self, path: Path, /, *, strict: bool) -> ReadResult:
        """The documents at a path. What cannot be used goes to `ReadResult.skip_record`, which
        raises an error when strict.
        """
        ...


class DataFormat(NamedTuple):
    """A way in which data sets lie on disk.

    description: What to give, such as "a folder of pictures with words".
    recognises: Whether a path, which exists, is in this format; asked without reading it all.
    read: Its documents.
    """

    description: str
    recognises: Callable[[Path], bool]
    read: Reader


def records_at(path: Path) -> Path:
    """The file of records at a path: itself, or the one in the folder."""
    return path / RECORDS if path.is_dir() else path


def _has_records(path: Path) -> bool:
    records = records_at(path)
    return records.is_file() and records.suffix == ".jsonl" and not _is_metadata(path)


def _is_metadata(path: Path) -> bool:
    """Whether a path names the metadata of a folder of pictures, rather than the folder."""
    if path.name != METADATA or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).replace(b"\0", b"")  # which UTF-16 puts between letters
    return b'"segments"' not in head


def _read_pictures_at(path: Path, *, strict: bool) -> ReadResult:
    return read_folder(path.parent if _is_metadata(path) else path, strict=strict)


def _has_pictures(path: Path) -> bool:
    if path.is_dir():
        return (path / METADATA).is_file() or holds_pictures(path)
    return _is_metadata(path)


def _read_records_at(path: Path, *, strict: bool) -> ReadResult:
    result = read_records(records_at(path), strict=strict)
    if path.is_dir():
        listing = FolderListing(path)
        values = (segment.value for each in result.documents for segment in each.segments)
        used = {value.path for value in values if isinstance(value, FilePicture)}
        result.pass_over(listing, {"in no usable record": listing.not_in(used)})
    return result


# Asked in this order.
FORMATS: dict[str, DataFormat] = {
    "records": DataFormat("a .jsonl file of records", _has_records, _read_records_at),
    "image-folder": DataFormat("a folder of pictures with words", _has_pictures, _read_pictures_at),
}


class FormatPlugin(Plugin):
    """A data format of another distribution; loaded when it is first asked for."""

    @cached_property
    def format(self) -> DataFormat | None:
        """The format, or None and a `problem`."""
        found = self.load_target()
        if not self.problem and not isinstance(found, DataFormat):
            self.fail(TypeError(f"it is a {type(found).__name__}, and must be a DataFormat"))
        return None if self.problem else found

    def recognises(self, path: Path) -> bool:
        try:
            return self.format is not None and bool(self.format.recognises(path))
        except Exception as error:
            self.fail(error)
            return False

    def read(self, path: Path, *, strict: bool) -> ReadResult:
        """As `DataFormat.read`. Raises: DataError for whatever goes wrong within it."""
        try:
            reading = self.format.read(path, strict=strict) if self.format else None
            if isinstance(reading, ReadResult):
                reading.where = path
                return reading
            problem = self.problem or f"it returned a {type(reading).__name__}, not a ReadResult"
        except OrthusError:
            raise
        except Exception as error:
            self.fail(error)
            problem = self.problem
        raise DataError(
            f"the data format {self.name!r} of {self.distribution} failed: {problem}",
            where=str(path),
            hint=f"update or remove {self.distribution}, or leave it out with ORTHUS_PLUGINS",
        ) from self.cause


def discover_formats() -> dict[str, FormatPlugin]:
    """The formats of other distributions, which cannot take a name of ours."""
    return installed(DATA_FORMATS, FormatPlugin, dict.fromkeys(FORMATS, OURS))


def read(path: Path, *, strict: bool = False, name: str | None = None) -> ReadResult:
    """The documents at a path.

    Args:
        path: In one of the formats.
        strict: Whether the first bad record ends the reading.
        name: The format to read it in; by default the first one that recognises it.

    Raises:
        DataError: for a format that does not exist, if nothing there can be read, or when strict
            at the first bad record.
    """
    path, others = user_path(path), discover_formats()
    if name is not None:
        return _named(name, others).read(path, strict=strict)
    for data_format in FORMATS.values():
        if data_format.recognises(path):
            return data_format.read(path, strict=strict)
    if path.exists():
        for plugin in others.values():
            if plugin.recognises(path):
                return plugin.read(path, strict=strict)
    if path.is_dir():
        return read_folder(path, strict=strict)  # which says what belongs into a folder
    known = [data_format.description for data_format in reversed(FORMATS.values())]
    failed = [f"{plugin.name} ({plugin.problem})" for plugin in others.values() if plugin.problem]
    hint = f"give {', or '.join(known)}"
    raise DataError(
        "there is no such file or folder" if not path.exists() else "this is no known data set",
        where=str(path),
        hint=hint + (f"; formats that did not load: {', '.join(failed)}" if failed else ""),
    )


def _named(name: str, others: dict[str, FormatPlugin]) -> DataFormat | FormatPlugin:
    if name in FORMATS:
        return FORMATS[name]
    if name in others:
        return others[name]
    raise DataError(
        f"there is no data format {name!r}",
        where="the format's name",
        hint=f"the formats are {', '.join([*FORMATS, *others])}",
    )
