"""Derives a table of numbers from the steps of a scheduler object, so that drawing needs only the
table and none of the scheduler's Python.

Euler, Heun, DEIS and their like are linear: the head's input at step t + 1 is a weighted sum of its
inputs and predictions at the last few steps. The scheduler therefore makes one run on random
vectors, in float64, and the weights of each step are solved for: there are far more equations than
weights, so only a scheduler that is linear, remembers no more steps and draws no noise can satisfy
them. A second run, of another shape and in fp32, must then end where the table ends.

The table is in the head's inputs, not in the scheduler's own samples: the samples begin as large as
1 / ALMOST_NO_SIGNAL allows, whereas the inputs always have the size of the noise.

Legend: N rows, C feature channels, T calls of the head in a run, E equations, W weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orthus_core.samplers.solvers import LinearSolver, Numbers, Solver

EQUATIONS = 64
# Number of earlier head calls that a table may use: LMS and PLMS need three.
MOST_REMEMBERED = 4
# Largest relative error of a solved step. In float64, linear schedulers miss by 1e-12, and those
# that draw noise or clip by 1e-4 at least.
EXACT = 1e-8
# The same after a whole run in fp32, where the first step, from almost no signal, alone costs 1e-4.
ROUNDED = 2e-3


def linear_table(scheduler: Solver) -> LinearSolver | None:
    """The run of a scheduler as a table, or None when it is not linear.

    Args:
        scheduler: A run that can be started again.
    """
    # A third-party scheduler may fail on random vectors; it is then called at every step instead.
    try:
        noise_E, inputs_TE, predictions_TE = _recorded_run(scheduler)
    except Exception:
        return None
    scale = float(inputs_TE[0] @ noise_E / (noise_E @ noise_E))
    if not _close(scale * noise_E, inputs_TE[0]):
        return None
    for remembered in range(MOST_REMEMBERED + 1):
        updates = _solved(inputs_TE, predictions_TE, remembered)
        if updates is not None:
            table = LinearSolver(scheduler.timesteps_T, updates, start_scale=scale)
            return table if _ends_alike(scheduler, table) else None
    return None


class Float64(Tensor):
    """A tensor that stays in float64 where a scheduler would round its sample to float32."""

    def to(self, *args: Any, **options: Any) -> Tensor:
        return self


def _recorded_run(scheduler: Solver) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One run on random predictions: the noise [E], the head's inputs followed by the result [T +
    1, E], and the predictions [T, E].
    """
    steps = len(scheduler.timesteps_T)
    random = torch.Generator().manual_seed(0)
    drawn_T1E = torch.randn(steps + 1, 1, EQUATIONS, generator=random, dtype=torch.float64)
    noise_1E, *predictions = drawn_T1E.as_subclass(Float64)
    inputs = []
    known = scheduler.start(noise_1E)
    for step, prediction_1E in enumerate(predictions):
        inputs.append(scheduler.head_input(step, known))
        known = scheduler.advance(step, known, prediction_1E)
    rows_TE = torch.cat([row.as_subclass(Tensor) for row in (*inputs, known[0])])
    drawn_TE = drawn_T1E.squeeze(1).numpy()
    return drawn_TE[0], rows_TE.double().numpy(), drawn_TE[1:]


def _solved(
    inputs_TE: np.ndarray, predictions_TE: np.ndarray, remembered: int
) -> tuple[Numbers, ...] | None:
    """The table of each step, using the last `remembered` calls of the head; None if some step
    needs more. State: the inputs, newest first, and the predictions before this one, newest first.
    """
    steps = len(predictions_TE)
    inputs = [0, *range(1, remembered + 1)]
    known = 2 * remembered + 1
    updates = []
    for step in range(steps):
        back = min(remembered, step)
        rows = [inputs_TE[step - ago] for ago in range(back + 1)]
        rows += [predictions_TE[step - ago] for ago in range(back + 1)]
        weights = _fewest_weights(np.stack(rows, axis=1), inputs_TE[step + 1])
        if weights is None:
            return None
        # Places: inputs 0 .. remembered, predictions 1 .. remembered ago, and this one last.
        row = np.zeros(known + 1)
        row[: back + 1] = weights[: back + 1]
        row[known] = weights[back + 1]
        row[remembered + 1 : remembered + 1 + back] = weights[back + 2 :]
        updates.append((tuple(row.tolist()), *_shifts(inputs, known)))
    return tuple(updates)


def _shifts(inputs: Sequence[int], known: int) -> list[tuple[float, ...]]:
    """The rows of a table that shift the remembered tensors by one."""
    one = np.eye(known + 1)
    remembered = len(inputs) - 1
    rows = [one[ago] for ago in range(remembered)]
    if remembered:
        rows.append(one[known])
        rows += [one[remembered + ago] for ago in range(1, remembered)]
    return [tuple(row.tolist()) for row in rows]


def _fewest_weights(terms_EW: np.ndarray, wanted_E: np.ndarray) -> np.ndarray | None:
    """Weights with which the terms sum to `wanted_E`, as many of them 0 as possible; None when
    there are none. The oldest terms are left out first, but never if the weights become much
    larger, which would cost precision.
    """
    taken = list(range(terms_EW.shape[1]))

    def solve(places: list[int]) -> np.ndarray | None:
        found, *_ = np.linalg.lstsq(terms_EW[:, places], wanted_E, rcond=None)
        return found if _close(terms_EW[:, places] @ found, wanted_E) else None

    found = solve(taken)
    if found is None:
        return None
    half = len(taken) // 2
    for place in sorted(taken, key=lambda place: place % half, reverse=True):
        fewer = [other for other in taken if other != place]
        simpler = solve(fewer) if fewer else None
        if simpler is not None and np.abs(simpler).max() <= 2 * np.abs(found).max():
            taken, found = fewer, simpler
    weights = np.zeros(terms_EW.shape[1])
    weights[taken] = found
    return weights


def _close(found: np.ndarray, wanted: np.ndarray, tolerance: float = EXACT) -> bool:
    return bool(np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max())


def _ends_alike(scheduler: Solver, table: LinearSolver) -> bool:
    """Whether table and scheduler give the same sample for other random predictions."""
    random = torch.Generator().manual_seed(1)
    noise, *predictions = torch.randn(len(table.timesteps_T) + 1, 3, 5, generator=random)
    ends = []
    for solver in (scheduler, table):
        known = solver.start(noise)
        for step, prediction in enumerate(predictions):
            solver.head_input(step, known)
            known = solver.advance(step, known, prediction)
        ends.append(known[0].double().numpy())
    return _close(ends[1], ends[0], ROUNDED)
