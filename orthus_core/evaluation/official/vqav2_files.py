"""VQAv2 on disk: questions and annotations, or the hub's tables, and a results file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation import vqav2
from orthus_core.evaluation.intervals import bootstrap_counts
from orthus_core.evaluation.official.hub_tables import (
    TablePicture,
    table_rows,
    tables_in,
    text_cells,
)
from orthus_core.evaluation.official.read_files import (
    COCO_FOLDERS,
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
    'v2_OpenEnded_mscoco_val2014_questions.json: {"questions": [{"image_id", "question", '
    '"question_id"}]}'
)
ANNOTATIONS = (
    'v2_mscoco_val2014_annotations.json: {"annotations": [{"question_id", "image_id", '
    '"question_type", "answer_type", "answers": [{"answer", "answer_confidence", "answer_id"}]}]}'
)
TABLES = (
    "a snapshot of the hub's lmms-lab/VQAv2: data/validation-00000-of-00068.parquet, with "
    "question_id, question, image_id, answers, answer_type, question_type and image"
)
TABLE_FILES = ("data/validation-*.parquet", "validation-*.parquet", "*.parquet")
RESULTS = 'a JSON array: [{"question_id": 1, "answer": "yes"}]'
RESULTS_FILE = "results.json"
COLUMNS = ("question_id", "question", "image_id", "answers", "answer_type", "question_type")
SUBMISSION = "evalai_submission.json"


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The questions of the official files, or of the hub's tables; without annotations (test sets),
    gold is None.
    """
    if tables := tables_in(data, TABLE_FILES):
        return _items_of_tables(tables)
    path = questions_file(data)
    questions = _records(path, "questions", QUESTIONS)
    gold: dict[Any, Any] = {}
    found = sorted(path.parent.glob("*annotations.json"))
    if found:
        records = _records(found[0], "annotations", ANNOTATIONS)
        gold = {str(each["question_id"]): each["answers"] for each in records}
    split = next((name for name in ("val2014", "train2014", "test2015") if name in path.name), "")
    asked = []
    for text, each in zip(column(questions, ["question"], path), questions, strict=True):
        name = f"COCO_{split or 'val2014'}_{int(each['image_id']):012d}.jpg"
        places = (split, *COCO_FOLDERS) if split else COCO_FOLDERS
        picture = picture_place(path.parent, name, places)
        key = each["question_id"]
        record, prompt = {"question_id": key}, text + SHORT_ANSWER
        asked.append(AskedItem(str(key), prompt, picture, gold.get(str(key)), record=record))
    return asked


def _items_of_tables(paths: Sequence[Path]) -> list[AskedItem]:
    """Questions of the hub's tables, where a picture is in the row of each of its questions."""
    first: dict[Any, TablePicture] = {}
    asked = []
    for path, number, row in table_rows(paths, COLUMNS, TABLES):
        picture = first.setdefault(row["image_id"], TablePicture(path, number, "image"))
        (question,) = text_cells(row, ("question",), path, number)
        key = row["question_id"]
        asked.append(
            AskedItem(
                str(key),
                question + SHORT_ANSWER,
                picture,
                row["answers"] or None,
                record={"question_id": key},
            )
        )
    return asked


def data_files(data: Path) -> list[Path]:
    """The files that hold the questions."""
    return tables_in(data, TABLE_FILES) or [questions_file(data)]


def questions_file(data: Path) -> Path:
    """The file of questions. Raises: DataError when there is none, or more than one."""
    return find_file(data, ["*[qQ]uestions.json"], QUESTIONS)


class VqaAnnotations(NamedTuple):
    """What answers are scored by.

    Attributes:
        files: The files that were read.
        annotations: Records of the annotation file.
        texts: Questions by their id, where they are known.
    """

    files: list[Path]
    annotations: list[dict[str, Any]]
    texts: dict[Any, str]


def read_annotations(data: Path) -> VqaAnnotations:
    """The annotations, and the questions if they lie beside them.

    Raises:
        DataError: When they are missing or of another layout.
    """
    if tables := tables_in(data, TABLE_FILES):
        rows = [
            row for _, _, row in table_rows(tables, COLUMNS, TABLES, ("multiple_choice_answer",))
        ]
        if any(not row["answers"] for row in rows):
            raise DataError(
                "questions without answers, as in test sets",
                where=str(tables[0]),
                hint="score the validation set, or submit results to the server",
            )
        return VqaAnnotations(
            tables, rows, {str(row["question_id"]): row["question"] for row in rows}
        )
    path = find_file(data, ["*annotations.json"], ANNOTATIONS)
    annotations = _records(path, "annotations", ANNOTATIONS)
    beside = sorted(path.parent.glob("*[qQ]uestions.json"))
    if len(beside) != 1 or beside[0] == path:
        return VqaAnnotations([path], annotations, {})
    questions = _records(beside[0], "questions", QUESTIONS)
    texts = {str(each["question_id"]): each["question"] for each in questions}
    asked = {str(each["question_id"]) for each in annotations}
    vqav2.check_same_questions("annotations", asked, texts.keys())
    return VqaAnnotations([path, *beside], annotations, texts)


