"""One patch from noise: guidance as weights, all modulations at once, seeds of their own."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from orthus_core.samplers.patch_sampler import draw_patches, patch_plan, seeded_noise
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


def test_a_seed_gives_the_same_noise_again_and_other_noise_for_every_patch():
    first, second = (torch.stack(list(islice(seeded_noise(7, 16), 3))) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(first[2], [torch.randn(1, 16, generator=generator) for _ in range(3)][2][0])
