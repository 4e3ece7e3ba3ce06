"""POPE on disk: a file of questions for each split, or the hub's tables, and answers in their
order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation import pope
from orthus_core.evaluation.intervals import bootstrap_counts, wilson
from orthus_core.evaluation.official.hub_tables import (
    TablePicture,
    table_rows,
    tables_in,
    text_cells,
)
from orthus_core.evaluation.official.read_files import (
    COCO_FOLDERS,
    check_unique,
    column,
    data_of,
    join_predictions,
    picture_place,
    read_json_lines,
)
from orthus_core.evaluation.official.task import (
    SHORT_ANSWER,
    AnswerForm,
    AskedItem,
    OfficialScores,
    OfficialTask,
    ScoringRequest,
)

QUESTIONS = (
    'coco_pope_SPLIT.json, a line for each question: {"question_id": 1, '
    '"image": "COCO_val2014_000000310196.jpg", "text": "Is there a dog?", "label": "yes"}'
)
ANSWERS = 'a line for each question, in their order: {"question": "...", "answer": "Yes"}'
TABLES = (
    "a snapshot of the hub's lmms-lab/POPE: data/test-00000-of-00003.parquet, with question_id, "
    "question, answer, category, image_source and image"
)
TABLE_FILES = ("data/test-*.parquet", "test-*.parquet", "Full/*.parquet", "*.parquet")
ANSWERS_OF = "answers_"
SAID = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


class PopeSplit(NamedTuple):
    """The questions of a split.

    Attributes:
        name: random, popular or adversarial, or the name of a file without one of these.
        files: Where they lie.
        records: `question_id`, `text`, `label`; the id is the number of the line where it has none.
        pictures: The picture of each.
    """

    name: str
    files: list[Path]
    records: list[dict[str, Any]]
    pictures: list[Path | TablePicture]


def read_splits(data: Path) -> list[PopeSplit]:
    """All questions, from the official files or the hub's tables.

    Raises:
        DataError: When there are none, or they are of another layout.
    """
    if tables := tables_in(data, TABLE_FILES):
        return _splits_of_tables(tables)
    splits = []
    for split, path in _question_files(data).items():
        records = read_json_lines(path, QUESTIONS)
        for name in ("text", "label", "image"):
            column(records, [name], path)
        found = [
            {
                "question_id": each.get("question_id", number),
                "text": each["text"],
                "label": each["label"],
            }
            for number, each in enumerate(records, start=1)
        ]
        pictures = [picture_place(path.parent, each["image"], COCO_FOLDERS) for each in records]
        splits.append(PopeSplit(split, [path], found, [*pictures]))
    return splits


def data_files(data: Path) -> list[Path]:
    """The files that hold the questions."""
    return tables_in(data, TABLE_FILES) or [*_question_files(data).values()]


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The questions of all splits."""
    return [
        AskedItem(
            f"{split.name}/{each['question_id']}",
            each["text"] + SHORT_ANSWER,
            picture,
            each["label"],
            split.name,
            record={"question_id": each["question_id"], "question": each["text"]},
        )
        for split in read_splits(data)
        for each, picture in zip(split.records, split.pictures, strict=True)
    ]


