"""Files of benchmarks: JSON, JSON lines and tables, with errors that name the expected layout."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation.official.task import AskedItem, ScoringRequest
from orthus_core.user_files import read_text
from orthus_core.wrong_content import true_cause

BLOCK = 1 << 20
# Folders of COCO's pictures, beside the questions of POPE and VQAv2.
COCO_FOLDERS = ("val2014", "coco/val2014", "images")


class JoinedPredictions(NamedTuple):
    """Predictions by the id of their question, and the number of questions without one."""

    by_key: dict[Any, Any]
    n_missing: int


def data_of(request: ScoringRequest, need: str, layout: str) -> Path:
    """The place of the benchmark's own files.

    Args:
        request: What is to be scored.
        need: What the benchmark needs, for the error.
        layout: The layout of the files, for the error.

    Raises:
        DataError: When the request names none.
    """
    if request.data is None:
        raise DataError(need, hint=f"--data: {layout}")
    return request.data


def read_json(path: Path, kind: type, layout: str) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        kind: dict or list, which it must be.
        layout: Its layout, for the error.

    Raises:
        DataError: When it is missing, no JSON, or of another kind.
    """
    text = text_of(path, layout)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        damaged = DataError(f"no JSON: {error}", where=str(path), hint=f"expected: {layout}")
        raise true_cause(damaged, path) from error
    if not isinstance(content, kind):
        raise DataError("JSON of another layout", where=str(path), hint=f"expected: {layout}")
    return content


def read_json_lines(path: Path, layout: str) -> list[dict[str, Any]]:
    """The records of a file with one JSON object a line; a JSON array of them is read too.

    Raises:
        DataError: When it is missing, empty, or a line is no object.
    """
    text = text_of(path, layout)
    if text.lstrip().startswith("["):
        records = read_json(path, list, layout)
        lines = [*enumerate(records, start=1)]
    else:
        lines = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                lines.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                damaged = DataError(
                    f"line {number} is no JSON: {error}",
                    where=str(path),
                    hint=f"expected: {layout}",
                )
                raise true_cause(damaged, path) from error
    for number, record in lines:
        if not isinstance(record, dict):
            raise DataError(
                f"record {number} is no object", where=str(path), hint=f"expected: {layout}"
            )
    if not lines:
        raise DataError("a file without records", where=str(path), hint=f"expected: {layout}")
    return [record for _, record in lines]


def check_there(place: Path, layout: str) -> None:
    """Check that a file or folder exists.

    Raises:
        DataError: When it does not.
    """
    if not place.exists():
        raise DataError(
            "there is no such file or folder", where=str(place), hint=f"expected: {layout}"
        )


def find_file(place: Path, patterns: Sequence[str], layout: str) -> Path:
    """A file, or the only one in a folder whose name fits one of the patterns; the first pattern
    that any file fits counts.

    Raises:
        DataError: When there is none, or more than one.
    """
    if place.is_file():
        return place
    check_there(place, layout)
    for pattern in patterns:
        found = sorted(path for path in place.glob(pattern) if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:3])
            raise DataError(
                f"{len(found)} files could be meant: {names}",
                where=str(place),
                hint="name one of them",
            )
    raise DataError(
        f"there is no {' or '.join(patterns)}", where=str(place), hint=f"expected: {layout}"
    )


def check_fields(record: Any, needed: Sequence[str], what: str, where: Path, layout: str) -> None:
    """Check that a record is an object with the fields that a scorer reads.

    Args:
        record: Content of a JSON file.
        needed: Names of the fields.
        what: Which record it is, for the error.
        where: The file, for the error.
        layout: Its layout, for the error.

    Raises:
        DataError: When fields are missing.
    """
    lacking = [name for name in needed if not isinstance(record, dict) or name not in record]
    if lacking:
        raise DataError(
            f"{what} has no {', '.join(lacking)}", where=str(where), hint=f"expected: {layout}"
        )


def check_ids(keys: Iterable[Any], where: Path, layout: str) -> None:
    """Check that ids are numbers or texts.

    Raises:
        DataError: When one is something else, or missing.
    """
    for number, key in enumerate(keys, start=1):
        if not isinstance(key, (int, str)):
            raise DataError(
                f"the id of record {number} is {'missing' if key is None else repr(key)}",
                where=str(where),
                hint=f"expected: {layout}",
            )


