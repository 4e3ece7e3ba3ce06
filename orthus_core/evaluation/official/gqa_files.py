"""GQA on disk: a file of questions by their ids, or the hub's tables; an array of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation import gqa
from orthus_core.evaluation.intervals import Interval, wilson
from orthus_core.evaluation.official.hub_tables import (
    SUFFIX,
    TablePicture,
    table_rows,
    tables_in,
)
from orthus_core.evaluation.official.read_files import (
    answers_file,
    check_fields,
    check_ids,
    check_unique,
    column,
    data_of,
    find_file,
    join_predictions,
    json_array,
    picture_place,
    read_json,
)
from orthus_core.evaluation.official.task import (
    LONGEST_ANSWER_OF_LMMS,
    SHORT_ANSWER,
    AnswerForm,
    AskedItem,
    OfficialScores,
    OfficialTask,
    ScoringRequest,
)

QUESTIONS = (
    'testdev_balanced_questions.json: {"ID": {"question", "imageId", "answer", "isBalanced", '
    '"types": {"structural", "semantic", "detailed"}, ...}}'
)
TABLES = (
    "a snapshot of the hub's lmms-lab/GQA: testdev_balanced_instructions/testdev-*.parquet with "
    "id, imageId, question, answer, isBalanced and types; "
    "testdev_balanced_images/testdev-*.parquet with id and image"
)
TABLE_FILES = ("*balanced_instructions/*.parquet", "*instructions/*.parquet", "*.parquet")
PICTURE_FILES = ("*balanced_images/*.parquet", "*images/*.parquet")
PREDICTIONS = 'a JSON array: [{"questionId": "201307251", "prediction": "yes"}]'
PREDICTIONS_FILE = "predictions.json"
FILES = ("testdev_balanced_questions.json", "*balanced_questions.json", "*questions.json")
NEEDED = ("question", "answer", "imageId", "isBalanced", "types")
# Nobody answers with this, so it is wrong.
NO_ANSWER = "\0"


class GqaQuestions(NamedTuple):
    """Questions of GQA.

    Attributes:
        files: Where they lie.
        balanced: The balanced ones, by id.
        unbalanced: The ids of the others, which are not scored.
    """

    files: list[Path]
    balanced: dict[str, dict[str, Any]]
    unbalanced: frozenset[str]


def read_questions(data: Path) -> GqaQuestions:
    """The questions of the official file, or of the hub's tables.

    Raises:
        DataError: When they are missing or of another layout.
    """
    files = tables_in(data, TABLE_FILES)
    if files:
        columns = ("id", *NEEDED)
        rows = [*table_rows(files, columns, TABLES, ("semantic", "groups"))]
        check_unique([row["id"] for _, _, row in rows], files[0])
        content = {str(row.pop("id")): row for _, _, row in rows}
        layout = TABLES
    else:
        path = find_file(data, FILES, QUESTIONS)
        files, content, layout = [path], read_json(path, dict, QUESTIONS), QUESTIONS
    for key, each in content.items():
        check_fields(each, NEEDED, f"question {key}", files[0], layout)
        if not _is_question(each):
            raise DataError(
                f"question {key} is of another layout",
                where=str(files[0]),
                hint=f"expected: {layout}",
            )
    balanced = {key: each for key, each in content.items() if each["isBalanced"]}
    if not balanced:
        raise DataError("no balanced questions", where=str(files[0]), hint=f"expected: {layout}")
    return GqaQuestions(files, balanced, frozenset(content.keys() - balanced.keys()))


def _is_question(record: dict[str, Any]) -> bool:
    """Whether the fields that a scorer reads are what they should be."""
    steps = record.get("semantic") or []
    return (
        all(isinstance(record[name], str) for name in ("question", "answer", "imageId"))
        and isinstance(record["types"], dict)
        and isinstance(record.get("groups") or {}, dict)
        and isinstance(steps, list)
        and all(isinstance(step, dict) and {"operation", "argument"} <= {*step} for step in steps)
    )


def items(data: Path, variant: str = "llava") -> list[AskedItem]:
    """The balanced questions."""
    files, questions, _ = read_questions(data)
    held: dict[str, TablePicture] = {}
    if files[0].suffix == SUFFIX:
        # The tables of pictures lie beside those of questions.
        beside = tables_in(data, PICTURE_FILES) or tables_in(files[0].parent.parent, PICTURE_FILES)
        for path, number, row in table_rows(beside, ("id",), TABLES):
            held[str(row["id"])] = TablePicture(path, number, "image")
        lacking = [each["imageId"] for each in questions.values() if each["imageId"] not in held]
        if lacking:
            raise DataError(
                f"{len({*lacking})} pictures are missing, such as {lacking[0]}",
                where=str(data),
                hint=f"expected: {TABLES}",
            )
    return [
        AskedItem(
            key,
            each["question"] + SHORT_ANSWER,
            held.get(each["imageId"])
            or picture_place(files[0].parent, f"{each['imageId']}.jpg", ("images",)),
            each["answer"],
            each["types"].get("structural") or "",
        )
        for key, each in questions.items()
    ]


def write_answers(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """The array of predictions, in the order of the questions."""
    records = [{"questionId": item.key, "prediction": said[item.key]} for item in asked]
    return {PREDICTIONS_FILE: json_array(records)}


def score(request: ScoringRequest) -> OfficialScores:
    """Scores a predictions file.

    Raises:
        DataError: When files are missing or do not belong together.
    """
    files, balanced, unbalanced = read_questions(
        data_of(request, "GQA needs its questions", QUESTIONS)
    )
    questions = {key: each for key, each in balanced.items() if request.asks(key)}
    place = answers_file(request.predictions, PREDICTIONS_FILE, PREDICTIONS)
    records = read_json(place, list, PREDICTIONS)
    column(records, ["prediction"], place)
    check_ids([each.get("questionId") for each in records], place, PREDICTIONS)
    # Answers to the whole set are scored as officially: on its balanced questions.
    records = [each for each in records if str(each["questionId"]) not in unbalanced]
    keys = [str(each["questionId"]) for each in records]
    texts = [each["prediction"] for each in records]
    said, n_missing = join_predictions(
        keys, texts, [*questions], place, allow_missing=request.allow_missing
    )
    filled = {key: said.get(key, NO_ANSWER) for key in questions}
    found = gqa.score(questions, filled, request.variant)
    samples = [
        {
            "id": key,
            "prompt": each["question"],
            "answer": said.get(key),
            "parsed": gqa.compared(said[key], request.variant) if key in said else None,
            "gold": each["answer"],
            "right": gqa.is_right(filled[key], each["answer"], request.variant),
            "kind": gqa.answer_kind(each),
        }
        for key, each in questions.items()
    ]
    intervals = {}
    for kind in ("accuracy", "binary", "open"):
        outcomes = [
            sample["right"]
            for sample, each in zip(samples, questions.values(), strict=True)
            if kind in ("accuracy", gqa.answer_kind(each))
        ]
        low, high = wilson(sum(outcomes), len(outcomes))
        intervals[kind] = Interval(100 * low, 100 * high)
    numbers = ("accuracy", "binary", "open", "distribution")
    return OfficialScores(
        n=found["n"],
        n_missing=n_missing,
        n_unparsed=sum(key in said and not said[key].strip() for key in questions),
        metrics={name: found[name] for name in numbers},
        per_category={name: found[name] for name in found if name.startswith("per_")},
        intervals=intervals,
        samples=samples,
        files=files,
    )


TASK = OfficialTask(
    name="gqa",
    measures="Compositional questions about scenes, with one right answer each",
    files=(QUESTIONS, "pictures images/IMAGEID.jpg (to answer)", f"or {TABLES}"),
    source="cs.stanford.edu/people/dorarad/gqa/download.html: questions1.2.zip, images.zip; "
    "tables: hub lmms-lab/GQA",
    predictions=PREDICTIONS,
    prompt="the question" + SHORT_ANSWER.replace("\n", " \\n "),
    metric="share of predictions equal to the answer, in percent; binary, open, by type and length",
    variants={name: gqa.VARIANTS[name] for name in ("llava", "strict", "official", "lmms")},
    paper="52.8 (testdev balanced)",
    score=score,
    items=items,
    form=AnswerForm(
        lambda data: read_questions(data).files, write_answers, {"lmms": LONGEST_ANSWER_OF_LMMS}
    ),
)
