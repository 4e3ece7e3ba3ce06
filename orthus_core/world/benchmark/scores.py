"""Scores with confidence intervals and reference values: chance, truth and ceiling."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

# Two-sided 95% quantile of the normal distribution.
Z = 1.959963984540054
RESAMPLES = 1000

T = TypeVar("T")


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


class Score(NamedTuple):
    """One score of a benchmark.

    Attributes:
        name: Name, such as "overall" or "counting".
        value: Score of the model.
        n: Number of samples.
        interval: 95% confidence interval: Wilson's for a share of successes, combined from those
            for a mean of shares, and bootstrapped for everything else.
        chance: Score that needs no knowledge.
        truth: Score of true pictures or answers by the same judge.
        ceiling: Score of true pictures that were encoded and decoded by the model's autoencoder.
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
    """Scores the share of successes."""
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
    """Scores the mean of values."""
    return Score(name, mean(values), len(values), bootstrap(values, mean), chance, truth, ceiling)


def overall(parts: Sequence[Score]) -> Score:
    """The unweighted mean of scores, whatever their numbers of samples.

    Its interval is combined from theirs (Zou and Donner: Construction of confidence limits about
    effect measures, 2008): the squares of the half-widths add up, as variances do.
    """
    value = mean([part.value for part in parts])
    below = math.hypot(*(part.value - part.interval.low for part in parts)) / len(parts)
    above = math.hypot(*(part.interval.high - part.value for part in parts)) / len(parts)
    bounds = [_mean_of([getattr(p, b) for p in parts]) for b in ("chance", "truth", "ceiling")]
    interval = Interval(value - below, value + above)
    return Score("overall", value, sum(part.n for part in parts), interval, *bounds)


def wilson(successes: int, n: int) -> Interval:
    """The score interval of a proportion (Wilson: Probable inference, the law of succession, and
    statistical inference, 1927). It lies within 0 and 1, and is not empty if all samples succeed.
    """
    if not n:
        return Interval(0.0, 1.0)
    p = successes / n
    scale = 1 + Z**2 / n
    middle = (p + Z**2 / (2 * n)) / scale
    half = Z / scale * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(samples: Sequence[T], figure: Callable[[Sequence[T]], float]) -> Interval:
    """The bootstrap percentile interval of a statistic (Efron: Bootstrap methods, 1979).

    The resampling has a fixed seed, so every run gives the same interval.
    """
    rng = random.Random(0)
    count = len(samples)
    return _percentile_interval(
        sorted(figure(rng.choices(samples, k=count)) for _ in range(RESAMPLES))
    )


def mean(values: Sequence[float]) -> float:
    """The mean; NaN for no values."""
    return math.fsum(values) / len(values) if values else math.nan


class F1(NamedTuple):
    """F1 score, from counts.

    Attributes:
        hits: Number of claims that are true.
        claimed: Number of claims.
        true: Number of facts.
    """

    hits: int
    claimed: int
    true: int

    @property
    def value(self) -> float:
        """2 PR / (P + R); 1 if there are neither claims nor facts."""
        total = self.claimed + self.true
        return 2 * self.hits / total if total else 1.0


def _percentile_interval(ordered: Sequence[float]) -> Interval:
    """The middle 95% of ordered values."""
    cut = round(0.025 * len(ordered))
    return Interval(ordered[cut], ordered[-1 - cut])


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None
