"""Tables: parquet and CSV files, folders of them, and whatever `datasets` of Hugging Face stores.

What a row becomes depends on its columns. They are found by usual names, without case, or named in
`columns`, such as {"image": "img", "caption": "TEXT"}:

    segments                        a record of our own form
    original_image, edit_prompt, edited_image   an edit (InstructPix2Pix)
    conversations, image            a conversation (LLaVA)
    question, answer, image         an answer about a picture
    image, caption                  a picture of a text

A list of texts, such as five captions, gives another one at each visit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_core.data.document import Document, Place, bare, from_record, turn
from orthus_core.data.formats import chat
from orthus_core.data.formats.caption_table import URLS
from orthus_core.data.formats.image_folder import METADATA
from orthus_core.data.formats.picture_root import is_address, picture_of, picture_root
from orthus_core.data.formats.split_names import check_split, chosen_split
from orthus_core.data.formats.unusable import addresses, table_of_addresses, unusable_layout
from orthus_core.data.index.stored_sets import (
    Splits,
    hub_splits,
    is_hub_id,
    is_saved_set,
    saved_splits,
)
from orthus_core.data.index.table_file import TABLE_SUFFIXES
from orthus_core.data.listing import CAPTION_SUFFIX, NAMES_TOLD, files_ending, holds_pictures
from orthus_core.data.pictures import Picture
from orthus_core.data.rows import IndexedRows, Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event, Note

if TYPE_CHECKING:
    from orthus_core.data.index.arrow_table import ArrowTable

FIELDS: dict[str, tuple[str, ...]] = {
    "segments": ("segments",),
    "source": ("original_image", "input_image", "source_image", "source_img"),
    "instruction": ("edit_prompt", "instruction", "edit"),
    "target": ("edited_image", "target_image", "output_image", "target_img"),
    "conversations": ("conversations", "messages"),
    "question": ("question",),
    "answer": ("answer", "multiple_choice_answer", "answers"),
    "image": (
        *("image", "images", "img", "picture", "jpg", "png", "webp", "jpeg", "image_bytes"),
        *("file_name", "image_path", "img_path", "filename", "path"),
    ),
    "caption": ("caption", "text", "prompt", "txt", "top_caption", "description", "captions"),
}
"""What a reader needs, and the usual names of its columns, most likely first."""

_PART = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(\.\w+)")
_MOST_PARTS = 100_000


class _Layout(NamedTuple):
    """What the rows are: the fields that they need, and those that they may have."""

    needs: tuple[str, ...]
    may: tuple[str, ...]
    parse: Callable[[_Row], Document]


def recognises(path: Path) -> bool:
    """Whether a path is a table, a folder of tables, a set that `datasets` stored, or the id of a
    set on the hub."""
    if path.is_file():
        return path.suffix.lower() in TABLE_SUFFIXES and path.name not in METADATA
    if not path.is_dir():
        return is_hub_id(path)
    if any((path / name).is_file() for name in METADATA):
        return False
    files = _table_files(path)
    if files and addresses(files[0]) and files_ending(path, (CAPTION_SUFFIX,)):
        return not holds_pictures(path)  # img2dataset wrote pictures and captions beside it
    return is_saved_set(path) or bool(files)


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The rows of a table or a set.

    Raises:
        DataError: if it cannot be read, or its columns are none that a row can be made of.
    """
    table = yield from _table(path, options)
    columns = {name.lower(): name for name in table.columns}
    columns |= {name: name for name in table.columns if name == name.lower()}  # of two, as usual
    layout, column_of = _layout(path, columns, options.columns)
    folder = path if path.is_dir() else path.parent
    root = options.images or folder
    fields = [field for field in ("image", "source", "target") if field in column_of]
    if len(table) and (fields or "conversations" in column_of):
        pictures = [column_of[field] for field in fields]
        names_of = partial(_names, columns=pictures, turns=column_of.get("conversations"))
        _check_addresses(path, table, pictures)
        nearby = [folder, folder / "images", folder.parent, folder.parent / "images"]
        root = picture_root(options.images, nearby, table, names_of, path)
    parse = partial(
        _parse,
        layout=layout,
        column_of=column_of,
        root=root,
        source=options.name or path.stem,
        name_column=next((columns[name] for name in ("id", "key") if name in columns), ""),
    )
    return IndexedRows(table, parse, str(path))


def _table(path: Path, options: SourceOptions) -> Generator[Event, None, ArrowTable]:
    from orthus_core.data.index.arrow_table import arrow_tables, tables

    if path.is_file():
        check_split(path, options.split)
        return (yield from tables([path], folder=options.index))
    if path.is_dir() and not is_saved_set(path):
        files = yield from _files_of_split(path, options.split)
        if missing := _missing_parts(files):
            names = ", ".join(each.relative_to(path).as_posix() for each in missing[:NAMES_TOLD])
            more = ", ..." if len(missing) > NAMES_TOLD else ""
            yield Note(f"{path}: {len(missing)} files of this set are not there: {names}{more}")
        return (yield from tables(files, folder=options.index))
    if path.is_dir():
        splits = saved_splits(path)
    elif is_hub_id(path):
        yield Note(f"{path}: there is no such folder, so it is loaded from the hub")
        splits: Splits = hub_splits(path.as_posix())
    else:
        raise DataError(
            "there is no such file or folder",
            where=str(path),
            hint="give a parquet or CSV file, a folder, or the id of a set on the hub, as org/name",
        )
    if "" in splits:
        check_split(path, options.split)
    files = splits.get("") or (yield from _of_split(path, splits, options.split))
    return (yield from arrow_tables(files, folder=options.index))


