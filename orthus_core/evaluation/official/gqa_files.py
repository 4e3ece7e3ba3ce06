"""GQA on disk: a questions file by question id, and an array of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation import gqa
from orthus_core.evaluation.intervals import Interval, wilson
from orthus_core.evaluation.official.read_files import (
    answers_file,
    check_fields,
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
PREDICTIONS = 'a JSON array: [{"questionId": "201307251", "prediction": "yes"}]'
PREDICTIONS_FILE = "predictions.json"
FILES = ("testdev_balanced_questions.json", "*balanced_questions.json", "*questions.json")
NEEDED = ("question", "answer", "imageId", "isBalanced", "types")
# Nobody answers with this, so it is wrong.
NO_ANSWER = "\0"


def read_questions(data: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The questions file and its balanced questions, by id.

    Raises:
        DataError: When it is missing or of another layout.
    """
    path = find_file(data, FILES, QUESTIONS)
    content = read_json(path, dict, QUESTIONS)
    for key, each in content.items():
        check_fields(each, NEEDED, f"question {key}", path, QUESTIONS)
    balanced = {key: each for key, each in content.items() if each["isBalanced"]}
    if not balanced:
        raise DataError("no balanced questions", where=str(path), hint=f"expected: {QUESTIONS}")
    return path, balanced


def items(data: Path, variant: str = "llava") -> list[AskedItem]:
    """The balanced questions."""
    path, questions = read_questions(data)
    return [
        AskedItem(
            key,
            each["question"] + SHORT_ANSWER,
            picture_place(path.parent, f"{each['imageId']}.jpg", ("images",)),
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
    path, questions = read_questions(data_of(request, "GQA needs its questions", QUESTIONS))
    place = answers_file(request.predictions, PREDICTIONS_FILE, PREDICTIONS)
    records = read_json(place, list, PREDICTIONS)
    texts = column(records, ["prediction"], place)
    keys = [str(each.get("questionId")) for each in records]
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
        files=[path],
    )


TASK = OfficialTask(
    name="gqa",
    measures="Compositional questions about scenes, with one right answer each",
    files=(QUESTIONS, "pictures images/IMAGEID.jpg (to answer)"),
    source="cs.stanford.edu/people/dorarad/gqa/download.html: questions1.2.zip, images.zip",
    predictions=PREDICTIONS,
    prompt="the question" + SHORT_ANSWER.replace("\n", " \\n "),
    metric="share of predictions equal to the answer, in percent; binary, open, by type and length",
    variants={name: gqa.VARIANTS[name] for name in ("llava", "strict", "lmms")},
    paper="52.8 (testdev balanced)",
    score=score,
    items=items,
    form=AnswerForm(
        lambda data: [read_questions(data)[0]], write_answers, {"lmms": LONGEST_ANSWER_OF_LMMS}
    ),
)
