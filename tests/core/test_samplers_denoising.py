"""The fast head against the head, steps that fall and patches that stop, recordings."""

from __future__ import annotations

import pytest
import torch

from orthus_core.errors import PromptError
from orthus_core.model.cpu_linear import LAYOUTS, FastLinear
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.samplers import patch_sampler as patch_module
from orthus_core.samplers.cuda_graph import KEPT, CUDAGraphCache
from orthus_core.samplers.params import PRESETS, SamplingParams, preset_named, steps_at
from orthus_core.samplers.patch_sampler import (
    DiffusionPatchSampler,
    denoise,
    denoise_with_early_stop,
    patch_plan,
)
from orthus_core.samplers.prompt import Guidance, mixing

GUIDANCES = [Guidance.text(5.0), Guidance.none(), Guidance.edit(4.0, 1.5)]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, noise and weights of three pictures with six streams."""
    random = torch.Generator().manual_seed(2)
    hidden_RD, noise_NC = torch.randn(6, 32, generator=random), torch.randn(3, 8, generator=random)
    return hidden_RD, noise_NC, mixing(GUIDANCES)


def alone(inputs, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One of those pictures by itself."""
    hidden_RD, noise_NC, _ = inputs
    first = sum(len(guidance.weights) for guidance in GUIDANCES[:number])
    branches = slice(first, first + len(GUIDANCES[number].weights))
    return hidden_RD[branches], noise_NC[number : number + 1], mixing([GUIDANCES[number]])


