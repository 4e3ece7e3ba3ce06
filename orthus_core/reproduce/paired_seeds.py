"""The difference of two arms with its 95% interval, over the same questions and over seeds.

Two things could have come out otherwise: which questions were asked, and which seed a training had.
Both count. The questions are the same for both arms and all seeds, so they are compared in pairs;
each seed is one training of each arm, so three seeds are three differences and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

# Two-sided 95%: the quantile of 97.5%.
_TAIL = 0.975

Outcomes = Mapping[object, float]
"""What came of each unit (a question, a prompt, a picture), by the unit."""


class SeededMean(NamedTuple):
    """A mean over units and seeds.

    Attributes:
        mean: Mean over all units and seeds.
        low, high: Its 95% interval; both are the mean where neither units nor seeds tell a spread.
        seeds, units: Their numbers.
        of_units: Standard error that the units make.
        of_seeds: Standard error that the seeds make; NaN for one seed.
    """

    mean: float
    low: float
    high: float
    seeds: int
    units: int
    of_units: float
    of_seeds: float

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def seeded_mean(by_seed: Mapping[int, Outcomes]) -> SeededMean | None:
    """The mean of outcomes over the units that all seeds have; None where there are none.

    Its variance is that of the units' means over seeds, divided by the number of units, plus that
    of the seeds' means over units, divided by the number of seeds. What a unit does in one seed
    only is in both, so the interval is rather too wide than too narrow. The degrees of freedom are
    Welch and Satterthwaite's (Biometrics Bulletin 2, 1946), rounded down.
    """
    units = [unit for unit in next(iter(by_seed.values()), {}) if _in_all(unit, by_seed)]
    if not units:
        return None
    seeds = len(by_seed)
    of_unit = [sum(each[unit] for each in by_seed.values()) / seeds for unit in units]
    of_seed = [sum(each[unit] for unit in units) / len(units) for each in by_seed.values()]
    mean = sum(of_seed) / seeds
    units_variance, seeds_variance = _variance_of_mean(of_unit), _variance_of_mean(of_seed)
    variance = units_variance + seeds_variance
    half = 0.0
    if variance > 0:
        parts = [(units_variance, len(units) - 1), (seeds_variance, seeds - 1)]
        freedom = variance**2 / sum(part**2 / free for part, free in parts if part > 0)
        half = t_quantile(max(1, math.floor(freedom + 1e-9))) * math.sqrt(variance)
    alone = math.nan if seeds == 1 else math.sqrt(seeds_variance)
    return SeededMean(
        mean, mean - half, mean + half, seeds, len(units), math.sqrt(units_variance), alone
    )


def seeded_difference(
    ours: Mapping[int, Outcomes], theirs: Mapping[int, Outcomes]
) -> SeededMean | None:
    """The mean of `ours` minus `theirs`, in pairs of the same seed and the same unit; None where no
    pair is left. A seed that only one of them has is left out.
    """
    pairs = {
        seed: {unit: value - theirs[seed][unit] for unit, value in each.items() if unit in there}
        for seed, each in ours.items()
        if (there := theirs.get(seed))
    }
    return seeded_mean(pairs)


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's distribution, for a whole number of degrees of freedom."""
    low, high = 0.0, 13.0  # 12.71 for one degree
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * _TAIL - 1 else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if freedom > 2000:  # the series has half as many terms; the normal is as near by then
        return math.erf(t / math.sqrt(2))
    if freedom % 2:
        term = total = math.cos(angle) if freedom > 1 else 0.0
        for n in range(3, freedom - 1, 2):
            term *= square * (n - 1) / n
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for n in range(2, freedom - 1, 2):
        term *= square * (n - 1) / n
        total += term
    return sine * total


def _in_all(unit: object, by_seed: Mapping[int, Outcomes]) -> bool:
    return all(unit in each for each in by_seed.values())


def _variance_of_mean(values: list[float]) -> float:
    """The squared standard error of a mean; 0 for one value, which tells nothing of it."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
