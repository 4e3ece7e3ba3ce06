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
from orthus_core.samplers.solvers import LinearSolver, Solver, solver_for

# Modulations of as many steps as fit into this are made by one product: all 100 for up to 19
# streams of the released head in 16 bits, and no more memory for 64 pictures than for eight.
MODULATION_BYTES = 2**26
# Fewer where a patch may stop before it needs them.
STEPS_LOOKED_AHEAD = 10


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

    def stretches(self, streams: int, at_most: int | None = None) -> Iterator[tuple[range, Tensor]]:
        """The steps in groups whose modulations are made at once, and the times of each group."""
        steps = len(self.times_TW)
        fitting = MODULATION_BYTES // (streams * self.head.amounts * self.head.dtype.itemsize)
        length = max(1, min(fitting, at_most or steps))
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


def denoise_until_settled(
    plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor, *, tolerance: float
) -> tuple[Tensor, Tensor]:
    """`denoise`, but each patch stops when its clean feature has settled.

    That is when the estimate, if it went on changing at its present pace to the end, would change
    by no more than `tolerance` of its size. Each patch is judged by itself, so which others are in
    the batch changes nothing.

    Returns: Features, fp32 [N, C], and the steps that each took, int64 [N].
    """
    solver = plan.solver
    assert isinstance(solver, LinearSolver), "only these say what a step implies (see Denoising)"
    features_NC = torch.empty_like(noise_NC)
    steps_N = noise_NC.new_full((len(noise_NC),), len(plan.times_TW), dtype=torch.long)
    going_N = torch.arange(len(noise_NC), device=noise_NC.device)
    condition_RW = plan.head.condition(hidden_RD)
    known, clean_before_NC = solver.start(noise_NC), None
    for stretch, times_TW in plan.stretches(len(hidden_RD), STEPS_LOOKED_AHEAD):
        amounts_TRA = plan.head.modulation(times_TW, condition_RW)
        for offset, step in enumerate(stretch):
            owner_R = mix_NR.abs().argmax(dim=0)
            amounts = amounts_TRA[offset].split(plan.head.width, dim=-1)
            prediction_NC = mix_NR @ plan.head.step(solver.seen(step, known), amounts, owner_R)
            clean_NC = solver.clean_estimate(step, known, prediction_NC)
            known = solver.advance(step, known, prediction_NC)
            if clean_before_NC is not None:
                change_N = (clean_NC - clean_before_NC).norm(dim=-1) * solver.ahead[step]
                settled_N = change_N <= tolerance * clean_NC.norm(dim=-1)
                features_NC[going_N[settled_N]] = clean_NC[settled_N]
                steps_N[going_N[settled_N]] = step + 1
                # Patches that have settled leave the batch, and their streams with them.
                going, streams = ~settled_N, (~settled_N)[owner_R]
                if not going.any():
                    return features_NC / plan.latent_scale, steps_N
                going_N, clean_NC, mix_NR = going_N[going], clean_NC[going], mix_NR[going]
                known = [one[going] for one in known]
                mix_NR, condition_RW = mix_NR[:, streams], condition_RW[streams]
                amounts_TRA = amounts_TRA[:, streams]
            clean_before_NC = clean_NC
    features_NC[going_N] = known[0]
    return features_NC / plan.latent_scale, steps_N


def seeded_noise(seed: int, channels: int) -> Iterator[Tensor]:
    """Starting noise of patch after patch, fp32 [C], the same on every device, in every batch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(1, channels, generator=generator)[0]
