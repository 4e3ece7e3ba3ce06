"""HPSv2's figure of a model, from the scores of its pictures (2306.09341).

Scores of versions v2.0 and v2.1 are not comparable (SD-XL: 27.73 and 30.63), so the version belongs
beside a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orthus_core.errors import DataError

STYLES = ("anime", "concept-art", "paintings", "photo")
PROMPTS = 800  # of a style
VERSIONS = ("v2.0", "v2.1")
CHUNK = 80


def aggregate(scores_by_style: Mapping[str, Sequence[float]], chunk: int = CHUNK) -> dict[str, Any]:
    """The scores of styles, as the official program prints them.

    Args:
        scores_by_style: Cosines of picture and prompt (about 0.27) in the order of the prompts.
        chunk: Number of consecutive pictures that are averaged first. A missing picture moves all
            that follow, so there must be none.

    Returns:
        `per_style`: 100 times the mean of the chunks' means; `std_per_style`: their standard
        deviation; `overall`: the plain mean of the styles.

    Raises:
        DataError: When a style has no scores.
    """
    means, stds = {}, {}
    for style, scores in scores_by_style.items():
        if not len(scores):
            raise DataError(f"no scores of the style {style!r}")
        parts = [_mean(scores[at : at + chunk]) * 100 for at in range(0, len(scores), chunk)]
        means[style] = _mean(parts)
        stds[style] = math.sqrt(_mean([(part - means[style]) ** 2 for part in parts]))
    if not means:
        raise DataError("no styles", hint=f"the benchmark has {', '.join(STYLES)}")
    return {"per_style": means, "std_per_style": stds, "overall": _mean([*means.values()])}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(float(value) for value in values) / len(values)
