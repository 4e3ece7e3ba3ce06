"""People's own sets: questions with answers, and prompts with the pictures drawn for them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation import vqav2
from orthus_core.evaluation.intervals import Interval, bootstrap, wilson
from orthus_core.evaluation.official.read_files import (
    check_unique,
    column,
    join_predictions,
    read_json_lines,
)
from orthus_core.evaluation.official.task import OfficialScores, OfficialTask, ScoringRequest
from orthus_core.events import Progress

if TYPE_CHECKING:
    from orthus_core.evaluation.picture_folders import NamedPictures

QUESTIONS = '{"id": "1", "image": "a.jpg", "question": "What is it?", "answer": "a dog"}'
PROMPTS = '{"id": "2", "prompt": "a dog", "image": "drawn.png"}'
LAYOUT = (
    f'JSON lines, {QUESTIONS} ("answers": [...] for several), or {PROMPTS} (without "image", the '
    "picture is ID.png)"
)
ANSWERS = 'JSON lines, {"id": "1", "answer": "dog"}'
# The rule of VQAv2 leaves one annotator out and asks three others to agree.
FEWEST_ANNOTATORS = 4


class OwnRecord(NamedTuple):
    """A line of one's own set.

    Attributes:
        key: Its id; the number of the line where it has none.
        text: Question or prompt.
        picture: Path of its picture; None where a question has none.
        answers: Right answers; None of a prompt.
    """

    key: str
    text: str
    picture: Path | None
    answers: list[str] | None


def read_records(data: Path, pictures: Path) -> list[OwnRecord]:
    """The records of a set.

    Raises:
        DataError: When a line is neither a question with answers nor a prompt.
    """
    from orthus_core.evaluation.picture_folders import NamedPictures  # imports torch

    found, named = [], NamedPictures(pictures)
    for number, line in enumerate(read_json_lines(data, LAYOUT), start=1):
        key = str(line.get("id", number))
        text = line.get("question", line.get("prompt"))
        answers = line.get("answers", line.get("answer"))
        if "question" in line:
            answers = [answers] if isinstance(answers, str) else answers
            texts = isinstance(answers, list) and all(isinstance(each, str) for each in answers)
            if not answers or not texts:
                raise DataError(
                    f"the question of record {number} has no answer, or one that is no text",
                    where=str(data),
                    hint=f"expected: {LAYOUT}",
                )
        else:
            answers = None
        if not isinstance(text, str):
            raise DataError(
                f"record {number} has neither a question nor a prompt",
                where=str(data),
                hint=f"expected: {LAYOUT}",
            )
        name = line.get("image", key if answers is None else None)
        found.append(OwnRecord(key, text, _place(pictures, named, name), answers))
    check_unique([each.key for each in found], data)
    return found


def score_own_set(
    request: ScoringRequest, answers: Path | None = None, clip: Any = None
) -> Iterator[Progress | OfficialScores]:
    """Scores a set; the scores come last.

    Args:
        request: The folder of pictures, and the file of records.
        answers: A model's answers to the questions; None where there are only prompts.
        clip: A `ClipEncoder` for the cosines of prompts and pictures.

    Raises:
        DataError: When pictures or answers are missing and may not be.
    """
    assert request.data is not None
    records = read_records(request.data, request.predictions)
    absent = [each for each in records if each.picture and not each.picture.is_file()]
    if absent and not request.allow_missing:
        raise DataError(
            f"{len(absent)} of {len(records)} pictures are missing, such as {absent[0].picture}",
            where=str(request.data),
            hint="names are relative to --pictures; --allow-missing counts what is missing",
        )
    asked = [each for each in records if each.answers is not None]
    drawn = [
        each for each in records if each.answers is None and each.picture and each.picture.is_file()
    ]
    metrics: dict[str, Any] = {}
    intervals: dict[str, Interval] = {}
    samples: list[dict[str, Any]] = []
    notes = [f"{len(absent)} pictures are missing"] if absent else []
    n_missing = sum(each.answers is None for each in absent)
    n_unparsed = 0
    if asked:
        rows, unanswered = _judged(asked, answers, request)
        n_missing += unanswered
        n_unparsed = sum(row["parsed"] == "" for row in rows)
        samples += rows
        for name in rows[0]["scores"]:
            values = [row["scores"][name] for row in rows]
            metrics[name] = sum(values) / len(values)
            intervals[name] = (
                wilson(sum(values), len(values))
                if isinstance(values[0], bool)
                else bootstrap(values, _mean)
            )
    sizes: Counter[str] = Counter()
    if drawn:
        rows = []
        for row in _seen(drawn, request.predictions, clip):
            if isinstance(row, Progress):
                yield row
            else:
                rows.append(row)
        sizes.update(f"{row['width']}x{row['height']}" for row in rows)
        metrics |= {
            "pictures": len(rows),
            "median_width": statistics.median(row["width"] for row in rows),
            "median_height": statistics.median(row["height"] for row in rows),
        }
        if clip is not None:
            cosines = [row["scores"]["clip_score"] for row in rows]
            metrics["clip_score"] = _mean(cosines)
            intervals["clip_score"] = bootstrap(cosines, _mean)
        samples += rows
    yield OfficialScores(
        n=len(records),
        n_missing=n_missing,
        n_unparsed=n_unparsed,
        metrics=metrics,
        per_category={"sizes": dict(sizes)} if sizes else {},
        intervals=intervals,
        samples=samples,
        files=[request.data],
        notes=notes,
    )


def _judged(
    asked: list[OwnRecord], answers: Path | None, request: ScoringRequest
) -> tuple[list[dict[str, Any]], int]:
    """A sample for each question, and the number without an answer."""
    if answers is None:
        raise DataError(
            f"{len(asked)} questions and no answers to them",
            where=str(request.data),
            hint=f"give a model's answers with --predictions: {ANSWERS}",
        )
    lines = read_json_lines(answers, ANSWERS)
    keys = [str(line.get("id", line.get("question_id"))) for line in lines]
    said, n_missing = join_predictions(
        keys,
        column(lines, ["answer", "text", "prediction"], answers),
        [each.key for each in asked],
        answers,
        allow_missing=request.allow_missing,
    )
    voted = all(len(each.answers or ()) >= FEWEST_ANNOTATORS for each in asked)
    rows = []
    for each in asked:
        gold, answer = each.answers or [], said.get(each.key)
        parsed = None if answer is None else vqav2.normalise(answer)
        right = parsed is not None and parsed in [vqav2.normalise(one) for one in gold]
        scores: dict[str, Any] = {"accuracy": right, "exact": answer in gold}
        if voted:
            # Officially, answers that all agree are not normalised; one's own always are.
            votes = [vqav2.normalise(one) for one in gold]
            scores["vqa_accuracy"] = 0.0 if parsed is None else vqav2.agreement(parsed, votes)
        rows.append(
            {
                "id": each.key,
                "prompt": each.text,
                "picture": _name(each.picture, request.predictions),
                "answer": answer,
                "parsed": parsed,
                "gold": gold,
                "right": right,
                "scores": scores,
            }
        )
    return rows, n_missing


def _seen(drawn: list[OwnRecord], pictures: Path, clip: Any) -> Iterator[Progress | dict[str, Any]]:
    """A sample for each prompt with a picture."""
    from orthus_core.data.pixels import open_image
    from orthus_core.evaluation.clip import cosines

    for number, each in enumerate(drawn, start=1):
        assert each.picture is not None
        image = open_image(each.picture)
        scores = {}
        if clip is not None:
            pair = clip.images([image]), clip.captions([each.text])
            scores["clip_score"] = 100 * cosines(*pair)[0]
        yield {
            "id": each.key,
            "prompt": each.text,
            "picture": _name(each.picture, pictures),
            "width": image.width,
            "height": image.height,
            "scores": scores,
        }
        yield Progress("pictures", number, len(drawn), "pictures")


def _place(pictures: Path, named: NamedPictures, name: Any) -> Path | None:
    if name is None:
        return None
    try:
        return named.find(str(name))
    except DataError:
        return pictures / str(name)


def _name(picture: Path | None, pictures: Path) -> str | None:
    if picture is None:
        return None
    inside = picture.is_relative_to(pictures)  # a record may name a whole path
    return (picture.relative_to(pictures) if inside else picture).as_posix()


def _mean(values: Any) -> float:
    return sum(values) / len(values)


TASK = OfficialTask(
    name="folder",
    measures="One's own pictures, prompts, questions and answers",
    files=("a folder of pictures", LAYOUT),
    source="yours",
    predictions=f"for questions, {ANSWERS}; for prompts, the pictures",
    prompt="the question or the prompt",
    metric="questions: share of answers equal to a right one, as VQAv2 normalises both (accuracy) "
    "and as they are (exact), and VQAv2's rule on normalised answers, where all questions have "
    "four or more; prompts: number and sizes of pictures, and 100 x cosine of CLIP",
    variants={"own": "there is one"},
    paper="none",
    command="orthus eval folder --pictures DIR --data FILE.jsonl [--predictions FILE] [--clip DIR]",
)
