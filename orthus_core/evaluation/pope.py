"""POPE: does a model say "yes" to things that are not in the picture? (2305.10355)

The rule is that of the official program (AoiDragon/POPE, evaluate.py, 08d957b), with what it does
not say in its paper: whatever does not say "no" counts as "yes", an empty answer too. LLaVA's
program applies the same rule. Variant `lmms` is lmms-eval's: only "yes" and "no" are answers.
"""

from __future__ import annotations

from collections.abc import Iterable

from orthus_core.errors import DataError
from orthus_core.evaluation.scorer_inputs import as_list, check_text
from orthus_core.evaluation.scorer_variants import check_variant

SPLITS = ("random", "popular", "adversarial")
VARIANTS = {
    "official": 'an answer is "no" if No, no or not is a word of its first sentence, else "yes"',
    "llava": "as official",
    "lmms": 'only "yes" and "no" are answers; the yes ratio is that of the truth',
}
# Case matters: "NO" and "Not" are not among them.
NO_WORDS = ("No", "not", "no")


def parse(answer: str) -> str:
    """ "yes" or "no", as the official program understands an answer.

    Words are separated by single spaces only, and only commas are dropped: "No!" and "no\\n" are
    not "no".
    """
    check_text(answer, "the answer")
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if any(word in words for word in NO_WORDS) else "yes"


def readings(answers: Iterable[str], variant: str = "official") -> list[str]:
    """Answers as a variant reads them; for `lmms` there are others than "yes" and "no"."""
    answers = as_list(answers, "answers")
    for number, answer in enumerate(answers, start=1):
        check_text(answer, f"answer {number}")
    if variant == "lmms":
        return [answer.lower().strip() for answer in answers]
    return [parse(answer) for answer in answers]


def truths(labels: Iterable[str], variant: str = "official") -> list[str]:
    """Labels as a variant reads them; the official program takes everything but "no" for "yes"."""
    labels = as_list(labels, "labels")
    for number, label in enumerate(labels, start=1):
        check_text(label, f"label {number}")
    if variant == "lmms":
        return [label.lower().strip() for label in labels]
    return ["no" if label == "no" else "yes" for label in labels]


def score(
    answers: Iterable[str], labels: Iterable[str], variant: str = "official"
) -> dict[str, float | int]:
    """Accuracy, precision, recall, F1 and the share of "yes", as fractions, and the counts.

    Args:
        answers: Answers of the model, raw or parsed, in the order of the labels.
        labels: "yes" and "no"; see `truths`.
        variant: One of VARIANTS.

    Returns:
        0 where the official program divides by zero.

    Raises:
        DataError: When the numbers of answers and labels differ, or one is no list of texts.
    """
    check_variant(variant, VARIANTS)
    answers, labels = as_list(answers, "answers"), as_list(labels, "labels")
    if len(answers) != len(labels):
        raise DataError(
            f"{len(answers)} answers for {len(labels)} labels",
            hint="answers belong to questions by their order; give one for each",
        )
    said, truth = readings(answers, variant), truths(labels, variant)
    pairs = [*zip(said, truth, strict=True)]
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    fn, tn = pairs.count(("no", "yes")), pairs.count(("no", "no"))
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    return {
        "accuracy": _ratio(tp + tn, len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        # lmms-eval counts the labels here, which says nothing about the model.
        "yes_ratio": _ratio((truth if variant == "lmms" else said).count("yes"), len(pairs)),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