def write_answers(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """A file of answers for each split, in the order of the questions."""
    lines: dict[str, list[str]] = {}
    for item in asked:
        record = {**(item.record or {}), "answer": said[item.key]}
        lines.setdefault(item.part, []).append(json.dumps(record, ensure_ascii=False))
    return {
        f"{ANSWERS_OF}{split}.jsonl": ("\n".join(each) + "\n").encode()
        for split, each in lines.items()
    }


def score(request: ScoringRequest) -> OfficialScores:
    """Scores answers files.

    Raises:
        DataError: When files are missing or do not belong together.
    """
    splits = [
        split
        for each in read_splits(data_of(request, "POPE needs its questions", QUESTIONS))
        if (split := _asked(each, request)).records
    ]
    answers = _answer_files(request.predictions, [split.name for split in splits])
    per_split: dict[str, dict[str, Any]] = {}
    strata: dict[str, dict[tuple[str, str], int]] = {}
    samples: list[dict[str, Any]] = []
    intervals, n_missing = {}, 0
    for split in splits:
        name, labels = split.name, [each["label"] for each in split.records]
        said = _answers(answers[name], split, request.allow_missing)
        n_missing += said.count(None)
        truth = pope.truths(labels, request.variant)
        # What is missing is wrong, and an empty answer would be a "yes".
        filled = [
            ("yes" if gold == "no" else "no") if answer is None else answer
            for answer, gold in zip(said, truth, strict=True)
        ]
        found = pope.score(filled, labels, request.variant)
        per_split[name] = found
        parsed = pope.readings(filled, request.variant)
        strata[name] = {}
        for pair in zip(parsed, truth, strict=True):
            strata[name][pair] = strata[name].get(pair, 0) + 1
        right = [*(a == b for a, b in zip(parsed, truth, strict=True))]
        intervals[f"{name}.accuracy"] = wilson(sum(right), len(right))
        intervals[f"{name}.f1"] = bootstrap_counts(
            {name: strata[name]}, lambda drawn, name=name: _f1(drawn[name])
        )
        samples += [
            {
                "id": f"{name}/{record['question_id']}",
                "prompt": record["text"],
                "answer": answer,
                "parsed": None if answer is None else word,
                "gold": record["label"],
                "right": hit,
            }
            for record, answer, word, hit in zip(split.records, said, parsed, right, strict=True)
        ]
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    intervals["accuracy"] = bootstrap_counts(
        strata, lambda drawn: _mean([_accuracy(each) for each in drawn.values()])
    )
    intervals["f1"] = bootstrap_counts(
        strata, lambda drawn: _mean([_f1(each) for each in drawn.values()])
    )
    notes = ["the paper's POPE column is most likely mean F1: compare both numbers"]
    if 1 < len(splits) < len(pope.SPLITS):
        notes.append(f"means over {', '.join(per_split)} only")
    return OfficialScores(
        n=len(samples),
        n_missing=n_missing,
        n_unparsed=sum(
            sample["answer"] is not None and not SAID.search(sample["answer"]) for sample in samples
        ),
        metrics={
            name: sum(each[name] for each in per_split.values()) / len(per_split) for name in names
        },
        per_category=per_split,
        intervals=intervals,
        samples=samples,
        files=[*dict.fromkeys(path for split in splits for path in split.files)],
        notes=notes,
    )


def _question_files(data: Path) -> dict[str, Path]:
    """Question files by split; a file without a split in its name is one of its own.

    Raises:
        DataError: When there is none.
    """
    if data.is_file():
        return {_split_of(data) or data.stem: data}
    found = sorted(data.glob("*pope*.json")) if data.is_dir() else []
    files = _by_split(found, data)
    if not files:
        raise DataError(
            "there are no questions of POPE",
            where=str(data),
            hint=f"expected: {QUESTIONS}; or {TABLES}",
        )
    return {split: files[split] for split in pope.SPLITS if split in files}


def _splits_of_tables(paths: Sequence[Path]) -> list[PopeSplit]:
    """Splits of the hub's tables, where a picture is in the row of each of its questions."""
    found: dict[str, PopeSplit] = {}
    first: dict[Any, TablePicture] = {}
    texts = ("question", "answer", "category")
    for path, number, row in table_rows(paths, ("question_id", *texts), TABLES, ("image_source",)):
        question, label, split = text_cells(row, texts, path, number)
        held = TablePicture(path, number, "image")
        # The same picture is read once.
        source = row.get("image_source")
        picture = held if source is None else first.setdefault(source, held)
        part = found.setdefault(split, PopeSplit(split, [], [], []))
        part.records.append({"question_id": row["question_id"], "text": question, "label": label})
        part.pictures.append(picture)
        part.files.extend([path] if path not in part.files else [])
    if not found:
        raise DataError("a table without rows", where=str(paths[0]), hint=f"expected: {TABLES}")
    order = [*(name for name in pope.SPLITS if name in found), *found]
    return [found[name] for name in dict.fromkeys(order)]


def _asked(split: PopeSplit, request: ScoringRequest) -> PopeSplit:
    """The questions of a split that were asked."""
    if request.keys is None:
        return split
    records = [
        each for each in split.records if request.asks(f"{split.name}/{each['question_id']}")
    ]
    return split._replace(records=records)


def _by_split(found: Sequence[Path], where: Path) -> dict[str, Path]:
    """Files by the split in their names. Raises: DataError where two are of one."""
    files: dict[str, Path] = {}
    for path in found:
        other = files.setdefault(split := _split_of(path), path)
        if split and other != path:
            raise DataError(
                f"2 files could be meant for {split}: {other.name}, {path.name}",
                where=str(where),
                hint="keep one of them in the folder",
            )
    return {split: path for split, path in files.items() if split}


def _split_of(path: Path) -> str:
    return next((split for split in pope.SPLITS if split in path.stem), "")


def _answer_files(predictions: Path, splits: Sequence[str]) -> dict[str, Path]:
    if predictions.is_file():
        if len(splits) > 1:
            raise DataError(
                f"one answers file for {len(splits)} splits",
                where=str(predictions),
                hint="give a folder with one for each split, or one question file with --data",
            )
        return {split: predictions for split in splits}
    found = [path for kind in (".json", ".jsonl") for path in sorted(predictions.glob(f"*{kind}"))]
    files = _by_split(found, predictions)
    # A question file whose name has no split lends its own name.
    files |= {split: path for split in splits for path in found if path.stem == ANSWERS_OF + split}
    lacking = [split for split in splits if split not in files]
    if lacking:
        raise DataError(
            f"there are no answers for {', '.join(lacking)}",
            where=str(predictions),
            hint=f"a file for each split, such as answers_{lacking[0]}.jsonl: {ANSWERS}",
        )
    return files


def _answers(path: Path, split: PopeSplit, allow_missing: bool) -> list[str | None]:
    """Answers in the order of the questions; None for a missing one."""
    lines = read_json_lines(path, ANSWERS)
    said = column(lines, ["answer", "text"], path)
    records = split.records
    # The official files hold numbers, the hub's tables their text.
    keys = [str(record["question_id"]) for record in records]
    check_unique(keys, split.files[0])
    if all("question_id" in line for line in lines):
        named = [str(line["question_id"]) for line in lines]
        joined = join_predictions(named, said, keys, path, allow_missing=allow_missing)
        return [joined.by_key.get(key) for key in keys]
    if len(lines) != len(records):
        raise DataError(
            f"{len(lines)} answers for {len(records)} questions, and no question_id in them",
            where=str(path),
            hint="answers belong to questions by their lines; with question_id some may be missing",
        )
    for number, (line, record) in enumerate(zip(lines, records, strict=True), start=1):
        question = line.get("question")
        # Programs write the whole prompt there, with marks of the picture before the question.
        if isinstance(question, str) and _plain(record["text"]) not in _plain(question):
            raise DataError(
                f"line {number} answers another question: {question!r}",
                where=str(path),
                hint=f"these are answers for another set or order than {split.files[0].name}",
            )
    return [*said]


def _plain(text: str) -> str:
    """A text without differences of case and white space."""
    return " ".join(text.lower().split())


def _mean(values: Any) -> Any:
    return sum(values) / len(values)


def _accuracy(counts: Any) -> Any:
    return sum(n for (said, gold), n in counts.items() if said == gold) / sum(counts.values())


def _f1(counts: Any) -> Any:
    """F1 of resampled counts: 2 TP / (2 TP + FP + FN); for `lmms`, other words are no answers."""
    import numpy as np

    zero = 0 * sum(counts.values())
    hits = counts.get(("yes", "yes"), zero)
    wrong = counts.get(("yes", "no"), zero) + counts.get(("no", "yes"), zero)
    return 2 * hits / np.maximum(2 * hits + wrong, 1)


TASK = OfficialTask(
    name="pope",
    measures="Whether a model says yes to things that are not in the picture",
    files=(
        QUESTIONS,
        "pictures of COCO val2014, in val2014/ beside them (to answer, not to score)",
        f"or {TABLES}",
    ),
    source="github.com/AoiDragon/POPE, output/coco; pictures: cocodataset.org, val2014.zip; "
    "tables: hub lmms-lab/POPE",
    predictions=f"for each split, {ANSWERS}",
    prompt="the question" + SHORT_ANSWER.replace("\n", " \\n "),
    metric="accuracy, precision, recall, F1 and share of yes for each split, and their means",
    variants=pope.VARIANTS,
    paper='79.6 "exact match accuracy"; the LLaVA number beside it (85.9) is a mean F1',
    score=score,
    items=items,
    form=AnswerForm(data_files, write_answers),
)
