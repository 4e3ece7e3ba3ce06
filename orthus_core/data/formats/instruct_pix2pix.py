"""InstructPix2Pix as it is published: each edit is a folder with several pairs of pictures.

`seeds.json` lists the folders and their pairs: `[["0000000", ["3101454402", "2"]], ...]`. A folder
has `prompt.json` with the instruction, `{"input": "a castle", "edit": "make it snow", "output":
"a castle in snow"}` (`caption` in the place of `input` in some), and for each pair
`3101454402_0.jpg` before and `3101454402_1.jpg` after the edit.

A row is an edit; each visit takes the next of its pairs. Source: timothybrooks/instruct-pix2pix,
edit_dataset.py (layout; one pair a visit).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orthus_core.data.document import Document, Place, path_inside, turn
from orthus_core.data.formats.picture_root import picture_at
from orthus_core.data.formats.split_names import split_of
from orthus_core.data.rows import IndexedRows, Rows, SourceOptions, row_key
from orthus_core.errors import DataError
from orthus_core.events import Event
from orthus_core.user_files import read_text
from orthus_core.wrong_content import true_cause

SEEDS = "seeds.json"
PROMPT = "prompt.json"
TEST_PERCENT = 5
"""Share of the sorted edits, at their end, that are the split `test`."""


def recognises(path: Path) -> bool:
    """Whether a path is the folder, or its list of edits."""
    return (path / SEEDS).is_file() if path.is_dir() else path.name == SEEDS and path.is_file()


def rows(path: Path, options: SourceOptions) -> Generator[Event, None, Rows]:
    """The edits of a folder, sorted by name.

    Args:
        path: The folder, or its `seeds.json`.
        options: `split` is "train" or "test"; without it both are read. `images` is the folder of
            the edits' folders, where it is another one.

    Raises:
        DataError: if the list of edits cannot be read, or there is no such split.
    """
    yield from ()
    file = path / SEEDS if path.is_dir() else path
    root = options.images or file.parent
    edits = _of_split(listed_edits(file), options.split, file)
    source = options.name or file.parent.absolute().name
    return IndexedRows(EditFolders(root, edits, file), partial(parse, source=source), str(path))


def listed_edits(file: Path) -> list[str]:
    """The edits that a `seeds.json` lists, sorted: name and seeds, with line ends between them; of
    an entry of another form its number alone, after two line ends.

    A text an edit takes a fifth of the memory of lists of lists: the published set has 313,010.

    Raises:
        DataError: if the file is no such list.
    """
    try:
        listed = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        fault = DataError(f"cannot read the list of edits: {reason}", where=str(file))
        raise true_cause(fault, file) from error
    if not isinstance(listed, list) or not listed:
        raise DataError(
            "the list of edits is empty, or no list",
            where=str(file),
            hint='it is [["0000000", ["3101454402", ...]], ...]; download it again',
        )
    return sorted(
        _entry(each) if _is_entry(each) else f"\n\n{number}"
        for number, each in enumerate(listed, start=1)
    )


def _is_entry(entry: Any) -> bool:
    match entry:
        case [str(name), [_, *_] as seeds]:
            text = "".join([name, *map(str, seeds)])
            return "\n" not in text and all(isinstance(each, (str, int)) for each in seeds)
    return False


def _entry(entry: Any) -> str:
    return "\n".join([entry[0], *map(str, entry[1])])


def _of_split(edits: list[str], split: str, file: Path) -> list[str]:
    begin_of_test = len(edits) * (100 - TEST_PERCENT) // 100
    match split_of(split):
        case "train":
            return edits[:begin_of_test]
        case "test":
            return edits[begin_of_test:]
    if split:
        raise DataError(
            f"there is no split {split!r} here", where=str(file), hint="there are train and test"
        )
    return edits


class EditPairs(NamedTuple):
    """An edit: its folder in a root, and its pairs of pictures.

    Attributes:
        root: Folder of all edits.
        name: Folder of this one.
        seeds: Name of each pair.
    """

    root: Path
    name: str
    seeds: list[str]


class EditFolders:
    """The edits of a folder; a `RecordIndex`.

    Args:
        root: Folder of the edits' folders.
        edits: The edits, as `listed_edits` gives them.
        file: The list that they are in.
    """

    def __init__(self, root: Path, edits: list[str], file: Path) -> None:
        self.root, self.file = root, file
        self._edits = edits

    def __len__(self) -> int:
        return len(self._edits)

    @property
    def identity(self) -> str:
        digest = hashlib.sha256("\0".join(self._edits).encode("utf-8", "surrogatepass"))
        return f"{len(self)} rows, {digest.hexdigest()[:10]}"

    def keys(self) -> np.ndarray:
        """A hash of each edit's name: uint64 [N]."""
        names = (edit.partition("\n")[0] or edit for edit in self._edits)
        return np.fromiter(map(row_key, names), np.uint64, len(self))

    def place(self, number: int) -> Place:
        name, _, rest = self._edits[number].partition("\n")
        return Place(self.root / name) if name else Place(self.file, part=f"record {rest.strip()}")

    def record(self, number: int) -> EditPairs:
        """The edit. Raises: DataError if its entry in the list has another form."""
        name, *seeds = self._edits[number].split("\n")
        if not name:
            raise DataError('the entry is not of the form ["0000000", ["3101454402", ...]]')
        return EditPairs(self.root, name, seeds)


def parse(record: EditPairs, place: Place, visit: int, *, source: str) -> Document:
    """The document of an edit: the picture before and the instruction, then the picture after.

    Args:
        record: The edit.
        place: Where it lies.
        visit: Chooses the pair, so that each comes once in as many visits as there are.
        source: Name of the data set.

    Raises:
        DataError: if its prompt cannot be read, or a picture is not there.
    """
    # From another one for each edit, or all would begin with what sorts first.
    seed = record.seeds[(row_key(record.name) + visit) % len(record.seeds)]
    folder = path_inside(record.root, record.name)
    instruction = _instruction(folder / PROMPT)
    before = picture_at(folder, f"{seed}_0.jpg")
    after = picture_at(folder, f"{seed}_1.jpg")
    segments = turn("user", before, instruction) + turn("model", after)
    return Document(segments, id=f"{record.name}/{seed}", source=source)


def _instruction(file: Path) -> str:
    try:
        prompt = json.loads(read_text(file))
    except FileNotFoundError as error:
        raise DataError(f"there is no {PROMPT}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise true_cause(DataError(f"cannot read {PROMPT}: {reason}"), file) from error
    instruction = prompt.get("edit") if isinstance(prompt, dict) else None
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError(f"{PROMPT} has no 'edit', which is the instruction")
    return instruction.strip()