def write_answers(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """The array of results, in the order of the questions."""
    records = [{**(item.record or {}), "answer": said[item.key]} for item in asked]
    return {RESULTS_FILE: json_array(records)}


def score(request: ScoringRequest) -> OfficialScores:
    """Scores a results file, and prepares one for the test server.

    Raises:
        DataError: When files are missing or do not belong together.
    """
    data = data_of(request, "VQAv2 needs its annotations", f"a folder with {ANNOTATIONS}")
    files, every, texts = read_annotations(data)
    annotations = [each for each in every if request.asks(str(each["question_id"]))]
    # Ids are numbers officially; who writes them as text means the same.
    asked = [str(each["question_id"]) for each in annotations]
    check_unique(asked, files[0])
    place = answers_file(request.predictions, RESULTS_FILE, RESULTS)
    results = read_json(place, list, RESULTS)
    answers = column(results, ["answer"], place)
    check_ids([each.get("question_id") for each in results], place, RESULTS)
    named = [str(each["question_id"]) for each in results]
    said, n_missing = join_predictions(
        named, answers, asked, place, allow_missing=request.allow_missing
    )

    shares: dict[str, Counter[float]] = defaultdict(Counter)
    samples, filled = [], []
    for each in annotations:
        key = each["question_id"]
        answer = said.get(str(key))
        # Nobody answers with nothing, so what is missing is wrong.
        share = 0.0 if answer is None else vqav2.agreement(answer, each["answers"], request.variant)
        filled.append((each, share))
        shares[each["answer_type"]][share] += 1
        samples.append(
            {
                "id": key,
                "prompt": texts.get(str(key), ""),
                "answer": answer,
                "parsed": None if answer is None else vqav2.read_answer(answer, request.variant),
                "gold": each.get("multiple_choice_answer"),
                "right": share,
                "kind": each["answer_type"],
            }
        )
    overall = sum(shares.values(), Counter[float]())
    intervals = {"overall": bootstrap_counts({"": overall}, _mean)}
    for name, counts in shares.items():
        intervals[f"{name}.accuracy"] = bootstrap_counts({"": counts}, _mean)
    submission = [
        {
            "question_id": each["question_id"],
            "answer": vqav2.submission_answer(said.get(str(each["question_id"]), "")),
        }
        for each in annotations
    ]
    return OfficialScores(
        n=len(asked),
        n_missing=n_missing,
        n_unparsed=sum(sample["parsed"] == "" for sample in samples),
        metrics={"overall": vqav2.rounded_percent([share for _, share in filled])},
        per_category={
            name: vqav2.percents_by(filled, name) for name in ("answer_type", "question_type")
        },
        intervals=intervals,
        samples=samples,
        files=files,
        notes=["the paper's number is test-dev, which only the server can score"],
        extra_files={SUBMISSION: json.dumps(submission).encode()},
    )


def _records(path: Path, key: str, layout: str) -> list[dict[str, Any]]:
    content = read_json(path, dict, layout).get(key)
    if not isinstance(content, list) or not content:
        raise DataError(f"there are no {key}", where=str(path), hint=f"expected: {layout}")
    needed = {"questions": ("question_id", "question", "image_id")}.get(
        key, ("question_id", "answers", "answer_type", "question_type")
    )
    for number, each in enumerate(content, start=1):
        check_fields(each, needed, f"record {number} of {key}", path, layout)
        if not (_is_annotation(each) if key == "annotations" else _is_number(each["image_id"])):
            raise DataError(
                f"record {number} of {key} is of another layout",
                where=str(path),
                hint=f"expected: {layout}",
            )
    check_ids([each["question_id"] for each in content], path, layout)
    return content


def _is_number(value: Any) -> bool:
    """Whether an id is a whole number, which may be written as text."""
    return type(value) is int or (isinstance(value, str) and value.isdecimal())


def _is_annotation(record: dict[str, Any]) -> bool:
    """Whether the fields that a scorer reads are what they should be."""
    people = record["answers"]
    return (
        isinstance(people, list)
        and bool(people)
        and all(isinstance(each, dict) and isinstance(each.get("answer"), str) for each in people)
        and all(isinstance(record[name], str) for name in ("answer_type", "question_type"))
    )


def _mean(drawn: Any) -> Any:
    (counts,) = drawn.values()
    return 100 * sum(share * n for share, n in counts.items()) / sum(counts.values())


TASK = OfficialTask(
    name="vqav2",
    measures="Open questions about photographs, with ten annotators' answers to each",
    files=(
        QUESTIONS,
        ANNOTATIONS,
        "pictures val2014/COCO_val2014_000000000001.jpg (to answer)",
        f"or {TABLES}",
    ),
    source="visualqa.org/download.html; pictures: cocodataset.org, val2014.zip; "
    "tables: hub lmms-lab/VQAv2",
    predictions=RESULTS,
    prompt="the question" + SHORT_ANSWER.replace("\n", " \\n "),
    metric="min(1, matches among nine annotators / 3), averaged over the one left out; in percent",
    variants={name: vqav2.VARIANTS[name] for name in ("submission", "llava", "official", "lmms")},
    paper="63.2 (test-dev, by the server)",
    score=score,
    items=items,
    form=AnswerForm(data_files, write_answers, {"lmms": LONGEST_ANSWER_OF_LMMS}),
)
