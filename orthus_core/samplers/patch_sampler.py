"""Draws the next patch of any number of images.

An Orthus denoises a patch with its diffusion head, step by step, along the table of a solver; one
with a regression head takes its prediction (regression_sampler.py), and a discrete Chameleon
chooses a code (`CodeSampler`, code_sampler.py). This file begins with the
interface that both offer to the loop, followed by the sampler of an Orthus, what it prepares before
the first patch (`PatchPlan`), and the steps themselves (`denoise`).

`denoise` is a function of tensors alone: a CPU runs it directly, a GPU records it as a graph and
replays it (cuda_graph.py). The state is fp32 throughout, since 16 bits are too imprecise. The
number of steps of a patch depends on its place in the image, and early stopping depends on the
patch alone; neither depends on the rest of the batch.

Legend: N images, R branches of all of them (guidance), C feature channels, D hidden, W head width,
    A modulation values, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from orthus_core.device import moved
from orthus_core.errors import PromptError
from orthus_core.model.config import DiscreteConfig
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.samplers.params import SamplingParams, step_counts, steps_at
from orthus_core.samplers.seeds import image_stream
from orthus_core.samplers.solvers import LinearSolver, Solver, grid_of_steps, solver_for

if TYPE_CHECKING:
    from orthus_core.samplers.cuda_graph import CUDAGraphCache


class PatchSampler(Protocol):
    """Draws the next patch of any number of images."""

    def noise(self, seed: int) -> Iterator[Tensor]:
        """The randomness of patch after patch, from an image's seed alone."""
        ...

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NX: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
        /,
    ) -> Tensor:
        """The next feature of each image: fp32 [N, C].

        Args:
            hidden_RD: Hidden states of all branches, one position before the patch.
            noise_NX: Noise for each image, from `noise`; its branches share it.
            mix_NR: Weight of each branch in each image, 0 for the branches of others.
            drawn_N: Number of patches already drawn in each image; None means none in any image.
        """
        ...


def patch_sampler_for(
    model: InterleavedModel, params: SamplingParams, head: DenoisingHead | None = None
) -> PatchSampler:
    """The patch sampler for this kind of model.

    Args:
        head: As for `DiffusionPatchSampler`.

    Raises:
        PromptError, CheckpointError: As `DiffusionPatchSampler`.
    """
    if isinstance(model.config, DiscreteConfig):
        from orthus_core.model.chameleon import DiscreteChameleon
        from orthus_core.samplers.code_sampler import CodeSampler

        return CodeSampler(cast(DiscreteChameleon, model), params)
    assert isinstance(model, OrthusForConditionalGeneration), "there are two kinds of models"
    if not model.config.denoises:
        from orthus_core.samplers.regression_sampler import RegressionPatchSampler

        return RegressionPatchSampler(model, params)
    return DiffusionPatchSampler(model, params, head)


