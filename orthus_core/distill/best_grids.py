"""The grids of N times whose steps miss least, for every N at once, by dynamic programming.

The error of a grid is the sum of its steps' errors, so the best run up to a step of N begins with a
best run of N - 1 that ends where that step begins (as for the timesteps of 2106.03802, there with
the likelihood as the cost). A second-order step depends on the one before it; what is kept is
therefore the best run for each last step, not for each last time.

Legend: H older times, I and J times that a step begins and ends at (see step_errors.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class BestGrid(NamedTuple):
    """The grid of some number of steps with the least error.

    Attributes:
        places: Places of its times among the fine ones.
        error: Sum of its steps' errors.
    """

    places: tuple[int, ...]
    error: float


def best_grids(errors_HIJ: np.ndarray, most: int) -> list[BestGrid]:
    """The best grids of 1, 2, ... `most` steps, or of as many steps as there are times.

    Args:
        errors_HIJ: Error of each step, as `step_errors` gives it: H is 1, or I + 1 with the steps
            that have no older time last; I + 1 is the number of ends, the last being that of a run.
    """
    times = errors_HIJ.shape[1]
    # Least error of the runs whose last step goes from i to j.
    least_IJ = np.full((times, times + 1), np.inf)
    least_IJ[0] = errors_HIJ[-1, 0]
    older_errors_HIJ = errors_HIJ[:times]
    came_from: list[np.ndarray] = []
    found = []
    for steps in range(1, min(most, times) + 1):
        if steps > 1:
            # A step from h to i, then one from i to j that remembers h.
            sums_HIJ = least_IJ[:, :times, None] + older_errors_HIJ
            came_from.append(sums_HIJ.argmin(0))
            least_IJ = sums_HIJ.min(0)
        place, end = int(least_IJ[:, times].argmin()), times
        error, places = float(least_IJ[place, end]), [place]
        for older_IJ in reversed(came_from):
            place, end = int(older_IJ[place, end]), place
            places.append(place)
        found.append(BestGrid(tuple(reversed(places)), error))
    return found
