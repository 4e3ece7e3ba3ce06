"""Distances between sets of pictures: FID, KID and the Inception score.

The numbers are only comparable for the same features (FID: the 2048 of Inception-2015's third
pooling layer) and the same resizing of pictures before them; name both beside a number.

Legend: N pictures, D features, C classes.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation.feature_arrays import feature_array

# With fewer pictures than features, the covariance of Inception's 2048 features is singular.
FEWEST_PICTURES = 2048

# Features by the network that makes them, and where the weights of Inception-2015 come from.
EFFICIENTNET = "efficientnet-lite0"
INCEPTION = "inception-2015"
NETWORKS = {
    EFFICIENTNET: "1280 pooled features of EfficientNet-Lite0; not the published FID",
    INCEPTION: "2048 pooled features of Inception-2015, those of published FID",
}
INCEPTION_WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SOURCE = "github.com/mseitzer/pytorch-fid, releases, fid_weights"


class MeanAndStd(NamedTuple):
    """A figure over parts or subsets of the pictures."""

    mean: float
    std: float


def frechet_distance(features_a: Any, features_b: Any) -> float:
    """The squared Frechet distance of two normal distributions (FID, 1706.08500):
    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with covariances divided by N - 1.

    The trace of the root is the sum of the singular values of S_a^(1/2) S_b^(1/2): both roots are
    of symmetric matrices, so no complex parts arise and none have to be cut off.

    Args:
        features_a, features_b: [N, D], one row for a picture.

    Raises:
        DataError: When there are fewer than two pictures, or the features differ in number.
    """
    import numpy as np

    a_ND, b_ND = _two_sets(features_a, features_b)
    fewest = min(len(a_ND), len(b_ND))
    if fewest < FEWEST_PICTURES:
        warnings.warn(
            f"FID of {fewest} pictures is far from that of many: their covariance is singular "
            f"below {FEWEST_PICTURES}. The kernel distance (KID) has no such bias",
            stacklevel=2,
        )
    difference = a_ND.mean(0) - b_ND.mean(0)
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (a_ND, b_ND)]
    roots = [_root(each) for each in covariances]
    shared = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    traces = sum(np.trace(each) for each in covariances)
    return max(0.0, float(difference @ difference + traces - 2 * shared))


def kernel_distance(
    features_a: Any, features_b: Any, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> MeanAndStd:
    """KID (1801.01401): the unbiased squared maximum mean discrepancy with the kernel
    (x y / D + 1)^3, over random subsets. It can be below 0.

    Args:
        features_a, features_b: [N, D], one row for a picture.
        subsets: Number of subsets.
        subset_size: Pictures of each set in a subset; at most all.
        seed: Of the subsets.

    Raises:
        DataError: As for `frechet_distance`.
    """
    import numpy as np

    a_ND, b_ND = _two_sets(features_a, features_b)
    size = min(subset_size, len(a_ND), len(b_ND))
    random = np.random.default_rng(seed)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    distances = []
    for _ in range(subsets):
        x, y = (each[random.choice(len(each), size, replace=False)] for each in (a_ND, b_ND))
        within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
        distances.append(within / (size * (size - 1)) - 2 * kernel(x, y).mean())
    return MeanAndStd(float(np.mean(distances)), float(np.std(distances)))


def inception_score(logits: Any, splits: int = 10) -> MeanAndStd:
    """The Inception score (1606.03498): exp of the mean divergence of a picture's classes from
    those of all, over consecutive parts of the pictures.

    Args:
        logits: [N, C] of a classifier; pictures in random order.
        splits: Number of parts.

    Raises:
        DataError: When there are fewer pictures than parts.
    """
    import numpy as np

    logits_NC = feature_array(logits)
    count = len(logits_NC)
    if not 1 <= splits <= count:
        raise DataError(f"{count} pictures cannot be divided into {splits} parts")
    logs_NC = logits_NC - logits_NC.max(1, keepdims=True)
    logs_NC -= np.log(np.exp(logs_NC).sum(1, keepdims=True))
    scores = []
    for part in range(splits):
        logs = logs_NC[part * count // splits : (part + 1) * count // splits]
        shares = np.exp(logs)
        with np.errstate(divide="ignore"):
            marginal = np.log(shares.mean(0))
        # A class of probability 0 in all pictures adds nothing.
        divergences = np.where(shares > 0, shares * (logs - np.maximum(marginal, -1e300)), 0.0)
        scores.append(np.exp(divergences.sum(1).mean()))
    return MeanAndStd(float(np.mean(scores)), float(np.std(scores)))


def _two_sets(features_a: Any, features_b: Any) -> tuple[Any, Any]:
    a_ND, b_ND = feature_array(features_a), feature_array(features_b)
    if a_ND.shape[1] != b_ND.shape[1]:
        raise DataError(
            f"{a_ND.shape[1]} features of one set and {b_ND.shape[1]} of the other",
            hint="make both by the same network",
        )
    if min(len(a_ND), len(b_ND)) < 2:
        raise DataError("a set of fewer than two pictures", hint="give [N, D] for each set")
    return a_ND, b_ND


def _root(covariance_DD: Any) -> Any:
    """The symmetric square root of a covariance; values below 0 are rounding errors."""
    import numpy as np

    values, vectors = np.linalg.eigh(covariance_DD)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
