"""GenEval: do the detections in a picture fulfil its prompt? (2310.11513)

The rule is that of the official program (djghosh13/geneval, evaluate_images.py, af4902f). Only the
most certain detections of a class are looked at, as many as the prompt asks for.

A detection is a box of x0, y0, x1, y1, score and perhaps colour; a pair of box and score, or, as
the official program holds it, of box with score and mask; or a mapping with `box`, `score` and
`color`.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from orthus_core.errors import DataError
from orthus_core.evaluation.scorer_inputs import as_list, check_record

COLORS = (
    *("red", "orange", "yellow", "green", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
# A detection's score has to be above this; for the tag counting, above the second number.
THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MOST_OBJECTS = 16  # of a class
# Detections of a class that overlap by this or more are one; 1.0 keeps them all.
MOST_OVERLAP = 1.0
# This fraction of the sum of both sides is subtracted from the offset of two boxes.
POSITION_THRESHOLD = 0.1
# Minimum of the normalised offset along a direction. A diagonal offset counts in both directions.
DIRECTION_SHARE = 0.5
SAME_PLACE = 1e-3

T = TypeVar("T")


class Verdict(NamedTuple):
    """A judgement.

    Attributes:
        right: Whether the picture is correct.
        reasons: All reasons why it is not.
        kept: Detections that were certain enough, by class, the most certain first.
    """

    right: bool
    reasons: tuple[str, ...] = ()
    kept: Mapping[str, Sequence[Any]] = {}


class BoxDetection(NamedTuple):
    """A detection: corners in pixels, certainty, and the colour if it is known."""

    box: tuple[float, float, float, float]
    score: float
    color: str | None = None


def judge(
    metadata: Mapping[str, Any],
    detections: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]],
    *,
    threshold: float = THRESHOLD,
    counting_threshold: float = COUNTING_THRESHOLD,
    most_objects: int = MOST_OBJECTS,
    most_overlap: float = MOST_OVERLAP,
) -> Verdict:
    """Judges whether detections fulfil a prompt.

    Args:
        metadata: Record of the prompt: `tag`, `include` and `exclude`.
        detections: Detections by class, or mappings with `class`, `box`, `score` and `color`. The
            colour is only needed where the prompt names one.
        threshold, counting_threshold, most_objects, most_overlap: The official program's options.

    Raises:
        DataError: When a colour is needed and not known, a position refers to nothing, or records
            lack fields.
    """
    check_record(metadata, (), "the record of a prompt")
    for part in ("include", "exclude"):
        for number, wanted in enumerate(metadata.get(part) or (), start=1):
            check_record(wanted, ("class", "count"), f"entry {number} of {part}")
    least = counting_threshold if metadata.get("tag") == "counting" else threshold
    kept = {
        name: _certain(group, least, most_objects, most_overlap)
        for name, group in by_class(detections).items()
    }
    kept = {name: group for name, group in kept.items() if group}
    reasons = reasons_against(metadata, kept, _color_error, _position_error)
    return Verdict(not reasons, reasons, kept)


def reasons_against(
    metadata: Mapping[str, Any],
    kept: Mapping[str, Sequence[T]],
    color_error: Callable[[str, int, str, Sequence[T]], str],
    position_error: Callable[[str, Sequence[T], str, Sequence[T]], str],
) -> tuple[str, ...]:
    """All reasons why detections do not fulfil a prompt, whatever a detection is.

    Args:
        metadata: Record of the prompt: `include` and `exclude`.
        kept: Detections by class, the most certain first.
        color_error: What is wrong about colours, or "": of class, count, colour and detections.
        position_error: What is wrong about positions, or "": of class, its detections, relation,
            and the detections that it refers to.

    Raises:
        DataError: When a position refers to nothing.
    """
    reasons: list[str] = []
    groups: list[Sequence[T] | None] = []
    for wanted in metadata.get("include", ()):
        name, count = wanted["class"], wanted["count"]
        found = kept.get(name, ())[:count]
        wrong = ""
        if len(found) < count:
            wrong = f"expected {name}>={count}, found {len(found)}"
        if not wrong and "color" in wanted:
            wrong = color_error(name, count, wanted["color"], found)
        if not wrong and "position" in wanted:
            relation, place = wanted["position"]
            if not 0 <= place < len(groups):
                raise DataError(f"{name} is placed beside entry {place}, which is not before it")
            targets = groups[place]
            wrong = (
                f"no target for {name} to be {relation}"
                if targets is None
                else position_error(name, found, relation, targets)
            )
        groups.append(None if wrong else found)
        reasons += [wrong] if wrong else []
    for unwanted in metadata.get("exclude", ()):
        name, count = unwanted["class"], unwanted["count"]
        found = kept.get(name, ())
        if len(found) >= count:
            reasons.append(f"expected {name}<{count}, found {len(found)}")
    return tuple(reasons)


def relative_position(box_a: Sequence[float], box_b: Sequence[float]) -> set[str]:
    """The relations of box `a` to box `b`: at most two of left of, right of, above, below.

    The offset of the centres is shortened by a part of the boxes' sides, and divided by the length
    that it had before.

    Raises:
        DataError: When a box has fewer than four numbers.
    """
    if min(len(box_a), len(box_b)) < 4:
        raise DataError("a box of fewer than four numbers", hint="x0, y0, x1, y1")
    offsets, shortened = [], []
    for axis in (0, 1):
        centre_a, centre_b = ((box[axis] + box[axis + 2]) / 2 for box in (box_a, box_b))
        side_a, side_b = (abs(box[axis + 2] - box[axis]) for box in (box_a, box_b))
        offset = centre_a - centre_b
        offsets.append(offset)
        rest = max(abs(offset) - POSITION_THRESHOLD * (side_a + side_b), 0.0)
        shortened.append(math.copysign(rest, offset))
    if all(abs(each) < SAME_PLACE for each in shortened):
        return set()
    length = math.hypot(*offsets)
    across, down = (each / length for each in shortened)
    relations = {
        "left of": across < -DIRECTION_SHARE,
        "right of": across > DIRECTION_SHARE,
        "above": down < -DIRECTION_SHARE,
        "below": down > DIRECTION_SHARE,
    }
    return {relation for relation, holds in relations.items() if holds}


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of judged pictures, as fractions.

    Args:
        rows: Records with `tag`, `correct` and `prompt` (or `metadata`), as in the official
            `results.jsonl`.

    Returns:
        `overall`, the mean of the tasks' accuracies; `per_task`; `per_image`, the share of correct
        pictures; `per_prompt`, that of prompts with a correct picture.

    Raises:
        DataError: When there are no rows, or one lacks fields.
    """
    tasks: dict[str, list[bool]] = defaultdict(list)
    prompts: dict[Any, list[bool]] = defaultdict(list)
    for number, row in enumerate(as_list(rows, "rows"), start=1):
        check_record(row, ("tag", "correct"), f"row {number}")
        right = bool(row["correct"])
        tasks[row["tag"]].append(right)
        prompts[str(row.get("metadata", row.get("prompt")))].append(right)
    if not tasks:
        raise DataError("no judged pictures")
    per_task = {tag: _share(each) for tag, each in tasks.items()}
    return {
        "overall": _share([*per_task.values()]),
        "per_task": per_task,
        "per_image": _share([right for each in tasks.values() for right in each]),
        "per_prompt": _share([any(each) for each in prompts.values()]),
    }


