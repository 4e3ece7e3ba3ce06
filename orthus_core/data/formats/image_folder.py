"""A folder of pictures with captions: `name.png` beside `name.txt`, or a metadata file.

The second form is the layout of Hugging Face's imagefolder: `metadata.jsonl`, `metadata.csv` or
`metadata.parquet` has a `file_name` and a caption in each row, `text`, `caption` or `prompt`:

    {"file_name": "cat.png", "text": "a cat"}

The caption is the user's turn, the picture the model's. A row with two pictures and an instruction
is an edit: `original_image_file_name`, `edited_image_file_name`, `edit_prompt`. Each split may have
its own folder with its own metadata. Which files are pictures is said in
`orthus_core.data.listing`.

Source: datasets, packaged_modules/folder_based_builder (file names and columns).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from orthus_core.data.document import Document, Place, bare, turn
from orthus_core.data.formats.annotation_file import indexed_json
from orthus_core.data.formats.joined_rows import joined
from orthus_core.data.formats.picture_root import did_you_mean, picture_at
from orthus_core.data.formats.split_names import check_split, chosen_split, split_of
from orthus_core.data.formats.unusable import unusable_layout
from orthus_core.data.formats.unused_pictures import unused_pictures
from orthus_core.data.listing import (
    CAPTION_SUFFIX,
    NAMES_TOLD,
    FolderListing,
    PassedOver,
    holds_pictures,
    is_hidden,
)
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.data.pixels import picture_suffixes
from orthus_core.data.rows import IndexedRows, RecordIndex, Rows, SourceOptions, row_key
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import read_text
from orthus_core.wrong_content import wrong_content

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
WORDS = ("text", "caption", "prompt")
SOURCE = ("original_image", "input_image", "source_image")
TARGET = ("edited_image", "output_image", "target_image")
INSTRUCTION = ("edit_prompt", "instruction", "edit")
FIELDS = ("image", "caption", "source", "target", "instruction")
"""What `columns` may name."""
_HEAD_BYTES = 4096
_LISTS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


def recognises(path: Path) -> bool:
    """Whether a path is a folder of pictures, or the metadata of one."""
    if path.is_dir():
        return bool(metadata_files(path)) or holds_pictures(path)
    return is_metadata(path)


def is_metadata(path: Path) -> bool:
    """Whether a path names the metadata of a folder of pictures, rather than the folder."""
    if path.name not in METADATA or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).replace(b"\0", b"")  # which UTF-16 puts between letters
    return b'"segments"' not in head


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The rows of a folder, in the order of its metadata or sorted by file name.

    Args:
        path: The folder, or a metadata file.
        options: `split` names one of the folders that have metadata of their own; without it
            `train` is read where it exists, and otherwise all.

    Raises:
        DataError: if there are no pictures with words, or no such split.
    """
    if path.is_file():
        check_split(path.parent, options.split)
        return (yield from _described(path, path.parent, options))
    files = metadata_files(path)
    if files:
        chosen = yield from chosen_split(path, [file.parent for file in files], options.split)
        parts = []
        for file in files:
            if file.parent in chosen:
                parts.append((yield from _described(file, path, options)))
        return joined(parts, str(path))
    folders = _subfolders(path)
    if not _are_splits(path, folders, options.split):
        check_split(path, options.split)
        return _captioned(path, options)
    chosen = yield from chosen_split(path, folders, options.split)
    named = options._replace(name=options.name or path.name)
    try:
        return joined([_captioned(folder, named) for folder in chosen], str(path))
    except DataError as error:
        raise unusable_layout(path) or error from error


def _are_splits(folder: Path, inside: Sequence[Path], split: str) -> bool:
    """Whether captioned pictures are to be read from some of the folders inside one: those of the
    split that is asked for, or of `train` where all pictures lie in folders."""
    splits = {split_of(each.name) for each in inside}
    if split:
        return split in {each.name for each in inside} or any(splits)
    return "train" in splits and not any(
        each.suffix.lower() in picture_suffixes() for each in folder.iterdir() if each.is_file()
    )


def metadata_files(folder: Path) -> list[Path]:
    """The metadata of a folder, or else that of its subfolders, two levels deep."""
    folders = [folder]
    for _ in range(3):
        found = [file for each in folders if (file := _metadata_in(each)) is not None]
        if found:
            return found
        folders = [inner for each in folders for inner in _subfolders(each)]
    return []


