"""POPE on disk: a question file for each split, and answers in the order of its lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation import pope
from orthus_core.evaluation.intervals import bootstrap_counts, wilson
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
ANSWERS_OF = "answers_"
SAID = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


def question_files(data: Path) -> dict[str, Path]:
    """Question files by split; a file without a split in its name is one of its own.

    Raises:
        DataError: When there is none.
    """
    if data.is_file():
        return {_split_of(data) or data.stem: data}
    found = sorted(data.glob("*pope*.json")) if data.is_dir() else []
    files = {split: path for path in found if (split := _split_of(path))}
    if not files:
        raise DataError(
            "there are no questions of POPE", where=str(data), hint=f"expected: {QUESTIONS}"
        )
    return {split: files[split] for split in pope.SPLITS if split in files}


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The questions of all splits in a folder."""
    asked = []
    for split, path in question_files(data).items():
        records = read_json_lines(path, QUESTIONS)
        texts, labels = column(records, ["text"], path), column(records, ["label"], path)
        names = column(records, ["image"], path)
        for number, (text, label, name) in enumerate(zip(texts, labels, names, strict=True), 1):
            picture = picture_place(path.parent, name, COCO_FOLDERS)
            named = records[number - 1].get("question_id", number)
            key, record = f"{split}/{named}", {"question_id": named, "question": text}
            prompt = text + SHORT_ANSWER
            asked.append(AskedItem(key, prompt, picture, label, split, record=record))
    return asked


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
    files = question_files(data_of(request, "POPE needs its questions", QUESTIONS))
    answers = _answer_files(request.predictions, files)
    per_split: dict[str, dict[str, Any]] = {}
    strata: dict[str, dict[tuple[str, str], int]] = {}
    samples: list[dict[str, Any]] = []
    intervals, n_missing = {}, 0
    for split, path in files.items():
        records = read_json_lines(path, QUESTIONS)
        said = _answers(answers[split], records, path, request.allow_missing)
        n_missing += said.count(None)
        labels = column(records, ["label"], path)
        truth = pope.truths(labels, request.variant)
        # What is missing is wrong, and an empty answer would be a "yes".
        filled = [
            ("yes" if gold == "no" else "no") if answer is None else answer
            for answer, gold in zip(said, truth, strict=True)
        ]
        found = pope.score(filled, labels, request.variant)
        per_split[split] = found
        parsed = pope.readings(filled, request.variant)
        strata[split] = {}
        for pair in zip(parsed, truth, strict=True):
            strata[split][pair] = strata[split].get(pair, 0) + 1
        right = [*(a == b for a, b in zip(parsed, truth, strict=True))]
        intervals[f"{split}.accuracy"] = wilson(sum(right), len(right))
        intervals[f"{split}.f1"] = bootstrap_counts(
            {split: strata[split]}, lambda drawn, split=split: _f1(drawn[split])
        )
        texts = column(records, ["text"], path)
        samples += [
            {
                "id": f"{split}/{record.get('question_id', number)}",
                "prompt": text,
                "answer": answer,
                "parsed": None if answer is None else word,
                "gold": label,
                "right": hit,
            }
            for number, (record, text, answer, word, label, hit) in enumerate(
                zip(records, texts, said, parsed, labels, right, strict=True), start=1
            )
        ]
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    intervals["accuracy"] = bootstrap_counts(
        strata, lambda drawn: _mean([_accuracy(each) for each in drawn.values()])
    )
    intervals["f1"] = bootstrap_counts(
        strata, lambda drawn: _mean([_f1(each) for each in drawn.values()])
    )
    notes = ["the paper's POPE column is most likely mean F1: compare both numbers"]
    if len(files) < len(pope.SPLITS) and len(files) > 1:
        notes.append(f"means over {', '.join(files)} only")
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
        files=[*files.values()],
        notes=notes,
    )


def _split_of(path: Path) -> str:
    return next((split for split in pope.SPLITS if split in path.stem), "")


def _answer_files(predictions: Path, splits: dict[str, Path]) -> dict[str, Path]:
    if predictions.is_file():
        if len(splits) > 1:
            raise DataError(
                f"one answers file for {len(splits)} splits",
                where=str(predictions),
                hint="give a folder with one for each split, or one question file with --data",
            )
        return {split: predictions for split in splits}
    found = sorted(predictions.glob("*.json*")) if predictions.is_dir() else []
    files = {split: path for path in found if (split := _split_of(path))}
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


def _answers(
    path: Path, records: list[dict[str, Any]], questions: Path, allow_missing: bool
) -> list[str | None]:
    """Answers in the order of the questions; None for a missing one."""
    lines = read_json_lines(path, ANSWERS)
    said = column(lines, ["answer", "text"], path)
    keys = [record.get("question_id", number) for number, record in enumerate(records, 1)]
    check_unique(keys, questions)
    if all("question_id" in line for line in lines):
        named = [line["question_id"] for line in lines]
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
        if isinstance(question, str) and not question.startswith(record.get("text", "")):
            raise DataError(
                f"line {number} answers another question: {question!r}",
                where=str(path),
                hint=f"these are answers for another set or order than {questions.name}",
            )
    return [*said]


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
    ),
    source="github.com/AoiDragon/POPE, output/coco; pictures: cocodataset.org, val2014.zip",
    predictions=f"for each split, {ANSWERS}",
    prompt="the question" + SHORT_ANSWER.replace("\n", " \\n "),
    metric="accuracy, precision, recall, F1 and share of yes for each split, and their means",
    variants=pope.VARIANTS,
    paper='79.6 "exact match accuracy"; the LLaVA number beside it (85.9) is a mean F1',
    score=score,
    items=items,
    form=AnswerForm(lambda data: [*question_files(data).values()], write_answers),
)