def by_class(
    detections: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]],
) -> dict[str, list[BoxDetection]]:
    """Detections by class, in the order given.

    Raises:
        DataError: When one has no box.
    """
    found: dict[str, list[BoxDetection]] = {}
    if isinstance(detections, Mapping):
        for name, group in detections.items():
            found[str(name)] = [_detection(each, str(name)) for each in group]
        return found
    for number, each in enumerate(as_list(detections, "detections"), start=1):
        check_record(each, (), f"detection {number}")
        name = each.get("class", each.get("label", each.get("name")))
        if not isinstance(name, str):
            raise DataError("a detection without a class", hint='give "class", "box" and "score"')
        found.setdefault(name, []).append(_detection(each, name))
    return found


def _detection(raw: Any, name: str) -> BoxDetection:
    color = None
    if isinstance(raw, BoxDetection):
        return raw
    if not hasattr(raw, "__len__"):
        raise DataError(
            f"a detection of {name!r} that is a single number: {raw!r}",
            hint="give a list of boxes for each class, even for one: [[x0, y0, x1, y1, score]]",
        )
    if isinstance(raw, Mapping):
        color = raw.get("color", raw.get("colour"))
        box = raw.get("box", raw.get("bbox"))
        score = raw.get("score", 1.0)
    elif len(raw) in (2, 3) and hasattr(raw[0], "__len__"):
        box, score, *rest = raw
        color = rest[0] if rest else None
        if len(box) > 4:  # the official pair: the score is in the box, and the mask beside it
            score = box[4]
    else:
        box, score = raw, raw[4] if len(raw) > 4 else 1.0
        color = raw[5] if len(raw) > 5 and isinstance(raw[5], str) else None
    if box is None or len(box) < 4:
        raise DataError(f"a detection of {name!r} without a box", hint="x0, y0, x1, y1, score")
    x0, y0, x1, y1 = (float(each) for each in box[:4])
    if isinstance(raw, Mapping) and "score" not in raw and len(box) > 4:
        score = box[4]
    return BoxDetection((x0, y0, x1, y1), float(score), color)


def _certain(
    group: Sequence[BoxDetection], least: float, most: int, overlap: float
) -> list[BoxDetection]:
    """The detections that are certain enough, the most certain first."""
    # Of equal scores, the official program takes the last first: it sorts, and then reverses.
    order = sorted(range(len(group)), key=lambda at: _single(group[at].score))[::-1]
    left = [group[at] for at in order if _single(group[at].score) > _single(least)][:most]
    if overlap == 1:
        return left
    kept: list[BoxDetection] = []
    for each in left:
        if all(_overlap(each.box, other.box) < overlap for other in kept):
            kept.append(each)
    return kept


def _single(score: float) -> float:
    """A score in single precision, in which the official program compares. Single precision's 0.3
    is above double precision's.
    """
    return array("f", [score])[0]


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, of boxes whose corners are pixels that belong to them."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a[:4]) + area(*b[:4]) - shared
    return shared / union if union else 0.0


def _color_error(name: str, count: int, color: str, found: Sequence[BoxDetection]) -> str:
    colors = [each.color for each in found]
    if None in colors:
        raise DataError(
            f"the colour of a detection of {name!r} is not known",
            hint='give each detection a "color": the official one is CLIP ViT-L/14\'s choice of '
            + ", ".join(COLORS),
        )
    right = colors.count(color)
    if right >= count:
        return ""
    seen = [f"{colors.count(each)} {each}" for each in COLORS if each in colors]
    return f"expected {color} {name}>={count}, found {right} {color}; and {', '.join(seen)}"


def _position_error(
    name: str,
    found: Sequence[BoxDetection],
    relation: str,
    targets: Sequence[BoxDetection],
) -> str:
    for each in found:
        for target in targets:
            seen = relative_position(each.box, target.box)
            if relation not in seen:
                return (
                    f"expected {name} {relation} target, found {' and '.join(sorted(seen))} target"
                )
    return ""


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values)
