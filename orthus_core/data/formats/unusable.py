"""Data sets whose layout is known and that cannot be trained on as they lie there: what each is,
and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orthus_core.data.formats.annotation_file import annotation_file, head_of, json_files
from orthus_core.data.formats.caption_table import URLS
from orthus_core.data.formats.chat import is_chat
from orthus_core.data.formats.journey_db import is_annotation
from orthus_core.data.formats.story_stream import is_story
from orthus_core.errors import DataError
from orthus_core.wrong_content import UNFINISHED, unfinished_downloads, wrong_content

_POINTER_BYTES = 1024
_FOLDERS_LOOKED_AT = 8
_LEVELS_LOOKED_AT = 3
_PACKED = (".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
_OTHER_STORES = {
    ".tfrecord": "TFRecord files",
    ".tfrecords": "TFRecord files",
    ".mdb": "an LMDB database",
    ".lmdb": "an LMDB database",
    ".lance": "a Lance data set",
    ".h5": "an HDF5 file",
    ".hdf5": "an HDF5 file",
    ".npz": "NumPy arrays",
    ".pkl": "a pickle, which may run code when it is opened",
}


def unusable_layout(path: Path) -> DataError | None:
    """The error for a data set whose layout is known, and that cannot be used; None for another."""
    if path.is_file():
        return _of_file(path)
    return _of_folder(path) if path.is_dir() else None


def _of_file(file: Path) -> DataError | None:
    if wrong := wrong_content(file):
        return DataError(f"this is {wrong.what}", where=str(file), hint=wrong.hint)
    if file.suffix == ".parquet" and (names := addresses(file)):
        return table_of_addresses(file, names)
    if kind := _OTHER_STORES.get(file.suffix.lower()):
        return _other_store(file, kind)
    if file.suffix == ".json":
        return _of_object(file)
    return None


def _of_folder(folder: Path) -> DataError | None:
    files = _files_in(folder)
    if unfinished := unfinished_downloads(folder):
        return DataError(
            f"{len(unfinished)} downloads in this folder have not ended ({unfinished[0].name})",
            where=str(folder),
            hint=f"wait until they are complete; files that end in {', '.join(UNFINISHED)} are not",
        )
    for file in files:
        if _of_records(file) and file.stat().st_size < _POINTER_BYTES:
            if wrong := wrong_content(file):
                return DataError(f"this is {wrong.what}", where=str(file), hint=wrong.hint)
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables and (names := addresses(tables[0])):
        return table_of_addresses(tables[0], names)
    for file in json_files(folder):
        if (error := _of_object(file)) is not None:
            return error
    annotations = folder / "annotations"
    if annotations.is_dir():
        for file in json_files(annotations):
            if (error := _of_object(file)) is not None:
                return error
    if (prompt := _prompt_below(folder)) is not None:
        return DataError(
            f"this looks like InstructPix2Pix ({prompt}), and its list seeds.json is missing",
            where=str(folder),
            hint="download seeds.json from the same place into this folder",
        )
    if (below := _records_below(folder)) is not None:
        return DataError(
            f"the records of this folder lie further down ({below.relative_to(folder)})",
            where=str(folder),
            hint=f"give {below}",
        )
    packed = [file for file in files if file.suffix.lower() in _PACKED]
    if packed:
        return DataError(
            f"the data here is packed: {_some(packed)}",
            where=str(folder),
            hint="unpack it, and give what is inside",
        )
    other = next((file for file in files if file.suffix.lower() in _OTHER_STORES), None)
    return _other_store(other, _OTHER_STORES[other.suffix.lower()]) if other else None


def _files_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scanned:
            names = sorted(each.name for each in scanned if each.name[:1] != "." and each.is_file())
    except OSError:
        return []
    return [folder / name for name in names]


def _of_records(file: Path) -> bool:
    return file.suffix.lower() in (".json", ".jsonl", ".csv", ".parquet", ".tar", ".arrow")


def addresses(file: Path) -> list[str]:
    """The columns of a parquet file of pictures' addresses; none for another, or one that has the
    pictures too.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException):
        return []
    if not {name.lower() for name in schema.names} & {*URLS}:
        return []
    has_pictures = any(
        pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind) for kind in schema.types
    )
    return [] if has_pictures else schema.names


def table_of_addresses(file: Path, names: list[str]) -> DataError:
    """The error for a file with these columns, of which one has pictures' addresses."""
    url = next(name for name in names if name.lower() in URLS)
    captions = ("top_caption", "caption", "text")
    caption = next((name for each in captions for name in names if name.lower() == each), "CAPTION")
    return DataError(
        f"this is a table of addresses, without pictures: {', '.join(names)}",
        where=str(file),
        hint=f"download them with `img2dataset --input_format {file.suffix[1:].lower()} "
        "--output_format webdataset "
        f"--url_list {file} --url_col {url} --caption_col {caption} --output_folder TARS`, and "
        "give the folder TARS",
    )


def _of_object(file: Path) -> DataError | None:
    """The error for a JSON file that is one object and no list of records."""
    head = head_of(file)
    if head.form != "object" or not isinstance(head.record, Mapping):
        return None
    record: Mapping[str, Any] = head.record
    if "annotations" in record and "images" in record:
        return DataError(
            "this is a file of COCO annotations, in which captions lie apart from pictures",
            where=str(file),
            hint='write metadata.jsonl into the folder of the pictures: {"file_name": "1.jpg", '
            '"text": "a cat"} for each caption',
        )
    if "questions" in record:
        return DataError(
            "this is a file of VQA questions, in which answers and pictures lie apart",
            where=str(file),
            hint="write them as conversations: docs/data.md has the layout of LLaVA",
        )
    return None


def _prompt_below(folder: Path) -> str | None:
    names = [each.name for each in _folders_in(folder)]
    return next((f"{n}/prompt.json" for n in names if (folder / n / "prompt.json").is_file()), None)


def _records_below(folder: Path) -> Path | None:
    """A folder below this one that has records which name pictures: of JourneyDB, of StoryStream,
    conversations. Its parent cannot be given in its place, as it may have several."""
    waiting = [folder]
    for _ in range(_LEVELS_LOOKED_AT):
        waiting = [inner for each in waiting for inner in _folders_in(each)]
        for inner in waiting:
            for accepts in (is_chat, is_annotation, is_story):
                if annotation_file(inner, accepts) is not None:
                    return inner
    return None


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scanned:
            names = sorted(each.name for each in scanned if each.name[:1] != "." and each.is_dir())
    except OSError:
        return []
    return [folder / name for name in names[:_FOLDERS_LOOKED_AT]]


def _other_store(file: Path, kind: str) -> DataError:
    return DataError(
        f"this is {kind}, which is not read",
        where=str(file),
        hint="convert it to WebDataset tars, parquet, or a folder with metadata.jsonl",
    )


def _some(files: list[Path]) -> str:
    return ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
