"""Scores that say how sure they are, and between which bounds they lie: chance and ceiling."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

# Two-sided 95% of a normal distribution.
Z = 1.959963984540054
RESAMPLES = 1000

T = TypeVar("T")


class Interval(NamedTuple):
    """Where the true value lies, 19 times in 20."""

    low: float
    high: float


class Score(NamedTuple):
    """One figure of a benchmark.

    name: Such as "overall" or "counting".
    value: Of the model.
    n: Over how many samples.
    interval: 95%: Wilson's for shares of successes and put together from those for their means,
        bootstrapped for everything else.
    chance: What knowing nothing gives.
    truth: What true pictures or answers give, by the same judge.
    ceiling: What true pictures give once they went through the model's autoencoder.
    """

    name: str
    value: float
    n: int
    interval: Interval
    chance: float | None = None
    truth: float | None = None
    ceiling: float | None = None


def share(
    name: str,
    outcomes: Sequence[bool],
    *,
    chance: float | None = None,
    truth: float | None = None,
    ceiling: float | None = None,
) -> Score:
    """The share of successes."""
    n, successes = len(outcomes), sum(outcomes)
    return Score(name, mean(outcomes), n, wilson(successes, n), chance, truth, ceiling)


def average(
    name: str,
    values: Sequence[float],
    *,
    chance: float | None = None,
    truth: float | None = None,
    ceiling: float | None = None,
) -> Score:
    """The mean of values."""
    return Score(name, mean(values), len(values), bootstrap(values, mean), chance, truth, ceiling)


def overall(parts: Sequence[Score]) -> Score:
    """The mean of scores, each counting the same however many samples it has.

    Its interval is put together from theirs (Zou and Donner: Construction of confidence limits
    about effect measures, 2008): as for variances, the squares of half widths add up.
    """
    value = mean([part.value for part in parts])
    below = math.hypot(*(part.value - part.interval.low for part in parts)) / len(parts)
    above = math.hypot(*(part.interval.high - part.value for part in parts)) / len(parts)
    bounds = [_mean_of([getattr(p, b) for p in parts]) for b in ("chance", "truth", "ceiling")]
    interval = Interval(value - below, value + above)
    return Score("overall", value, sum(part.n for part in parts), interval, *bounds)


def wilson(successes: int, n: int) -> Interval:
    """The score interval of a proportion (Wilson: Probable inference, the law of succession, and
    statistical inference, 1927). It stays within 0 and 1 and has a width even when all succeed.
    """
    if not n:
        return Interval(0.0, 1.0)
    p = successes / n
    scale = 1 + Z**2 / n
    middle = (p + Z**2 / (2 * n)) / scale
    half = Z / scale * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(samples: Sequence[T], figure: Callable[[Sequence[T]], float]) -> Interval:
    """The percentile interval of a figure of samples (Efron: Bootstrap methods, 1979), the same in
    every run.
    """
    rng = random.Random(0)
    count = len(samples)
    return _percentile_interval(
        sorted(figure(rng.choices(samples, k=count)) for _ in range(RESAMPLES))
    )


def mean(values: Sequence[float]) -> float:
    """The mean, nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


class F1(NamedTuple):
    """Precision and recall in one number, and the counts it is made of."""

    hits: int
    claimed: int
    true: int

    @property
    def value(self) -> float:
        """2 PR / (P + R); 1 when there was nothing to say and nothing was said."""
        total = self.claimed + self.true
        return 2 * self.hits / total if total else 1.0


def _percentile_interval(ordered: Sequence[float]) -> Interval:
    """The middle 95% of ordered values."""
    cut = round(0.025 * len(ordered))
    return Interval(ordered[cut], ordered[-1 - cut])


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None
