"""Schedulers of diffusers as tables of numbers: the same results, without their Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import diffusers
import pytest
import torch
from torch import Tensor

from orthus_core.model.schedule import Schedule, make_schedule
from orthus_core.recipe import GenerateRecipe, keys
from orthus_core.recipe.drawing import Preset
from orthus_core.recipe.solver_registry import EXTERNAL, SOLVERS, SolverEntry, register_solver
from orthus_core.samplers.external_scheduler import ExternalScheduler, called_scheduler
from orthus_core.samplers.params import PRESETS, SamplingParams
from orthus_core.samplers.patch_sampler import DiffusionPatchSampler, denoise, patch_plan
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.scheduler_table import Float64, linear_table
from orthus_core.samplers.solvers import LinearSolver, Solver, solver_for
from tests.core.test_samplers_solvers import MEAN, SPREAD, gaussian_answer, gaussian_head, run

ROOT = Path(__file__).parents[2]
RELEASED = make_schedule()
EPSILON = make_schedule(zero_terminal_snr=False, prediction="epsilon")
LINEAR = ["euler", "heun", "dpm2", "dpm++2s", "deis", "pndm"]
RANDOM = ["euler_a", "dpm2_a", "dpm++2m_sde", "ddpm", "sa_solver"]


def head_between_timesteps(schedule: Schedule):
    """The best head for a normal distribution; some schedulers ask for times between timesteps."""
    alphas_T = schedule.alphas_cumprod_T.double()

    def head(x_NC: Tensor, timestep: Tensor) -> Tensor:
        below, share = int(timestep), float(timestep) - int(timestep)
        between = torch.lerp(alphas_T[below], alphas_T[min(below + 1, 999)], share)
        here = Schedule(between.reshape(1), schedule.prediction)
        return gaussian_head(here)(x_NC, torch.tensor(0)).float()

    return head


def called(name: str, schedule: Schedule, steps: int) -> ExternalScheduler:
    """The scheduler object of a registered name, which is called at every step."""
    return called_scheduler(schedule, steps=steps, **SOLVERS[name].options)


def test_every_name_of_diffusers_is_tried_here():
    theirs = {name for name, entry in SOLVERS.items() if entry.factory == EXTERNAL}
    assert {*LINEAR, *RANDOM} == theirs


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("steps", [2, 9, 30])
@pytest.mark.parametrize("schedule", [RELEASED, EPSILON], ids=["v", "epsilon"])
def test_the_table_ends_where_the_scheduler_itself_does(name, steps, schedule):
    noise, weight = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(steps))

    def head(x: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(x @ weight.to(x.dtype) / 3 + float(timestep) / 1000)

    table, scheduler = solver_for(schedule, name, steps), called(name, schedule, steps)
    assert isinstance(table, LinearSolver)
    expected = run(scheduler, noise.double().as_subclass(Float64), head).as_subclass(Tensor)
    torch.testing.assert_close(run(table, noise.double(), head), expected, atol=1e-6, rtol=1e-6)
    # In fp32 the scheduler itself rounds samples of the size of its first sigma, 4,096 from almost
    # no signal, and what it takes off in two steps of Heun is multiplied by hundreds.
    largest = max(1.0, *(abs(w) for rows in table.updates for w in rows[0]))
    rounding = 1e-3 * largest if schedule is RELEASED else 1e-4
    theirs, ours = run(scheduler, noise, head), run(table, noise, head)
    torch.testing.assert_close(ours, theirs, atol=rounding, rtol=1e-4)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5 * largest, rtol=1e-4)


@pytest.mark.parametrize("name", RANDOM)
def test_what_draws_noise_is_no_table(name):
    assert isinstance(solver_for(RELEASED, name, 5), ExternalScheduler)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("schedule", [RELEASED, EPSILON], ids=["v", "epsilon"])
def test_every_linear_one_solves_our_problem_at_least_as_well_as_ddim(name, schedule):
    noise = torch.linspace(-2, 2, 9).unsqueeze(1)
    answer, head = gaussian_answer(schedule, noise.double()), head_between_timesteps(schedule)

    def error(solver_name: str) -> float:
        return float((run(solver_for(schedule, solver_name, 50), noise, head) - answer).abs().max())

    assert error(name) < 1.06 * error("ddim")


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("schedule", [RELEASED, EPSILON], ids=["v", "epsilon"])
def test_every_random_one_draws_the_distribution(name, schedule):
    noise = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    found = run(solver_for(schedule, name, 50), noise, head_between_timesteps(schedule))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.07)


@pytest.mark.parametrize("name", LINEAR)
def test_once_it_is_ready_the_scheduler_is_not_called(tiny_model, monkeypatch, name):
    sampler = DiffusionPatchSampler(tiny_model, SamplingParams(steps=6, scheduler=name))
    scheduler_class = getattr(diffusers, SOLVERS[name].options["name"].partition(".")[2])
    for method in ("step", "set_timesteps", "scale_model_input"):
        monkeypatch.setattr(scheduler_class, method, lambda *_, **__: pytest.fail("called"))
    random = torch.Generator().manual_seed(0)
    hidden, noise = torch.randn(2, 32, generator=random), torch.randn(1, 8, generator=random)
    assert sampler.draw(hidden, noise, mixing([Guidance.text(3.0)])).isfinite().all()


class StepByHalf:
    """A linear scheduler of nobody's, to be broken in one way at a time."""

    def __init__(self, prediction_type: str = "v_prediction") -> None: ...

    def set_timesteps(self, steps: int) -> None:
        self.timesteps = torch.arange(steps, 0, -1)

    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor) -> list[Tensor]:
        return [sample / 2 + prediction]


