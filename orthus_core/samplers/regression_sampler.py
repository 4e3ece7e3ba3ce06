"""The next patch of an Orthus with a regression head: the feature that the head predicts.

Nothing is random, so every seed draws the same image. Guidance is the weighted sum of the branches'
predictions, as it is for a diffusion head.

Legend: N images, R guidance branches of all of them, C feature channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor

from orthus_core.device import moved
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import within_norms


class RegressionPatchSampler:
    """A `PatchSampler` that takes the prediction of a regression head.

    Args:
        model: Model whose `image_head` is "mse".
        params: Of them, `patch_norm` alone has an effect.
    """

    def __init__(self, model: OrthusForConditionalGeneration, params: SamplingParams) -> None:
        self._head, self._limits = model.regression_head, params.patch_norm
        self._scale = model.config.latent_scale

    def noise(self, seed: int) -> Iterator[Tensor]:
        """No numbers for any patch: [0] each."""
        return repeat(torch.empty(0))

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NX: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
    ) -> Tensor:
        """The next feature of each image: fp32 [N, C]. Noise and `drawn_N` have no effect."""
        weight = next(self._head.parameters())
        predicted_RC = self._head(moved(hidden_RD, weight.device).to(weight.dtype)).float()
        features_NC = moved(mix_NR, weight.device).float() @ predicted_RC / self._scale
        return within_norms(features_NC, *self._limits) if self._limits else features_NC
