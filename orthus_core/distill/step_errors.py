"""What a solver's step from one time to another misses, measured on fine paths of the head.

1. Each context's path from noise to feature is computed in many fine steps, and kept at every time.
2. The step from time i to time j, begun on the path, ends beside it; its error is the distance
   there. No step calls the head: a path holds its estimates, and a step is a weighted sum.
3. An error at time j is not the error at the end: paths run together as the feature settles, so it
   shrinks. Two paths of one context, from two noises, show by how much.

All distances are root mean squares over contexts and channels. They follow from the mean inner
products of the kept tensors, so the error of every step costs ten numbers.

Legend: T times of the fine paths and J = T + 1 with their end, N contexts, C feature channels,
    H older times of a step (see `step_errors`), I and J times that it begins and ends at, M steps,
    A kept tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orthus_core.device import moved
from orthus_core.distill.contexts import Contexts
from orthus_core.model.schedule import Schedule
from orthus_core.samplers.patch_sampler import PatchPlan, denoising_steps
from orthus_core.samplers.solvers import (
    LinearSolver,
    Point,
    interval,
    points,
    straight_line_weights,
    thinning_timesteps,
    trailing_timesteps,
)

FINE_STEPS = 64
"""Steps of each of the two spacings whose times the fine paths take."""

FINE_SOLVER = "dpm++"
"""Solver of the fine paths: of second order, and its samples lie on the path at every time."""


def fine_times(num_timesteps: int) -> Tensor:
    """The times of the fine paths, where a grid may have its own: int64, falling.

    They are evenly spaced, where a solver settles what is drawn, and thinning towards the end.
    """
    steps = min(FINE_STEPS, num_timesteps)
    spacings = (trailing_timesteps(num_timesteps, steps), thinning_timesteps(num_timesteps, steps))
    return torch.cat(spacings).unique().flip(0)


class FinePaths(NamedTuple):
    """Two paths of each context, from two noises, in the units that features are denoised in.

    Attributes:
        samples_2JNC: Samples at each time and at the end, fp32.
        clean_2TNC: Clean features that the head predicts at each time, fp32.
    """

    samples_2JNC: Tensor
    clean_2TNC: Tensor


@torch.no_grad()
def fine_paths(
    plan: PatchPlan, contexts: Sequence[Contexts], channels: int, noise_scale: float, seed: int
) -> FinePaths:
    """The paths of these contexts.

    Args:
        plan: Run of `FINE_SOLVER` over the fine times.
        channels: C.
        noise_scale: Factor on the noise, as in drawing.
        seed: Seed of the noise.
    """
    random = torch.Generator().manual_seed(seed)
    samples, clean = [], []
    for number in range(2 * len(contexts)):
        part = contexts[number // 2]
        noise_NC = noise_scale * torch.randn(part.images, channels, generator=random)
        samples_JNC, clean_TNC = _path(plan, part, noise_NC)
        samples.append(samples_JNC)
        clean.append(clean_TNC)
    return FinePaths(
        torch.stack([torch.cat(samples[noise::2], dim=1) for noise in (0, 1)]),
        torch.stack([torch.cat(clean[noise::2], dim=1) for noise in (0, 1)]),
    )


def _path(plan: PatchPlan, contexts: Contexts, noise_NC: Tensor) -> tuple[Tensor, Tensor]:
    solver = plan.solver
    assert isinstance(solver, LinearSolver) and solver.clean, "the fine solver is one of ours"
    end_NC = noise_NC
    inputs = [moved(t, plan.head.device) for t in (contexts.hidden_RD, noise_NC, contexts.mix_NR)]
    samples, clean = [], []
    for taken in denoising_steps(plan, *inputs):
        samples.append(taken.before[0])
        clean.append(solver.clean_estimate(taken.step, taken.before, taken.prediction_NC))
        end_NC = taken.known[0]
    return torch.stack([*samples, end_NC]).cpu(), torch.stack(clean).cpu()


def step_errors(
    schedule: Schedule, times_T: Tensor, paths: FinePaths, *, remembers: bool
) -> np.ndarray:
    """The error at the end that each step makes, relative to a feature's size: [H, I, J].

    With `remembers`, a step also uses the estimate at an older time h, as the second-order solvers
    do: their forward step (see solvers.py). H = T + 1 then, the last for a step without one, the
    first of a run. Without, H is 1. What is no step, as one back in time, is infinite.
    """
    means = _MeanProducts(paths)
    scale_J = means.shrinkage() / means.size(len(times_T))
    times = points(schedule, times_T)
    steps = len(times_T)
    errors_HIJ = np.full((steps + 1 if remembers else 1, steps, steps + 1), np.inf)
    for start in range(steps):
        ends = range(start + 1, steps + 1)
        moves = [interval(times[start], times[end]) for end in ends]
        alone = means.missed([Move(carry, 0.0, gain) for carry, gain in moves], None, start, ends)
        errors_HIJ[-1, start, start + 1 :] = alone * scale_J[start + 1 :]
        for older in range(start if remembers else 0):
            weighed = [
                _with_older(times, older, start, end, *move)
                for end, move in zip(ends, moves, strict=True)
            ]
            missed = means.missed(weighed, older, start, ends)
            errors_HIJ[older, start, start + 1 :] = missed * scale_J[start + 1 :]
    return errors_HIJ


class Move(NamedTuple):
    """A step as weights: of the sample, and of the clean estimates at the older time and here."""

    carry: float
    older: float
    here: float


def _with_older(
    times: Sequence[Point], older: int, start: int, end: int, carry: float, gain: float
) -> Move:
    if end == len(times) - 1:  # to zero noise every solver takes the estimate itself
        return Move(carry, 0.0, gain)
    before, here = straight_line_weights(times[older], times[start], times[end])
    return Move(carry, gain * before, gain * here)


class _MeanProducts:
    """Mean inner products of the paths' samples and clean estimates, in float64.

    Errors are small differences of large tensors; float64 leaves ten digits of them.
    """

    def __init__(self, paths: FinePaths) -> None:
        tensors = torch.cat([paths.samples_2JNC, paths.clean_2TNC], dim=1)
        _, _, rows, channels = tensors.shape
        flat_2AM = tensors.flatten(2).double()
        self._products_AA = (flat_2AM @ flat_2AM.mT).mean(0).numpy() / (rows * channels)
        self._samples = paths.samples_2JNC.shape[1]
        apart_JNC = paths.samples_2JNC[0].double() - paths.samples_2JNC[1].double()
        self._apart_J = apart_JNC.square().mean((1, 2)).sqrt().numpy()

    def size(self, place: int) -> float:
        """Root mean square of the samples at this time."""
        return float(np.sqrt(self._products_AA[place, place]))

    def shrinkage(self) -> np.ndarray:
        """By how much an error at each time is smaller at the end: [J]."""
        return self._apart_J[-1] / np.maximum(self._apart_J, 1e-12)

    def missed(
        self, moves: Sequence[Move], older: int | None, start: int, ends: Sequence[int]
    ) -> np.ndarray:
        """Root mean square distance of each move's end from the path."""
        first_clean = self._samples
        places = [start, first_clean + (older or 0), first_clean + start]
        places_M4 = np.array([[*places, end] for end in ends])
        weights_M4 = np.array([[*move, -1.0] for move in moves])
        products_M44 = self._products_AA[places_M4[:, :, None], places_M4[:, None, :]]
        squares_M = np.einsum("ma,mab,mb->m", weights_M4, products_M44, weights_M4)
        return np.sqrt(np.maximum(squares_M, 0.0))
