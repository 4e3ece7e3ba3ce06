"""Edited pictures on disk, with the pictures and captions before and after: InstructPix2Pix's own
folders, or a file of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation import clip_edit
from orthus_core.evaluation.clip import ClipEncoder
from orthus_core.evaluation.intervals import bootstrap
from orthus_core.evaluation.official.hub_tables import (
    TablePicture,
    table_rows,
    tables_in,
    text_cells,
)
from orthus_core.evaluation.official.read_files import (
    check_fields,
    check_unique,
    column,
    read_json,
    read_json_lines,
)
from orthus_core.evaluation.official.task import AskedItem, OfficialScores
from orthus_core.evaluation.picture_folders import NamedPictures
from orthus_core.events import Progress

PAIRS = (
    'a line for each edit: {"id", "image": "before.png", "input": "caption before", "output": '
    '"caption after", "edit": "instruction"}'
)
FOLDERS = (
    "seeds.json, [[NUMBER, [SEED, ...]], ...], and NUMBER/prompt.json with input, edit and output, "
    "NUMBER/SEED_0.jpg"
)
TABLES = (
    "a snapshot of the hub's timbrooks/instructpix2pix-clip-filtered: data/train-*.parquet, with "
    "original_prompt, original_image, edit_prompt and edited_prompt"
)
TABLE_FILES = ("data/train-*.parquet", "train-*.parquet", "*.parquet")
TEST_SHARE = 0.05  # of the sorted seeds.json, at its end
BATCH = 16
NAMES = {"clip_t": "sim_1", "clip_i": "sim_image", "clip_d": "sim_direction"}


class EditPair(NamedTuple):
    """An edit: its picture and caption before, its caption after, and its instruction."""

    key: str
    before: Path | TablePicture
    caption_before: str
    caption_after: str
    instruction: str


def read_edits(data: Path) -> tuple[list[Path], list[EditPair]]:
    """The files that were read, and the edits.

    Args:
        data: A file of PAIRS, or a folder of FOLDERS or TABLES, whose last 5% are the test set.

    Raises:
        DataError: When files are missing or of another layout.
    """
    if tables := tables_in(data, TABLE_FILES):
        return tables, _edits_of_tables(tables)
    if not data.is_dir():
        records = read_json_lines(data, PAIRS)
        for number, each in enumerate(records, start=1):
            needed = ("id", "image", "input", "output")
            check_fields(each, needed, f"record {number}", data, PAIRS)
        check_unique([str(each["id"]) for each in records], data)
        texts = [column(records, [name], data) for name in ("image", "input", "output")]
        edits = column([{"edit": "", **each} for each in records], ["edit"], data)
        return [data], [
            EditPair(str(each["id"]), data.parent / image, before, after, edit)
            for each, image, before, after, edit in zip(records, *texts, edits, strict=True)
        ]
    file = data / "seeds.json"
    listed = read_json(file, list, FOLDERS)
    files, found = [file], []
    for each in listed[int(len(listed) * (1 - TEST_SHARE)) :]:
        if not _is_seeds(each):
            raise DataError("seeds of another layout", where=str(file), hint=FOLDERS)
        number, seeds = each
        about = data / number / "prompt.json"
        prompt = read_json(about, dict, FOLDERS)
        before = prompt.get("input", prompt.get("caption"))  # the generator writes `caption`
        texts = (before, prompt.get("edit"), prompt.get("output"))
        if not all(isinstance(text, str) for text in texts):
            raise DataError("an edit of another layout", where=str(about), hint=FOLDERS)
        # Officially a seed is drawn at random; the first is the same in every run.
        picture = data / number / f"{seeds[0]}_0.jpg"
        found.append(EditPair(number, picture, before, prompt["output"], prompt["edit"]))
        files.append(about)
    if not found:
        raise DataError("there are no edits", where=str(file), hint=FOLDERS)
    return files, found


def _is_seeds(record: Any) -> bool:
    """Whether it is a folder's name and the seeds of its pictures."""
    return (
        isinstance(record, list)
        and len(record) == 2
        and isinstance(record[0], str)
        and isinstance(record[1], list)
        and bool(record[1])
    )


