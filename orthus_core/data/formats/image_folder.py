"""A folder of pictures with captions: `name.png` beside `name.txt`, or a `metadata.jsonl`.

The second form is the layout of Hugging Face's imagefolder: a line is
`{"file_name": "cat.png", "text": "a cat"}`, where the key of the caption may also be `caption` or
`prompt`. Each picture becomes a document: the caption is the user's turn, the picture the model's.
Which files are pictures is said in `orthus_core.data.listing`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orthus_core.data.document import Document, path_inside, turn
from orthus_core.data.formats.jsonl import objects
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.listing import CAPTION_SUFFIX, FolderListing
from orthus_core.data.pictures import FilePicture
from orthus_core.data.pixels import picture_suffixes
from orthus_core.errors import DataError
from orthus_core.user_files import read_text
from orthus_core.wrong_content import wrong_content

METADATA = "metadata.jsonl"
WORDS = ("text", "caption", "prompt")


def read_folder(folder: Path, *, strict: bool = False) -> ReadResult:
    """Reads the documents of a folder, sorted by file name or in the order of its metadata.

    Args:
        folder: Folder of the pictures.
        strict: Whether the first bad record raises an error, instead of being skipped.

    Raises:
        DataError: if the folder contains no picture with a caption, or if `strict` at the first bad
            record.
    """
    result, listing = ReadResult(strict), FolderListing(folder)
    if (folder / METADATA).is_file():
        _read_metadata(listing, result)
    else:
        _read_pairs(listing, result)
    if not result.documents and not result.fault_count:
        if (folder / METADATA).is_file():
            raise DataError(
                f"{METADATA} names no picture, for it holds no line",
                where=str(folder / METADATA),
                hint='write a line such as {"file_name": "cat.png", "text": "a cat"} for each '
                "picture, or remove it and put name.txt beside each name.png",
            )
        there = f"only {len(listing.pictures)} pictures" if listing.pictures else listing.contents()
        raise DataError(
            f"no pictures with words were found in this folder, {there}",
            where=str(folder),
            hint=f"put name.txt beside each name.png, or a {METADATA} in the folder",
        )
    return result


def _read_pairs(listing: FolderListing, result: ReadResult) -> None:
    # By folder and name without the suffix, which may be written in capitals, as the picture's.
    words_of = {text.with_suffix(""): text for text in listing.texts}
    used = set()
    for picture in listing.pictures:
        words = next((words_of[name] for name in _names(picture) if name in words_of), None)
        if words is None:
            missing = next(_names(picture)).name + CAPTION_SUFFIX
            result.skip_record(picture, 0, DataError(f"there is no {missing} beside it"))
            continue
        used.add(words)
        try:
            text = read_text(words).strip()
            if wrong := text and wrong_content(text.encode()):
                raise DataError(f"this is {wrong.what}", hint=wrong.hint)
            result.add(_document(picture, text, listing.folder), picture)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            result.skip_record(words, 0, DataError(f"cannot read the words: {reason}"))
        except DataError as error:
            result.skip_record(words, 0, error)
    alone = [text for text in listing.texts if text not in used]
    result.pass_over(listing, {"without a picture": alone})


def _names(picture: Path) -> Iterator[Path]:
    """What a picture's caption may be called, without its suffix; `v1.5` may have no suffix."""
    if picture.suffix.lower() in picture_suffixes():
        yield picture.with_suffix("")
    yield picture
    yield picture.with_suffix("")


def _read_metadata(listing: FolderListing, result: ReadResult) -> None:
    folder, named = listing.folder, set[Path]()
    path = folder / METADATA
    for line, record in objects(path, result):
        try:
            name = record.get("file_name")
            if not isinstance(name, str):
                raise DataError("the line has no 'file_name'")
            text = next((record[key] for key in WORDS if isinstance(record.get(key), str)), "")
            picture = path_inside(folder, name)
            named.add(picture)
            if not os.path.isfile(picture):
                raise DataError(f"there is no picture {name!r}")
            result.add(_document(picture, text.strip(), folder.absolute()), path, line)
        except Exception as error:
            result.skip_record(path, line, error)
    result.pass_over(listing, {f"not in {METADATA}": listing.not_in(named)})


def _document(picture: Path, text: str, folder: Path) -> Document:
    if not text:
        raise DataError("there are no words for the picture", hint=f"one of {', '.join(WORDS)}")
    segments = turn("user", text) + turn("model", FilePicture(picture))
    name = picture.relative_to(folder).as_posix()
    return Document(segments, id=name, source=folder.name)
