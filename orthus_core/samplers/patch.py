"""One patch from noise to feature, for many pictures at once.

`denoise` is the loop, a function of tensors alone: a CPU runs it as it stands, a GPU records it and
plays it back (`recorded.py`). `denoise_until_settled` is the same loop for those who would rather
stop early. The state is fp32 throughout, since 16 bits lose the result.

Legend: N pictures, R streams of all of them (guidance), C feature channels, D hidden, W head width,
    A amounts of modulation, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.solvers import Solver, solver_for

# Modulations of as many steps as fit into this are made by one product: all 100 for up to 19
# streams of the released head in 16 bits, and no more memory for 64 pictures than for eight.
MODULATION_BYTES = 2**26


@dataclass(frozen=True)
class PatchPlan:
    """What every patch of so many steps shares.

    solver: The way from noise to feature.
    head: The weights, ready; plans of different lengths share it.
    times_TW: Time embeddings of the solver's timesteps.
    latent_scale: Factor on features while they are denoised.
    """

    solver: Solver
    head: DenoisingHead
    times_TW: Tensor
    latent_scale: float

    def stretches(self, streams: int) -> Iterator[tuple[range, Tensor]]:
        """The steps in groups whose modulations are made at once, and the times of each group."""
        steps = len(self.times_TW)
        fitting = MODULATION_BYTES // (streams * self.head.amounts * self.head.dtype.itemsize)
        length = max(1, min(fitting, steps))
        for first in range(0, steps, length):
            stretch = range(first, min(first + length, steps))
            yield stretch, self.times_TW[stretch.start : stretch.stop]


def patch_plan(
    model: OrthusForConditionalGeneration,
    steps: int,
    scheduler: str = "ddim",
    head: DenoisingHead | None = None,
) -> PatchPlan:
    """Everything about patches of `steps` steps that can be known before the first one.

    Args:
        scheduler: See `solver_for`.
        head: Of this model, where another plan has it ready.

    Raises: PromptError, CheckpointError as `solver_for`.
    """
    solver = solver_for(model.schedule, scheduler, steps)
    head = head or DenoisingHead(model.mlp_head)
    return PatchPlan(solver, head, head.times(solver.timesteps_T), model.config.latent_scale)


def draw_patches(plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
    """The next feature of each picture: fp32 [N, C].

    Args:
        hidden_RD: Hidden states of all streams, one position before the patch.
        noise_NC: Where each picture's patch starts; its streams share it.
        mix_NR: Weight of each stream in each picture, 0 for the streams of others (see `mixing`).
    """
    return denoise(plan, *on_its_device(plan, hidden_RD, noise_NC.float(), mix_NR))


def on_its_device(plan: PatchPlan, *tensors: Tensor) -> list[Tensor]:
    """Tensors where the head is, which in a large model spread over several devices has its own."""
    return [tensor.to(plan.head.device) for tensor in tensors]


def denoise(plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
    """The features that all steps of the plan lead to: fp32 [N, C]. Arguments as `draw_patches`."""
    # 1. What no step changes.
    condition_RW = plan.head.condition(hidden_RD)
    owner_R = mix_NR.abs().argmax(dim=0)
    known = plan.solver.start(noise_NC)
    for stretch, times_TW in plan.stretches(len(hidden_RD)):
        # 2. Modulations of many steps at once.
        amounts_TRA = plan.head.modulation(times_TW, condition_RW)
        # 3. The steps themselves.
        for step, amounts in zip(stretch, plan.head.by_step(amounts_TRA), strict=True):
            seen_NC = plan.solver.seen(step, known)
            prediction_NC = mix_NR @ plan.head.step(seen_NC, amounts, owner_R)
            known = plan.solver.advance(step, known, prediction_NC)
    # 4. Back to the autoencoder's own scale.
    return known[0] / plan.latent_scale


def seeded_noise(seed: int, channels: int) -> Iterator[Tensor]:
    """Starting noise of patch after patch, fp32 [C], the same on every device, in every batch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(1, channels, generator=generator)[0]
