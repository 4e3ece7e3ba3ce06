"""DDIM, DPM-Solver++ and UniPC as tables of numbers, right where a schedule begins without signal.

Written in rho = signal / noise, with D the head's estimate of the clean feature, the way to follow
is only an integral (2211.01095, there written with lambda = log rho):

    x(t) / noise(t) = x(s) / noise(s) + integral of D d rho  from rho(s) to rho(t)

A multistep solver puts a polynomial through the D it has seen. Both follow it in lambda; at zero
terminal SNR the first lambda is minus infinity, and a polynomial in lambda can know nothing of that
point. In rho it is just 0. So the first step is DDIM's, which is exact there, and intervals that
look back at the starting point measure distances in rho; all others are as published.

Legend: T steps of a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orthus_core.model.schedule import Schedule
from orthus_core.samplers.ddim import ddim_over

# Rows of weights: each makes one tensor out of those known and, last, the prediction.
Numbers = tuple[tuple[float, ...], ...]


class Point(NamedTuple):
    """A time of the run: sample = signal * clean + noise * eps."""

    signal: float
    noise: float

    @property
    def rho(self) -> float:
        return self.signal / self.noise if self.noise else math.inf

    @property
    def log_rho(self) -> float:
        return math.log(self.rho) if self.rho > 0 else -math.inf


def points(schedule: Schedule, timesteps_T: Tensor) -> list[Point]:
    """The times of a run and its end, where all is signal; in float64, because what follows takes
    differences of nearly equal numbers.
    """
    alphas = schedule.alphas_cumprod_T.to("cpu").double()[timesteps_T].tolist()
    return [Point(math.sqrt(a), math.sqrt(1 - a)) for a in [*alphas, 1.0]]


def clean_estimates(schedule: Schedule, timesteps_T: Tensor) -> list[tuple[float, float]]:
    """Of each step, the weights of sample and prediction in the clean feature they imply
    (2202.00512).
    """
    times = points(schedule, timesteps_T)[:-1]
    if schedule.prediction == "v":
        return [(time.signal, -time.noise) for time in times]
    return [(1 / time.signal, -time.noise / time.signal) for time in times]


def thinning_timesteps(num_timesteps: int, steps: int) -> Tensor:
    """`steps` timesteps that lie the closer the less noise is left, T u^2 for u from 1 down: int64,
    strictly falling from the schedule's last.

    The last step, to where no noise is left, is of the first order whatever the solver. Evenly
    spaced it is so wide that it decides the error; here it is 1 / steps^2 of the way.
    """
    left = torch.arange(steps, 0, -1, dtype=torch.float64)
    wanted = (num_timesteps * (left / steps) ** 2).round().long() - 1
    # Near the end there may be more steps than timesteps; then one each.
    return torch.maximum(wanted, left.long() - 1)


def ddim(schedule: Schedule, timesteps_T: Tensor) -> list[Numbers]:
    """DDIM, which remembers nothing. Known: the sample."""
    plan = ddim_over(schedule, timesteps_T)
    return [((keep, push),) for keep, push in zip(plan.keep, plan.push, strict=True)]


def dpm_plus_plus(schedule: Schedule, timesteps_T: Tensor) -> list[Numbers]:
    """DPM-Solver++ (2M) (2211.01095, algorithm 2). Known: the sample, and the last clean estimate.

    The last step, to where no noise is left, takes the clean estimate itself, as DDIM does.
    """
    times = points(schedule, timesteps_T)
    updates = []
    for step, (see, hear) in enumerate(clean_estimates(schedule, timesteps_T)):
        clean = np.array([see, 0.0, hear])
        carry, gain = _interval(times[step], times[step + 1])
        weights = _forward_weights(times, step)
        seen = np.array([[0.0, 1.0, 0.0], clean])  # the estimates, older first
        sample = carry * np.array([1.0, 0.0, 0.0]) + gain * weights @ seen[-len(weights) :]
        updates.append(_numbers(sample, clean))
    return updates


def unipc(schedule: Schedule, timesteps_T: Tensor) -> list[Numbers]:
    """UniPC of order 2, with B2(h) (2302.04867).

    Each estimate serves twice: it corrects the sample it was made from, and leads on from there.
    Known: the sample, the one before as corrected, and the last two clean estimates.
    """
    times = points(schedule, timesteps_T)
    updates = []
    for step, (see, hear) in enumerate(clean_estimates(schedule, timesteps_T)):
        x, before, last, older, prediction = np.eye(5)
        clean = see * x + hear * prediction
        # 1. The sample again, now that the estimate at its end is known.
        if step > 0:
            carry, gain = _interval(times[step - 1], times[step])
            weights = _correcting_weights(times, step)
            x = carry * before + gain * weights @ np.stack([older, last, clean])[-len(weights) :]
        # 2. On from there.
        carry, gain = _interval(times[step], times[step + 1])
        weights = _forward_weights(times, step)
        ahead = carry * x + gain * weights @ np.stack([last, clean])[-len(weights) :]
        updates.append(_numbers(ahead, x, clean, last))
    return updates


def _interval(start: Point, end: Point) -> tuple[float, float]:
    """x(end) = carry * x(start) + gain * (mean of D over rho)."""
    carry = end.noise / start.noise
    return carry, end.signal - carry * start.signal


def _forward_weights(times: Sequence[Point], step: int) -> np.ndarray:
    """Weights of the last estimates in the mean of D over the interval ahead, older first."""
    if step == 0 or step == len(times) - 2:
        return np.ones(1)
    nodes, _ = _clocked(times[step - 1], times[step], times[step + 1])
    # Half the way for the mean of a straight line, as both papers have it: exact in rho, and in
    # lambda up to terms of the next order.
    return _weights([nodes, 0.0], [1.0, 0.5])


def _correcting_weights(times: Sequence[Point], step: int) -> np.ndarray:
    """The same for the interval that ended at `step`, whose end is known now; older first."""
    if step == 1:
        return _weights([0.0, 1.0], [1.0, 0.5])
    node, moments = _clocked(times[step - 2], times[step - 1], times[step])
    return _weights([node, 0.0, 1.0], moments)


def _clocked(older: Point, start: Point, end: Point) -> tuple[float, list[float]]:
    """Where an older point lies when the interval runs from 0 to 1, and the means of 1, r and r^2
    over rho in it.

    The clock is lambda, or rho where lambda would put the older point infinitely far away.
    """
    if older.rho == 0:
        return -start.rho / (end.rho - start.rho), [1.0, 1 / 2, 1 / 3]
    h = end.log_rho - start.log_rho
    first = -1 / math.expm1(-h) - 1 / h
    second = -1 / math.expm1(-h) - 2 / h * first
    return (older.log_rho - start.log_rho) / h, [1.0, first, second]


def _weights(nodes: Sequence[float], moments: Sequence[float]) -> np.ndarray:
    """Weights with which values at these nodes give the mean of the polynomial through them."""
    return np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(moments))


def _numbers(*rows: np.ndarray) -> Numbers:
    return tuple(tuple(row.tolist()) for row in rows)