def _edits_of_tables(paths: list[Path]) -> list[EditPair]:
    """The last 5% of the rows; an edit has the number of its row."""
    columns = ("original_prompt", "edit_prompt", "edited_prompt")
    rows = [*table_rows(paths, columns, TABLES)]
    if not rows:
        raise DataError("a table without rows", where=str(paths[0]), hint=f"expected: {TABLES}")
    first = int(len(rows) * (1 - TEST_SHARE))
    found = []
    for at, (path, number, row) in enumerate(rows[first:], start=first):
        before, edit, after = text_cells(row, columns, path, number)
        held = TablePicture(path, number, "original_image")
        found.append(EditPair(f"{at:07d}", held, before, after, edit))
    return found


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The edits, as a model reads them.

    Raises:
        DataError: When files are missing or of another layout, or an edit has no instruction or no
            name that a file could have.
    """
    found = []
    for each in read_edits(data)[1]:
        if not each.instruction.strip():
            raise DataError(f"the edit {each.key} has no instruction", where=str(data), hint=PAIRS)
        if Path(each.key).name != each.key:
            raise DataError(
                f"the id {each.key!r} is no name of a picture",
                where=str(data),
                hint="ids name the edited pictures: letters, digits, hyphens",
            )
        found.append(AskedItem(each.key, each.instruction, each.before, None))
    return found


def score_edits(
    pictures: Path, data: Path, encoder: ClipEncoder
) -> Iterator[Progress | OfficialScores]:
    """Scores a folder of edited pictures, named after the edits; the scores come last.

    Raises:
        DataError: When pictures are missing.
    """
    files, edits = read_edits(data)
    named = NamedPictures(pictures)
    after = [named.find(each.key) for each in edits]
    for each in edits:
        if isinstance(each.before, TablePicture):
            each.before.check()
        elif not each.before.is_file():
            raise DataError("the picture before an edit is missing", where=str(each.before))
    rows: list[dict[str, float]] = []
    for first in range(0, len(edits), BATCH):
        part = edits[first : first + BATCH]
        features = (
            encoder.stretched_pictures([_source(each.before) for each in part]),
            encoder.stretched_pictures(after[first : first + BATCH]),
            encoder.captions([each.caption_before for each in part]),
            encoder.captions([each.caption_after for each in part]),
        )
        for four in zip(*features, strict=True):
            found = clip_edit.similarities(*four)
            rows.append({name: found[theirs] for name, theirs in NAMES.items()})
        yield Progress("similarity", len(rows), len(edits), "edits")
    columns = {name: [row[name] for row in rows] for name in NAMES}
    yield OfficialScores(
        n=len(edits),
        n_missing=0,
        n_unparsed=0,
        metrics={name: _mean(values) for name, values in columns.items()},
        per_category={},
        intervals={name: bootstrap(values, _mean) for name, values in columns.items()},
        samples=[
            {
                "id": each.key,
                "prompt": each.instruction,
                "picture": path.relative_to(pictures).as_posix(),
                "caption_before": each.caption_before,
                "caption_after": each.caption_after,
                "scores": row,
            }
            for each, path, row in zip(edits, after, rows, strict=True)
        ],
        files=files,
        notes=_notes(data, edits),
    )


def _source(picture: Path | TablePicture) -> Path | bytes:
    return picture if isinstance(picture, Path) else picture.content


def _notes(data: Path, edits: list[EditPair]) -> list[str]:
    if isinstance(edits[0].before, TablePicture):
        return ["the last 5% of the hub's rows: not the official test set, whose seeds it lacks"]
    if data.is_dir():
        return ["officially a picture of each edit is drawn at random; here it is the first"]
    return []


def _mean(values: Any) -> float:
    return sum(values) / len(values)