def _files_of_split(folder: Path, split: str) -> Generator[Event, None, list[Path]]:
    """The tables of a folder to read. Raises: DataError."""
    from orthus_core.data.formats.hub_readme import configuration

    found = configuration(folder, files := _table_files(folder))
    if found is None:
        return (yield from chosen_split(folder, files, split))
    if found.others:
        others = ", ".join(found.others)
        yield Note(f"{folder}: its default is read; its README has other configurations: {others}")
    return (yield from _of_split(folder, found.splits, split))


def _of_split(path: Path, splits: Splits, split: str) -> Generator[Event, None, list[Path]]:
    """The files of the splits to read. Raises: DataError."""
    named = {path / name: files for name, files in splits.items()}
    chosen = yield from chosen_split(path, [*named], split)
    return [file for each in chosen for file in named[each]]


def _missing_parts(files: Sequence[Path]) -> list[Path]:
    """The files that others say there are: `train-00001-of-00002.parquet`, where only the first
    is."""
    counts = dict[tuple[Path, str, str, str], set[int]]()
    for file in files:
        if part := _PART.fullmatch(file.name):
            counts.setdefault((file.parent, part[1], part[3], part[4]), set()).add(int(part[2]))
    return [
        folder / f"{name}-{number:0{len(total)}}-of-{total}{end}"
        for (folder, name, total, end), there in counts.items()
        for number in range(min(int(total), _MOST_PARTS))
        if number not in there
    ]


def _table_files(folder: Path) -> list[Path]:
    """The tables of a folder and its subfolders: the parquet files, else the CSV files where there
    is nothing but these."""
    found = [file for file in files_ending(folder, TABLE_SUFFIXES) if file.name not in METADATA]
    parquet = [file for file in found if file.suffix.lower() == ".parquet"]
    if parquet or not found:
        return parquet
    return [] if holds_pictures(folder) else found


def _layout(
    path: Path, columns: Mapping[str, str], named: Mapping[str, str]
) -> tuple[_Layout, dict[str, str]]:
    """What the rows are, and the column of each of its fields."""
    chosen = dict[str, str]()
    for field, column in named.items():
        name = _field(field)
        if name is None:
            raise DataError(
                f"`columns` has {field!r}, which is no field of a row",
                where=str(path),
                hint=f"fields are {', '.join(FIELDS)}",
            )
        if column.lower() not in columns:
            raise DataError(
                f"there is no column {column!r}",
                where=str(path),
                hint=f"there are {', '.join(columns.values())}",
            )
        chosen[name] = columns[column.lower()]
    found = {
        field: next((columns[name] for name in names if name in columns), None)
        for field, names in FIELDS.items()
    }
    column_of = {field: column for field, column in {**found, **chosen}.items() if column}
    for layout in LAYOUTS:
        fields = (*layout.needs, *layout.may)
        if all(field in column_of for field in layout.needs) and chosen.keys() <= {*fields}:
            return layout, {field: column_of[field] for field in fields if field in column_of}
    if (unusable := unusable_layout(path) if path.exists() else None) is not None:
        raise unusable
    files = [path] if path.is_file() else _table_files(path) if path.is_dir() else []
    if files and {*columns} & {*URLS}:
        raise table_of_addresses(files[0], [*columns.values()])
    raise DataError(
        f"no row can be made of these columns: {', '.join(columns.values()) or 'none'}",
        where=str(path),
        hint='name the columns of picture and text: columns = {image = "...", caption = "..."}; or '
        f"those of {' or '.join(', '.join(each.needs) for each in LAYOUTS[:-1])}",
    )


def _field(name: str) -> str | None:
    """The field of this name, or of which it is a usual column."""
    if name in FIELDS:
        return name
    return next((field for field, names in FIELDS.items() if name.lower() in names), None)


