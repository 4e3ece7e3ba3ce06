"""GQA: one right answer to each question, compared as a string (1902.09506).

The rule is that of the official program (eval.py of the data's own archive). Models of LLaVA's kind
send lower-case answers without a final full stop: variant `llava`. lmms-eval drops case and all
punctuation on both sides, but no spaces: variant `lmms`.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation.scorer_inputs import as_list, check_record, check_text
from orthus_core.evaluation.scorer_variants import check_variant

VARIANTS = {
    "strict": "the prediction equals the answer, character by character",
    "official": "as strict",
    "llava": "as strict, after dropping final full stops and case of the prediction",
    "lmms": "as strict, after dropping case and all punctuation of both",
}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# These operations end a question and do not make it longer.
FINAL_STEPS = ("exist", "query: name", "choose name")


def is_right(prediction: str, answer: str, variant: str = "strict") -> bool:
    """Whether a prediction is the answer."""
    return compared(prediction, variant) == compared(answer, variant, gold=True)


def score(
    questions: Mapping[str, Mapping[str, Any]],
    predictions: Iterable[Mapping[str, Any]] | Mapping[str, str],
    variant: str = "strict",
    choices: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Scores predictions on the balanced questions of a file.

    Args:
        questions: Content of the questions file, by question id. Without `question`, `semantic` or
            `groups`, one is not counted by words, steps or in the distribution; without `types`, it
            is binary.
        predictions: Records with `questionId` and `prediction` (the last one of an id counts), or
            predictions by question id. Ids are compared as text, as in JSON.
        variant: One of VARIANTS.
        choices: Content of the choices file; testdev has none. Without it, validity and
            plausibility are not measured (the official program prints 0).

    Returns:
        Percents: `accuracy`, `binary`, `open` (0 if there are no such questions), `per_structural`,
        `per_semantic`, `per_steps`, `per_words`, `validity` and `plausibility`; `distribution`
        (chi-square divided by 100, lower is better; None without groups); `n`, the number of
        balanced questions.

    Raises:
        DataError: When a balanced question has no prediction, there are none, or a record lacks
            fields.
    """
    check_variant(variant, VARIANTS)
    check_record(questions, (), "the content of the file of questions")
    for key, each in questions.items():
        check_record(each, ("answer",), f"question {key}")
    said = predictions_by_id(predictions)
    asked = {key: each for key, each in questions.items() if each.get("isBalanced", True)}
    missing = [key for key in asked if str(key) not in said]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(asked)} balanced questions have no prediction, such as "
            f"{missing[0]}",
            hint="the official program needs all of them",
        )
    if not asked:
        raise DataError(
            "no balanced questions", hint="use testdev_balanced_questions.json or the like"
        )
    totals: dict[str, list[bool]] = defaultdict(list)
    parts: dict[str, dict[Any, list[bool]]] = defaultdict(lambda: defaultdict(list))
    valid: dict[str, list[bool]] = defaultdict(list)
    gold_by_group: dict[str, Counter[str]] = defaultdict(Counter)
    said_by_group: dict[str, Counter[str]] = defaultdict(Counter)
    for key, question in asked.items():
        prediction = compared(said[str(key)], variant)
        right = is_right(said[str(key)], question["answer"], variant)
        types = question.get("types", {})
        totals["accuracy"].append(right)
        totals[answer_kind(question)].append(right)
        parts["per_structural"][types.get("structural")].append(right)
        parts["per_semantic"][types.get("semantic")].append(right)
        if "question" in question:
            parts["per_words"][len(question["question"].split())].append(right)
        if question.get("semantic") is not None:
            parts["per_steps"][steps(question)].append(right)
        if choices is not None:
            for name, group in (("validity", "valid"), ("plausibility", "plausible")):
                valid[name].append(_belongs(prediction, choices[key][group], types))
        group = (question.get("groups") or {}).get("global")
        if group is not None:
            gold_by_group[group][compared(question["answer"], variant, gold=True)] += 1
            said_by_group[group][prediction] += 1
    return {
        **{name: _percent(totals[name]) for name in ("accuracy", "binary", "open")},
        **{
            name: {kind: _percent(each) for kind, each in parts[name].items()}
            for name in ("per_structural", "per_semantic", "per_steps", "per_words")
        },
        **{
            name: _percent(valid[name]) if choices is not None else None
            for name in ("validity", "plausibility")
        },
        "distribution": _chi_square(gold_by_group, said_by_group),
        "n": len(asked),
    }


def predictions_by_id(
    predictions: Iterable[Mapping[str, Any]] | Mapping[str, str],
) -> dict[str, str]:
    """Predictions by question id as text; of several, the last.

    Raises:
        DataError: When one is no text, or a record lacks fields.
    """
    if not isinstance(predictions, Mapping):
        records = as_list(predictions, "predictions")
        for number, each in enumerate(records, start=1):
            check_record(each, ("questionId", "prediction"), f"prediction {number}")
        predictions = {str(each["questionId"]): each["prediction"] for each in records}
    for key, text in predictions.items():
        check_text(text, f"the prediction of question {key}")
    return {str(key): text for key, text in predictions.items()}


def answer_kind(question: Mapping[str, Any]) -> str:
    """ "open" for questions that are answered by a name or attribute, "binary" for all others."""
    return "open" if question.get("types", {}).get("structural") == "query" else "binary"


def steps(question: Mapping[str, Any]) -> int:
    """The number of reasoning steps, without the final one."""
    named = (f"{each['operation']}: {each['argument']}" for each in question["semantic"])
    return sum(not any(final in step for final in FINAL_STEPS) for step in named)


def compared(text: str, variant: str, *, gold: bool = False) -> str:
    """A prediction, or a gold answer, as a variant compares it."""
    if variant == "lmms":
        return text.lower().translate(_PUNCTUATION)
    if variant == "llava" and not gold:
        return text.rstrip(".").lower()
    return text


def _belongs(prediction: str, group: Iterable[str], types: Mapping[str, Any]) -> bool:
    # Questions about what two things have in common are answered by the name of an attribute.
    if "Common" in (types.get("detailed") or ""):
        group = ("color", "material", "shape")
    return prediction in group


def _percent(outcomes: list[bool]) -> float:
    return 100 * (sum(outcomes) / len(outcomes)) if outcomes else 0.0


def _chi_square(gold: Mapping[str, Counter[str]], said: Mapping[str, Counter[str]]) -> float | None:
    """Distance of the answers' distributions: each group's chi-square, weighted by its size."""
    weighted, total = 0.0, 0
    for group, expected in gold.items():
        size = sum(expected.values())
        weighted += size * sum((said[group][a] - n) ** 2 / n for a, n in expected.items())
        total += size
    return weighted / total / 100 if total else None
