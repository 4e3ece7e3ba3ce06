"""One patch from noise to feature, for many pictures at once.

The head's modulations do not depend on the noisy feature, so those of all steps and streams come
from one GEMM before the loop; the loop itself is two lines of arithmetic a step, in fp32.

Legend: N pictures, R streams of all of them (guidance), C feature channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.model.diffusion_head import Plan
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.ddim import DDIMPlan, ddim_plan
from orthus_core.samplers.settings import Settings


class PatchPlan(NamedTuple):
    """What every patch of a run shares: the solver's numbers, and the head's part that is fixed."""

    solver: DDIMPlan
    head: Plan


def patch_plan(model: OrthusForConditionalGeneration, steps: int) -> PatchPlan:
    """Everything about `steps` DDIM steps that can be known before the first patch.

    Raises: PromptError, CheckpointError as `ddim_plan`.
    """
    solver, head = ddim_plan(model.schedule, steps), model.mlp_head
    return PatchPlan(solver, head.plan(solver.timesteps_T.to(head.input_proj.weight.device)))


def draw_patches(
    model: OrthusForConditionalGeneration,
    plan: PatchPlan,
    hidden_RD: Tensor,
    noise_NC: Tensor,
    mix_NR: Tensor,
) -> Tensor:
    """The next feature of each picture: fp32 [N, C].

    Args:
        hidden_RD: Hidden states of all streams, one position before the patch.
        noise_NC: Where each picture's patch starts; its streams share it.
        mix_NR: Weight of each stream in each picture, 0 for the streams of others (see `mixing`).
    """
    head = model.mlp_head
    device = head.input_proj.weight.device  # its own, where a large model is spread over several
    hidden_RD, noise_NC, mix_NR = hidden_RD.to(device), noise_NC.to(device), mix_NR.to(device)
    # 1. All modulations of all steps, at once.
    modulation = head.modulation(plan.head, hidden_RD)
    # 2. From noise to a clean feature; the state stays fp32, since 16 bits lose the result.
    owner_R = mix_NR.abs().argmax(dim=0)
    x_NC = noise_NC.float()
    for step, (keep, push) in enumerate(zip(plan.solver.keep, plan.solver.push, strict=True)):
        x_RC = x_NC[owner_R].to(hidden_RD.dtype)
        prediction_RC = head.step(x_RC, modulation, step).float()
        x_NC = keep * x_NC + push * (mix_NR @ prediction_RC)
    # 3. Back to the autoencoder's own scale.
    return x_NC / model.config.latent_scale


def seeded_noise(seed: int, channels: int) -> Iterator[Tensor]:
    """Starting noise of patch after patch, fp32 [C], the same on every device, in every batch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(1, channels, generator=generator)[0]


class Denoising:
    """Fills slots with features denoised by the diffusion head (a `Brush`)."""

    def __init__(self, model: OrthusForConditionalGeneration, settings: Settings) -> None:
        self._model, self._noise_scale = model, settings.noise_scale
        self._plan = patch_plan(model, settings.steps)

    def noise(self, seed: int) -> Iterator[Tensor]:
        """Normal noise: [C] each."""
        return seeded_noise(seed, self._model.config.feature_channels)

    def draw(self, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
        """The next feature of each picture: fp32 [N, C]."""
        return draw_patches(
            self._model, self._plan, hidden_RD, self._noise_scale * noise_NC, mix_NR
        )
