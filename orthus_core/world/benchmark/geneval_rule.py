"""GenEval's rule: does a picture show the things of a prompt, with count, colour and position?

The records and the rule are the official ones (Ghosh et al., 2310.11513, `evaluate_images.py`):

    {"tag": "position", "prompt": "a dog left of a cat",
     "include": [{"class": "cat", "count": 1},
                 {"class": "dog", "count": 1, "position": ["left of", 0]}]}

Two things differ: the detector names sprites by features, and `relations` divides offsets by
another length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from orthus_core.evaluation.geneval import (
    DIRECTION_SHARE,
    POSITION_THRESHOLD,
    Verdict,
    reasons_against,
)
from orthus_core.world.arrange import OPPOSITE, arrange
from orthus_core.world.benchmark.detector import Detection
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.wordings import BESIDE, SIDES
from orthus_core.world.world import World


def scene_of(
    rng: random.Random, world: World, request: Mapping[str, Any], backdrop: str = "white"
) -> Scene:
    """A correct scene for a request, on a backdrop."""
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
    return arrange(rng, things, backdrop, relation)


def judge(request: Mapping[str, Any], detections: Sequence[Detection]) -> Verdict:
    """Judges whether the detections fulfil a request.

    Args:
        request: Record of the prompt.
        detections: Detections, the most certain first; of each class, only as many as the request
            asks for are considered.
    """
    by_noun: dict[str, list[Detection]] = {}
    for found in detections:
        by_noun.setdefault(found.noun, []).append(found)
    reasons = reasons_against(request, by_noun, _colour_error, _position_error)
    return Verdict(not reasons, reasons)


def relations(a: Detection, b: Detection) -> set[str]:
    """The relations of box `a` to box `b`: at most two of left of, right of, above, below.

    `evaluation.geneval.relative_position` divides the shortened offset by the whole length, this by
    the shortened one, so things that lie close together have a relation more often.
    """
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


def _colour_error(noun: str, count: int, colour: str, group: Sequence[Detection]) -> str:
    coloured = sum(found.colour == colour for found in group)
    return "" if coloured >= count else f"expected {colour} {noun}>={count}, found {coloured}"


def _position_error(
    noun: str, group: Sequence[Detection], relation: str, targets: Sequence[Detection]
) -> str:
    right = {*SIDES} if relation == BESIDE else {relation}
    for found in group:
        for target in targets:
            if not right & relations(found, target):
                return f"expected {noun} {relation} {target.noun}"
    return ""


def _reduce(offset: float, far: float) -> float:
    """Moves an offset towards 0 by `far`, but not past it."""
    return math.copysign(max(abs(offset) - far, 0.0), offset)
