"""MMMU on disk: a results file for each subject, or one for all beside the official answers; and
questions as the hub's tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation import mmmu
from orthus_core.evaluation.intervals import wilson
from orthus_core.evaluation.official.hub_tables import TablePicture, table_rows
from orthus_core.evaluation.official.read_files import (
    check_fields,
    find_file,
    join_predictions,
    read_json,
)
from orthus_core.evaluation.official.task import (
    AnswerForm,
    AskedItem,
    OfficialScores,
    OfficialTask,
    ScoringRequest,
)

OUTPUTS = (
    'DIR/SUBJECT/output.json, a JSON array: [{"id": "validation_Art_1", "question_type": '
    '"multiple-choice", "answer": "B", "all_choices": ["A", "B"], "index2ans": {"A": "..."}, '
    '"response": "..."}]'
)
PREDICTIONS = '{"validation_Art_1": "B", "validation_Math_2": "any text for an open question"}'
ANSWERS = (
    'answer_dict_val.json: {"validation_Art_1": {"question_type": "multiple-choice", '
    '"ground_truth": "B"}}'
)
TABLES = "a snapshot of the hub's MMMU/MMMU: SUBJECT/validation-00000-of-00001.parquet"
CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."
OPEN_PROMPT = "Answer the question using a single word or phrase."
# A prediction that is missing is none of the letters, and an open one holds no gold text.
NO_ANSWER = "\0"
LETTER = re.compile(r"[A-Z]")
PICTURE = re.compile(r"<image ([1-7])>")


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The validation questions of the hub's tables. Their pictures lie in the tables, as image_1 to
    image_7; `<image 1>` in a question says where they belong.

    Raises:
        DataError: When there are none.
    """
    asked = []
    for path in tables(data):
        for number, row in enumerate(_questions(path)):
            options = mmmu.options_of(row["options"])
            text = prompt(row["question"], options, variant)
            letters = [chr(ord("A") + at) for at in range(len(options))]
            gold = gold_of(row["answer"])
            record = {
                "id": row["id"],
                "question_type": row["question_type"],
                "question": row["question"],
                "answer": gold,
                "all_choices": letters,
                "index2ans": dict(zip(letters, options, strict=True)),
            }
            asked.append(
                AskedItem(
                    row["id"],
                    text,
                    None,
                    gold,
                    mmmu.subject_of(row["id"]),
                    _with_pictures(text, path, number, variant),
                    record,
                )
            )
    return asked


def tables(data: Path) -> list[Path]:
    """The hub's tables of validation questions.

    Raises:
        DataError: When there are none.
    """
    paths = sorted(data.glob("*/validation-*.parquet")) if data.is_dir() else []
    if not paths:
        raise DataError("no questions of MMMU", where=str(data), hint=f"expected: {TABLES}")
    return paths


