"""GenEval's rule: does a picture show the things of a prompt, with count, colour and position?

The records and the rule are the official ones (Ghosh et al., 2310.11513, `evaluate_images.py`):

    {"tag": "position", "prompt": "a dog left of a cat",
     "include": [{"class": "cat", "count": 1},
                 {"class": "dog", "count": 1, "position": ["left of", 0]}]}

Only the detector differs: it names sprites by features, and knows no photographs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from orthus_core.evaluation.geneval import DIRECTION_SHARE, POSITION_THRESHOLD, Verdict
from orthus_core.world.arrange import OPPOSITE, arrange
from orthus_core.world.benchmark.detector import Detection
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.wordings import BESIDE, SIDES
from orthus_core.world.world import World


def scene_of(rng: random.Random, world: World, request: Mapping[str, Any]) -> Scene:
    """A correct scene for a request, on white."""
    things: list[Thing] = []
    relation = ""
    for entry in request["include"]:
        thing = Thing(world.cast[entry["class"]].key, colour=entry.get("color", ""))
        things += [thing] * entry["count"]
        if "position" in entry:
            # The record gives the relation of the second thing to the first; `arrange` takes that
            # of the first to the second.
            # "beside" has none: either side is right.
            relation = OPPOSITE.get(entry["position"][0], "left of")
    return arrange(rng, things, "white", relation)


def judge(request: Mapping[str, Any], detections: Sequence[Detection]) -> Verdict:
    """Judges whether the detections fulfil a request.

    Args:
        request: Record of the prompt.
        detections: Detections, the most certain first; of each class, only as many as the request
            asks for are considered.
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
    """The relations of box `a` to box `b`: at most two of left of, right of, above, below."""
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
    right = {*SIDES} if relation == BESIDE else {relation}
    for found in group:
        for target in targets:
            if not right & relations(found, target):
                return f"expected {noun} {relation} {target.noun}"
    return ""


def _reduce(offset: float, far: float) -> float:
    """Moves an offset towards 0 by `far`, but not past it."""
    return math.copysign(max(abs(offset) - far, 0.0), offset)
