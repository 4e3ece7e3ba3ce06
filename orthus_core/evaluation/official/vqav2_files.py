"""VQAv2 on disk: questions, annotations, and a results file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation import vqav2
from orthus_core.evaluation.intervals import bootstrap_counts
from orthus_core.evaluation.official.read_files import (
    COCO_FOLDERS,
    answers_file,
    check_fields,
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
RESULTS = 'a JSON array: [{"question_id": 1, "answer": "yes"}]'
RESULTS_FILE = "results.json"
SUBMISSION = "evalai_submission.json"


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The questions of a folder; without annotations (test sets), gold is None."""
    path = questions_file(data)
    questions = _records(path, "questions", QUESTIONS)
    gold: dict[Any, Any] = {}
    found = [each for each in sorted(path.parent.glob("*annotations.json"))]
    if found:
        records = _records(found[0], "annotations", ANNOTATIONS)
        gold = {each["question_id"]: each["answers"] for each in records}
    split = next((name for name in ("val2014", "train2014", "test2015") if name in path.name), "")
    asked = []
    for text, each in zip(column(questions, ["question"], path), questions, strict=True):
        name = f"COCO_{split or 'val2014'}_{each['image_id']:012d}.jpg"
        places = (split, *COCO_FOLDERS) if split else COCO_FOLDERS
        picture = picture_place(path.parent, name, places)
        key = each["question_id"]
        record, prompt = {"question_id": key}, text + SHORT_ANSWER
        asked.append(AskedItem(str(key), prompt, picture, gold.get(key), record=record))
    return asked


def questions_file(data: Path) -> Path:
    """The file of questions. Raises: DataError when there is none, or more than one."""
    return find_file(data, ["*[qQ]uestions.json"], QUESTIONS)


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
    path = find_file(data, ["*annotations.json"], ANNOTATIONS)
    annotations = _records(path, "annotations", ANNOTATIONS)
    files = [path]
    asked = [each["question_id"] for each in annotations]
    check_unique(asked, path)
    texts: dict[Any, str] = {}
    beside = sorted(path.parent.glob("*[qQ]uestions.json"))
    if len(beside) == 1 and beside[0] != path:
        files += beside
        questions = _records(beside[0], "questions", QUESTIONS)
        texts = {each["question_id"]: each["question"] for each in questions}
        vqav2.check_same_questions("annotations", set(asked), texts.keys())
    place = answers_file(request.predictions, RESULTS_FILE, RESULTS)
    results = read_json(place, list, RESULTS)
    answers = column(results, ["answer"], place)
    named = [each.get("question_id") for each in results]
    said, n_missing = join_predictions(
        named, answers, asked, place, allow_missing=request.allow_missing
    )

    shares: dict[str, Counter[float]] = defaultdict(Counter)
    samples, filled = [], []
    for each in annotations:
        key = each["question_id"]
        answer = said.get(key)
        # Nobody answers with nothing, so what is missing is wrong.
        share = 0.0 if answer is None else vqav2.agreement(answer, each["answers"], request.variant)
        filled.append((each, share))
        shares[each["answer_type"]][share] += 1
        samples.append(
            {
                "id": key,
                "prompt": texts.get(key, ""),
                "answer": answer,
                "parsed": None if answer is None else _parsed(answer, request.variant),
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
        {"question_id": key, "answer": vqav2.submission_answer(said.get(key, ""))} for key in asked
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
    return content


def _parsed(answer: str, variant: str) -> str:
    return vqav2.normalise(answer) if variant == "official" else vqav2.submission_answer(answer)


def _mean(drawn: Any) -> Any:
    (counts,) = drawn.values()
    return 100 * sum(share * n for share, n in counts.items()) / sum(counts.values())


TASK = OfficialTask(
    name="vqav2",
    measures="Open questions about photographs, with ten annotators' answers to each",
    files=(QUESTIONS, ANNOTATIONS, "pictures val2014/COCO_val2014_000000000001.jpg (to answer)"),
    source="visualqa.org/download.html; pictures: cocodataset.org, val2014.zip",
    predictions=RESULTS,
    prompt="the question" + SHORT_ANSWER.replace("\n", " \\n "),
    metric="min(1, matches among nine annotators / 3), averaged over the one left out; in percent",
    variants={name: vqav2.VARIANTS[name] for name in ("submission", "official", "lmms")},
    paper="63.2 (test-dev, by the server)",
    score=score,
    items=items,
    form=AnswerForm(
        lambda data: [questions_file(data)], write_answers, {"lmms": LONGEST_ANSWER_OF_LMMS}
    ),
)