class _Row:
    """The fields of one row as texts and pictures.

    Args:
        record: The row's columns.
        column_of: The column of each field.
        root: Folder that paths of pictures are relative to.
        source: Name of the data set.
        name: Identifier of the row.
        visit: Number of the epoch.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        column_of: Mapping[str, str],
        root: Path,
        source: str,
        name: str,
        visit: int,
    ) -> None:
        self.root, self.source, self.name = root, source, name
        self._record, self._column_of, self._visit = record, column_of, visit

    def value(self, field: str) -> Any:
        """The value of a field's column, whose name may be in another case in another file of the
        set; None where there is no such column to be had. Raises: DataError if this file lacks it.
        """
        if (column := self._column_of.get(field)) is None:
            return None
        if column in self._record:
            return self._record[column]
        found = next((name for name in self._record if name.lower() == column.lower()), None)
        if found is None:
            raise DataError(
                f"there is no column {column!r} in this file, only {', '.join(self._record)}",
                hint="files of one set have the same columns; give the path of some alone",
            )
        return self._record[found]

    def words(self, field: str) -> str:
        """A text. Raises: DataError where there is none."""
        value = self.value(field)
        if isinstance(value, (list, tuple)):
            texts = [each for each in value if isinstance(each, str) and each.strip()]
            others = [each for each in value if each is not None and not isinstance(each, str)]
            if others and not texts:
                kind = type(others[0]).__name__
                raise DataError(
                    f"column {self._column_of[field]!r} holds a list of {kind}, and not of texts",
                    hint=f"name a column of texts: columns = {{{field} = ...}}",
                )
            value = texts[self._visit % len(texts)] if texts else None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
            value = str(value)
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise DataError(f"column {self._column_of[field]!r} holds a {kind}, and not a text")
        words = bare(value or "")
        if not words:
            raise DataError(f"column {self._column_of[field]!r} is empty")
        return words

    def pictures(self, field: str) -> list[Picture]:
        """The pictures of a field: none, one, or those of a list. Raises: DataError."""
        value = self.value(field)
        values = value if isinstance(value, (list, tuple)) else [value]
        return [picture_of(each, self.root) for each in values if each is not None]

    def picture(self, field: str) -> Picture:
        """The one picture of a field. Raises: DataError where there is another number."""
        found = self.pictures(field)
        if len(found) != 1:
            count = f"there are {len(found)} pictures" if found else "there is no picture"
            raise DataError(f"{count} in column {self._column_of[field]!r}")
        return found[0]

    def document(self, *turns: tuple[Any, ...]) -> Document:
        return Document(tuple(s for each in turns for s in each), id=self.name, source=self.source)


def _names(record: Any, columns: Sequence[str], turns: str | None) -> list[object]:
    """What a row has as its pictures; what its turns name where its columns have none."""
    cells = [record.get(column) for column in columns]
    found = [
        value
        for cell in cells
        for value in (cell if isinstance(cell, (list, tuple)) else [cell])
        if value is not None
    ]
    if found or turns is None:
        return found
    said = record.get(turns)
    said = _json(said, "conversations") if isinstance(said, str) else said
    return chat.picture_names({"conversations": said})


def _check_addresses(path: Path, table: ArrowTable, columns: Sequence[str]) -> None:
    """Raises: DataError where the first row has an address in place of a picture."""
    try:
        first = next(iter(_names(table.record(0), columns, None)), "")
    except DataError:
        return
    if is_address(first):
        raise DataError(
            f"this is a table of addresses, without pictures: {', '.join(table.columns)}",
            where=str(path),
            hint="download them with img2dataset (--output_format webdataset), and give the folder "
            "of tars that it makes",
        )


def _parse(
    record: Any,
    place: Place,
    visit: int,
    *,
    layout: _Layout,
    column_of: Mapping[str, str],
    root: Path,
    source: str,
    name_column: str,
) -> Document:
    name = record.get(name_column)
    name = str(name) if name is not None else place.part or str(place.line)
    return layout.parse(_Row(record, column_of, root, source, name, visit))


def _segments(row: _Row) -> Document:
    segments = row.value("segments")
    if isinstance(segments, str):
        segments = _json(segments, "segments")
    if isinstance(segments, list):  # Arrow gives each segment all keys
        segments = [
            {key: value for key, value in each.items() if value is not None}
            if isinstance(each, Mapping)
            else each
            for each in segments
        ]
    return from_record({"segments": segments, "id": row.name, "source": row.source}, root=row.root)


def _edit(row: _Row) -> Document:
    return row.document(
        turn("user", row.picture("source"), row.words("instruction")),
        turn("model", row.picture("target")),
    )


def _conversation(row: _Row) -> Document:
    turns = row.value("conversations")
    record = {
        "conversations": _json(turns, "conversations") if isinstance(turns, str) else turns,
        "id": row.name,
    }
    return chat.conversation(record, row.pictures("image"), row.source, row.root)


def _answer(row: _Row) -> Document:
    return row.document(
        turn("user", *row.pictures("image"), row.words("question")),
        turn("model", row.words("answer")),
    )


def _picture_of_text(row: _Row) -> Document:
    return row.document(turn("user", row.words("caption")), turn("model", row.picture("image")))


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"'{what}' is no JSON: {error}") from error


LAYOUTS = (
    _Layout(("segments",), (), _segments),
    _Layout(("source", "instruction", "target"), (), _edit),
    _Layout(("conversations",), ("image",), _conversation),
    _Layout(("question", "answer"), ("image",), _answer),
    _Layout(("image", "caption"), (), _picture_of_text),
)
"""Asked in this order."""
