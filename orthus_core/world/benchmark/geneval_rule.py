"""GenEval's rule: which of the things a prompt asks for are there, so many, so coloured, so placed.

The records and the rule are the official ones (Ghosh et al., 2310.11513, `evaluate_images.py`):

    {"tag": "position", "prompt": "a dog left of a cat",
     "include": [{"class": "cat", "count": 1},
                 {"class": "dog", "count": 1, "position": ["left of", 0]}]}

What differs is who looks: a detector that knows the small world's sprites instead of one of photos.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orthus_core.world.arrange import OPPOSITE, arrange
from orthus_core.world.benchmark.detector import Detection
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.world import World

# Boxes' own extent is taken off their distance: a tenth of both sides together.
POSITION_THRESHOLD = 0.1
# A direction counts when the offset's share along it is over this: diagonals count both ways.
DIRECTION_SHARE = 0.5


class Verdict(NamedTuple):
    """Whether a picture is right, and every reason why not."""

    right: bool
    reasons: tuple[str, ...] = ()


def scene_of(rng: random.Random, world: World, request: Mapping[str, Any]) -> Scene:
    """A scene on white that is right for a request."""
    things: list[Thing] = []
    relation = ""
    for entry in request["include"]:
        thing = Thing(world.cast[entry["class"]].key, colour=entry.get("color", ""))
        things += [thing] * entry["count"]
        if "position" in entry:
            # Told of the second thing by the first; `arrange` wants it the other way round.
            relation = OPPOSITE[entry["position"][0]]
    return arrange(rng, things, "white", relation)


def judge(request: Mapping[str, Any], detections: Sequence[Detection]) -> Verdict:
    """Whether the detections are what the record asks for.

    Args:
        detections: The surest first; of each class as many as asked are looked at.
    """
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for entry in request["include"]:
        wanted, count = entry["class"], entry["count"]
        group = [found for found in detections if found.noun == wanted]
        wrong = ""
        if len(group) < count:
            wrong = f"expected {wanted}>={count}, found {len(group)}"
        group = group[:count]
        if not wrong and "color" in entry:
            coloured = sum(found.colour == entry["color"] for found in group)
            if coloured < count:
                wrong = f"expected {entry['color']} {wanted}>={count}, found {coloured}"
        if not wrong and "position" in entry:
            relation, target = entry["position"]
            wrong = _position_error(wanted, group, relation, groups[target])
        groups.append(None if wrong else group)
        reasons += [wrong] if wrong else []
    for entry in request.get("exclude", ()):
        found = sum(detection.noun == entry["class"] for detection in detections)
        if found >= entry["count"]:
            reasons.append(f"expected {entry['class']}<{entry['count']}, found {found}")
    return Verdict(not reasons, tuple(reasons))


def relations(a: Detection, b: Detection) -> set[str]:
    """How one box stands to another: up to two of left of, right of, above, below."""
    far = POSITION_THRESHOLD * (a.side + b.side)
    across, down = (_reduce(m - n, far) for m, n in zip(a.centre, b.centre, strict=True))
    length = math.hypot(across, down)
    if not length:
        return set()
    across, down = across / length, down / length
    found = {
        "left of": across < -DIRECTION_SHARE,
        "right of": across > DIRECTION_SHARE,
        "above": down < -DIRECTION_SHARE,
        "below": down > DIRECTION_SHARE,
    }
    return {relation for relation, holds in found.items() if holds}


def _position_error(
    noun: str, group: Sequence[Detection], relation: str, targets: Sequence[Detection] | None
) -> str:
    if targets is None:
        return f"no target for {noun} to be {relation}"
    for found in group:
        for target in targets:
            if relation not in relations(found, target):
                return f"expected {noun} {relation} {target.noun}"
    return ""


def _reduce(offset: float, far: float) -> float:
    """An offset less so much, never across 0."""
    return math.copysign(max(abs(offset) - far, 0.0), offset)
