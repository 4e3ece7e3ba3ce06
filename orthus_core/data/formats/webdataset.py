"""WebDataset tars: the files of a sample lie side by side and share their name.

    000000000.jpg  000000000.txt  000000000.json      in 00000.tar, 00001.tar ...

The picture's words are the text beside it (`.txt`, `.caption`), or a key of the JSON. Tars that
img2dataset made of a parquet file of addresses, as LAION-COCO, may lie beside that file: where a
sample has no words, they are the caption of the row with its key or address. Names of columns and
keys are compared without case. A sample of two pictures called before and after is an edit, one
whose JSON has turns and no words is a conversation.

Sources: webdataset/webdataset (naming of members); rom1504/img2dataset (keys of its JSON).
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthus_core.data.document import Document, Place, bare, turn
from orthus_core.data.formats import chat
from orthus_core.data.formats.image_folder import INSTRUCTION, SOURCE, TARGET, metadata_files
from orthus_core.data.formats.picture_root import LOOKED_AT
from orthus_core.data.formats.split_names import check_split, chosen_split
from orthus_core.data.index.file_part import FilePart
from orthus_core.data.index.tar_samples import (
    COMPRESSED_SUFFIXES,
    SUFFIXES,
    TarSamples,
    is_pattern,
    tar_samples,
    tars_at,
)
from orthus_core.data.listing import CAPTION_SUFFIX, is_hidden
from orthus_core.data.pictures import MemberPicture
from orthus_core.data.pixels import picture_suffixes
from orthus_core.data.rows import IndexedRows, Rows, SourceOptions
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import text_of

if TYPE_CHECKING:
    from orthus_core.data.formats.caption_table import CaptionTable

TEXTS = ("txt", "text", "caption", "prompt")
CAPTIONS = ("caption", "top_caption", "text", "prompt")
"""Keys of a sample's JSON, and columns of a table, that hold a caption; most likely first."""

_SOURCE = (*SOURCE, "input", "original", "source", "before", "0")
_TARGET = (*TARGET, "edited", "output", "target", "after", "1")
_LONGEST_TEXT = 1 << 20
_SUFFIXES_NAMED = 8


def recognises(path: Path) -> bool:
    """Whether a path is a tar, or a folder of tars and not of captioned pictures."""
    if is_pattern(path):
        return True
    if not path.is_dir():
        return path.name.lower().endswith((*SUFFIXES, *COMPRESSED_SUFFIXES)) and path.is_file()
    files, folders = _inside(path)
    if any(name.lower().endswith(CAPTION_SUFFIX) for name in files) or metadata_files(path):
        return False
    below = (name for folder in folders for name in _inside(path / folder)[0])
    return any(name.lower().endswith(SUFFIXES) for name in chain(files, below))


