"""Schedulers of diffusers, and any other class with their `set_timesteps` and `step`.

Only the named module is imported. The class receives this model's noise schedule as diffusers'
arguments, and its `step` must have the interface of diffusers' own schedulers. A linear scheduler
is turned into a table (scheduler_table.py) and not called again; one that draws noise, or is not
linear, is called at every step.

Where no signal is left at the first step, these schedulers start from a tiny amount instead,
because they divide by it; our own tables (solvers.py) start from zero signal.

Legend: N rows, C feature channels, T steps of a run.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.schedule import Schedule
from orthus_core.samplers.scheduler_table import linear_table
from orthus_core.samplers.solvers import Solver

# Signal left at a step that should have none, so that its logarithm is finite (as in diffusers).
ALMOST_NO_SIGNAL = 2.0**-24
HINT = "the class needs set_timesteps(n), timesteps and step(prediction, t, sample), as diffusers'"


def external_scheduler(schedule: Schedule, name: str, steps: int, **options: Any) -> Solver:
    """The scheduler of this name with our schedule: as a table if it is linear, else the object
    itself.

    Arguments and errors as `called_scheduler`.
    """
    called = called_scheduler(schedule, name, steps, **options)
    return linear_table(called) or called


def called_scheduler(
    schedule: Schedule, name: str, steps: int, **options: Any
) -> ExternalScheduler:
    """The scheduler of this name with our schedule, ready for `steps` steps, called at each.

    Args:
        name: Import path, such as `diffusers.HeunDiscreteScheduler`.
        options: Further arguments of the class.

    Raises:
        PromptError: When it cannot be imported, is not a scheduler, or cannot follow this model's
            schedule.
    """
    scheduler_class = _import_scheduler(name)
    taken = inspect.signature(scheduler_class).parameters
    if "prediction_type" not in taken:
        raise PromptError(
            f"{name} cannot be told what the head predicts: it takes no prediction_type",
            where="scheduler",
            hint=HINT,
        )
    words = {key: value for key, value in _in_their_words(schedule).items() if key in taken}
    try:
        scheduler = scheduler_class(**words, **options)
        scheduler.set_timesteps(steps)
    except (TypeError, ValueError, NotImplementedError, ImportError) as error:
        raise PromptError(
            f"{name} does not take this model's schedule: {error}", where="scheduler", hint=HINT
        ) from error
    if not callable(getattr(scheduler, "step", None)) or not hasattr(scheduler, "timesteps"):
        raise PromptError(f"{name} has no step or timesteps", where="scheduler", hint=HINT)
    return ExternalScheduler(scheduler, steps)


class ExternalScheduler:
    """A scheduler object as a `Solver`. It holds its own state, so one run must end before the next
    begins.

    Args:
        scheduler: Scheduler object that was created with the schedule.
        steps: Number of steps requested; some schedulers call the head more often.
    """

    def __init__(self, scheduler: Any, steps: int) -> None:
        self._scheduler, self._steps = scheduler, steps
        self.timesteps_T: Tensor = torch.as_tensor(scheduler.timesteps).cpu()
        self._draws = "generator" in inspect.signature(scheduler.step).parameters
        self._generators: list[torch.Generator] = []

    def start(self, noise_NC: Tensor) -> list[Tensor]:
        self._scheduler.set_timesteps(self._steps)
        self._generators = [_generator_of(noise_C) for noise_C in noise_NC] if self._draws else []
        return [noise_NC * float(getattr(self._scheduler, "init_noise_sigma", 1.0))]

    def head_input(self, step: int, known: Sequence[Tensor]) -> Tensor:
        scale = getattr(self._scheduler, "scale_model_input", None)
        return known[0] if scale is None else scale(known[0], self._scheduler.timesteps[step])

    def advance(self, step: int, known: Sequence[Tensor], prediction_NC: Tensor) -> list[Tensor]:
        drawing = {"generator": self._generators} if self._draws else {}
        moved = self._scheduler.step(
            prediction_NC, self._scheduler.timesteps[step], known[0], **drawing
        )
        return [moved.prev_sample if hasattr(moved, "prev_sample") else moved[0]]


def _import_scheduler(name: str) -> Any:
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise PromptError(
            f"there is no scheduler {name}: {error}",
            where="scheduler",
            hint="install its package, or mind the spelling of package.module.Class",
        ) from error
    if not isinstance(found, type):
        raise PromptError(f"{name} is no class", where="scheduler", hint=HINT)
    return found


def _in_their_words(schedule: Schedule) -> dict[str, Any]:
    """The noise schedule as arguments of diffusers' schedulers; each class takes those it knows.

    It passes the betas themselves rather than their formula, so that nothing has to be guessed.
    """
    alphas_T = schedule.alphas_cumprod_T.double().clamp_min(ALMOST_NO_SIGNAL)
    before_T = torch.cat([alphas_T.new_ones(1), alphas_T[:-1]])
    return {
        "num_train_timesteps": schedule.num_timesteps,
        "trained_betas": (1 - alphas_T / before_T).tolist(),
        "prediction_type": {"v": "v_prediction", "epsilon": "epsilon"}[schedule.prediction],
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
    }


def _generator_of(noise_C: Tensor) -> torch.Generator:
    """A generator for one row's steps that depends only on its own starting noise."""
    seed = zlib.crc32(noise_C.detach().float().cpu().numpy().tobytes())
    return torch.Generator().manual_seed(seed)
