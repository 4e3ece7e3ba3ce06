"""Fills the slots of an Orthus's pictures: noise, denoised by the diffusion head (a `Brush`).

How many steps a patch takes depends on its place in the picture (`presets.py`), whether it stops
early on itself; neither on what else is drawn beside it.

Legend: N pictures, R streams of all of them (guidance), C feature channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from orthus_core.errors import PromptError
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.patch import (
    PatchPlan,
    denoise,
    on_its_device,
    patch_plan,
    seeded_noise,
)
from orthus_core.samplers.presets import steps_at
from orthus_core.samplers.recorded import Recordings
from orthus_core.samplers.settings import Settings
from orthus_core.samplers.settling import denoise_until_settled
from orthus_core.samplers.solvers import LinearSolver


class Denoising:
    """Draws patches as the settings say; it sees the head's weights as they are when it is made.

    Raises:
        PromptError: For a scheduler that cannot be, or one of others' together with a tolerance.
        CheckpointError: As `ddim_plan`.
    """

    def __init__(self, model: OrthusForConditionalGeneration, settings: Settings) -> None:
        self._model, self._settings = model, settings
        self._head = DenoisingHead(model.mlp_head)
        self._plans: dict[int, PatchPlan] = {}
        self._recordings = Recordings()
        ours = isinstance(self._plan(settings.steps).solver, LinearSolver)
        if settings.step_tolerance and not ours:
            raise PromptError(
                f"{settings.scheduler} does not say how sure it is, so no patch can stop early",
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
        noise_NC = self._settings.noise_scale * noise_NC.float()
        inputs = on_its_device(plan, hidden_RD, noise_NC, mix_NR)
        if self._settings.step_tolerance:
            return denoise_until_settled(plan, *inputs, tolerance=self._settings.step_tolerance)[0]
        if self._records:
            return self._recordings(steps, partial(denoise, plan), *inputs)
        return denoise(plan, *inputs)

    def _plan(self, steps: int) -> PatchPlan:
        if steps not in self._plans:
            self._plans[steps] = patch_plan(
                self._model, steps, self._settings.scheduler, self._head
            )
        return self._plans[steps]

    def _steps(self, drawn: int) -> int:
        first, last = self._settings.steps, self._settings.last_steps
        if last is None:
            return first
        return steps_at(first, last, drawn, self._model.config.patches)
