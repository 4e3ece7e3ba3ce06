"""Solvers by name: how a sample goes from noise to a clean feature, one prediction a step.

All of ours are linear: what is known after a step (the sample, and what a multistep solver
remembers) is a weighted sum of what was known before it and the new prediction. So a run is a short
table of numbers a step, computed in float64 before the first patch, and nothing about time is left
to do in the loop:

    known = solver.start(noise)                       # [x, memory ...]
    for step in range(solver.steps):
        known = solver.advance(step, known, head(solver.seen(step, known), time of step))
    x = known[0]

Legend: N rows, C feature channels, T steps of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.schedule import Schedule
from orthus_core.samplers.ddim import ddim_plan, trailing_timesteps
from orthus_core.samplers.foreign import foreign_solver
from orthus_core.samplers.multistep import (
    Numbers,
    clean_estimates,
    ddim,
    dpm_plus_plus,
    thinning_timesteps,
    unipc,
)


class Solver(Protocol):
    """A denoising run of so many steps; it serves any number of patches, one run at a time.

    timesteps_T: What the head is told at each step.
    """

    @property
    def timesteps_T(self) -> Tensor: ...

    def start(self, noise_NC: Tensor) -> list[Tensor]:
        """What is known before the first step; the sample comes first."""
        ...

    def seen(self, step: int, known: Sequence[Tensor]) -> Tensor:
        """What the head is shown at this step: [N, C]."""
        ...

    def advance(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> list[Tensor]:
        """What is known after it."""
        ...


@dataclass(frozen=True)
class LinearSolver:
    """A solver whose every step is a small matrix.

    timesteps_T: int64, falling.
    updates: One matrix a step. Row i makes the next `known[i]` out of all that is known and, last,
        the prediction.
    clean: Of each step, the clean feature that it implies: x0 = clean[0] x + clean[1] prediction.
    ahead: Of each step after the first, how much longer the way still is than the way since the
        step before, both measured in the signal's share of the sample, sqrt(a).
    """

    timesteps_T: Tensor
    updates: tuple[Numbers, ...]
    clean: tuple[tuple[float, float], ...]
    ahead: tuple[float, ...]

    def start(self, noise_NC: Tensor) -> list[Tensor]:
        remembered = len(self.updates[0]) - 1
        return [noise_NC, *(torch.zeros_like(noise_NC) for _ in range(remembered))]

    def seen(self, step: int, known: Sequence[Tensor]) -> Tensor:
        return known[0]

    def advance(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> list[Tensor]:
        return [weighted_sum(row, [*known, prediction_NC]) for row in self.updates[step]]

    def clean_estimate(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> Tensor:
        """The clean feature that this step's prediction implies: [N, C]."""
        return weighted_sum(self.clean[step], [known[0], prediction_NC])


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """The sum of weight times tensor, without the terms of weight 0; of weight 1 alone, a tensor
    itself.
    """
    terms = [(w, x) for w, x in zip(weights, tensors, strict=True) if w != 0]
    if not terms:
        return torch.zeros_like(tensors[0])
    (weight, first), *others = terms
    total = first if weight == 1 else first * weight
    for weight, tensor in others:
        total = total.add(tensor, alpha=weight)
    return total


def linear_solver(schedule: Schedule, name: str, timesteps_T: Tensor) -> LinearSolver:
    """A solver of ours over timesteps of one's own choice, int64, falling."""
    signal = schedule.alphas_cumprod_T.double()[timesteps_T].sqrt().tolist()
    ahead = ((1 - now) / (now - before) for before, now in pairwise(signal))
    return LinearSolver(
        timesteps_T,
        tuple(SOLVERS[name].updates(schedule, timesteps_T)),
        tuple(clean_estimates(schedule, timesteps_T)),
        (math.inf, *ahead),
    )


class Method(NamedTuple):
    """A way to solve: where its steps lie, and the numbers of each."""

    timesteps: Callable[[int, int], Tensor]
    updates: Callable[[Schedule, Tensor], list[Numbers]]


# The names that `--scheduler` takes beside `pkg.mod.Class`.
SOLVERS = {
    "ddim": Method(trailing_timesteps, ddim),
    "dpm++": Method(thinning_timesteps, dpm_plus_plus),
    "unipc": Method(thinning_timesteps, unipc),
}


def solver_for(schedule: Schedule, name: str, steps: int) -> Solver:
    """A run of `steps` steps over this schedule.

    Args:
        name: Of `SOLVERS`, or `pkg.mod.Class` of a scheduler in the manner of diffusers.

    Raises:
        PromptError: For a name that is neither, and as `ddim_plan`.
        CheckpointError: As `ddim_plan`.
    """
    # This says what is wrong with the steps or the schedule, whichever solver is meant.
    ddim_plan(schedule, steps)
    if name in SOLVERS:
        timesteps_T = SOLVERS[name].timesteps(schedule.num_timesteps, steps)
        return linear_solver(schedule, name, timesteps_T)
    if "." in name:
        return foreign_solver(schedule, name, steps)
    raise PromptError(
        f"there is no scheduler {name!r}",
        where="scheduler",
        hint=f"use {', '.join(SOLVERS)}, or name a class: package.module.Class",
    )
