"""MME on disk: a folder with pictures and questions for each task, or the hub's tables, and a
results file for each task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation import mme
from orthus_core.evaluation.intervals import bootstrap_counts
from orthus_core.evaluation.official.hub_tables import (
    TablePicture,
    table_rows,
    tables_in,
    text_cells,
)
from orthus_core.evaluation.official.read_files import check_complete, check_unique, text_of
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
    "MME_Benchmark_release_version/TASK/ with PICTURE.jpg and PICTURE.txt, whose two lines are "
    "question, tab, Yes or No (they may lie in images/ and questions_answers_YN/)"
)
TABLES = (
    "a snapshot of the hub's lmms-lab/MME: data/test-00000-of-00004.parquet, with question_id "
    "(TASK/PICTURE), question, answer, category and image"
)
TABLE_FILES = ("data/test-*.parquet", "test-*.parquet", "*.parquet")
RESULTS = "DIR/TASK.txt, two lines for each picture: picture, question, gold, answer, with tabs"
REQUEST = " Please answer yes or no."
PICTURE_KINDS = (".jpg", ".png", ".jpeg")


def items(data: Path, variant: str = "official") -> list[AskedItem]:
    """The questions of all tasks, from the official folders or the hub's tables.

    Raises:
        DataError: When there are none, or a file is not of the layout.
    """
    if tables := tables_in(data, TABLE_FILES):
        return _items_of_tables(tables)
    asked = []
    for task, paths in question_files(data).items():
        pictures = data / task / "images"
        pictures = pictures if pictures.is_dir() else data / task
        for path in paths:
            lines = [
                line.split("\t") for line in text_of(path, QUESTIONS).split("\n") if line.strip()
            ]
            if any(len(line) != 2 for line in lines):
                raise DataError(
                    "a line that is not question, tab, answer",
                    where=str(path),
                    hint=f"expected: {QUESTIONS}",
                )
            candidates = [pictures / f"{path.stem}{kind}" for kind in PICTURE_KINDS]
            picture = next((each for each in candidates if each.is_file()), candidates[0])
            for number, (question, gold) in enumerate(lines, start=1):
                prompt = question.replace(REQUEST, "") + SHORT_ANSWER
                key = f"{task}/{path.stem}/{number}"
                record = {"picture": picture.name, "question": question}
                asked.append(AskedItem(key, prompt, picture, gold.strip(), task, record=record))
    if not asked:
        raise DataError(
            "no questions of MME", where=str(data), hint=f"expected: {QUESTIONS}; or {TABLES}"
        )
    return asked


def _items_of_tables(paths: Sequence[Path]) -> list[AskedItem]:
    """Questions of the hub's tables, by task; two rows are of the same picture."""
    by_task: dict[str, list[AskedItem]] = {}
    pictures: dict[str, TablePicture] = {}
    asked: Counter[str] = Counter()
    texts = ("question_id", "question", "answer", "category")
    for path, row_number, row in table_rows(paths, texts, TABLES):
        named, question, gold, task = text_cells(row, texts, path, row_number)
        # A picture has the name of its file, in a folder or not.
        name = Path(named).name
        stem = f"{task}/{Path(name).stem}"
        picture = pictures.setdefault(stem, TablePicture(path, row_number, "image"))
        asked[stem] += 1
        item = AskedItem(
            f"{stem}/{asked[stem]}",
            question.replace(REQUEST, "") + SHORT_ANSWER,
            picture,
            gold.strip(),
            task,
            record={"picture": name, "question": question},
        )
        by_task.setdefault(task, []).append(item)
    known = [name for name in (*mme.PERCEPTION, *mme.COGNITION) if name in by_task]
    if foreign := by_task.keys() - {*known}:
        raise DataError(
            f"{min(foreign)} is no task of MME", where=str(paths[0]), hint=f"expected: {TABLES}"
        )
    # The two lines of a picture have to follow each other in the results.
    return [
        item
        for task in known
        for item in sorted(by_task[task], key=lambda item: item.key.rpartition("/")[0])
    ]