class DiffusionPatchSampler:
    """Denoises patches according to `params`, with the head's weights as they are at construction.

    Args:
        head: Prepared head of this model, if another sampler already has it.

    Attributes:
        head: The prepared head.

    Raises:
        PromptError: For a scheduler that does not exist, for a time grid that it cannot follow or
            that some patch has none of, for a guidance interval above all timesteps, and for a
            tolerance with a solver that gives no clean estimate for each step.
        CheckpointError: As `solver_for`.
    """

    def __init__(
        self,
        model: OrthusForConditionalGeneration,
        params: SamplingParams,
        head: DenoisingHead | None = None,
    ) -> None:
        self._model, self._params = model, params
        self.head = head or DenoisingHead(model.diffusion_head)
        self._plans: dict[int, PatchPlan] = {}
        self._recordings: CUDAGraphCache | None = None
        solver = self._plan(params.steps).solver
        if params.step_tolerance and not (isinstance(solver, LinearSolver) and solver.clean):
            able = [name for name, entry in SOLVERS.items() if entry.stops_early]
            raise PromptError(
                f"{params.scheduler} does not say how sure it is, so no patch can stop early",
                where="step_tolerance",
                hint=f"leave it out, or use one of {', '.join(able)}",
            )
        last_timestep = model.schedule.num_timesteps - 1
        if params.guidance_interval and params.guidance_interval[0] > last_timestep:
            raise PromptError(
                f"guidance from timestep {params.guidance_interval[0]} on, and the noisiest is "
                f"{last_timestep}",
                where="guidance_interval",
                hint="name timesteps, as in [200, 800]; guidance 1 is none at any",
            )
        if params.time_grid:  # all of them, before the first patch is drawn
            last = params.steps if params.last_steps is None else params.last_steps
            for steps in step_counts(params.steps, last, model.config.patches):
                grid_of_steps(params.time_grid, steps)
        if isinstance(solver, LinearSolver) and self.head.device.type == "cuda":
            from orthus_core.samplers.cuda_graph import CUDAGraphCache

            self._recordings = CUDAGraphCache()

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
        """The next feature of each image: fp32 [N, C]."""
        steps_N = [self._steps(drawn) for drawn in drawn_N or [0] * len(noise_NC)]
        if len(set(steps_N)) == 1:
            return self._denoised(steps_N[0], hidden_RD, noise_NC, mix_NR)
        # Images at different patches take different numbers of steps, so there is one batch per
        # number.
        features_NC = torch.empty(noise_NC.shape, device=self.head.device)
        for steps in set(steps_N):
            rows = [row for row, its_steps in enumerate(steps_N) if its_steps == steps]
            branches = mix_NR[rows].ne(0).any(dim=0).nonzero().flatten()
            features_NC[moved(torch.tensor(rows), features_NC.device)] = self._denoised(
                steps,
                hidden_RD[moved(branches, hidden_RD.device)],
                noise_NC[rows],
                mix_NR[rows][:, branches],
            )
        return features_NC

    def _steps(self, drawn: int) -> int:
        first, last = self._params.steps, self._params.last_steps
        if last is None:
            return first
        return steps_at(first, last, drawn, self._model.config.patches)

    def _denoised(self, steps: int, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
        features_NC = self._all_steps(steps, hidden_RD, noise_NC, mix_NR)
        limits = self._params.patch_norm
        return within_norms(features_NC, *limits) if limits else features_NC

    def _all_steps(self, steps: int, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
        plan, tolerance = self._plan(steps), self._params.step_tolerance
        noise_NC = self._params.noise_scale * noise_NC.float()
        inputs = on_its_device(plan, hidden_RD, noise_NC, mix_NR)
        if tolerance:
            features_NC, _ = denoise_with_early_stop(plan, *inputs, tolerance=tolerance)
            return features_NC
        if self._recordings is not None:
            return self._recordings(steps, partial(denoise, plan), *inputs)
        return denoise(plan, *inputs)

    def _plan(self, steps: int) -> PatchPlan:
        if steps not in self._plans:
            params = self._params
            self._plans[steps] = patch_plan(
                self._model,
                steps,
                params.scheduler,
                self.head,
                params.time_grid,
                params.guidance_interval,
            )
        return self._plans[steps]


def within_norms(features_NC: Tensor, low: float, high: float) -> Tensor:
    """The features, each scaled to a norm of at least `low` and at most `high`: [N, C]."""
    norms_N1 = features_NC.norm(dim=-1, keepdim=True)
    return features_NC * (norms_N1.clamp(low, high) / norms_N1.clamp_min(1e-12))


def seeded_noise(seed: int, channels: int) -> Iterator[Tensor]:
    """Starting noise of each patch in turn, fp32 [C], the same on every device and in any batch."""
    generator = torch.Generator().manual_seed(image_stream(seed))
    while True:
        yield torch.randn(1, channels, generator=generator)[0]


# One product makes the modulations of as many steps as fit into this size: all 100 for up to 19
# branches of the released head in 16 bits, with no more memory for 64 images than for eight.
MODULATION_BYTES = 2**26


@dataclass(frozen=True)
class PatchPlan:
    """Everything that all patches of one number of steps share.

    Attributes:
        solver: Solver that leads from noise to feature.
        head: Prepared head; plans of different lengths share it.
        times_TW: Time embeddings of the solver's timesteps.
        latent_scale: Factor on features while they are denoised.
        guidance_interval: Lowest and highest timestep at which guidance acts; None is all.
    """

    solver: Solver
    head: DenoisingHead
    times_TW: Tensor
    latent_scale: float
    guidance_interval: Sequence[int] | None = None

    @cached_property
    def guided_T(self) -> tuple[bool, ...]:
        """Whether guidance acts, at each of the solver's timesteps."""
        low, high = self.guidance_interval or (-math.inf, math.inf)
        return tuple(low <= timestep <= high for timestep in self.solver.timesteps_T.tolist())

    def stretches(self, branches: int, images: int | None = None) -> Iterator[tuple[range, Tensor]]:
        """The steps in groups whose modulations are made at once, and the times of each group.

        Args:
            branches: Rows of a step at which guidance acts.
            images: Rows of any other step; None means as many.
        """
        images = branches if images is None else images
        rows_T = [branches if guided else images for guided in self.guided_T]
        first, steps = 0, len(rows_T)
        while first < steps:
            rows = rows_T[first]
            fitting = MODULATION_BYTES // (rows * self.head.amounts * self.head.dtype.itemsize)
            alike = next((step for step in range(first, steps) if rows_T[step] != rows), steps)
            stretch = range(first, min(first + max(1, fitting), alike))
            yield stretch, self.times_TW[stretch.start : stretch.stop]
            first = stretch.stop


def patch_plan(
    model: OrthusForConditionalGeneration,
    steps: int,
    scheduler: str = "ddim",
    head: DenoisingHead | None = None,
    time_grid: Sequence[int] | None = None,
    guidance_interval: Sequence[int] | None = None,
) -> PatchPlan:
    """Everything that can be computed before the first patch of `steps` steps.

    Args:
        scheduler: Name of the solver, see `solver_for`.
        head: Prepared head of this model, if another plan already has it.
        time_grid: Timesteps of the solver, see `solver_for`.
        guidance_interval: Lowest and highest timestep at which guidance acts; all by default.

    Raises:
        PromptError: As `solver_for`, and for the solver of flow maps with a plain head.
        CheckpointError: As `solver_for`.
    """
    solver = solver_for(model.schedule, scheduler, steps, time_grid)
    head = head or DenoisingHead(model.diffusion_head)
    ends_T = solver.ends_T if isinstance(solver, LinearSolver) else None
    if ends_T is not None and not head.is_flow_map:
        raise PromptError(
            f"{scheduler} takes the steps of a flow map head, and this model's head is a plain one",
            where="scheduler",
            hint="use ddim, dpm++ or unipc, or make such a head with `orthus distill head`",
        )
    times_TW = head.times(solver.timesteps_T, ends_T)
    return PatchPlan(solver, head, times_TW, model.config.latent_scale, guidance_interval)


def draw_patches(plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
    """`denoise` for tensors of any device and precision: fp32 [N, C]."""
    return denoise(plan, *on_its_device(plan, hidden_RD, noise_NC.float(), mix_NR))


def on_its_device(plan: PatchPlan, *tensors: Tensor) -> list[Tensor]:
    """The tensors on the head's device, which may differ from the backbone's in a model spread over
    several devices.
    """
    return [moved(tensor, plan.head.device) for tensor in tensors]


def denoise(plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor) -> Tensor:
    """The next feature of each image, after all steps of the plan: fp32 [N, C].

    Args:
        hidden_RD: Hidden states of all branches, one position before the patch.
        noise_NC: Starting noise of each image's patch; its branches share it.
        mix_NR: Weight of each branch in each image, 0 for the branches of others (see `mixing`).
    """
    known, solver, loop = [noise_NC], plan.solver, plan.head.loop
    if (
        loop
        and isinstance(solver, LinearSolver)
        and loop.takes(len(hidden_RD), len(solver.updates[0]))
    ):
        known = solver.start(noise_NC)
        for part in modulated_stretches(plan, hidden_RD, mix_NR):
            updates_TSK = solver.updates_TSK[part.steps.start : part.steps.stop]
            known = loop.steps(part.amounts_TRA, part.owner_R, part.mix_NR, updates_TSK, known)
    else:
        for taken in denoising_steps(plan, hidden_RD, noise_NC, mix_NR):
            known = taken.known
    return known[0] / plan.latent_scale


def denoise_with_early_stop(
    plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor, *, tolerance: float
) -> tuple[Tensor, Tensor]:
    """`denoise`, but each patch stops when its clean feature has settled.

    It has settled when, changing at its present pace to the end, it would change by at most
    `tolerance` of its size. Each patch is judged alone, so the rest of the batch makes no
    difference. A patch with guidance goes on until guidance has begun to act, because its pace
    before says nothing of that.

    Returns: Features, fp32 [N, C], and the number of steps that each took, int64 [N].
    """
    solver = plan.solver
    assert isinstance(solver, LinearSolver) and solver.clean, "checked by the patch sampler"
    features_NC, sample_NC = noise_NC, noise_NC
    clean_before_NC: Tensor | None = None
    going_N = torch.ones(len(noise_NC), dtype=torch.bool, device=noise_NC.device)
    steps_N = torch.zeros_like(going_N, dtype=torch.long)
    guided_N = mix_NR.ne(0).sum(dim=1) > 1
    begins = plan.guided_T.index(True) if any(plan.guided_T) else 0
    for taken in denoising_steps(plan, hidden_RD, noise_NC, mix_NR):
        sample_NC = taken.known[0]
        clean_NC = solver.clean_estimate(taken.step, taken.before, taken.prediction_NC)
        steps_N += going_N
        if clean_before_NC is not None:
            change_N = (clean_NC - clean_before_NC).norm(dim=-1) * solver.ahead[taken.step]
            settled_N = going_N & (change_N <= tolerance * clean_NC.norm(dim=-1))
            if taken.step < begins:
                settled_N &= ~guided_N
            features_NC = torch.where(settled_N.unsqueeze(-1), clean_NC, features_NC)
            going_N = going_N & ~settled_N
            if not going_N.any():
                return features_NC / plan.latent_scale, steps_N
        clean_before_NC = clean_NC
    features_NC = torch.where(going_N.unsqueeze(-1), sample_NC, features_NC)
    return features_NC / plan.latent_scale, steps_N


class StepTaken(NamedTuple):
    """One step of a denoising run.

    Attributes:
        step: Number of the step.
        before: Solver state before the step; the sample comes first.
        prediction_NC: The head's prediction from that state, with guidance applied.
        known: Solver state after the step.
    """

    step: int
    before: list[Tensor]
    prediction_NC: Tensor
    known: list[Tensor]


def denoising_steps(
    plan: PatchPlan, hidden_RD: Tensor, noise_NC: Tensor, mix_NR: Tensor
) -> Iterator[StepTaken]:
    """The steps of the plan one by one; the caller may stop at any step. Arguments as for
    `denoise`.
    """
    known = plan.solver.start(noise_NC)
    for part in modulated_stretches(plan, hidden_RD, mix_NR):
        for step, amounts in zip(part.steps, plan.head.by_step(part.amounts_TRA), strict=True):
            before = known
            seen_NC = plan.solver.head_input(step, before)
            prediction_NC = part.mix_NR @ plan.head.step(seen_NC, amounts, part.owner_R)
            known = plan.solver.advance(step, before, prediction_NC)
            yield StepTaken(step, before, prediction_NC, known)


class Stretch(NamedTuple):
    """Steps whose modulations are made at once.

    Attributes:
        steps: Their numbers.
        amounts_TRA: Their modulation values.
        owner_R: Index of the image that each row denoises.
        mix_NR: Weight of each row in each image; R is N where guidance does not act.
    """

    steps: range
    amounts_TRA: Tensor
    owner_R: Tensor
    mix_NR: Tensor


def modulated_stretches(plan: PatchPlan, hidden_RD: Tensor, mix_NR: Tensor) -> Iterator[Stretch]:
    """All steps of the plan, with what does not depend on the sample; arguments as `denoise`."""
    condition_RW = plan.head.condition(hidden_RD)
    owner_R, images = mix_NR.abs().argmax(dim=0), len(mix_NR)
    for steps, times_TW in plan.stretches(len(hidden_RD), images):
        # Of many steps at once, even if some are not taken: one product is cheaper than several.
        if plan.guided_T[steps.start]:
            yield Stretch(steps, plan.head.modulation(times_TW, condition_RW), owner_R, mix_NR)
            continue
        # Where guidance does not act, an image's own branch alone counts: the first of a weight
        # other than 0. At guidance 0, which leaves the prompt out, that is the next one.
        own_N = mix_NR.ne(0).float().argmax(dim=1)
        amounts_TNA = plan.head.modulation(times_TW, condition_RW.index_select(0, own_N))
        each_N = torch.arange(images, device=mix_NR.device)
        yield Stretch(steps, amounts_TNA, each_N, torch.eye(images, device=mix_NR.device))