def write_answers(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """`output.json` of each subject, in the order of the tables."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in asked:
        rows.setdefault(item.part, []).append({**(item.record or {}), "response": said[item.key]})
    return {
        f"{subject}/output.json": (json.dumps(each, indent=1, ensure_ascii=False) + "\n").encode()
        for subject, each in rows.items()
    }


def prompt(question: str, options: list[str], variant: str = "official") -> str:
    """What a model is asked; without options, an open question."""
    if not options:
        return f"{question}\n\n{OPEN_PROMPT}"
    form = "{}. {}" if variant == "lmms" else "({}) {}"
    lines = [form.format(chr(ord("A") + at), option) for at, option in enumerate(options)]
    return "\n".join([question, *([] if variant == "lmms" else [""]), *lines, "", CHOICE_PROMPT])


def gold_of(text: str) -> str | list[str]:
    """The right answer; the tables hold several ones as the text of a Python list."""
    return mmmu.options_of(text) if text.startswith("[") else text


def score(request: ScoringRequest) -> OfficialScores:
    """Scores responses, or predictions that are parsed already.

    Raises:
        DataError: When files are missing or do not belong together.
    """
    truth, files = {}, []
    if request.data is not None and request.data.is_dir() and _are_tables(request.data):
        files = tables(request.data)
        truth = {
            row["id"]: {
                "question_type": row["question_type"],
                "ground_truth": gold_of(row["answer"]),
            }
            for path in files
            for row in _questions(path)
        }
    elif request.data is not None:
        files = [find_file(request.data, ["answer_dict_val.json", "*answer*.json"], ANSWERS)]
        truth = read_json(files[0], dict, ANSWERS)
        for key, each in truth.items():
            check_fields(each, ("question_type", "ground_truth"), key, files[0], ANSWERS)
            if not isinstance(each["ground_truth"], (str, list)):
                raise DataError(f"the answer to {key} is no text", where=str(files[0]))
    truth = {key: each for key, each in truth.items() if request.asks(key)}
    if request.predictions.is_dir():
        rows = _rows_of_folder(request.predictions)
        notes = []
    else:
        rows = _rows_of_file(request.predictions, truth)
        notes = ["letters are compared as they are, as by the official main_eval_only.py"]
    keys = [row["id"] for row in rows]
    said, n_missing = join_predictions(
        keys,
        rows,
        [*truth] or keys,
        request.predictions,
        allow_missing=request.allow_missing,
    )
    rows += [_row(key, NO_ANSWER, each) for key, each in truth.items() if key not in said]
    found = mmmu.score(rows, "random42", request.variant)
    strict = mmmu.score(rows, "wrong", request.variant)
    samples = [
        {
            "id": row["id"],
            "prompt": row.get("question", ""),
            "answer": None if _said(row) == NO_ANSWER else _said(row),
            "parsed": reading,
            "gold": row["answer"],
            "right": right,
        }
        for row, reading, right in zip(rows, found["parsed"], found["right"], strict=True)
    ]
    if found["fallbacks"]:
        notes.append(f"{found['fallbacks']} letters were guessed, as officially, with seed 42")
    unread = sum(
        row["question_type"] == mmmu.MULTIPLE_CHOICE
        and "parsed_pred" in row
        and row["parsed_pred"] != NO_ANSWER
        and not LETTER.fullmatch(row["parsed_pred"])
        for row in rows
    )
    return OfficialScores(
        n=len(rows),
        n_missing=n_missing,
        n_unparsed=found["fallbacks"] + unread,
        metrics={
            "overall": found["overall"],
            "overall_without_guesses": strict["overall"],
            "fallbacks": found["fallbacks"],
        },
        per_category={name: found[name] for name in ("per_domain", "per_subject")},
        intervals={
            "overall": wilson(sum(found["right"]), len(rows)),
            "overall_without_guesses": wilson(sum(strict["right"]), len(rows)),
        },
        samples=samples,
        files=files,
        notes=notes,
    )


def _are_tables(data: Path) -> bool:
    """Whether a folder holds the hub's tables, and no file of answers."""
    return any(data.glob("*/validation-*.parquet")) and not any(data.glob("*answer*.json"))


def _questions(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, without pictures. Raises: DataError when it is no such table."""
    columns = ["id", "question", "options", "answer", "question_type"]
    return [row for _, _, row in table_rows([path], columns, TABLES)]


def _with_pictures(text: str, path: Path, row: int, variant: str) -> tuple[Any, ...]:
    """Texts and pictures of a question: for `official` the pictures first, in the order of their
    numbers, and the text as it is; for `lmms` each in the place of its mark.
    """
    if variant == "lmms":
        pieces = PICTURE.split(text)
        parts: list[Any] = []
        for at, piece in enumerate(pieces):
            if at % 2:
                parts.append(TablePicture(path, row, f"image_{piece}"))
            elif piece.strip():
                parts.append(piece)
        return tuple(parts)
    numbers = sorted(set(PICTURE.findall(text))) or ["1"]
    return (*(TablePicture(path, row, f"image_{number}") for number in numbers), text)


def _rows_of_folder(folder: Path) -> list[dict[str, Any]]:
    """Rows in the order of the official program: of subjects by name, so that guesses agree."""
    names = sorted(name for names in mmmu.DOMAINS.values() for name in names)
    paths = [folder / name / "output.json" for name in names]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise DataError("no results of MMMU", where=str(folder), hint=f"expected: {OUTPUTS}")
    rows = []
    for path in paths:
        for number, row in enumerate(read_json(path, list, OUTPUTS), start=1):
            needed = ["id", "question_type", "answer", "response"]
            if isinstance(row, dict) and row.get("question_type") == mmmu.MULTIPLE_CHOICE:
                needed += ["all_choices", "index2ans"]
            check_fields(row, needed, f"record {number}", path, OUTPUTS)
            if wrong := _wrong_fields(row):
                raise DataError(
                    f"in record {number}, {', '.join(wrong)} is of another kind",
                    where=str(path),
                    hint=f"expected: {OUTPUTS}",
                )
            rows.append(row)
    if not rows:
        raise DataError("results without answers", where=str(folder), hint=f"expected: {OUTPUTS}")
    return rows


def _wrong_fields(row: dict[str, Any]) -> list[str]:
    """Fields of a record that are not what a scorer reads."""
    kinds: dict[str, Any] = {"id": str, "response": str, "answer": (str, list)}
    if row["question_type"] == mmmu.MULTIPLE_CHOICE:
        kinds |= {"all_choices": list, "index2ans": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(row[name], kind)]
    if "all_choices" in kinds and not wrong and not {*row["all_choices"]} == {*row["index2ans"]}:
        wrong = ["all_choices"]
    return wrong


def _rows_of_file(path: Path, truth: dict[str, Any]) -> list[dict[str, Any]]:
    said = read_json(path, dict, PREDICTIONS)
    if not truth:
        raise DataError(
            "predictions alone hold no right answers", where=str(path), hint=f"--data: {ANSWERS}"
        )
    known = {key: truth.get(key, {"question_type": "", "ground_truth": ""}) for key in said}
    for key, text in said.items():
        if not isinstance(text, str):
            raise DataError(
                f"the prediction of {key} is no text",
                where=str(path),
                hint=f"expected: {PREDICTIONS}",
            )
    return [_row(key, text, known[key]) for key, text in said.items()]


def _row(key: str, text: str, truth: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": key,
        "question_type": truth["question_type"],
        "answer": truth["ground_truth"],
        "parsed_pred": text,
    }


def _said(row: dict[str, Any]) -> str:
    return row["response"] if "response" in row else row["parsed_pred"]


TASK = OfficialTask(
    name="mmmu",
    measures="Questions of thirty college subjects, most with options",
    files=(f"for predictions in one file, {ANSWERS}", f"to answer, {TABLES}"),
    source="hub: MMMU/MMMU (validation); answer_dict_val.json: github.com/MMMU-Benchmark/MMMU",
    predictions=f"{OUTPUTS}; or one file: {PREDICTIONS}",
    prompt=f"the question's pictures in their order, the question, options as (A) ..., then: "
    f"{CHOICE_PROMPT} (or: {OPEN_PROMPT}); lmms: pictures in the places of <image 1>, ...; "
    "what does not fit the model's context is not asked, and counted",
    metric="share of right answers over all questions; with and without the official guesses",
    variants=mmmu.VARIANTS,
    paper="28.2 (validation)",
    score=score,
    items=items,
    form=AnswerForm(tables, write_answers),
)
