"""Data formats by name, and which of them a path is in.

`FORMATS` has ours. Others come from installed distributions, as entry points of the group
`orthus.data_formats` that name a `DataFormat`; they are asked about a path that none of ours
recognises, and loaded only then or when one of them is named.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from orthus_core.data.formats import (
    chat,
    image_folder,
    instruct_pix2pix,
    journey_db,
    own_records,
    story_stream,
    table,
    webdataset,
)
from orthus_core.data.formats.annotation_file import RECORDS as RECORDS
from orthus_core.data.formats.annotation_file import json_contents
from orthus_core.data.formats.picture_root import check_root
from orthus_core.data.formats.reading import ReadResult, ReadRows
from orthus_core.data.formats.unusable import unusable_layout
from orthus_core.data.rows import Rows, RowsReader, SourceOptions
from orthus_core.entry_points import DATA_FORMATS, OURS, Plugin, installed
from orthus_core.errors import DataError, OrthusError
from orthus_core.events import Event, result_of
from orthus_core.user_files import user_path


class Reader(Protocol):
    def __call__(self, path: Path, /, *, strict: bool) -> ReadResult:
        """The documents at a path. What cannot be used goes to `ReadResult.skip_record`, which
        raises an error when strict.
        """
        ...


class DataFormat(NamedTuple):
    """A way in which data sets lie on disk: one of `read` and `rows` reads it.

    description: What to give, such as "a folder of pictures with words".
    recognises: Whether a path, which exists, is in this format; asked without reading it all.
    read: Its documents, all in memory.
    rows: Its rows, each read when it is needed.
    fields: The fields whose columns may be named; None if the format checks them itself.
    """

    description: str
    recognises: Callable[[Path], bool]
    read: Reader | None = None
    rows: RowsReader | None = None
    fields: Sequence[str] | None = None

    def open(self, path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
        """The rows of a path. Raises: DataError if it cannot be read as this format."""
        unknown = [] if self.fields is None else [*set(options.columns) - {*self.fields}]
        if unknown:
            fields = f"fields are {', '.join(self.fields)}" if self.fields else "leave it out"
            raise DataError(
                f"`columns` has {unknown[0]!r}, which is no field of {self.description}",
                where=str(path),
                hint=fields,
            )
        check_root(options.images)
        if self.rows is not None:
            return (yield from self.rows(path, options))
        assert self.read is not None, "a format has `rows` or `read`"
        return rows_of(self.read(path, strict=False), path)


class NotRows(TypeError):
    """A reader returned something else than it must."""


def rows_of(reading: object, path: Path) -> Rows:
    """The rows of what a reader returned. Raises: NotRows if it is no `ReadResult`."""
    if not isinstance(reading, ReadResult):
        raise NotRows(f"it returned a {type(reading).__name__}, not a ReadResult")
    reading.where = path
    return ReadRows(reading, str(path))


# Asked in this order.
FORMATS: dict[str, DataFormat] = {
    "records": DataFormat(
        "a .jsonl file of records", own_records.recognises, rows=own_records.rows, fields=()
    ),
    "chat": DataFormat(
        "a JSON file of conversations (LLaVA, ShareGPT4V)",
        chat.recognises,
        rows=chat.rows,
        fields=(),
    ),
    "instruct-pix2pix": DataFormat(
        "InstructPix2Pix's folder with seeds.json",
        instruct_pix2pix.recognises,
        rows=instruct_pix2pix.rows,
        fields=(),
    ),
    "story-stream": DataFormat(
        "a .jsonl file of StoryStream", story_stream.recognises, rows=story_stream.rows, fields=()
    ),
    "journey-db": DataFormat(
        "a .jsonl file of JourneyDB", journey_db.recognises, rows=journey_db.rows, fields=()
    ),
    "webdataset": DataFormat(
        "WebDataset tars, or a folder of them",
        webdataset.recognises,
        rows=webdataset.rows,
        fields=image_folder.FIELDS,
    ),
    "table": DataFormat(
        "a parquet or CSV file, or a data set of Hugging Face", table.recognises, rows=table.rows
    ),
    "image-folder": DataFormat(
        "a folder of pictures with words",
        image_folder.recognises,
        rows=image_folder.rows,
        fields=image_folder.FIELDS,
    ),
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

    def open(self, path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
        """As `DataFormat.open`. Raises: DataError for whatever goes wrong within it."""
        problem = ""
        try:
            if self.format is not None:
                return (yield from self.format.open(path, options))
        except OrthusError:
            raise
        except NotRows as error:
            problem = str(error)
        except Exception as error:
            self.fail(error)
        what = problem or self.problem
        raise DataError(
            f"the data format {self.name!r} of {self.distribution} failed: {what}",
            where=str(path),
            hint=f"update or remove {self.distribution}, or leave it out with ORTHUS_PLUGINS",
        ) from self.cause


def discover_formats() -> dict[str, FormatPlugin]:
    """The formats of other distributions, which cannot take a name of ours."""
    return installed(DATA_FORMATS, FormatPlugin, dict.fromkeys(FORMATS, OURS))


def open_rows(
    path: Path, options: SourceOptions | None = None, name: str | None = None
) -> Generator[Event, None, Rows]:
    """The rows of a data set, each read when it is needed.

    Args:
        path: In one of the formats.
        options: How it is to be read.
        name: The format to read it in; by default the first one that recognises it.

    Raises:
        DataError: for a format that does not exist, or if nothing there can be read.
    """
    path = user_path(path)
    return (yield from format_of(path, name).open(path, options or SourceOptions()))


def format_of(path: Path, name: str | None = None) -> DataFormat | FormatPlugin:
    """The format of a data set: the named one, or the first that recognises the path.

    Raises:
        DataError: for a format that does not exist, or if none recognises the path.
    """
    others = discover_formats()
    if name is not None:
        return _named(name, others)
    for data_format in FORMATS.values():
        if data_format.recognises(path):
            return data_format
    if path.exists():
        for plugin in others.values():
            if plugin.recognises(path):
                return plugin
    if (unusable := unusable_layout(path)) is not None:
        raise unusable
    if path.is_dir():
        return FORMATS["image-folder"]  # which says what belongs into a folder
    if path.is_file() and path.suffix == ".jsonl":
        return FORMATS["records"]  # which says what is wrong with each line
    known = [data_format.description for data_format in reversed(FORMATS.values())]
    failed = [f"{plugin.name} ({plugin.problem})" for plugin in others.values() if plugin.problem]
    hint = f"give {', or '.join(known)}"
    raise DataError(
        f"this is no known data set{json_contents(path)}"
        if path.exists()
        else "there is no such file or folder",
        where=str(path),
        hint=hint + (f"; formats that did not load: {', '.join(failed)}" if failed else ""),
    )


def read(path: Path, *, strict: bool = False, name: str | None = None) -> ReadResult:
    """All documents at a path, in memory.

    Args:
        path: In one of the formats.
        strict: Whether the first bad record ends the reading.
        name: The format to read it in; by default the first one that recognises it.

    Raises:
        DataError: As for `open_rows`, and when strict at the first bad record.
    """
    rows = result_of(open_rows(path, name=name))
    result = ReadResult(strict, where=user_path(path), passed_over=rows.passed_over)
    for number in range(len(rows)):
        try:
            result.documents.append(rows.document(number))
        except Exception as error:
            file, line, part = rows.place(number)
            result.skip_record(file, line, error, part)
    return result


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
