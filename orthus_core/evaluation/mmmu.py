"""MMMU: questions of thirty college subjects, most with options to choose from (2311.16502).

The rules are those of the official program (MMMU-Benchmark/MMMU, eval_utils.py, bb0b95a). It
guesses at random, with a fixed seed, where it cannot read a letter: the number of guesses is in the
result, and `fallback="wrong"` scores them as wrong instead. Variant `lmms` is
lmms-eval's copy, which also reads "B " at the end of a word and "B.".
"""

from __future__ import annotations

import ast
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation.scorer_inputs import as_list, check_record, check_text
from orthus_core.evaluation.scorer_variants import check_variant

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics"),
        *("Energy_and_Power", "Materials", "Mechanical_Engineering"),
    ),
}
VARIANTS = {
    "official": 'the last "(B)", else the last " B ", else an option\'s text in a long answer',
    "lmms": 'as official, but "B " and "B." inside of words are letters too',
}
FALLBACKS = {
    "random42": "where no letter can be read, one is drawn with seed 42, as officially",
    "wrong": "where no letter can be read, the answer is wrong",
}
GUESSING_SEED = 42
MULTIPLE_CHOICE = "multiple-choice"
# An answer of at most this many words is not searched for the text of an option.
SHORT_ANSWER_WORDS = 5
_OUTER_MARKS = (",", ".", "!", "?", ";", ":", "'")
_KEY_WORDS = (
    *("could be ", "so ", "is ", "thus "),
    *("therefore ", "final ", "answer ", "result "),
)
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def parse_choice(
    response: str,
    letters: Sequence[str],
    options: Sequence[str] | Mapping[str, str] | str,
    variant: str = "official",
) -> str | None:
    """The letter that a response chooses; None if the official program would guess.

    Args:
        response: Answer of the model.
        letters: Letters of the options.
        options: Texts of the options, in the order of the letters or by letter, or the text of a
            list, as the hub's tables hold them.
        variant: One of VARIANTS.

    Raises:
        DataError: When the response is no text.
    """
    check_variant(variant, VARIANTS)
    check_text(response, "the response")
    if isinstance(options, str):
        options = options_of(options)
    if isinstance(options, Mapping):
        by_letter = {str(letter): str(option) for letter, option in options.items()}
    else:
        by_letter = dict(zip(letters, options, strict=False))
    for mark in _OUTER_MARKS:
        response = response.strip(mark)
    response = f" {response} "

    found = [each for each in letters if f"({each})" in response]
    if found:
        return _last(found, [response.rfind(f"({each})") for each in found])
    alone = [" {} "] if variant == "official" else ["{} ", "{}."]
    for form in alone:
        found = [each for each in letters if form.format(each) in response]
        if found:
            # lmms-eval, too, looks for the last letter that stands alone, whatever the form was.
            return _last(found, [response.rfind(f" {each} ") for each in found])
    if len(response.split()) > SHORT_ANSWER_WORDS:
        text = response.lower()
        found = [each for each, option in by_letter.items() if option.lower() in text]
        if found:
            return _last(found, [text.rfind(by_letter[each].lower()) for each in found])
    return None


def parse_open(response: str) -> list[str | float]:
    """What a response to an open question may mean: key phrases and the numbers in them, in lower
    case and rounded to two digits, each once.

    Raises:
        DataError: When the response is no text.
    """
    check_text(response, "the response")
    # The official program also splits sentences before capitals; it has none left by then.
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    phrases = []
    for number, line in enumerate(lines):
        indicators = (*_KEY_WORDS, "=") if number == len(lines) - 1 else _KEY_WORDS
        shortest = ""
        for indicator in indicators:
            if indicator in line:
                tail = line.split(indicator)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _OUTER_MARKS:
            phrases.append(shortest)
    phrases = phrases or [response]
    numbers = [
        found for phrase in phrases for pattern in _NUMBERS for found in pattern.findall(phrase)
    ]
    values = (value for text in (*phrases, *numbers) for value in normalise(text))
    return [*dict.fromkeys(values)]


