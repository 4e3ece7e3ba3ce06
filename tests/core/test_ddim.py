"""The DDIM plan against diffusers, the mathematics, and what cannot be asked of it."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.schedule import add_noise, make_schedule, target
from orthus_core.samplers.solvers import ddim_plan, trailing_timesteps

CASES = [
    ("v", True, "scaled_linear"),
    ("v", False, "scaled_linear"),
    ("v", True, "linear"),
    ("epsilon", False, "scaled_linear"),
    ("epsilon", False, "linear"),
]


@pytest.mark.parametrize("steps", [1, 10, 25, 50, 100])
@pytest.mark.parametrize(("prediction", "zero_terminal_snr", "betas"), CASES)
def test_ddim_equals_diffusers(steps, prediction, zero_terminal_snr, betas):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=betas,
        prediction_type={"v": "v_prediction", "epsilon": "epsilon"}[prediction],
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(steps)
    schedule = make_schedule(
        beta_schedule=betas, zero_terminal_snr=zero_terminal_snr, prediction=prediction
    )
    plan = ddim_plan(schedule, steps)
    assert plan.timesteps_T.tolist() == scheduler.timesteps.tolist()

    random = torch.Generator().manual_seed(steps)
    theirs = ours = torch.randn(3, 8, generator=random)
    weight = torch.randn(8, 8, generator=random) / 8**0.5
    for step, timestep in enumerate(scheduler.timesteps):
        # A made-up head: what matters is that both see the same predictions of the same samples.
        theirs = scheduler.step(torch.tanh(theirs @ weight), timestep, theirs).prev_sample
        ours = plan.keep[step] * ours + plan.push[step] * torch.tanh(ours @ weight)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("prediction", "zero_terminal_snr", "betas"), CASES)
def test_a_head_that_is_right_leads_to_the_clean_feature(prediction, zero_terminal_snr, betas):
    schedule = make_schedule(
        beta_schedule=betas, zero_terminal_snr=zero_terminal_snr, prediction=prediction
    )
    plan = ddim_plan(schedule, 20)
    clean, noise = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    x = add_noise(schedule, clean, noise, plan.timesteps_T[:1].expand(5))
    for timestep, keep, push in zip(plan.timesteps_T, plan.keep, plan.push, strict=True):
        x = keep * x + push * target(schedule, clean, noise, timestep.expand(5))
    torch.testing.assert_close(x, clean, atol=1e-4, rtol=1e-4)


def test_the_first_step_starts_from_pure_noise_at_zero_terminal_snr():
    plan = ddim_plan(make_schedule(), 100)
    signal = make_schedule().alphas_cumprod_T[989].double()
    # There v is -x0: the sample is all noise, and the prediction is all signal.
    assert plan.keep[0] == pytest.approx(float((1 - signal).sqrt()))
    assert plan.push[0] == pytest.approx(-float(signal.sqrt()))


def test_timesteps_trail_from_the_last_one():
    assert trailing_timesteps(1000, 100).tolist() == list(range(999, 0, -10))
    assert trailing_timesteps(1000, 3).tolist() == [999, 666, 332]
    assert trailing_timesteps(1000, 1000).tolist() == list(range(999, -1, -1))


def test_epsilon_without_terminal_signal_says_why_it_cannot_be():
    with pytest.raises(CheckpointError, match="without any signal") as caught:
        ddim_plan(make_schedule(prediction="epsilon"), 10)
    assert "zero_terminal_snr" in caught.value.hint


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_that_cannot_be_is_named(steps):
    with pytest.raises(PromptError, match=f"{steps} sampling steps"):
        ddim_plan(make_schedule(), steps)