def column(records: Iterable[Mapping[str, Any]], names: Sequence[str], where: Path) -> list[str]:
    """A column of records, under one of several names, as text.

    Raises:
        DataError: When one is no record, or has none of them, or something else than text.
    """
    values = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise DataError(f"record {number} is no object", where=str(where))
        value = next((record[name] for name in names if name in record), None)
        if not isinstance(value, str):
            raise DataError(
                f"record {number} has no text {' or '.join(map(repr, names))}",
                where=str(where),
                hint=f"give each record {' or '.join(map(repr, names))} as text; the keys of this "
                f"one are {', '.join(map(repr, record))}",
            )
        values.append(value)
    return values


def check_unique(keys: Sequence[Any], where: Path) -> None:
    """Check that no id occurs twice.

    Raises:
        DataError: When one does.
    """
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} ids occur more than once, such as {twice[0]}",
            where=str(where),
            hint="keep one record of each id; joined parts of a run may overlap",
        )


def check_complete(
    found: Iterable[Any], asked: Sequence[Any], where: Path, *, allow_missing: bool
) -> int:
    """Check that predictions are of the questions that were asked.

    Returns:
        The number of questions without a prediction.

    Raises:
        DataError: When predictions are of other questions, or some are missing and may not be.
    """
    known, said = set(asked), set(found)
    foreign = [key for key in said if key not in known]
    if foreign:
        raise DataError(
            f"{len(foreign)} of {len(said)} predictions are of questions that are not in this set, "
            f"such as {min(foreign, key=str)}",
            where=str(where),
            hint="these are answers for another set or split: give its files with --data",
        )
    missing = [key for key in asked if key not in said]
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing)} of {len(asked)} questions have no prediction, such as {missing[0]}",
            where=str(where),
            hint="answer them, or count them as wrong with --allow-missing",
        )
    return len(missing)


def join_predictions(
    keys: Sequence[Any],
    predictions: Sequence[Any],
    asked: Sequence[Any],
    where: Path,
    *,
    allow_missing: bool,
) -> JoinedPredictions:
    """Predictions by question.

    Args:
        keys: The id of each prediction's question.
        predictions: The predictions, in the same order.
        asked: The ids of all questions.
        where: The file or folder of predictions, for errors.
        allow_missing: Whether questions may have no prediction.

    Raises:
        DataError: When a question has several predictions, a prediction is of another set, or some
            are missing and may not be.
    """
    check_unique(keys, where)
    n_missing = check_complete(keys, asked, where, allow_missing=allow_missing)
    return JoinedPredictions(dict(zip(keys, predictions, strict=True)), n_missing)


def data_hash(files: Iterable[Path]) -> str:
    """SHA-256 of files: names and contents, whatever folder they lie in."""
    whole = hashlib.sha256()
    for path in sorted(files, key=lambda path: (path.name, str(path))):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                content.update(block)
        whole.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    return whole.hexdigest()


def missing_pictures(items: Iterable[AskedItem]) -> list[Path]:
    """Pictures of questions that are not there."""
    pictures = dict.fromkeys(item.picture for item in items if isinstance(item.picture, Path))
    return [path for path in pictures if not path.is_file()]


def answers_file(predictions: Path, name: str, layout: str) -> Path:
    """The file of answers: named itself, or the folder that `orthus eval predict` has written.

    Raises:
        DataError: When the folder has none.
    """
    return find_file(predictions, [name], layout) if predictions.is_dir() else predictions


def json_array(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as a JSON array, each on its own line."""
    lines = [json.dumps(each, ensure_ascii=False) for each in records]
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def picture_place(folder: Path, name: str, folders: Sequence[str]) -> Path:
    """Where a picture lies: in one of the usual folders beside the questions, or beside them."""
    for each in folders:
        if (folder / each / name).is_file():
            return folder / each / name
    return folder / folders[0] / name if folders else folder / name


def text_of(path: Path, layout: str) -> str:
    """The text of a file.

    Raises:
        DataError: When it is missing or cannot be read.
    """
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), hint=f"expected: {layout}")
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        damaged = DataError(f"the file cannot be read: {error}", where=str(path))
        raise true_cause(damaged, path, error) from error