def question_files(data: Path) -> dict[str, list[Path]]:
    """The files of questions of each task that a folder has; empty for one without any."""
    files = {}
    for task in (*mme.PERCEPTION, *mme.COGNITION):
        texts = data / task / "questions_answers_YN"
        texts = texts if texts.is_dir() else data / task
        found = sorted(texts.glob("*.txt")) if texts.is_dir() else []
        if found:
            files[task] = found
    return files


def _all_question_files(data: Path) -> list[Path]:
    return tables_in(data, TABLE_FILES) or [
        path for paths in question_files(data).values() for path in paths
    ]


def write_answers(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """The results file of each task; white space in an answer becomes a space, because a line is
    an answer and a tab ends a column.
    """
    lines: dict[str, list[str]] = {}
    for item in asked:
        record = item.record or {}
        columns = (
            record["picture"],
            record["question"],
            item.gold,
            " ".join(said[item.key].split()),
        )
        lines.setdefault(item.part, []).append("\t".join(columns) + "\n")
    return {f"{task}.txt": "".join(each).encode() for task, each in lines.items()}


def score(request: ScoringRequest) -> OfficialScores:
    """Scores a folder of results.

    Raises:
        DataError: When files are missing or do not belong together.
    """
    folder, variant = request.predictions, request.variant
    answers = {task: mme.answers_of(folder / f"{task}.txt") for task in mme.present_tasks(folder)}
    broken = sum(each.count(None) for each in answers.values())
    notes, n_missing = [], 0
    if request.data is not None:
        answers, n_missing = _with_unanswered(request, answers)
    samples = [
        _sample(task, number, each, variant)
        for task, lines in answers.items()
        for number, each in enumerate(lines, start=1)
        if each is not None
    ]
    scores = {task: mme.score_task(each, variant, task) for task, each in answers.items()}
    strata = {task: mme.pictures_by_hits(each, variant, task) for task, each in answers.items()}
    absent = [task for task in (*mme.PERCEPTION, *mme.COGNITION) if task not in answers]
    if absent:
        notes.append(f"no results for {', '.join(absent)}: sums are of the others")
    if broken:
        notes.append(f"{broken} lines have not four columns and are left out, as officially")
    metrics, intervals = {}, {}
    for name, tasks in (("perception", mme.PERCEPTION), ("cognition", mme.COGNITION)):
        present = {task: strata[task] for task in tasks if task in strata}
        metrics[name] = sum(scores[task]["score"] for task in present) if present else None
        if present:
            intervals[name] = bootstrap_counts(present, _sum)
    for task, counts in strata.items():
        intervals[f"{task}.score"] = bootstrap_counts({task: counts}, _sum)
    return OfficialScores(
        n=len(samples),
        n_missing=n_missing,
        n_unparsed=sum(sample["parsed"] == "other" for sample in samples) - n_missing,
        metrics=metrics,
        per_category=scores,
        intervals=intervals,
        samples=samples,
        files=_all_question_files(request.data) if request.data else [],
        notes=notes,
    )


def _sample(task: str, number: int, answer: mme.MmeAnswer, variant: str) -> dict[str, Any]:
    return {
        "id": f"{task}/{answer.picture}/{number}",
        "prompt": answer.question,
        "answer": answer.answer,
        "parsed": mme.parse(answer.answer, variant),
        "gold": answer.gold,
        "right": mme.is_right(answer, variant, task),
    }


def _with_unanswered(
    request: ScoringRequest, answers: Mapping[str, Sequence[mme.MmeAnswer | None]]
) -> tuple[dict[str, list[mme.MmeAnswer | None]], int]:
    """The answers with wrong ones for the questions of these tasks that have none, and the number
    of these. An answer to a picture's other question stands beside the one that is there.

    Raises:
        DataError: When results are of pictures that are not in the set, or some are missing and may
            not be.
    """
    assert request.data is not None
    pictures: dict[str, list[AskedItem]] = {}
    for item in items(request.data, request.variant):
        if item.part in answers and request.asks(item.key):
            pictures.setdefault(item.key.rpartition("/")[0], []).append(item)
    said: dict[str, list[mme.MmeAnswer]] = {}
    for task, lines in answers.items():
        for each in filter(None, lines):
            said.setdefault(f"{task}/{Path(each.picture).stem}", []).append(each)
    check_complete(said, [*pictures], request.predictions, allow_missing=request.allow_missing)
    check_unique(
        [f"{key}: {each.question} {each.gold}" for key, asked in said.items() for each in asked],
        request.predictions,
    )
    # A line without four columns is left out, as officially.
    broken = sum(lines.count(None) for lines in answers.values())
    lacking = {key: len(pictures[key]) - len(asked) for key, asked in said.items()}
    odd = [key for key, count in lacking.items() if count]
    half: dict[str, list[AskedItem]] = {}
    if request.allow_missing and sum(lacking.values()) > broken:
        half = {key: _without_answer(pictures[key], said[key]) for key in odd}
    filled = bool(half) and all(len(half[key]) == lacking[key] for key in odd)
    if min(lacking.values(), default=0) < 0 or (sum(lacking.values()) > broken and not filled):
        raise DataError(
            f"{len(odd)} pictures have not as many answers as questions, such as {odd[0]}: "
            f"{len(said[odd[0]])} of {len(pictures[odd[0]])}",
            where=str(request.predictions),
            hint="the results have a line for each question of a picture",
        )
    complete = {task: [*lines] for task, lines in answers.items()}
    n_missing = 0
    for key, of_picture in pictures.items():
        for item in half.get(key, []) if key in said else of_picture:
            lines, stem = complete[item.part], key.partition("/")[2]
            beside = [n for n, each in enumerate(lines) if each and Path(each.picture).stem == stem]
            known = lines[beside[-1]] if beside else None
            name = known.picture if known else stem
            place = beside[-1] + 1 if beside else len(lines)
            lines.insert(place, mme.MmeAnswer(name, item.prompt, item.gold, ""))
            n_missing += 1
    return complete, n_missing


def _without_answer(
    asked: Sequence[AskedItem], answers: Sequence[mme.MmeAnswer]
) -> list[AskedItem]:
    """The questions of a picture that have no answer. Programs word them differently, so their
    right answers tell them apart.
    """
    remaining = [*asked]
    for answer in answers:
        same = (item for item in remaining if item.gold.lower() == answer.gold.lower())
        if (item := next(same, None)) is not None:
            remaining.remove(item)
    return remaining


def _sum(drawn: Any) -> Any:
    """The sum of the tasks' scores, of resampled counts of pictures with 0, 1 and 2 right."""
    total = 0.0
    for counts in drawn.values():
        pictures = sum(counts.values())
        right = sum(hits * n for hits, n in counts.items())
        total = total + 100 * right / (2 * pictures) + 100 * counts.get(2, 0) / pictures
    return total


TASK = OfficialTask(
    name="mme",
    measures="Fourteen tasks of perception and cognition, with two yes/no questions to a picture",
    files=(QUESTIONS, f"or {TABLES}"),
    source="github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation; "
    "tables: hub lmms-lab/MME",
    predictions=RESULTS,
    prompt='the question without "Please answer yes or no."' + SHORT_ANSWER.replace("\n", " \\n "),
    metric="for each task 100 x accuracy + 100 x share of pictures with both right; sums over ten "
    "tasks (perception, at most 2000) and four (cognition, at most 800)",
    variants=mme.VARIANTS,
    paper="MME-P 1265.8 (perception)",
    score=score,
    items=items,
    form=AnswerForm(
        _all_question_files,
        write_answers,
        {"lmms": LONGEST_ANSWER_OF_LMMS},
        together=2,
    ),
)
