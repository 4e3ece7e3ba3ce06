"""VQAv2: agreement with ten annotators (1612.00837).

The rule is that of the official program (GT-Vision-Lab/VQA, vqaEval.py, a013f00): each annotator is
left out in turn, and an answer counts min(1, matches among the others / 3).

An answer is normalised only if the annotators disagree; where all ten say "yes", "Yes" is wrong.
Published models send answers that EvalAI's processor has normalised before, as variant `submission`
does. Variant `lmms` is lmms-eval's (0.7.3), which normalises both sides everywhere, with the second
half of that processor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation.scorer_inputs import as_list, check_record, check_text
from orthus_core.evaluation.scorer_variants import check_variant

VARIANTS = {
    "official": "predictions as they are; normalised only where the annotators disagree",
    "submission": "predictions first go through EvalAI's processor, as LLaVA's submissions do",
    "llava": "as submission",
    "lmms": "both sides are normalised, where the annotators agree, too",
}
# Colon, $ and % are not among them, and the apostrophe is kept for contractions.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
NUMBERS: dict[str, str] = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),
        "0 0 1 2 3 4 5 6 7 8 9 10".split(),
        strict=True,
    )
)
DIGITS_WITH_COMMA = re.compile(r"\d,\d")
EVALAI_DIGITS_WITH_COMMA = re.compile(r"\d,+\d")
FULL_STOP = re.compile(r"\.(?!\d)")
# The official program passes re.UNICODE, which is 32, where the number of replacements belongs.
MOST_FULL_STOPS = 32

_SPELLINGS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
# What lacks one apostrophe gets it back. One entry of the official table goes the other way, and
# those that begin with a capital I never match, because words are in lower case by then.
CONTRACTIONS: dict[str, str] = {
    right[:at] + right[at + 1 :]: right
    for right in _SPELLINGS
    for at, letter in enumerate(right)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


def normalise(text: str) -> str:
    """An answer as the official program compares it: without most punctuation and articles, in
    lower case, with digits for numbers up to ten and with apostrophes in contractions.
    """
    check_text(text, "the answer")
    return _words(_without_punctuation(_one_line(text)))


def submission_answer(text: str) -> str:
    """An answer as EvalAI's processor (of MMF and LLaVA) prepares it for a submission.

    Unlike `normalise`, it drops commas and question marks first, and splits off "'s".
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _words(_without_punctuation(text, EVALAI_DIGITS_WITH_COMMA))


def read_answer(text: str, variant: str = "official") -> str:
    """A prediction as a variant compares it where the annotators disagree."""
    if variant == "lmms":
        return _words(_without_punctuation(_one_line(text), EVALAI_DIGITS_WITH_COMMA))
    return normalise(text if variant == "official" else submission_answer(text))


def accuracy(
    prediction: str, answers: Sequence[str | Mapping[str, Any]], variant: str = "official"
) -> float:
    """The accuracy of one answer: 0..100, rounded to two digits as by the official program.

    Args:
        prediction: Answer of the model.
        answers: Answers of the annotators: texts, or records of the annotation file. Of records,
            an annotator leaves out all that are equal to theirs, so `answer_id` must be in them.
        variant: One of VARIANTS.
    """
    return round(100 * agreement(prediction, answers, variant), 2)


def agreement(
    prediction: str, answers: Sequence[str | Mapping[str, Any]], variant: str = "official"
) -> float:
    """`accuracy` as a fraction, not rounded.

    Raises:
        DataError: When there are no answers, as in test sets, or they are no list of texts or
            records.
    """
    check_variant(variant, VARIANTS)
    check_text(prediction, "the prediction")
    records = []
    for number, each in enumerate(as_list(answers, "answers of annotators"), start=1):
        record = {"answer": each, "answer_id": number} if isinstance(each, str) else each
        check_record(record, ("answer",), f"answer {number} of the annotators")
        check_text(record["answer"], f"answer {number} of the annotators")
        records.append(dict(record))
    if not records:
        raise DataError("no answers of annotators", hint="test sets have none: submit to EvalAI")
    for record in records:
        record["answer"] = _one_line(record["answer"])
    if variant in ("submission", "llava"):
        prediction = submission_answer(prediction)
    prediction = _one_line(prediction)
    if variant == "lmms" or len({record["answer"] for record in records}) > 1:
        comma = EVALAI_DIGITS_WITH_COMMA if variant == "lmms" else DIGITS_WITH_COMMA
        for record in records:
            record["answer"] = _words(_without_punctuation(record["answer"], comma))
        prediction = _words(_without_punctuation(prediction, comma))
    shares = []
    for left_out in records:
        matches = sum(each != left_out and each["answer"] == prediction for each in records)
        shares.append(min(1.0, matches / 3))
    return sum(shares) / len(shares)