class Clipped(StepByHalf):
    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor) -> list[Tensor]:
        return [(sample / 2 + prediction).clamp(-2, 2)]


class RowsMixed(StepByHalf):
    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor) -> list[Tensor]:
        return [sample / 2 + prediction.mean(dim=0, keepdim=True)]


class OnlyThreeChannels(StepByHalf):
    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor) -> list[Tensor]:
        return [sample.unflatten(-1, (-1, 3)).flatten(-2) / 2 + prediction]


@pytest.mark.parametrize(
    ("kind", "is_table"),
    [(StepByHalf, True), (Clipped, False), (RowsMixed, False), (OnlyThreeChannels, False)],
)
def test_what_is_not_linear_row_by_row_is_no_table(kind, is_table):
    scheduler = kind()
    scheduler.set_timesteps(4)
    assert (linear_table(ExternalScheduler(scheduler, 4)) is not None) == is_table


def test_a_table_takes_no_more_terms_than_the_method_has():
    for name, terms in (("euler", 2), ("heun", 3), ("dpm2", 3), ("deis", 4)):
        table = solver_for(RELEASED, name, 20)
        assert isinstance(table, LinearSolver)
        assert max(sum(w != 0 for w in rows[0]) for rows in table.updates) <= terms


def test_heun_asks_the_head_twice_a_step(tiny_model):
    plan = patch_plan(tiny_model, 5, "heun")
    assert len(plan.times_TW) == 9
    hidden = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    assert denoise(plan, hidden, torch.ones(1, 8), torch.ones(1, 1)).isfinite().all()


IMPORTS = """
import sys
from orthus_core.model.schedule import make_schedule
from orthus_core.samplers.solvers import solver_for
for name in sys.argv[1:]:
    solver_for(make_schedule(), name, 4)
    print(*(module in sys.modules for module in ("diffusers", "torchvision", "scipy")))
"""


def test_diffusers_is_imported_for_its_own_alone_and_brings_no_torchvision(tmp_path):
    names = ["ddim", "unipc", "euler", "sa_solver"]
    assert [SOLVERS[name].stops_early for name in names] == [True, True, False, False]
    # One that would break on import stands where torchvision is installed.
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('imported')")
    about = tmp_path / "torchvision-0.30.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.30.0\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS, *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = "False False False", "True False False"
    assert done.stdout.splitlines() == [ours, ours, theirs, theirs]


# The registry


def test_presets_name_registered_solvers_and_the_help_names_them_all():
    assert set(PRESETS) == set(get_args(Preset))
    assert {preset.scheduler for preset in PRESETS.values()} - {None} <= set(SOLVERS)
    (doc,) = (key.doc for key in keys(GenerateRecipe) if key.name == "scheduler")
    assert set(doc.replace(":", ",").split(", ")) >= set(SOLVERS)


def test_a_solver_is_registered_once(monkeypatch):
    monkeypatch.setattr("orthus_core.recipe.solver_registry.SOLVERS", dict(SOLVERS))

    def factory(schedule: Schedule, steps: int) -> Solver:
        return solver_for(schedule, "ddim", steps)

    register_solver("mine", SolverEntry("Mine", factory))
    with pytest.raises(ValueError, match="'mine' is taken"):
        register_solver("mine", SolverEntry("Mine", factory))
    with pytest.raises(ValueError, match="no dot"):
        register_solver("my.own", SolverEntry("Mine", factory))