def normalise(text: str) -> list[str | float]:
    """A number rounded to two digits, or the text in lower case; a single letter with a space
    before and after it, so that it is not found inside of words.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_is_right(gold: str | float | Sequence[str | float], parsed: Sequence[str | float]) -> bool:
    """Whether one of the readings of a response contains one of the gold texts, or equals one of
    the gold numbers.

    Raises:
        DataError: When the readings are no list.
    """
    parsed = as_list(parsed, "readings of a response, as parse_open gives them")
    golds = [gold] if isinstance(gold, (str, int, float)) else gold
    wanted = [value for each in golds for value in normalise(str(each))]
    texts = [value for value in wanted if isinstance(value, str)]
    return any(
        any(text in each for text in texts) if isinstance(each, str) else each in wanted
        for each in parsed
    )


def choice_is_right(gold: str | Sequence[str], letter: str | None) -> bool:
    """Whether a letter is the gold one, or one of them."""
    return letter == gold if isinstance(gold, str) else letter in gold


def score(
    rows: Sequence[Mapping[str, Any]], fallback: str = "random42", variant: str = "official"
) -> dict[str, Any]:
    """Scores rows of answers.

    Args:
        rows: Records as in the official `output.json`: `id` (which names the subject),
            `question_type`, `answer`, `response`, and for multiple-choice `index2ans` (and
            `all_choices`, if not its letters in their order), or `options`. A row with
            `parsed_pred` in place of `response` is not parsed, as by the official
            `main_eval_only.py` for letters; of an open question, it is the list that `parse_open`
            gives, or a text. Guesses are drawn in the order of the rows.
        fallback: One of FALLBACKS.
        variant: One of VARIANTS.

    Returns:
        `overall` (of all rows alike), `per_subject` and `per_domain` as fractions, `fallbacks`, the
        number of answers without a letter, `n`, and `right` and `parsed` for each row.

    Raises:
        DataError: When a row lacks fields.
    """
    check_variant(variant, VARIANTS)
    check_variant(fallback, FALLBACKS)
    guesses = random.Random(GUESSING_SEED)
    fallbacks = 0
    outcomes: list[bool] = []
    readings: list[Any] = []
    subjects: dict[str, list[bool]] = defaultdict(list)
    for number, row in enumerate(as_list(rows, "rows"), start=1):
        check_record(row, ("id", "question_type", "answer"), f"row {number}")
        if "response" not in row:
            check_record(row, ("parsed_pred",), f"row {number}, which has no response,")
        if row["question_type"] != MULTIPLE_CHOICE:
            said = row["response"] if "response" in row else row["parsed_pred"]
            reading = [*said] if isinstance(said, (list, tuple)) else parse_open(str(said))
            right = open_is_right(row["answer"], reading)
        elif "response" in row:
            letters, options = choices_of(row)
            reading = parse_choice(row["response"], letters, options, variant)
            if reading is None:
                fallbacks += 1
                reading = guesses.choice(letters) if fallback == "random42" else None
            right = choice_is_right(row["answer"], reading)
        else:
            reading = row["parsed_pred"]
            right = choice_is_right(row["answer"], reading)
        outcomes.append(right)
        readings.append(reading)
        subjects[subject_of(row["id"])].append(right)
    domains = {
        domain: [right for name in names for right in subjects.get(name, ())]
        for domain, names in DOMAINS.items()
    }
    return {
        "overall": _share(outcomes),
        "per_subject": {name: _share(each) for name, each in subjects.items()},
        "per_domain": {name: _share(each) for name, each in domains.items() if each},
        "fallbacks": fallbacks,
        "n": len(outcomes),
        "right": outcomes,
        "parsed": readings,
    }


def subject_of(key: str) -> str:
    """The subject in an id: `validation_Art_Theory_12` is of Art_Theory."""
    return "_".join(key.split("_")[1:-1])


def choices_of(row: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The letters of a row's options, and the options by letter.

    Raises:
        DataError: When the row has no options.
    """
    if "index2ans" in row:
        return [*row.get("all_choices", row["index2ans"])], dict(row["index2ans"])
    if not row.get("options"):
        raise DataError("a multiple-choice question without options", where=str(row.get("id", "")))
    options = row["options"]
    if isinstance(options, str):  # the hub's tables hold the text of a Python list
        options = options_of(options)
    letters = [chr(ord("A") + number) for number in range(len(options))]
    return letters, dict(zip(letters, options, strict=True))


def options_of(text: str | Sequence[str]) -> list[str]:
    """The options of a question, which the hub's tables hold as the text of a Python list."""
    if not isinstance(text, str):
        return [*text]
    # The official program evaluates this text as code; a literal is all that it may be.
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return [text]
    return [str(each) for each in value] if isinstance(value, list) else []


def _last(found: Sequence[str], places: Sequence[int]) -> str:
    """The one that is found last; of several at the same place, the first, as by NumPy."""
    return found[places.index(max(places))]


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0
