"""One patch from noise: guidance as weights, all modulations at once, seeds of their own."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from orthus_core.errors import CheckpointError
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import (
    DiffusionPatchSampler,
    draw_patches,
    patch_plan,
    seeded_noise,
    within_norms,
)
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.solvers import ddim_plan


def test_guidance_weights_are_the_formulas_and_sum_to_one():
    whole, image, empty = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    text = mixing([Guidance.text(5.0)]) @ torch.stack([whole, empty])
    torch.testing.assert_close(text[0], empty + 5.0 * (whole - empty))
    edit = mixing([Guidance.edit(5.0, 1.5)]) @ torch.stack([whole, image, empty])
    torch.testing.assert_close(edit[0], empty + 1.5 * (image - empty) + 5.0 * (whole - image))
    for guidance in (Guidance.none(), Guidance.text(7.5), Guidance.edit(4.0, 2.0)):
        assert sum(guidance.weights) == pytest.approx(1.0)


def test_weakened_guidance_has_a_share_of_every_scale():
    halves = [(Guidance.text(5.0), Guidance.text(3.0)), (Guidance.none(), Guidance.none())]
    halves += [(Guidance.edit(4.0, 2.0), Guidance.edit(2.5, 1.5))]
    for whole, half in halves:
        assert whole.weakened(0.5).weights == pytest.approx(half.weights)
        assert whole.weakened(0.0).weights[0] == 1 and not any(whole.weakened(0.0).weights[1:])


def test_mixing_keeps_pictures_apart():
    mix = mixing([Guidance.none(), Guidance.edit(4.0, 2.0), Guidance.text(3.0)])
    assert mix.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 4, -2, -1, 0, 0],
        [0, 0, 0, 0, 3, -2],
    ]


def test_a_patch_equals_the_head_called_step_by_step(tiny_model):
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 32, generator=random)
    noise = torch.randn(1, 8, generator=random)
    feature = draw_patches(patch_plan(tiny_model, 10), hidden, noise, mixing([Guidance.text(3.0)]))
    plan, x = ddim_plan(tiny_model.schedule, 10), noise
    for timestep, keep, push in zip(plan.timesteps_T, plan.keep, plan.push, strict=True):
        whole, empty = tiny_model.mlp_head(x.expand(2, 8), timestep.expand(2), hidden)
        x = keep * x + push * (empty + 3.0 * (whole - empty))
    torch.testing.assert_close(feature, x / tiny_model.config.latent_scale, atol=1e-4, rtol=1e-4)


def test_a_patch_is_the_same_alone_and_among_others(tiny_model):
    random = torch.Generator().manual_seed(2)
    guidances = [Guidance.text(5.0), Guidance.none(), Guidance.edit(4.0, 1.5)]
    hidden = torch.randn(6, 32, generator=random)
    noise = torch.randn(3, 8, generator=random)
    plan = patch_plan(tiny_model, 20)
    together = draw_patches(plan, hidden, noise, mixing(guidances))
    first = 0
    for number, guidance in enumerate(guidances):
        branches = slice(first, first := first + len(guidance.weights))
        alone = draw_patches(plan, hidden[branches], noise[number : number + 1], mixing([guidance]))
        torch.testing.assert_close(together[number], alone[0], atol=1e-4, rtol=1e-4)


def test_a_drawn_patch_is_scaled_to_the_norms_the_model_knows(tiny_model):
    random = torch.Generator().manual_seed(3)
    inputs = (
        torch.randn(3, 32, generator=random),
        torch.randn(3, 8, generator=random),
        torch.eye(3),
    )

    def drawn(**changes):
        return DiffusionPatchSampler(tiny_model, SamplingParams(steps=4, **changes)).draw(*inputs)

    plain = drawn()
    low, middle, high = plain.norm(dim=-1).sort().values.tolist()
    limits = ((low + middle) / 2, (middle + high) / 2)
    limited = drawn(patch_norm=limits)
    for before, after in zip(plain, limited, strict=True):
        wanted = min(max(float(before.norm()), limits[0]), limits[1])
        torch.testing.assert_close(after, before * (wanted / before.norm()))
    assert not torch.equal(limited, plain)
    assert torch.equal(drawn(patch_norm=(low / 2, high * 2)), plain)
    assert within_norms(torch.zeros(1, 8), 1.0, 2.0).isfinite().all()


def test_a_models_norms_are_its_own_default_and_are_recorded(tiny_config):
    assert "patch_norm" not in SamplingParams.resolve(tiny_config).to_dict(), "off by default"
    tiny_config.sampling = {"patch_norm": [2.0, 3]}
    params = SamplingParams.resolve(tiny_config)
    assert params.patch_norm == (2.0, 3) and params.to_dict()["patch_norm"] == (2.0, 3)
    for wrong in ("measured", [1.0], [1.0, "2"], 3.0):
        tiny_config.sampling = {"patch_norm": wrong}
        with pytest.raises(CheckpointError, match="patch_norm"):
            SamplingParams.resolve(tiny_config)


def test_how_a_model_guides_is_its_own_default_and_is_recorded(tiny_config):
    names = {"guidance_interval", "guidance_schedule"}
    assert not names & SamplingParams.resolve(tiny_config).to_dict().keys(), "off by default"
    tiny_config.sampling = {"guidance_interval": [200, 800], "guidance_schedule": "linear"}
    for task in ("picture", "edit", "story"):
        told = SamplingParams.resolve(tiny_config, task).to_dict()
        assert (told["guidance_interval"], told["guidance_schedule"]) == ((200, 800), "linear")
    asked = {"guidance_interval": (), "guidance_schedule": "constant"}
    told = SamplingParams.resolve(tiny_config, **asked).to_dict()
    assert {name: told[name] for name in names} == asked
    for name, wrong in (
        *(("guidance_interval", each) for each in ([800, 200], [1, 2, 3], [0.2, 0.8], "all", [])),
        *(("guidance_schedule", each) for each in ("cosine", 1, ["linear"])),
    ):
        tiny_config.sampling = {name: wrong}
        with pytest.raises(CheckpointError, match=name) as found:
            SamplingParams.resolve(tiny_config)
        assert "linear" in found.value.hint or "[200, 800]" in found.value.hint


def test_a_seed_gives_the_same_noise_again_and_other_noise_for_every_patch():
    first, second = (torch.stack(list(islice(seeded_noise(7, 16), 3))) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(first[2], [torch.randn(1, 16, generator=generator) for _ in range(3)][2][0])
