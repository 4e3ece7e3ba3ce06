"""How varied a set of pictures is, and how far it covers another, by the distances of features.

The numbers depend on the features; name them beside a number.

Legend: N pictures, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from orthus_core.errors import DataError
from orthus_core.evaluation.feature_arrays import feature_array
from orthus_core.evaluation.intervals import Interval, Z

# Neighbours that make the radius of a picture: 3 in 1904.06991, 5 for coverage in 2002.09797.
NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5
CHUNK = 1024  # rows of a table of distances that are held at once


class MeanDistance(NamedTuple):
    """Mean distance of two pictures of a set, with its 95% interval."""

    value: float
    interval: Interval


class Overlap(NamedTuple):
    """Which pictures of two sets lie within the other.

    Attributes:
        precise: For each drawn picture, whether it lies among the reference's.
        recalled: For each reference picture, whether it lies among the drawn ones.
        covered: For each reference picture, whether a drawn one is among its nearest neighbours.
    """

    precise: list[bool]
    recalled: list[bool]
    covered: list[bool]


def mean_distance(features: Any) -> MeanDistance:
    """The mean Euclidean distance of two different pictures.

    The interval is normal, with the variance of a mean over pairs: four times that of a picture's
    mean distance, divided by N (Hoeffding 1948).

    Args:
        features: [N, D], one row for a picture.

    Raises:
        DataError: When there are fewer than two pictures.
    """
    import numpy as np

    features_ND = feature_array(features)
    count = len(features_ND)
    if count < 2:
        raise DataError("a set of fewer than two pictures has no distances")
    each_N = np.concatenate([rows.sum(1) for rows in _distances(features_ND, features_ND)])
    each_N /= count - 1
    value = float(each_N.mean())
    reach = 2 * Z * float(each_N.std(ddof=1)) / math.sqrt(count)
    return MeanDistance(value, Interval(max(0.0, value - reach), value + reach))


def overlap(
    drawn: Any,
    reference: Any,
    neighbours: int = NEIGHBOURS,
    coverage_neighbours: int = COVERAGE_NEIGHBOURS,
) -> Overlap:
    """Precision and recall (1904.06991) and coverage (2002.09797), picture by picture.

    A picture lies among those of a set when it is at most as far from one of them as that one's
    k-th nearest neighbour in the set.

    Args:
        drawn, reference: [N, D], one row for a picture.
        neighbours: k of precision and recall.
        coverage_neighbours: k of coverage.

    Raises:
        DataError: When a set has no more pictures than k, or features differ in number.
    """
    import numpy as np

    a_ND, b_ND = feature_array(drawn), feature_array(reference)
    if a_ND.shape[1] != b_ND.shape[1]:
        raise DataError(f"{a_ND.shape[1]} features of one set and {b_ND.shape[1]} of the other")
    most = max(neighbours, coverage_neighbours)
    if min(len(a_ND), len(b_ND)) <= most:
        raise DataError(
            f"a set of {min(len(a_ND), len(b_ND))} pictures has no {most} neighbours of a picture",
            hint=f"give at least {most + 1} pictures of each set",
        )
    radius_a = _radii(a_ND, [neighbours])[0]
    radius_b, coverage_radius_b = _radii(b_ND, [neighbours, coverage_neighbours])
    precise, recalled = [], np.zeros(len(b_ND), dtype=bool)
    nearest_b = np.full(len(b_ND), np.inf)
    first = 0
    for rows in _distances(a_ND, b_ND):
        precise += (rows <= radius_b).any(1).tolist()
        recalled |= (rows <= radius_a[first : first + len(rows), None]).any(0)
        nearest_b = np.minimum(nearest_b, rows.min(0))
        first += len(rows)
    return Overlap(precise, recalled.tolist(), (nearest_b <= coverage_radius_b).tolist())


def _distances(a_ND: Any, b_ND: Any) -> Iterator[Any]:
    """Distances of each picture to all of another set, some rows at once: [n, N]."""
    import numpy as np

    squares_b_N = (b_ND**2).sum(1)
    for first in range(0, len(a_ND), CHUNK):
        x = a_ND[first : first + CHUNK]
        squared = (x**2).sum(1)[:, None] + squares_b_N - 2 * x @ b_ND.T
        if a_ND is b_ND:  # a picture is at no distance of itself, whatever the rounding
            squared[np.arange(len(x)), first + np.arange(len(x))] = 0
        yield np.sqrt(np.maximum(squared, 0))


def _radii(features_ND: Any, neighbours: list[int]) -> list[Any]:
    """Distances to the k-th nearest neighbour within the set, for each k: [N]."""
    import numpy as np

    found = [np.sort(rows, axis=1)[:, neighbours] for rows in _distances(features_ND, features_ND)]
    return [*np.concatenate(found).T]