@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_the_fast_head_is_the_head(tiny_model, inputs, layout):
    hidden_RD, noise_NC, _ = inputs
    x_RC, times_T = noise_NC.repeat(2, 1), torch.tensor([999, 500, 3])
    fast = DenoisingHead(tiny_model.mlp_head, layout=layout)
    amounts_TRA = fast.modulation(fast.times(times_T), fast.condition(hidden_RD))
    assert amounts_TRA.shape == (3, 6, fast.amounts)
    owner_R = torch.arange(3).repeat(2)
    for amounts, timestep in zip(fast.by_step(amounts_TRA), times_T, strict=True):
        expected_RC = tiny_model.mlp_head(x_RC, timestep.expand(6), hidden_RD)
        for step_RC in (fast.step(x_RC, amounts), fast.step(noise_NC, amounts, owner_R)):
            torch.testing.assert_close(step_RC, expected_RC, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", [None, *LAYOUTS])
@pytest.mark.parametrize("rows", [1, 2, 3, 20])
def test_a_product_is_the_same_in_every_layout(layout, rows):
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(110, 100, generator=random) / 10
    bias, x_NI = torch.randn(110, generator=random), torch.randn(rows, 100, generator=random)
    expected = torch.nn.functional.linear(x_NI, weight, bias)
    torch.testing.assert_close(FastLinear(weight, bias, layout=layout)(x_NI), expected)
    silu = FastLinear(weight, bias, layout=layout, activation="silu")(x_NI)
    torch.testing.assert_close(silu, torch.nn.functional.silu(expected))
    assert silu.is_contiguous()


def test_weights_are_cast_once_and_the_state_stays_fp32(tiny_model, inputs):
    plan = patch_plan(tiny_model, 10, head=DenoisingHead(tiny_model.mlp_head, dtype=torch.bfloat16))
    rough, exact = denoise(plan, *inputs), denoise(patch_plan(tiny_model, 10), *inputs)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < 0.1


def test_modulations_in_several_parts_are_the_same(tiny_model, inputs, monkeypatch):
    plan = patch_plan(tiny_model, 10)
    whole = denoise(plan, *inputs)
    assert len(list(plan.stretches(6))) == 1
    monkeypatch.setattr(patch_module, "MODULATION_BYTES", 3 * 6 * plan.head.amounts * 4)
    assert [len(stretch) for stretch, _ in plan.stretches(6)] == [3, 3, 3, 1]
    torch.testing.assert_close(denoise(plan, *inputs), whole, **CLOSE)


# Guidance in an interval

INTERVAL = (300, 800)


@pytest.mark.parametrize("scheduler", ["ddim", "unipc"])
def test_outside_its_interval_guidance_is_off_and_no_other_stream_is_computed(
    tiny_model, inputs, scheduler, monkeypatch
):
    plan = patch_plan(tiny_model, 10, scheduler, guidance_interval=INTERVAL)
    times = plan.solver.timesteps_T.tolist()
    acts = [300 <= time <= 800 for time in times]
    assert len({*acts}) == 2 and not acts[0] and not acts[-1]
    hidden_RD, noise_NC, mix_NR = inputs
    own_NR = torch.zeros_like(mix_NR)
    own_NR[range(3), [0, 2, 3]] = 1
    owner_R = torch.tensor([0, 0, 1, 2, 2, 2])
    known = plan.solver.start(noise_NC)
    for step, time in enumerate(times):
        each_RC = tiny_model.mlp_head(known[0][owner_R], torch.full((6,), time), hidden_RD)
        weights_NR = mix_NR if 300 <= time <= 800 else own_NR
        known = plan.solver.advance(step, known, weights_NR @ each_RC)
    rows, step = [], DenoisingHead.step

    def counted(self, x_NC, amounts, owner_R=None):
        rows.append(len(amounts[0]))
        return step(self, x_NC, amounts, owner_R)

    monkeypatch.setattr(DenoisingHead, "step", counted)
    expected = known[0] / tiny_model.config.latent_scale
    torch.testing.assert_close(denoise(plan, *inputs), expected, **CLOSE)
    assert rows == [6 if each else 3 for each in acts]


def test_an_interval_of_all_times_and_one_without_guidance_change_nothing(tiny_model, inputs):
    plain = patch_plan(tiny_model, 10)
    for interval in ((0, 999), ()):
        every = patch_plan(tiny_model, 10, guidance_interval=interval)
        assert torch.equal(denoise(every, *inputs), denoise(plain, *inputs))
    plan = patch_plan(tiny_model, 10, guidance_interval=INTERVAL)
    unguided = alone(inputs, 1)
    assert torch.equal(denoise(plan, *unguided), denoise(plain, *unguided))
    together = denoise(plan, *inputs)
    torch.testing.assert_close(together[1], denoise(plain, *inputs)[1], **CLOSE)
    # Guidance 0 leaves the prompt out, at all times.
    without = (inputs[0][:2], inputs[1][:1], mixing([Guidance.text(0.0)]))
    torch.testing.assert_close(denoise(plan, *without), denoise(plain, *without), **CLOSE)


def test_no_guided_patch_stops_before_guidance_acts(tiny_model, inputs):
    late = patch_plan(tiny_model, 25, guidance_interval=(0, 200))
    before = late.guided_T.index(True)
    _, steps_N = denoise_with_early_stop(late, *inputs, tolerance=0.9)
    assert steps_N[1] < before < min(steps_N[0], steps_N[2])
    for number in range(3):
        _, steps_1 = denoise_with_early_stop(late, *alone(inputs, number), tolerance=0.9)
        assert steps_1.item() == steps_N[number]


def test_an_interval_that_no_time_of_the_schedule_is_in_is_refused(tiny_model):
    with pytest.raises(
        PromptError, match="from timestep 1000 on, and the noisiest is 999"
    ) as found:
        DiffusionPatchSampler(tiny_model, SamplingParams(guidance_interval=(1000, 2000)))
    assert found.value.where == "guidance_interval"
    DiffusionPatchSampler(tiny_model, SamplingParams(guidance_interval=(999, 2000)))
    for wrong in ((800, 300), (5,), (-1, 5)):
        with pytest.raises(PromptError, match="guidance_interval cannot be"):
            SamplingParams(guidance_interval=wrong)
    with pytest.raises(PromptError, match="guidance_schedule cannot be cosine"):
        SamplingParams(guidance_schedule="cosine")


# Stopping when an estimate has settled


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
def test_with_no_tolerance_to_speak_of_every_step_is_taken(tiny_model, inputs, scheduler):
    plan = patch_plan(tiny_model, 25, scheduler)
    features_NC, steps_N = denoise_with_early_stop(plan, *inputs, tolerance=0.0)
    assert steps_N.tolist() == [25, 25, 25]
    torch.testing.assert_close(features_NC, denoise(plan, *inputs), **CLOSE)


@pytest.mark.parametrize(
    ("scheduler", "interval"), [("ddim", ()), ("dpm++", ()), ("unipc", ()), ("unipc", INTERVAL)]
)
def test_a_patch_stops_by_itself_whatever_is_beside_it(tiny_model, inputs, scheduler, interval):
    plan = patch_plan(tiny_model, 50, scheduler, guidance_interval=interval)
    features_NC, steps_N = denoise_with_early_stop(plan, *inputs, tolerance=0.1)
    assert len(set(steps_N.tolist())) > 1, "otherwise nothing leaves before the others"
    assert max(steps_N) < 50
    for number in range(3):
        feature_1C, steps_1 = denoise_with_early_stop(plan, *alone(inputs, number), tolerance=0.1)
        assert steps_1.item() == steps_N[number]
        torch.testing.assert_close(features_NC[number], feature_1C[0], **CLOSE)


def test_a_smaller_tolerance_takes_more_steps_and_comes_closer(tiny_model, inputs):
    plan = patch_plan(tiny_model, 50)
    exact = denoise(plan, *inputs)
    taken, errors = [], []
    for tolerance in (0.3, 0.1, 0.01):
        features_NC, steps_N = denoise_with_early_stop(plan, *inputs, tolerance=tolerance)
        taken.append(int(steps_N.sum()))
        errors.append(float((features_NC - exact).norm() / exact.norm()))
    assert taken == sorted(taken) and len(set(taken)) == 3
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05


# Steps that fall from patch to patch


@pytest.mark.parametrize("interval", [None, INTERVAL])
def test_pictures_at_different_places_take_steps_of_their_own(tiny_model, inputs, interval):
    settings = SamplingParams(steps=12, last_steps=3, scheduler="dpm++", guidance_interval=interval)
    patch_sampler = DiffusionPatchSampler(tiny_model, settings)
    drawn = [3, 0, 1]  # of 4 patches: 3, 12 and 9 steps
    together = patch_sampler.draw(*inputs, drawn)
    for number, steps in enumerate([3, 12, 9]):
        by_itself = patch_sampler.draw(*alone(inputs, number), [drawn[number]])
        torch.testing.assert_close(together[number], by_itself[0], **CLOSE)
        plan = patch_plan(tiny_model, steps, "dpm++", guidance_interval=interval)
        direct = denoise(plan, *alone(inputs, number))
        torch.testing.assert_close(together[number], direct[0], **CLOSE)


def test_a_brush_that_is_told_no_place_draws_as_at_the_beginning(tiny_model, inputs):
    patch_sampler = DiffusionPatchSampler(tiny_model, SamplingParams(steps=8, last_steps=2))
    assert torch.equal(patch_sampler.draw(*inputs), patch_sampler.draw(*inputs, [0, 0, 0]))


def test_steps_fall_in_a_straight_line():
    assert [steps_at(20, 10, patch, 5) for patch in range(5)] == [20, 18, 15, 12, 10]
    assert steps_at(20, 10, 0, 1) == 20
    assert {steps_at(7, 7, patch, 9) for patch in range(9)} == {7}


def test_presets_never_take_more_steps_than_the_model_itself():
    assert PRESETS["exact"].first_steps(100) == 100
    for name in ("fast", "turbo"):
        preset = preset_named(name)
        assert preset.first_steps(100) == preset.steps
        assert preset.first_steps(2) == 2
        assert 1 <= preset.last_steps(1) <= preset.last_steps(100) <= 100
    with pytest.raises(PromptError, match="no preset 'slow'"):
        preset_named("slow")


def test_a_scheduler_of_others_draws_but_cannot_stop_early(tiny_model, inputs):
    settings = SamplingParams(steps=25, scheduler="diffusers.DDIMScheduler")
    theirs = DiffusionPatchSampler(tiny_model, settings).draw(*inputs)
    ours = DiffusionPatchSampler(tiny_model, SamplingParams(steps=25)).draw(*inputs)
    torch.testing.assert_close(theirs, ours, atol=5e-2, rtol=1e-2)
    with pytest.raises(PromptError, match="no patch can stop early"):
        DiffusionPatchSampler(
            tiny_model, SamplingParams(scheduler=settings.scheduler, step_tolerance=0.1)
        )


# Recordings


@pytest.mark.parametrize("scheduler", ["unipc", "heun"])
def test_a_recording_reads_its_own_buffers_and_gives_the_same(tiny_model, inputs, scheduler):
    plan = patch_plan(tiny_model, 10, scheduler, guidance_interval=INTERVAL)
    recordings = CUDAGraphCache()

    def drawn(*given: torch.Tensor) -> torch.Tensor:
        return recordings("patch", lambda *tensors: denoise(plan, *tensors), *given)

    hidden_RD, noise_NC, mix_NR = inputs
    others = hidden_RD.flip(0), noise_NC.flip(0), mixing([each.weakened(0.5) for each in GUIDANCES])
    for given in (inputs, others, inputs, others):  # called, recorded, played, played
        assert torch.equal(drawn(*given), denoise(plan, *given))
    kept = drawn(*inputs)
    drawn(*others)
    assert torch.equal(kept, denoise(plan, *inputs)), "a result is no buffer of the next call"


def test_every_shape_is_recorded_for_itself_and_the_oldest_make_room():
    calls, recordings = [], CUDAGraphCache()

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return 2 * x

    for _ in range(3):
        for length in range(1, KEPT + 3):
            x = torch.arange(length)
            assert torch.equal(recordings("double", double, x), 2 * x)
    assert sorted(set(calls)) == list(range(1, KEPT + 3))


@pytest.mark.gpu
@pytest.mark.parametrize("scheduler", ["ddim", "heun"])
def test_a_recorded_loop_is_the_loop(tiny_model, inputs, scheduler):
    model = type(tiny_model)(tiny_model.config)
    model.load_state_dict(tiny_model.state_dict())
    model = model.eval().to("cuda")
    settings = SamplingParams(steps=20, scheduler=scheduler, guidance_interval=INTERVAL)
    patch_sampler, expected = (
        DiffusionPatchSampler(model, settings),
        DiffusionPatchSampler(tiny_model, settings).draw(*inputs),
    )
    for _ in range(4):  # eager, recorded, played, played
        drawn = patch_sampler.draw(*(tensor.to("cuda") for tensor in inputs))
        torch.testing.assert_close(drawn.cpu(), expected, atol=1e-3, rtol=1e-3)
