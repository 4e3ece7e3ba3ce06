"""Draws the next patch of any number of images: the interface, and its two implementations'
factory.

An Orthus denoises a patch with its diffusion head (`DiffusionPatchSampler`, here); a discrete
Chameleon chooses a code (`CodeSampler`, code_sampler.py). `denoise` is the loop of the former, a
function of tensors alone: a CPU runs it as it stands, a GPU records it and plays it back
(cuda_graph.py). The state is fp32 throughout, since 16 bits lose the result. How many steps a patch
takes depends on its place in the image, and whether it stops early on itself; neither depends on
what else is drawn beside it.

Legend: N images, R branches of all of them (guidance), C feature channels, D hidden, W head width,
    A modulation values, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.cuda_graph import CUDAGraphCache
from orthus_core.samplers.params import SamplingParams, steps_at
from orthus_core.samplers.solvers import LinearSolver, Solver, solver_for


class PatchSampler(Protocol):
    """Draws the next patch of any number of pictures."""

    def noise(self, seed: int) -> Iterator[Tensor]:
        """The randomness of patch after patch, from a picture's seed alone."""
        ...

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NX: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
        /,
    ) -> Tensor:
        """The next feature of each picture: fp32 [N, C].

        Args:
            hidden_RD: Hidden states of all streams, one position before the patch.
            noise_NX: Of each picture, as `noise` gives it; its streams share it.
            mix_NR: Weight of each stream in each picture, 0 for the streams of others.
            drawn_N: How many patches of each picture there are already; None is none of any.
        """
        ...


def patch_sampler_for(model: InterleavedModel, params: SamplingParams) -> PatchSampler:
    """The patch sampler for this kind of model.

    Raises: PromptError, CheckpointError as `DiffusionPatchSampler`.
    """
    if isinstance(model, DiscreteChameleon):
        from orthus_core.samplers.code_sampler import CodeSampler

        return CodeSampler(model, params)
    assert isinstance(model, OrthusForConditionalGeneration), "there are two kinds of models"
    return DiffusionPatchSampler(model, params)


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


def denoise_with_early_stop(
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
    features_NC, clean_before_NC = noise_NC, None
    going_N = torch.ones(len(noise_NC), dtype=torch.bool, device=noise_NC.device)
    steps_N = torch.zeros_like(going_N, dtype=torch.long)
    condition_RW = plan.head.condition(hidden_RD)
    owner_R = mix_NR.abs().argmax(dim=0)
    known = solver.start(noise_NC)
    for stretch, times_TW in plan.stretches(len(hidden_RD)):
        # Of all steps at once, though some may not be taken: one product is cheaper than several.
        amounts_TRA = plan.head.modulation(times_TW, condition_RW)
        for step, amounts in zip(stretch, plan.head.by_step(amounts_TRA), strict=True):
            seen_NC = solver.seen(step, known)
            prediction_NC = mix_NR @ plan.head.step(seen_NC, amounts, owner_R)
            clean_NC = solver.clean_estimate(step, known, prediction_NC)
            known = solver.advance(step, known, prediction_NC)
            steps_N += going_N
            if clean_before_NC is not None:
                change_N = (clean_NC - clean_before_NC).norm(dim=-1) * solver.ahead[step]
                settled_N = going_N & (change_N <= tolerance * clean_NC.norm(dim=-1))
                features_NC = torch.where(settled_N.unsqueeze(-1), clean_NC, features_NC)
                going_N = going_N & ~settled_N
                if not going_N.any():
                    return features_NC / plan.latent_scale, steps_N
            clean_before_NC = clean_NC
    features_NC = torch.where(going_N.unsqueeze(-1), known[0], features_NC)
    return features_NC / plan.latent_scale, steps_N


class DiffusionPatchSampler:
    """Draws patches by `params`; it sees the head's weights as they are when it is made.

    Raises:
        PromptError: For a scheduler that cannot be, or one of others' together with a tolerance.
        CheckpointError: As `ddim_plan`.
    """

    def __init__(self, model: OrthusForConditionalGeneration, params: SamplingParams) -> None:
        self._model, self._params = model, params
        self._head = DenoisingHead(model.mlp_head)
        self._plans: dict[int, PatchPlan] = {}
        self._recordings = CUDAGraphCache()
        ours = isinstance(self._plan(params.steps).solver, LinearSolver)
        if params.step_tolerance and not ours:
            raise PromptError(
                f"{params.scheduler} does not say how sure it is, so no patch can stop early",
                where="step_tolerance",
                hint="leave it out, or use ddim, dpm++ or unipc",
            )
        self._records = ours and self._head.device.type == "cuda"

    def noise(self, seed: int) -> Iterator[Tensor]:
        """Normal noise: [C] each."""
        return seeded_noise(seed, self._model.config.feature_channels)

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NC: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
    ) -> Tensor:
        """The next feature of each picture: fp32 [N, C]."""
        steps_N = [self._steps(drawn) for drawn in drawn_N or [0] * len(noise_NC)]
        if len(set(steps_N)) == 1:
            return self._draw(steps_N[0], hidden_RD, noise_NC, mix_NR)
        # Pictures at different places take different numbers of steps, so each number is a batch.
        features_NC = torch.empty(noise_NC.shape, device=self._head.device)
        for steps in set(steps_N):
            rows = [row for row, its_steps in enumerate(steps_N) if its_steps == steps]
            streams = mix_NR[rows].ne(0).any(dim=0)
            features_NC[rows] = self._draw(
                steps,
                hidden_RD[streams.to(hidden_RD.device)],
                noise_NC[rows],
                mix_NR[rows][:, streams],
            )
        return features_NC

    def _draw(self, steps: int, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
        plan = self._plan(steps)
        noise_NC = self._params.noise_scale * noise_NC.float()
        inputs = on_its_device(plan, hidden_RD, noise_NC, mix_NR)
        if self._params.step_tolerance:
            return denoise_with_early_stop(plan, *inputs, tolerance=self._params.step_tolerance)[0]
        if self._records:
            return self._recordings(steps, partial(denoise, plan), *inputs)
        return denoise(plan, *inputs)

    def _plan(self, steps: int) -> PatchPlan:
        if steps not in self._plans:
            self._plans[steps] = patch_plan(self._model, steps, self._params.scheduler, self._head)
        return self._plans[steps]

    def _steps(self, drawn: int) -> int:
        first, last = self._params.steps, self._params.last_steps
        if last is None:
            return first
        return steps_at(first, last, drawn, self._model.config.patches)