def _inside(folder: Path) -> tuple[list[str], list[str]]:
    """The names of a folder's files, and of its subfolders."""
    files, folders = list[str](), list[str]()
    try:
        with os.scandir(folder) as scanned:
            for each in scanned:
                if not is_hidden(each.name):
                    (folders if each.is_dir() else files).append(each.name)
    except OSError:
        pass
    return files, sorted(folders)


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The samples of a tar, or of the tars in a folder.

    Args:
        path: Tar or folder.
        options: `split` names a folder of tars, or a word in their names. `columns` may name
            `caption`, `image`, `source`, `target` and `instruction`: suffixes of members, and keys
            of their JSON or columns of the table beside them.

    Raises:
        DataError: if there is no sample, or a tar is none.
    """
    tars = tars_at(path)
    if path.is_dir():
        tars = yield from chosen_split(path, tars, options.split)
    else:
        check_split(path, options.split)
    index = yield from tar_samples(tars, folder=options.index)
    if not len(index):
        raise _empty(path, tars)
    source = options.name or path.stem
    samples = Samples(source, {key: name.lower() for key, name in options.columns.items()})
    if path.is_dir() and samples.need_table(index):
        from orthus_core.data.formats.caption_table import caption_table  # imports pyarrow

        samples.table = yield from caption_table(path, CAPTIONS, options)
    return IndexedRows(index, samples.parse, str(path))


def _empty(path: Path, tars: list[Path]) -> DataError:
    """The error for tars without samples: why, where img2dataset says so."""
    tried, stats = 0, list[Path]()
    for tar in tars:
        file = tar.with_name(f"{tar.stem}_stats.json")
        try:
            tried += int(json.loads(file.read_bytes())["count"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
        stats.append(file)
    if stats:
        return DataError(
            f"img2dataset downloaded none of {tried} pictures, as {stats[0].name} says",
            where=str(path),
            hint="its addresses may be dead, or the network was: look at status_dict there",
        )
    which = "the tar holds" if len(tars) == 1 else f"{len(tars)} tars hold"
    return DataError(f"{which} no files", where=str(path), hint="copy or download it again")


@dataclass
class Samples:
    """How the samples of tars become documents.

    Attributes:
        source: Name of the data set.
        columns: What the user names, in lower case.
        table: Captions of another file.
    """

    source: str
    columns: Mapping[str, str]
    table: CaptionTable | None = None

    def need_table(self, index: TarSamples) -> bool:
        """Whether some samples lack the words that are asked for; some of them are looked at."""
        for number in range(0, len(index), max(1, len(index) // LOOKED_AT)):
            try:
                record = index.record(number)
                if not self._own_words(record) and self._turns(record) is None:
                    return True
            except DataError:
                continue
        return False

    def parse(self, record: Mapping[str, FilePart], place: Place, visit: int) -> Document:
        """The document of a sample.

        Args:
            record: Its members by suffix.
            place: Where it lies.
            visit: Chooses a caption where the JSON has a list of them.

        Raises:
            DataError: if it has no picture or no words, or several pictures of unknown roles.
        """
        pictures = {
            suffix: member
            for suffix, member in record.items()
            if f".{suffix.rpartition('.')[2]}" in picture_suffixes()
        }
        name = _name(next(iter(record.items())))
        if not self._own_words(record) and (turns := self._turns(record)) is not None:
            members = [MemberPicture(member) for member in pictures.values()]
            return chat.conversation({**turns, "id": name}, members, self.source, place.file.parent)
        if not pictures:
            raise DataError(f"the sample has no picture, only {_few(record)}")
        before = _picture(pictures, self.columns.get("source"), _SOURCE)
        after = _picture(pictures, self.columns.get("target"), _TARGET)
        if before and after:
            words = self._words(record, name, "instruction", visit)
            question = turn("user", MemberPicture(before), words)
            segments = question + turn("model", MemberPicture(after))
        else:
            picture = _picture(pictures, self.columns.get("image"), ("jpg", "png", "webp", "jpeg"))
            if picture is None and len(pictures) > 1:
                raise DataError(
                    f"the sample has {len(pictures)} pictures: {_few(pictures)}",
                    hint="name the one to take, in `columns`: image. A sample's name ends at its "
                    "first dot: rename the members if it goes on",
                )
            picture = picture or next(iter(pictures.values()))
            words = self._words(record, name, "caption", visit)
            segments = turn("user", words) + turn("model", MemberPicture(picture))
        return Document(segments, id=name, source=self.source)

    def _turns(self, record: Mapping[str, FilePart]) -> Mapping[str, Any] | None:
        """The sample's JSON where it is a conversation, and no caption is named; else None."""
        said = {} if "caption" in self.columns else _json_of(record, strict=False)
        return said if chat.is_chat(said) else None

    def _words(self, record: Mapping[str, FilePart], name: str, field: str, visit: int) -> str:
        words = self._own_words(record, field, visit)
        if not words and self.table is not None:
            address = _value(_json_of(record, strict=False), ("url",))
            words = self.table.caption(name.rpartition("/")[2], address)
        if not words:
            _json_of(record, strict=True)  # says why nothing was found in it
            raise DataError(f"there are no words for the picture, only {_few(record)}")
        return words

    def _own_words(
        self, record: Mapping[str, FilePart], field: str = "caption", visit: int = 0
    ) -> str:
        """The words that lie in the tar; "" where there are none."""
        named = self.columns.get(field)
        also = INSTRUCTION if field == "instruction" else ()
        for suffix in [named] if named else [*also, *TEXTS]:
            member = _member(record, suffix) or (record.get(f"{suffix}.txt") if suffix else None)
            if member is not None and (words := _text(member).strip()):
                return words
        keys = [named] if named else [*also, *CAPTIONS]
        return _value(_json_of(record, strict=False), keys, visit)


def _few(suffixes: Iterable[str]) -> str:
    """The first of them; a sample may have thousands where names have dots."""
    names = [*islice(suffixes, _SUFFIXES_NAMED + 1)]
    return ", ".join([*names[:_SUFFIXES_NAMED], *(["..."] if names[_SUFFIXES_NAMED:] else [])])


def _picture(
    pictures: Mapping[str, FilePart], named: str | None, known: tuple[str, ...]
) -> FilePart | None:
    """The picture whose suffix, or what is before its last dot, is named."""
    wanted = [named] if named else known
    return next(
        (
            member
            for name in wanted
            for suffix, member in pictures.items()
            if name in (suffix, suffix.rpartition(".")[0])
        ),
        None,
    )


def _member(record: Mapping[str, FilePart], suffix: str) -> FilePart | None:
    """The member with a suffix, or the only one that ends in it: a name may have dots, and its rest
    is of the suffix then, as in `photo.2021.txt`."""
    if suffix in record:
        return record[suffix]
    found = [member for each, member in record.items() if each.endswith(f".{suffix}")]
    return found[0] if len(found) == 1 else None


def _name(item: tuple[str, FilePart]) -> str:
    suffix, member = item
    return member.name[: len(member.name) - len(suffix) - 1] if suffix else member.name


def _text(member: FilePart) -> str:
    if member.size > _LONGEST_TEXT:
        raise DataError(f"{member.name} has {member.size:,} bytes, and is no caption")
    try:
        return text_of(member.read())
    except ValueError as error:
        raise DataError(f"cannot read the words in {member.name}: {error}") from error


def _json_of(record: Mapping[str, FilePart], *, strict: bool) -> Mapping[str, Any]:
    """The sample's JSON; empty where there is none.

    Raises:
        DataError: if it cannot be read, when strict.
    """
    member = _member(record, "json")
    if member is None:
        return {}
    try:
        value = json.loads(text_of(member.read()))
    except (ValueError, RecursionError) as error:
        if strict:
            raise DataError(f"cannot read {member.name}: {error}") from error
        return {}
    return value if isinstance(value, dict) else {}


def _value(record: Mapping[str, Any], names: Any, visit: int = 0) -> str:
    """The first text under one of these names, which are in lower case; of a list the next one at
    each visit; "" for none."""
    folded = {key.lower(): value for key, value in record.items()}
    for name in names:
        value = folded.get(name)
        values = value if isinstance(value, list) else [value]
        if texts := [words for each in values if isinstance(each, str) and (words := bare(each))]:
            return texts[visit % len(texts)]
    return ""
