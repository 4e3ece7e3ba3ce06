"""MME: two questions to each picture, one with the answer "yes" and one with "no" (2306.13394).

The rule is that of the official program (eval_tool/calculation.py): "yes" and "no" are searched in
the first four characters, so "The answer is yes" is neither and "None" is "no". Variant `lmms` is
lmms-eval's: it strips an answer first, and takes "y" and "n".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation.scorer_inputs import check_text
from orthus_core.evaluation.scorer_variants import check_variant
from orthus_core.user_files import read_text

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = (
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
VARIANTS = {
    "official": 'the first four characters, in lower case, contain "yes" or "no"',
    "llava": "as official",
    "lmms": 'as official, after stripping spaces and full stops; "y" and "n" are answers too',
}
PREFIX = 4


class MmeAnswer(NamedTuple):
    """A line of a results file."""

    picture: str
    question: str
    gold: str
    answer: str


def parse(answer: str, variant: str = "official") -> str:
    """ "yes", "no", or "other", which is always wrong."""
    check_variant(variant, VARIANTS)
    check_text(answer, "the answer")
    answer = answer.lower()
    if variant == "lmms":
        answer = answer.strip().replace(".", "")
        if answer in ("y", "n"):
            return "yes" if answer == "y" else "no"
    for word in ("yes", "no"):
        if word in answer[:PREFIX]:
            return word
    return "other"


def score(folder: str | PathLike[str], variant: str = "official") -> dict[str, Any]:
    """Scores a folder of results: `TASK.txt` with lines of picture, question, gold and answer,
    separated by tabs; two lines for each picture.

    Returns:
        `perception` and `cognition`, sums over their tasks (at most 2000 and 800; None if a group
        has no file), `tasks` with the fractions `acc` (of questions) and `acc_plus` (of pictures
        with both answers right), `score` (100 times their sum) and `other` (answers that are
        neither), and `missing`, the tasks without a file. The official program needs all of them.

    Raises:
        DataError: When there is no results file, or one is not of this form.
    """
    folder = Path(folder)
    tasks = {name: answers_of(folder / f"{name}.txt") for name in present_tasks(folder)}
    scores = {name: score_task(answers, variant, name) for name, answers in tasks.items()}
    return {
        "perception": _sum(scores, PERCEPTION),
        "cognition": _sum(scores, COGNITION),
        "tasks": scores,
        "missing": [name for name in (*PERCEPTION, *COGNITION) if name not in scores],
    }


def present_tasks(folder: Path) -> list[str]:
    """The tasks that a folder has results of.

    Raises:
        DataError: When there are none.
    """
    found = [name for name in (*PERCEPTION, *COGNITION) if (folder / f"{name}.txt").is_file()]
    if not found:
        raise DataError(
            "there is no results file of MME",
            where=str(folder),
            hint="a folder with existence.txt, count.txt, ...: "
            "lines of picture, question, gold and answer, separated by tabs",
        )
    return found


def answers_of(path: Path) -> list[MmeAnswer | None]:
    """The lines of a results file; None for a line that has not four columns.

    Raises:
        DataError: When it cannot be read.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"the results file cannot be read: {error}", where=str(path)) from error
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # the end of the last line; a further empty line is a line, as for the program
    columns = [line.split("\t") for line in lines]
    return [MmeAnswer(*each) if len(each) == len(MmeAnswer._fields) else None for each in columns]


def score_task(
    answers: Sequence[MmeAnswer | None], variant: str = "official", name: str = ""
) -> dict[str, float | int]:
    """The scores of one task; see `score`.

    A line without four columns is left out, as by the official program: its picture then cannot
    have both answers right.

    Raises:
        DataError: For an odd number of lines, or a gold answer that is neither "yes" nor "no".
    """
    both, right, known, other = 0, 0, 0, 0
    pairs = _pairs(answers, variant, name)
    for pair in pairs:
        hits = 0
        for each in pair:
            if each is None:
                continue
            hits += is_right(each, variant, name)
            other += parse(each.answer, variant) == "other"
            known += 1
        right += hits
        both += hits == 2
    if not known:
        raise DataError(
            "a results file without answers",
            where=f"{name}.txt" if name else "",
            hint="lines of picture, question, gold and answer, separated by tabs",
        )
    acc, acc_plus = right / known, both / len(pairs)
    return {"acc": acc, "acc_plus": acc_plus, "score": 100 * acc + 100 * acc_plus, "other": other}


def pictures_by_hits(
    answers: Sequence[MmeAnswer | None], variant: str = "official", name: str = ""
) -> Counter[int]:
    """The number of pictures with 0, 1 and 2 right answers."""
    return Counter(
        sum(each is not None and is_right(each, variant, name) for each in pair)
        for pair in _pairs(answers, variant, name)
    )


def is_right(answer: MmeAnswer, variant: str = "official", name: str = "") -> bool:
    """Whether an answer is the gold one.

    Raises:
        DataError: When the gold answer is neither "yes" nor "no".
    """
    return parse(answer.answer, variant) == _gold(answer, variant, name)


def _pairs(
    answers: Sequence[MmeAnswer | None], variant: str, name: str
) -> list[Sequence[MmeAnswer | None]]:
    """The two answers to each picture: consecutive lines, whatever pictures they name; for
    lmms-eval, those that name the same one.
    """
    if variant == "lmms":
        groups: dict[str, list[MmeAnswer | None]] = {}
        for each in answers:
            if each is not None:
                groups.setdefault(each.picture, []).append(each)
        for picture, group in groups.items():
            if len(group) != 2:
                raise DataError(
                    f"{len(group)} answers to the picture {picture}, and not 2", where=name
                )
        return [*groups.values()]
    if len(answers) % 2:
        raise DataError(
            f"an odd number of lines: {len(answers)}",
            where=name,
            hint="each picture has two questions, in consecutive lines; no line may be empty",
        )
    return [answers[first : first + 2] for first in range(0, len(answers), 2)]


def _gold(answer: MmeAnswer, variant: str, name: str) -> str:
    gold = answer.gold.lower()
    if variant == "lmms":
        gold = gold.strip().replace(".", "")
    if gold not in ("yes", "no"):
        raise DataError(
            f"the gold answer {answer.gold!r} is neither Yes nor No",
            where=f"{name}: {answer.picture}",
            hint="columns are picture, question, gold, answer",
        )
    return gold


def _sum(scores: dict[str, dict[str, float | int]], names: Sequence[str]) -> float | None:
    found = [scores[name]["score"] for name in names if name in scores]
    return sum(found) if found else None
