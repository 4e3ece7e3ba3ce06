"""The names that `--scheduler` takes, each with its solver. No torch: recipes, help texts and shell
completion read the names, and a factory is imported when its solver is requested.

A solver is registered here and nowhere else. `register_solver` adds one from outside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from orthus_core.errors import PromptError


@dataclass(frozen=True)
class SolverEntry:
    """One solver.

    Attributes:
        display_name: Its name in the `parameters` chunk of PNG files, as web interfaces write it.
        factory: A function, or `package.module:function`, that is called as factory(schedule,
            steps=steps, **options) and returns a `Solver` (`orthus_core.samplers.solvers`).
            One that takes a time grid is also called with times=, its timesteps.
        options: Further arguments of the factory.
        stops_early: Whether it can end a patch whose estimate has settled (`step_tolerance`).
        takes_grid: Whether it can step over other timesteps than its own (`time_grid`).
    """

    display_name: str
    factory: str | Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    stops_early: bool = False
    takes_grid: bool = False

    def solver(self, schedule: Any, steps: int, times: Sequence[int] = ()) -> Any:
        """A run of `steps` steps over the schedule: a `Solver`. Without `times`, it takes its own
        timesteps.
        """
        factory = self.factory
        if isinstance(factory, str):
            module, _, name = factory.partition(":")
            factory = getattr(import_module(module), name)
        over = {"times": times} if times else {}
        return factory(schedule, steps=steps, **over, **self.options)


EXTERNAL = "orthus_core.samplers.external_scheduler:external_scheduler"


def _ours(display_name: str, function: str) -> SolverEntry:
    factory = f"orthus_core.samplers.solvers:{function}"
    return SolverEntry(display_name, factory, stops_early=True, takes_grid=True)


def _diffusers(display_name: str, scheduler: str, **arguments: Any) -> SolverEntry:
    """A scheduler of diffusers, and the arguments of its class besides the noise schedule."""
    return SolverEntry(
        display_name,
        EXTERNAL,
        {"name": f"diffusers.{scheduler}", **arguments},
    )


# Left out, each for a reason: LMS and DPM++ SDE need scipy and torchsde, which nothing else here
# does; LCM and TCD are for models distilled for them and end too narrow with ours; IPNDM and EDM
# take no noise schedule, flow matching none of this kind; PNDM's Runge-Kutta start needs ten more
# calls of the head and gains nothing. Where possible, each can still be used as diffusers.Class.
SOLVERS: dict[str, SolverEntry] = {
    "ddim": _ours("DDIM", "ddim"),
    "dpm++": _ours("DPM++ 2M", "dpm_plus_plus"),
    "unipc": _ours("UniPC", "unipc"),
    "flow-map": SolverEntry("Flow map", "orthus_core.samplers.solvers:flow_map", takes_grid=True),
    "euler": _diffusers("Euler", "EulerDiscreteScheduler"),
    "euler_a": _diffusers("Euler a", "EulerAncestralDiscreteScheduler"),
    "heun": _diffusers("Heun", "HeunDiscreteScheduler"),
    "dpm2": _diffusers("DPM2", "KDPM2DiscreteScheduler"),
    "dpm2_a": _diffusers("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
    "dpm++2s": _diffusers("DPM++ 2S", "DPMSolverSinglestepScheduler", lower_order_final=True),
    "dpm++2m_sde": _diffusers(
        "DPM++ 2M SDE", "DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"
    ),
    "deis": _diffusers("DEIS", "DEISMultistepScheduler"),
    "pndm": _diffusers("PLMS", "PNDMScheduler", skip_prk_steps=True),
    "ddpm": _diffusers("DDPM", "DDPMScheduler"),
    "sa_solver": _diffusers("SA-Solver", "SASolverScheduler"),
}


def register_solver(name: str, entry: SolverEntry) -> None:
    """Add a solver under a name of its own. Raises: ValueError when the name is taken."""
    if name in SOLVERS:
        raise ValueError(f"the solver name {name!r} is taken")
    if "." in name:
        raise ValueError(f"{name!r} reads as package.module.Class; a solver's name has no dot")
    SOLVERS[name] = entry


def check_name(name: str | None) -> None:
    """Checks a scheduler's name before a model is opened; a class is looked for when it is used.

    Args:
        name: None is the model's own.

    Raises:
        PromptError: When it is neither in the registry nor a class, `pkg.mod.Class`.
    """
    if name is None or name in SOLVERS:
        return
    package, dot, _ = name.partition(".")
    if dot:
        here = package in sys.modules or (package.isidentifier() and find_spec(package) is not None)
        if not here:
            raise PromptError(
                f"there is no scheduler {name}: there is no package {package!r}",
                where="scheduler",
                hint="install it, or check the spelling: package.module.Class",
            )
        return
    near = get_close_matches(name, SOLVERS, 1)
    raise PromptError(
        f"there is no scheduler {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
        where="scheduler",
        hint=f"use {', '.join(SOLVERS)}, or name a class: package.module.Class",
    )
