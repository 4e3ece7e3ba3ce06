"""Solvers against diffusers', against a problem whose answer is known, and from pure noise."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import diffusers
import pytest
import torch
from torch import Tensor

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.schedule import Schedule, add_noise, make_schedule, target
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.samplers.solvers import (
    LinearSolver,
    Solver,
    ddim_updates,
    dpm_updates,
    linear_solver,
    solver_for,
    thinning_timesteps,
    trailing_timesteps,
    unipc_updates,
)

RELEASED = make_schedule()
SPREAD, MEAN = 0.4, 1.5
OURS = [name for name, entry in SOLVERS.items() if entry.stops_early]


def run(solver: Solver, noise_NC: Tensor, head) -> Tensor:
    known = solver.start(noise_NC)
    for step, timestep in enumerate(solver.timesteps_T):
        known = solver.advance(step, known, head(solver.head_input(step, known), timestep))
    return known[0]


def gaussian_head(schedule: Schedule):
    """The best possible velocity or noise for features from a normal distribution."""

    def head(x_NC: Tensor, timestep: Tensor) -> Tensor:
        alpha = schedule.alphas_cumprod_T.double()[timestep]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        gain = signal * SPREAD**2 / (alpha * SPREAD**2 + 1 - alpha)
        clean_NC = MEAN + gain * (x_NC - signal * MEAN)
        eps_NC = (x_NC - signal * clean_NC) / noise
        return eps_NC if schedule.prediction == "epsilon" else signal * eps_NC - noise * clean_NC

    return head


def gaussian_answer(schedule: Schedule, noise_NC: Tensor) -> Tensor:
    """Where the flow of that problem ends: x = signal m + sqrt(signal^2 s^2 + noise^2) z for the
    same z at all times.
    """
    alpha = schedule.alphas_cumprod_T.double()[-1]
    z_NC = (noise_NC - alpha.sqrt() * MEAN) / (alpha * SPREAD**2 + 1 - alpha).sqrt()
    return MEAN + SPREAD * z_NC


def smooth_schedule(steps: int) -> Schedule:
    """Zero terminal SNR with a time so fine that rounding it to whole timesteps does not count."""
    angles = torch.arange(1, steps + 1, dtype=torch.float64) / steps * math.pi / 2
    alphas = angles.cos() ** 2
    alphas[-1] = 0
    return Schedule(alphas, "v")


@pytest.mark.parametrize(
    ("updates", "theirs", "theirs_options"),
    [
        (dpm_updates, diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        (unipc_updates, diffusers.UniPCMultistepScheduler, {"solver_type": "bh2"}),
    ],
)
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_solvers_equal_diffusers_where_some_signal_is_left(
    updates, theirs, theirs_options, prediction, steps
):
    scheduler = theirs(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type={"v": "v_prediction", "epsilon": "epsilon"}[prediction],
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        solver_order=2,
        **theirs_options,
    )
    scheduler.set_timesteps(steps)
    schedule = make_schedule(zero_terminal_snr=False, prediction=prediction)
    solver = linear_solver(schedule, updates, trailing_timesteps(1000, steps))
    assert solver.timesteps_T.tolist() == scheduler.timesteps.tolist()
    random = torch.Generator().manual_seed(steps)
    noise = x = torch.randn(3, 8, generator=random)
    weight = torch.randn(8, 8, generator=random) / 8**0.5
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x @ weight), timestep, x).prev_sample
    ours = run(solver, noise, lambda x, timestep: torch.tanh(x @ weight))
    torch.testing.assert_close(ours, x, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_first_step_from_pure_noise_is_ddims(name, steps):
    solver = solver_for(RELEASED, name, steps)
    assert isinstance(solver, LinearSolver)
    ((keep, push),) = ddim_updates(RELEASED, solver.timesteps_T)[0]
    assert all(math.isfinite(n) for update in solver.updates for row in update for n in row)
    noise, prediction = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).double()
    after = solver.advance(0, solver.start(noise), prediction)[0]
    torch.testing.assert_close(after, keep * noise + push * prediction)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("prediction", "zero_snr"), [("v", True), ("v", False), ("epsilon", False)]
)
def test_a_head_that_is_right_leads_to_the_clean_feature(name, prediction, zero_snr):
    schedule = make_schedule(zero_terminal_snr=zero_snr, prediction=prediction)
    solver = solver_for(schedule, name, 12)
    clean, noise = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    first = add_noise(schedule, clean, noise, solver.timesteps_T[:1].expand(5))
    found = run(solver, first, lambda _, t: target(schedule, clean, noise, t.expand(5)))
    torch.testing.assert_close(found, clean, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm++", 2), ("unipc", 3)])
def test_from_pure_noise_the_error_falls_with_the_order_of_the_solver(name, order):
    schedule = smooth_schedule(2**16)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    answer, head = gaussian_answer(schedule, noise), gaussian_head(schedule)
    errors = [
        float((run(solver_for(schedule, name, steps), noise, head) - answer).abs().max())
        for steps in (32, 64, 128)
    ]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / fine) > order - 0.1


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_with_few_steps_the_better_solvers_are_closer(prediction):
    schedule = make_schedule(zero_terminal_snr=prediction == "v", prediction=prediction)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    answer, head = gaussian_answer(schedule, noise), gaussian_head(schedule)
    error = {
        name: float((run(solver_for(schedule, name, 10), noise, head) - answer).abs().max())
        for name in OURS
    }
    assert error["dpm++"] < error["ddim"] / 3
    assert error["unipc"] < error["ddim"] / 3


@pytest.mark.parametrize(("name", "error"), [("ddim", 8e-2), ("dpm++", 5e-3), ("unipc", 3e-3)])
def test_on_the_released_schedule_solvers_come_close_to_the_answer(name, error):
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    found = run(solver_for(RELEASED, name, 50), noise, gaussian_head(RELEASED))
    torch.testing.assert_close(found, gaussian_answer(RELEASED, noise), atol=error, rtol=0)


def test_timesteps_thin_out_towards_the_noise():
    assert thinning_timesteps(1000, 4).tolist() == [999, 561, 249, 61]
    assert thinning_timesteps(1000, 1000).tolist() == list(range(999, -1, -1))
    for steps in range(1, 1001):
        timesteps = thinning_timesteps(1000, steps)
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
        assert bool((timesteps[1:] < timesteps[:-1]).all())


@pytest.mark.parametrize("name", SOLVERS)
def test_noise_cannot_be_predicted_where_there_is_nothing_else(name):
    with pytest.raises(CheckpointError, match="without any signal"):
        solver_for(make_schedule(prediction="epsilon"), name, 10)


# Schedulers of others


@pytest.mark.parametrize(
    "name",
    [
        "diffusers.DDIMScheduler",
        "diffusers.DPMSolverMultistepScheduler",
        "diffusers.EulerDiscreteScheduler",
        "diffusers.HeunDiscreteScheduler",
        "diffusers.schedulers.scheduling_unipc_multistep.UniPCMultistepScheduler",
    ],
)
def test_a_scheduler_of_diffusers_solves_our_problem(name):
    noise = torch.linspace(-2, 2, 9).unsqueeze(1)
    alphas = RELEASED.alphas_cumprod_T.double()

    def head(x_NC: Tensor, timestep: Tensor) -> Tensor:
        # Some ask for times between timesteps.
        below, share = int(timestep), float(timestep) - int(timestep)
        between = torch.lerp(alphas[below], alphas[min(below + 1, 999)], share)
        schedule = Schedule(between.reshape(1), "v")
        return gaussian_head(schedule)(x_NC, torch.tensor(0)).float()

    found = run(solver_for(RELEASED, name, 100), noise, head)
    answer = gaussian_answer(RELEASED, noise.double()).float()
    torch.testing.assert_close(found, answer, atol=0.05, rtol=0)


def test_diffusers_ddim_is_ours():
    random = torch.Generator().manual_seed(3)
    noise, weight = torch.randn(3, 8, generator=random), torch.randn(8, 8, generator=random) / 3
    ours, theirs = (
        run(solver_for(RELEASED, name, 25), noise, lambda x, t: torch.tanh(x @ weight))
        for name in ("ddim", "diffusers.DDIMScheduler")
    )
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_a_scheduler_that_draws_noise_draws_each_rows_own():
    noise = torch.randn(4, 8, generator=torch.Generator().manual_seed(5))
    name = "diffusers.EulerAncestralDiscreteScheduler"

    def drawn(rows: Tensor) -> Tensor:
        return run(solver_for(RELEASED, name, 10), rows, lambda x, t: torch.tanh(x))

    together = drawn(noise)
    torch.testing.assert_close(drawn(noise[2:3])[0], together[2])
    assert torch.equal(drawn(noise), together)
    assert not torch.equal(drawn(noise + 1e-3), together)


def test_a_solver_begins_each_patch_anew():
    noise = torch.randn(2, 8, generator=torch.Generator().manual_seed(5))
    for name in (*SOLVERS, "diffusers.UniPCMultistepScheduler"):
        solver = solver_for(RELEASED, name, 5)
        first, second = (run(solver, noise, lambda x, t: torch.tanh(x)) for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("euler_b", "no scheduler 'euler_b', did you mean 'euler_a'"),
        ("snowman", "no scheduler 'snowman'"),
        ("no.such.Scheduler", "no scheduler no.such.Scheduler"),
        ("diffusers.NoScheduler", "no scheduler diffusers.NoScheduler"),
        ("math.pi", "math.pi is no class"),
        ("fractions.Fraction", "cannot be told what the head predicts"),
        ("diffusers.FlowMatchEulerDiscreteScheduler", "cannot be told what the head predicts"),
        ("schedulers_of_a_test.Halfway", "no step"),
    ],
)
def test_what_is_no_scheduler_says_so(name, message, monkeypatch):
    class Halfway:
        def __init__(self, prediction_type: str) -> None: ...
        def set_timesteps(self, steps: int) -> None: ...

    module = ModuleType("schedulers_of_a_test")
    module.Halfway = Halfway  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(PromptError, match=message) as caught:
        solver_for(RELEASED, name, 10)
    assert caught.value.hint


def test_our_own_schedulers_import_nothing(monkeypatch):
    monkeypatch.setattr(
        "orthus_core.samplers.external_scheduler.import_module", lambda name: pytest.fail(name)
    )
    for name in OURS:
        assert len(solver_for(RELEASED, name, 4).timesteps_T) == 4


@pytest.mark.parametrize("name", [*SOLVERS, "diffusers.DDIMScheduler"])
@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_cannot_be_is_named(name, steps):
    with pytest.raises(PromptError, match=f"{steps} sampling steps"):
        solver_for(RELEASED, name, steps)
