"""Editing as CLIP sees it: did the picture change as its caption did? (2211.09800, section 4.1)

The formulas are those of the official program (InstructPix2Pix, clip_similarity.py, 0dffd1e). What
makes the features decides as much: CLIP ViT-L/14, pictures in 0..1 resized to 224x224 by bicubic
interpolation without antialiasing and without keeping their shape. The official compute_metrics.py
passes pictures in -1..1 to it by mistake.
"""

from __future__ import annotations

from typing import Any

from orthus_core.errors import DataError
from orthus_core.evaluation.feature_arrays import feature_array

# Denominators are at least this, as in torch: a picture or caption that did not change gives 0.
EPS = 1e-8


def similarities(image0: Any, image1: Any, text0: Any, text1: Any) -> dict[str, float]:
    """The four similarities, as means over samples.

    Args:
        image0, image1: CLIP features of the pictures before and after: [D] or [N, D], of any
            length.
        text0, text1: CLIP features of their captions.

    Returns:
        `sim_0` and `sim_1`, cosines of the pictures to their captions; `sim_direction`, that of the
        change of the picture to the change of the caption; `sim_image`, that of the pictures. In
        2412.00127, table 4, CLIP-T is `sim_1`, CLIP-I is `sim_image` and CLIP-D is `sim_direction`.

    Raises:
        DataError: When the shapes differ.
    """
    arrays = [_unit(feature_array(each)) for each in (image0, image1, text0, text1)]
    if len({each.shape for each in arrays}) > 1:
        raise DataError(
            f"features of different shapes: {', '.join(str(each.shape) for each in arrays)}"
        )
    before, after, caption_before, caption_after = arrays
    return {
        "sim_0": _cosine(before, caption_before),
        "sim_1": _cosine(after, caption_after),
        "sim_direction": _cosine(after - before, caption_after - caption_before),
        "sim_image": _cosine(before, after),
    }


def _unit(features_ND: Any) -> Any:
    import numpy as np

    lengths = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return features_ND / np.maximum(lengths, EPS)


def _cosine(a_ND: Any, b_ND: Any) -> float:
    import numpy as np

    lengths = [np.maximum(np.linalg.norm(each, axis=1), EPS) for each in (a_ND, b_ND)]
    return float(np.mean((a_ND * b_ND).sum(1) / (lengths[0] * lengths[1])))