def _metadata_in(folder: Path) -> Path | None:
    files = (folder / name for name in METADATA)
    return next((file for file in files if is_metadata(file)), None)


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scanned:
            names = [each.name for each in scanned if each.is_dir() and not is_hidden(each.name)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


# 1. Metadata.


def _described(
    file: Path, where: Path, options: SourceOptions
) -> Generator[Event, None, IndexedRows]:
    if file.suffix == ".jsonl":
        index: RecordIndex = yield from indexed_json(file, options)
    else:
        from orthus_core.data.index.arrow_table import tables  # imports pyarrow

        index = yield from tables([file], folder=options.index)
        _check_columns(index.columns, options.columns, file)
    if not len(index):
        raise DataError(
            f"{file.name} names no picture, for it holds no line",
            where=str(file),
            hint='write a line such as {"file_name": "cat.png", "text": "a cat"} for each '
            "picture, or remove it and put name.txt beside each name.png",
        )
    root = options.images or file.parent
    source = options.name or where.absolute().name
    found = IndexedRows(
        index, partial(parse, root=root, columns=options.columns, source=source), str(where)
    )
    if options.images is None:
        found.passed_over = unused_pictures(root, found, f"not in {file.name}")
    others = [each for each in METADATA if each != file.name and (file.parent / each).is_file()]
    if others:
        found.passed_over.append(PassedOver(f"beside {file.name}", len(others), others))
    return found


def _check_columns(there: Sequence[str], named: Mapping[str, str], file: Path) -> None:
    """Check that a table names pictures. Raises: DataError."""
    image = named.get("image", "file_name")
    pair = [named.get("source"), *(each + end for each in SOURCE for end in ("_file_name", ""))]
    if image not in there and not {*pair} & {*there}:
        raise DataError(
            f"there is no column {image!r} with names of pictures, only {', '.join(there)}",
            where=str(file),
            hint='call it file_name, or name it in `columns`, as in {image = "path"}',
        )


def parse(
    record: Any, place: Place, visit: int, *, root: Path, columns: Mapping[str, str], source: str
) -> Document:
    """The document of a row of metadata.

    Args:
        record: The row.
        place: Where it lies.
        visit: Chooses a caption where a row has a list of them.
        root: Folder that file names are relative to.
        columns: Columns that the user names, for `image`, `caption`, `source`, `target` and
            `instruction`.
        source: Name of the data set.

    Raises:
        DataError: if a picture is not named or not there, or has no words.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"the line is a {type(record).__name__}, not an object")
    before, after = (
        _file_name(record, columns.get(field), known)
        for field, known in (("source", SOURCE), ("target", TARGET))
    )
    if before is not None and after is not None:
        words = _words(record, columns.get("instruction"), (*INSTRUCTION, *WORDS), visit)
        picture: Picture = picture_at(root, after)
        segments = turn("user", picture_at(root, before), words) + turn("model", picture)
    else:
        name = record.get(columns.get("image", "file_name"))
        if not isinstance(name, str):
            raise DataError(f"the line has no {columns.get('image', 'file_name')!r}")
        picture = picture_at(root, name)
        words = _words(record, columns.get("caption"), WORDS, visit)
        segments = turn("user", words) + turn("model", picture)
    name = picture.path.relative_to(root.absolute()).as_posix()
    return Document(segments, id=name, source=source)


def _file_name(record: Mapping[str, Any], named: str | None, known: Sequence[str]) -> str | None:
    names = [named] if named else [each + end for each in known for end in ("_file_name", "")]
    return next((record[name] for name in names if isinstance(record.get(name), str)), None)


def _words(record: Mapping[str, Any], named: str | None, known: Sequence[str], visit: int) -> str:
    names = [named] if named else known
    for name in names:
        said = record.get(name)
        if isinstance(said, list):
            texts = [each for each in said if isinstance(each, str) and bare(each)]
            said = texts[visit % len(texts)] if texts else None
        if isinstance(said, (int, float)) and not isinstance(said, bool) and said == said:
            said = str(said)
        if isinstance(said, str) and bare(said):
            return bare(said)
    where = f" in {named!r}" if named else ""
    raise DataError(f"there are no words for the picture{where}", hint=f"one of {', '.join(names)}")


# 2. Pictures beside their captions.


@dataclass
class CaptionedFiles:
    """Pictures of a folder and the files of their captions; a `RecordIndex`.

    Attributes:
        folder: The folder.
        pictures: Names of the pictures in it.
        words: Names of the files with their captions; "" where there is none.
    """

    folder: Path
    pictures: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def identity(self) -> str:
        digest = hashlib.sha256()
        for name in (*self.pictures, *self.words):
            size = os.stat(self.folder / name).st_size if name else 0
            digest.update(f"{name}:{size}\0".encode("utf-8", "surrogatepass"))
        return f"{len(self)} rows, {digest.hexdigest()[:10]}"

    def keys(self) -> np.ndarray:
        return np.fromiter(map(row_key, self.pictures), np.uint64, len(self))

    def place(self, number: int) -> Place:
        return Place(self.folder / self.pictures[number])

    def record(self, number: int) -> tuple[Path, Path | None]:
        words = self.words[number]
        return self.folder / self.pictures[number], self.folder / words if words else None


def _captioned(folder: Path, options: SourceOptions) -> IndexedRows:
    listing, index = FolderListing(folder), CaptionedFiles(folder)
    # By folder and name without the suffix, which may be written in capitals, as the picture's.
    words_of = {text.with_suffix(""): text for text in listing.texts}
    used = set()
    for picture in listing.pictures:
        words = next((words_of[name] for name in _names(picture) if name in words_of), None)
        used.add(words)
        index.pictures.append(picture.relative_to(folder).as_posix())
        index.words.append(words.relative_to(folder).as_posix() if words else "")
    if not used - {None}:
        raise _without_words(listing)
    alone = [text for text in listing.texts if text not in used]
    return IndexedRows(
        index,
        partial(_parse_captioned, source=options.name or folder.name, folder=folder),
        str(folder),
        listing.passed_over({"without a picture": alone}),
    )


def _without_words(listing: FolderListing) -> DataError:
    if (unusable := unusable_layout(listing.folder)) is not None:
        return unusable
    hint = f"put name.txt beside each name.png, or a {METADATA[0]} in the folder"
    if not listing.pictures:
        return DataError(
            f"no pictures with words were found in this folder, {listing.contents()}",
            where=str(listing.folder),
            hint=hint,
        )
    first = listing.pictures[0]
    missing = next(_names(first)).name + CAPTION_SUFFIX
    count = len(listing.pictures)
    which = f"none of {count} pictures has words" if count > 1 else "the picture has no words"
    if others := _lists_in(listing):
        hint += f" ({', '.join(others)} is not read)"
    return DataError(
        f"{which}: there is no {missing} beside {first.name}", where=str(listing.folder), hint=hint
    )


def _lists_in(listing: FolderListing) -> list[str]:
    """The first files of the folder that may list its pictures, under names that are not read."""
    pictures = {picture.stem for picture in listing.pictures}
    found = (
        each.name
        for each in sorted(listing.folder.iterdir())
        if each.suffix.lower() in _LISTS and not is_hidden(each.name) and each.stem not in pictures
    )
    return [*islice(found, NAMES_TOLD)]


def _names(picture: Path) -> Iterator[Path]:
    """What a picture's caption may be called, without its suffix; `v1.5` may have no suffix."""
    if picture.suffix.lower() in picture_suffixes():
        yield picture.with_suffix("")
    yield picture
    yield picture.with_suffix("")


def _parse_captioned(
    record: tuple[Path, Path | None], place: Place, visit: int, *, source: str, folder: Path
) -> Document:
    picture, words = record
    if words is None:
        name = next(_names(picture)).name + CAPTION_SUFFIX
        near = did_you_mean(picture.parent, name)
        raise DataError(f"there is no {name} beside it{near}")
    try:
        text = read_text(words).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the words in {words.name}: {reason}") from error
    if wrong := text and wrong_content(text.encode()):
        raise DataError(f"{words.name}: this is {wrong.what}", hint=wrong.hint)
    if not text:
        raise DataError(f"there are no words for the picture: {words.name} is empty")
    segments = turn("user", text) + turn("model", FilePicture(picture))
    return Document(segments, id=picture.relative_to(folder).as_posix(), source=source)
