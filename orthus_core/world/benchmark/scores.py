"""Scores with confidence intervals and reference values: chance, truth and ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from orthus_core.evaluation.intervals import Interval, bootstrap, wilson

__all__ = ["F1", "Interval", "Score", "average", "bootstrap", "mean", "overall", "share", "wilson"]


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


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None
