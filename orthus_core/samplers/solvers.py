"""Solvers: how a sample goes from noise to a clean feature, with one prediction of the head per
step.

Every solver here is linear: the state after a step (the sample, and what a multistep solver
remembers) is a weighted sum of the state before it and the new prediction. A run is therefore a
small table of numbers for each step, computed in float64 before the first patch, and the loop
itself computes nothing about time:

    known = solver.start(noise)                       # [x, memory ...]
    for step, timestep in enumerate(solver.timesteps_T):
        known = solver.advance(step, known, head(solver.head_input(step, known), timestep))
    x = known[0]

1. A run: `Solver`, and `LinearSolver`, which follows a table.
2. Where its steps lie in time.
3. The tables: DDIM's is one row of two numbers; DPM-Solver++ and UniPC remember estimates besides.
4. A run by its name, `solver_for`.

Legend: N rows, C feature channels, T steps of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.config import check_drawable
from orthus_core.model.schedule import Schedule
from orthus_core.recipe.solver_registry import EXTERNAL, SOLVERS, SolverEntry, check_name

# 1. A run. ---------------------------------------------------------------------------------------

# The table of a step. Row i holds the weights of the sum that becomes the next `known[i]`: one
# weight for each known tensor, then one for the prediction.
Numbers = tuple[tuple[float, ...], ...]


class Solver(Protocol):
    """A denoising run of a fixed number of steps, for any number of patches, one run at a time.

    Attributes:
        timesteps_T: The timestep that the head receives at each step.
    """

    @property
    def timesteps_T(self) -> Tensor: ...

    def start(self, noise_NC: Tensor) -> list[Tensor]:
        """The state before the first step; the sample comes first."""
        ...

    def head_input(self, step: int, known: Sequence[Tensor]) -> Tensor:
        """The head's input at this step: [N, C]."""
        ...

    def advance(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> list[Tensor]:
        """The state after this step."""
        ...


@dataclass(frozen=True)
class LinearSolver:
    """A solver whose every step is a small matrix.

    Attributes:
        timesteps_T: Falling timesteps; int64 where they are those of the schedule.
        updates: One table for each step.
        clean: The clean feature that each step implies: x0 = clean[0] x + clean[1] prediction.
            Empty where this is unknown; then no patch can stop early.
        ahead: For each step after the first, the remaining distance divided by the distance of the
            last step. Distances are differences of sqrt(a), the signal's share of the sample.
        start_scale: Factor on the noise to make the first sample.
        ends_T: Angles where the steps end, an input of a flow map head (see `FlowMapHead`); None
            for solvers that ask for velocities.
    """

    timesteps_T: Tensor
    updates: tuple[Numbers, ...]
    clean: tuple[tuple[float, float], ...] = ()
    ahead: tuple[float, ...] = ()
    start_scale: float = 1.0
    ends_T: Tensor | None = None

    @cached_property
    def updates_TSK(self) -> Tensor:
        """The tables as one tensor, of S rows with K = S + 1 weights: fp32 [T, S, K]."""
        return torch.tensor(self.updates, dtype=torch.float32)

    def start(self, noise_NC: Tensor) -> list[Tensor]:
        remembered = len(self.updates[0]) - 1
        sample_NC = weighted_sum([self.start_scale], [noise_NC])
        return [sample_NC, *(torch.zeros_like(noise_NC) for _ in range(remembered))]

    def head_input(self, step: int, known: Sequence[Tensor]) -> Tensor:
        return known[0]

    def advance(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> list[Tensor]:
        return [weighted_sum(row, [*known, prediction_NC]) for row in self.updates[step]]

    def clean_estimate(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> Tensor:
        """The clean feature that this step's prediction implies: [N, C]."""
        return weighted_sum(self.clean[step], [known[0], prediction_NC])


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """The sum of weight times tensor, without the terms of weight 0; a single term of weight 1 is
    that tensor itself.
    """
    terms = [(w, x) for w, x in zip(weights, tensors, strict=True) if w != 0]
    if not terms:
        return torch.zeros_like(tensors[0])
    (weight, first), *others = terms
    total = first if weight == 1 else first * weight
    for weight, tensor in others:
        total = total.add(tensor, alpha=weight)
    return total


# 2. Where the steps lie in time. -----------------------------------------------------------------


def trailing_timesteps(num_timesteps: int, steps: int) -> Tensor:
    """`steps` evenly spaced timesteps that begin at the schedule's last: int64, falling
    (2305.08891, table 2).
    """
    spaced = torch.arange(steps, dtype=torch.float64) * (num_timesteps / steps)
    return (num_timesteps - spaced).round().long() - 1


def thinning_timesteps(num_timesteps: int, steps: int) -> Tensor:
    """`steps` timesteps that lie closer together as noise decreases, T u^2 for u from 1 down:
    int64, strictly falling from the schedule's last.

    The last step, to zero noise, is of first order for every solver. With even spacing it is so
    wide that it dominates the error; here it covers 1 / steps^2 of the range.
    """
    left = torch.arange(steps, 0, -1, dtype=torch.float64)
    wanted = (num_timesteps * (left / steps) ** 2).round().long() - 1
    # Near the end there may be more steps than timesteps; then each timestep is one step.
    return torch.maximum(wanted, left.long() - 1)


def grid_of_steps(time_grid: Sequence[int], steps: int) -> tuple[int, ...]:
    """The grid of `steps` timesteps among those of a `time_grid`.

    A patch takes fewer steps than an earlier one where a preset's steps fall, so `time_grid` holds
    a grid for each number of steps, one after another. Times fall within a grid, so the next begins
    where they rise.

    Raises:
        PromptError: When there is no grid of that length.
    """
    begins = [n for n, time in enumerate(time_grid) if not n or time >= time_grid[n - 1]]
    grids = [tuple(time_grid[n:end]) for n, end in pairwise([*begins, len(time_grid)])]
    for grid in grids:
        if len(grid) == steps:
            return grid
    lengths = ", ".join(str(length) for length in sorted({len(grid) for grid in grids}))
    raise PromptError(
        f"a patch takes {steps} steps, and the time grid is of {lengths}",
        where="time_grid",
        hint=f"take as many steps as it has (--steps {lengths}), or leave time_grid out",
    )


def check_grid(schedule: Schedule, name: str, times: Sequence[int]) -> None:
    """Checks that a solver can step over these timesteps.

    Raises:
        PromptError: When the solver has times of its own alone, or the times are not those of this
            schedule.
    """
    able = [each for each, entry in SOLVERS.items() if entry.takes_grid]
    if name not in able:
        raise PromptError(
            f"{name} steps over its own timesteps, not over a time grid",
            where="time_grid",
            hint=f"leave time_grid out, or use one of {', '.join(able)}",
        )
    last = schedule.num_timesteps - 1
    if times[0] != last or times[-1] < 0 or any(a <= b for a, b in pairwise(times)):
        raise PromptError(
            f"a time grid from {times[0]} to {times[-1]}, and the schedule's are {last} to 0",
            where="time_grid",
            hint=f"begin with {last} and let the times fall to 0 at most; `orthus distill grid` "
            "finds the best ones",
        )


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
    """The times of a run and its end, where all is signal; in float64, because the tables contain
    differences of nearly equal numbers.
    """
    alphas = schedule.alphas_cumprod_T.to("cpu").double()[timesteps_T].tolist()
    return [Point(math.sqrt(a), math.sqrt(1 - a)) for a in [*alphas, 1.0]]


def clean_estimates(schedule: Schedule, timesteps_T: Tensor) -> list[tuple[float, float]]:
    """For each step, the weights of sample and prediction in the clean feature that they imply
    (2202.00512).
    """
    times = points(schedule, timesteps_T)[:-1]
    if schedule.prediction == "v":
        return [(time.signal, -time.noise) for time in times]
    return [(1 / time.signal, -time.noise / time.signal) for time in times]


# 3. The tables. ----------------------------------------------------------------------------------


def ddim_updates(schedule: Schedule, timesteps_T: Tensor) -> list[Numbers]:
    """Deterministic DDIM (2010.02502, eq. 12 with eta 0), unclipped, with the last step to a = 1,
    as in the release. State: the sample. Its one row is x_next = keep * x + push * prediction.

    With a the signal left at this step, b at the next, and n(a) = sqrt(1 - a), the clean feature
    and the noise that the prediction implies are combined at b:
        v:        x0 = sqrt(a) x - n(a) v,          eps = n(a) x + sqrt(a) v
        epsilon:  x0 = (x - n(a) eps) / sqrt(a)
        next      = sqrt(b) x0 + n(b) eps
    """
    # In float64: the coefficients are differences of nearly equal numbers.
    now_T = schedule.alphas_cumprod_T.to("cpu", torch.float64)[timesteps_T]
    next_T = torch.cat([now_T[1:], now_T.new_ones(1)])
    signal_T, noise_T = now_T.sqrt(), (1 - now_T).sqrt()
    next_signal_T, next_noise_T = next_T.sqrt(), (1 - next_T).sqrt()
    if schedule.prediction == "v":
        keep_T = next_signal_T * signal_T + next_noise_T * noise_T
        push_T = next_noise_T * signal_T - next_signal_T * noise_T
    else:
        keep_T = next_signal_T / signal_T
        push_T = next_noise_T - keep_T * noise_T
    return [((keep, push),) for keep, push in zip(keep_T.tolist(), push_T.tolist(), strict=True)]


# DPM-Solver++ and UniPC are written in rho = signal / noise. With D the head's estimate of the
# clean feature, the path is an integral (2211.01095, there written with lambda = log rho):
#
#     x(t) / noise(t) = x(s) / noise(s) + integral of D d rho  from rho(s) to rho(t)
#
# A multistep solver interpolates the values of D that it has seen by a polynomial. Both papers
# use a polynomial in lambda. At zero terminal SNR the first lambda is minus infinity, so that
# polynomial cannot use the first point; in rho the same point is 0. Therefore the first step is
# DDIM's, which is exact there, and a step that uses the first point interpolates in rho. All
# other steps are as published.


def dpm_updates(schedule: Schedule, timesteps_T: Tensor) -> list[Numbers]:
    """DPM-Solver++ (2M) (2211.01095, algorithm 2). State: the sample and the last clean estimate.

    The last step, to zero noise, takes the clean estimate itself, as DDIM does.
    """
    times = points(schedule, timesteps_T)
    updates = []
    for step, (of_x, of_prediction) in enumerate(clean_estimates(schedule, timesteps_T)):
        clean = np.array([of_x, 0.0, of_prediction])
        carry, gain = interval(times[step], times[step + 1])
        weights = _forward_weights(times, step)
        seen = np.array([[0.0, 1.0, 0.0], clean])  # the estimates, older first
        sample = carry * np.array([1.0, 0.0, 0.0]) + gain * weights @ seen[-len(weights) :]
        updates.append(_numbers(sample, clean))
    return updates


def unipc_updates(schedule: Schedule, timesteps_T: Tensor) -> list[Numbers]:
    """UniPC of order 2, with B2(h) (2302.04867).

    Each estimate is used twice: to correct the sample it was made from, and to take the next step.
    State: the sample, the corrected previous one, and the last two clean estimates.
    """
    times = points(schedule, timesteps_T)
    updates = []
    for step, (of_x, of_prediction) in enumerate(clean_estimates(schedule, timesteps_T)):
        x, before, last, older, prediction = np.eye(5)
        clean = of_x * x + of_prediction * prediction
        # 1. Correct the sample, now that the estimate at its end is known.
        if step > 0:
            carry, gain = interval(times[step - 1], times[step])
            weights = _correcting_weights(times, step)
            x = carry * before + gain * weights @ np.stack([older, last, clean])[-len(weights) :]
        # 2. Take the next step.
        carry, gain = interval(times[step], times[step + 1])
        weights = _forward_weights(times, step)
        ahead = carry * x + gain * weights @ np.stack([last, clean])[-len(weights) :]
        updates.append(_numbers(ahead, x, clean, last))
    return updates


def interval(start: Point, end: Point) -> tuple[float, float]:
    """x(end) = carry * x(start) + gain * (mean of D over rho)."""
    carry = end.noise / start.noise
    return carry, end.signal - carry * start.signal


def _forward_weights(times: Sequence[Point], step: int) -> np.ndarray:
    """Weights of the last estimates in the mean of D over the interval ahead, older first."""
    if step == 0 or step == len(times) - 2:
        return np.ones(1)
    return straight_line_weights(times[step - 1], times[step], times[step + 1])


def straight_line_weights(older: Point, start: Point, end: Point) -> np.ndarray:
    """Weights of the estimates at `older` and `start` in the mean of D from `start` to `end`."""
    node, _ = _on_unit_interval(older, start, end)
    # The mean of a straight line is its value at the midpoint. Both papers use this, which is exact
    # in rho, and in lambda up to terms of the next order.
    return _weights([node, 0.0], [1.0, 0.5])


def _correcting_weights(times: Sequence[Point], step: int) -> np.ndarray:
    """The same for the interval that ended at `step`, whose end is now known; older first."""
    if step == 1:
        return _weights([0.0, 1.0], [1.0, 0.5])
    node, moments = _on_unit_interval(times[step - 2], times[step - 1], times[step])
    return _weights([node, 0.0, 1.0], moments)


def _on_unit_interval(older: Point, start: Point, end: Point) -> tuple[float, list[float]]:
    """Position of an older point when the interval runs from 0 to 1, and the means of 1, r and r^2
    over rho in the interval.

    Time is measured in lambda, or in rho where lambda would put the older point infinitely far
    away.
    """
    if older.rho == 0:
        return -start.rho / (end.rho - start.rho), [1.0, 1 / 2, 1 / 3]
    h = end.log_rho - start.log_rho
    first = -1 / math.expm1(-h) - 1 / h
    second = -1 / math.expm1(-h) - 2 / h * first
    return (older.log_rho - start.log_rho) / h, [1.0, first, second]


def _weights(nodes: Sequence[float], moments: Sequence[float]) -> np.ndarray:
    """Weights that turn values at these nodes into the mean of the polynomial through them."""
    return np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(moments))


def _numbers(*rows: np.ndarray) -> Numbers:
    return tuple(tuple(row.tolist()) for row in rows)


# 4. A run by its name. ---------------------------------------------------------------------------

Updates = Callable[[Schedule, Tensor], list[Numbers]]


def linear_solver(schedule: Schedule, updates: Updates, timesteps_T: Tensor) -> LinearSolver:
    """A run over these timesteps, int64, falling, by one of the tables above."""
    signal = schedule.alphas_cumprod_T.double()[timesteps_T].sqrt().tolist()
    ahead = ((1 - now) / (now - before) for before, now in pairwise(signal))
    return LinearSolver(
        timesteps_T,
        tuple(updates(schedule, timesteps_T)),
        tuple(clean_estimates(schedule, timesteps_T)),
        (math.inf, *ahead),
    )


def ddim(schedule: Schedule, steps: int, times: Sequence[int] = ()) -> LinearSolver:
    """DDIM over the release's timesteps, or over `times`."""
    own_T = trailing_timesteps(schedule.num_timesteps, steps)
    return linear_solver(schedule, ddim_updates, torch.tensor(times) if times else own_T)


def dpm_plus_plus(schedule: Schedule, steps: int, times: Sequence[int] = ()) -> LinearSolver:
    """DPM-Solver++ (2M) over thinning timesteps, or over `times`."""
    own_T = thinning_timesteps(schedule.num_timesteps, steps)
    return linear_solver(schedule, dpm_updates, torch.tensor(times) if times else own_T)


def unipc(schedule: Schedule, steps: int, times: Sequence[int] = ()) -> LinearSolver:
    """UniPC over thinning timesteps, or over `times`."""
    own_T = thinning_timesteps(schedule.num_timesteps, steps)
    return linear_solver(schedule, unipc_updates, torch.tensor(times) if times else own_T)


def flow_map(schedule: Schedule, steps: int, times: Sequence[int] = ()) -> LinearSolver:
    """The steps of a flow map head over the release's timesteps, or over `times`.

    A step turns the sample by its angle, cos(e - s) x + sin(e - s) F, which is DDIM's step with F
    in the place of v. F is a mean over the step, so it implies no clean feature on the way, and no
    patch can stop early.
    """
    # Imported here, because other solvers need none of it.
    from orthus_core.model.flow_map_head import angles

    own_T = trailing_timesteps(schedule.num_timesteps, steps)
    times_T = torch.tensor(times) if times else own_T
    of_schedule = angles(schedule)
    ends = [*(of_schedule[time] for time in times_T.tolist()[1:]), 0.0]
    updates = tuple(ddim_updates(schedule, times_T))
    return LinearSolver(times_T, updates, ends_T=torch.tensor(ends))


def solver_for(
    schedule: Schedule, name: str, steps: int, time_grid: Sequence[int] | None = None
) -> Solver:
    """A run of `steps` steps over this schedule.

    Args:
        name: A name of the registry (`orthus_core.recipe.solver_registry`), or `pkg.mod.Class` of a
            scheduler with the interface of diffusers.
        time_grid: Its timesteps, as `grid_of_steps` reads them; by default the solver's own.

    Raises:
        PromptError: For any other name, and as `check_run`, `grid_of_steps` and `check_grid`.
        CheckpointError: As `check_run`.
    """
    check_name(name)
    check_run(schedule, steps)
    times = grid_of_steps(time_grid, steps) if time_grid else ()
    if times:
        check_grid(schedule, name, times)
    if name in SOLVERS:
        return SOLVERS[name].solver(schedule, steps, times)
    return SolverEntry(name, EXTERNAL, {"name": name}).solver(schedule, steps)


def check_run(schedule: Schedule, steps: int) -> None:
    """Checks that a solver can take `steps` steps over this schedule.

    Raises:
        PromptError: When `steps` is below 1 or more than the schedule has.
        CheckpointError: As `check_drawable`.
    """
    if not 1 <= steps <= schedule.num_timesteps:
        raise PromptError(
            f"{steps} sampling steps",
            where="steps",
            hint=f"give a number from 1 to {schedule.num_timesteps}",
        )
    check_drawable(schedule)


class DDIMPlan(NamedTuple):
    """The numbers of a DDIM run, for callers who write the loop themselves.

    Attributes:
        timesteps_T: Falling timesteps, int64.
        keep, push: Coefficients of x_next = keep * x + push * prediction.
    """

    timesteps_T: Tensor
    keep: tuple[float, ...]
    push: tuple[float, ...]


def ddim_plan(schedule: Schedule, steps: int) -> DDIMPlan:
    """The numbers of `steps` trailing steps of DDIM: the same that the solver `ddim` takes.

    Raises:
        PromptError, CheckpointError: As `check_run`.
    """
    check_run(schedule, steps)
    timesteps_T = trailing_timesteps(schedule.num_timesteps, steps)
    rows = [row for (row,) in ddim_updates(schedule, timesteps_T)]
    return DDIMPlan(timesteps_T, tuple(row[0] for row in rows), tuple(row[1] for row in rows))