def score(
    results: Sequence[Mapping[str, Any]],
    annotations: Any,
    questions: Any = None,
    variant: str = "official",
) -> dict[str, Any]:
    """Scores a results file, rounded to two digits as the official program does.

    Args:
        results: Records with `question_id` and `answer`; of several of an id, the last counts. Ids
            are compared as text.
        annotations: Content of the annotation file, or its list of annotations.
        questions: Content of the question file, or its list of questions; None does not check
            that it is the annotations' file.
        variant: One of VARIANTS.

    Returns:
        `overall`, `per_answer_type`, `per_question_type`: 0..100.

    Raises:
        DataError: When questions have no prediction, predictions have no question, there are no
            annotations, or records lack fields.
    """
    needed = ("question_id", "answers", "answer_type", "question_type")
    truth = {
        str(each["question_id"]): each for each in _records(annotations, "annotations", needed)
    }
    if not truth:
        raise DataError(
            "no annotations", hint="give the content of v2_mscoco_val2014_annotations.json"
        )
    answers = _records(results, "results", ("question_id", "answer"))
    said = {str(each["question_id"]): each["answer"] for each in answers}
    asked = truth.keys()
    if questions is not None:
        records = _records(questions, "questions", ("question_id",))
        asked = {str(each["question_id"]) for each in records}
        check_same_questions("annotations", truth.keys(), asked)
    check_same_questions("predictions", said.keys(), asked)
    scored = [(each, agreement(said[key], each["answers"], variant)) for key, each in truth.items()]
    return {
        "overall": rounded_percent([share for _, share in scored]),
        "per_answer_type": percents_by(scored, "answer_type"),
        "per_question_type": percents_by(scored, "question_type"),
    }


def percents_by(scored: Iterable[tuple[Mapping[str, Any], float]], field: str) -> dict[str, float]:
    """The accuracy of the annotations that have the same value in a field."""
    groups: dict[str, list[float]] = {}
    for annotation, share in scored:
        groups.setdefault(annotation[field], []).append(share)
    return {value: rounded_percent(shares) for value, shares in groups.items()}


def rounded_percent(shares: Sequence[float]) -> float:
    """The mean of fractions as a percent, rounded to two digits as by the official program."""
    return round(100 * sum(shares) / len(shares), 2)


def check_same_questions(what: str, found: Any, asked: Any) -> None:
    """Check that two files are about the same questions, as the official program demands.

    Raises:
        DataError: When one has questions that the other has not.
    """
    foreign, missing = found - asked, asked - found
    if foreign:
        raise DataError(
            f"{len(foreign)} {what} are of questions that are not in this set, such as "
            f"{min(foreign, key=str)}",
            hint="these are answers for another set, or a part of it",
        )
    if missing:
        raise DataError(
            f"{len(missing)} of {len(asked)} questions have no {what}, such as "
            f"{min(missing, key=str)}",
            hint="the official program needs all of them",
        )


def _records(content: Any, key: str, needed: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """The records of a file's content, or those in a list. Raises: DataError for others."""
    if isinstance(content, Mapping) and key != "results":
        check_record(content, (key,), f"the content of the file of {key}")
        content = content[key]
    records = as_list(content, key)
    for number, each in enumerate(records, start=1):
        check_record(each, needed, f"record {number} of {key}")
    return records


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str, comma: re.Pattern[str] = DIGITS_WITH_COMMA) -> str:
    """Without punctuation: a mark becomes nothing where it touches a space somewhere in the text,
    or where the text has a comma between digits, and a space otherwise.
    """
    is_number = comma.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        touches = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if touches or is_number else " ")
    return FULL_STOP.sub("", result, count=MOST_FULL_STOPS)


def _words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
