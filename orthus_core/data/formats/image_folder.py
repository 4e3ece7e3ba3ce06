"""A folder of pictures with captions: `name.png` beside `name.txt`, or a `metadata.jsonl`.

The second form is the layout of Hugging Face's imagefolder: a line is
`{"file_name": "cat.png", "text": "a cat"}`, where the key of the caption may also be `caption` or
`prompt`. Each picture becomes a document: the caption is the user's turn, the picture the model's.
"""

from __future__ import annotations

from pathlib import Path

from orthus_core.data.document import Document, path_inside, turn
from orthus_core.data.formats.jsonl import objects
from orthus_core.data.formats.reading import ReadResult
from orthus_core.data.pictures import FilePicture
from orthus_core.errors import DataError
from orthus_core.wrong_content import wrong_content

METADATA = "metadata.jsonl"
PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
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
    result = ReadResult(strict)
    if (folder / METADATA).is_file():
        _read_metadata(folder, result)
    else:
        _read_pairs(folder, result)
    if not result.documents and not result.fault_count:
        raise DataError(
            "no pictures with words were found",
            where=str(folder),
            hint=f"put name.txt beside each name.png, or a {METADATA} in the folder",
        )
    return result


def _read_pairs(folder: Path, result: ReadResult) -> None:
    pictures = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURE_SUFFIXES)
    for picture in pictures:
        words = picture.with_suffix(".txt")
        try:
            text = words.read_text(encoding="utf-8").strip()
            if wrong := text and wrong_content(text.encode()):
                raise DataError(f"this is {wrong.what}", hint=wrong.hint)
            result.add(_document(picture, text, folder), picture)
        except FileNotFoundError:
            result.skip_record(picture, 0, DataError(f"there is no {words.name} beside it"))
        except (OSError, UnicodeDecodeError) as error:
            result.skip_record(words, 0, DataError(f"cannot read the words: {error}"))
        except DataError as error:
            result.skip_record(words, 0, error)


def _read_metadata(folder: Path, result: ReadResult) -> None:
    path = folder / METADATA
    for line, record in objects(path, result):
        try:
            name = record.get("file_name")
            if not isinstance(name, str):
                raise DataError("the line has no 'file_name'")
            text = next((record[key] for key in WORDS if isinstance(record.get(key), str)), "")
            picture = path_inside(folder, name)
            if not picture.is_file():
                raise DataError(f"there is no picture {name!r}")
            result.add(_document(picture, text.strip(), folder), path, line)
        except Exception as error:
            result.skip_record(path, line, error)


def _document(picture: Path, text: str, folder: Path) -> Document:
    if not text:
        raise DataError("there are no words for the picture", hint=f"one of {', '.join(WORDS)}")
    segments = turn("user", text) + turn("model", FilePicture(picture))
    name = picture.relative_to(folder.resolve() if picture.is_absolute() else folder)
    return Document(segments, id=name.as_posix(), source=folder.name)
