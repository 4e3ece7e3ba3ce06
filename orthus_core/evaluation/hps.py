"""HPSv2's figure of a model, from the scores of its pictures (2306.09341).

Scores of versions v2.0 and v2.1 are not comparable (SD-XL: 27.73 and 30.63), so the version belongs
beside a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orthus_core.errors import ArgumentError, DataError
from orthus_core.evaluation.scorer_inputs import check_record

STYLES = ("anime", "concept-art", "paintings", "photo")
PROMPTS = 800  # of a style
VERSIONS = ("v2.0", "v2.1")
CHUNK = 80


def aggregate(scores_by_style: Mapping[str, Sequence[float]], chunk: int = CHUNK) -> dict[str, Any]:
    """The scores of styles, as the official program prints them.

    Args:
        scores_by_style: Cosines of picture and prompt (about 0.27) in the order of the prompts, or
            100 times the cosines, as the official program holds them: these exceed 1.
        chunk: Number of consecutive pictures that are averaged first. A missing picture moves all
            that follow, so there must be none.

    Returns:
        `per_style`: 100 times the mean of the chunks' means; `std_per_style`: their standard
        deviation; `overall`: 100 times the plain mean of all pictures, in no chunks.

    Raises:
        DataError: When a style has no scores, or they are not finite.
        ArgumentError: When a chunk is smaller than one picture.
    """
    check_record(scores_by_style, (), "the scores by style")
    if chunk < 1:
        raise ArgumentError(f"chunks of {chunk} pictures", hint=f"officially {CHUNK}")
    means, stds = {}, {}
    every = [float(score) for scores in scores_by_style.values() for score in scores]
    if not scores_by_style:
        raise DataError("no styles", hint=f"the benchmark has {', '.join(STYLES)}")
    if not all(map(math.isfinite, every)):
        raise DataError("scores that are not finite")
    # A cosine is at most 1, but for its rounding.
    factor = 100 if max(map(abs, every), default=0.0) <= 1.001 else 1
    for style, scores in scores_by_style.items():
        if not len(scores):
            raise DataError(f"no scores of the style {style!r}")
        parts = [_mean(scores[at : at + chunk]) * factor for at in range(0, len(scores), chunk)]
        means[style] = _mean(parts)
        stds[style] = math.sqrt(_mean([(part - means[style]) ** 2 for part in parts]))
    return {"per_style": means, "std_per_style": stds, "overall": factor * _mean(every)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(float(value) for value in values) / len(values)
