"""The diffusion head made ready for denoising: everything that the loop over times does not change
is done before it.

`DiffusionHead.forward` says what is computed; here the same comes out with fewer and larger
products. Time embeddings are known before the first patch. Shift, scale and gate of every block
depend on time and condition, not on the noisy feature, so those of many steps are one GEMM. Weights
are cast and laid out once. What is left for each step is two linear layers a block.

Legend: R rows (a patch in one stream of guidance), C feature channels, D hidden, W head width, L
blocks, T times of a run, A = (3 L + 2) W amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.model.cpu_linear import Activation, FastLinear, Layout
from orthus_core.model.diffusion_head import HEAD_EPS, DiffusionHead


class DenoisingHead:
    """A head as the denoising loop wants it; it sees weights as they are when it is made.

    Args:
        head: Whose weights are read, never changed.
        dtype: Of products; by default the weights' own.
        layout: Of a step's products; by default the fastest on this processor (see `FastLinear`).
    """

    @torch.no_grad()
    def __init__(
        self, head: DiffusionHead, *, dtype: torch.dtype | None = None, layout: Layout | None = None
    ) -> None:
        weight = head.input_proj.weight
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self._time_embed, self.width = head.time_embed, head.width

        def ready(layer: nn.Linear, activation: Activation = "none") -> FastLinear:
            return FastLinear(
                layer.weight, layer.bias, dtype=self.dtype, layout=layout, activation=activation
            )

        modulations = [
            cast(nn.Linear, owner.adaLN_modulation[1]) for owner in (*head.blocks, head.final_layer)
        ]
        self._modulations = FastLinear(
            torch.cat([layer.weight for layer in modulations]),
            torch.cat([layer.bias for layer in modulations]),
            dtype=self.dtype,
        )
        self._condition = FastLinear(head.cond_embed.weight, head.cond_embed.bias, dtype=self.dtype)
        self._input, self._output = ready(head.input_proj), ready(head.final_layer.linear)
        self._blocks = [
            (
                block.in_ln.weight.detach().to(self.dtype),
                block.in_ln.bias.detach().to(self.dtype),
                ready(cast(nn.Linear, block.mlp[0]), "silu"),
                ready(cast(nn.Linear, block.mlp[2])),
            )
            for block in head.blocks
        ]
        self.amounts = (3 * len(self._blocks) + 2) * self.width

    @torch.no_grad()
    def times(self, timesteps_T: Tensor) -> Tensor:
        """Time embeddings: [T, W]."""
        return self._time_embed(timesteps_T.to(self.device)).to(self.dtype)

    def condition(self, hidden_RD: Tensor) -> Tensor:
        """Condition embeddings, once a patch: [R, W]."""
        return self._condition(hidden_RD.to(self.device, self.dtype))

    def modulation(self, times_TW: Tensor, condition_RW: Tensor) -> Tensor:
        """Shift, 1 + scale and gate of every block, then shift and 1 + scale of the final layer,
        for these times and conditions, in one GEMM over T x R rows: [T, R, A].
        """
        active_TRW = F.silu(times_TW.unsqueeze(1) + condition_RW)
        amounts_TRA = self._modulations(active_TRW.flatten(0, 1)).unflatten(0, active_TRW.shape[:2])
        # Every third is a scale. The 1 is added here for all times, and not into a bias, where 16
        # bits would round it together with what was learnt.
        amounts_TRA.unflatten(-1, (-1, self.width))[:, :, 1::3] += 1
        return amounts_TRA

    def by_step(self, amounts_TRA: Tensor) -> list[tuple[Tensor, ...]]:
        """The amounts of each time one by one, as `step` takes them: T times (3 L + 2) of [R, W].

        All views at once: in the loop, taking them would cost as much as a layer.
        """
        parts = amounts_TRA.split(self.width, dim=-1)
        return list(zip(*(part_TRW.unbind() for part_TRW in parts), strict=True))

    def step(
        self, x_NC: Tensor, amounts: Sequence[Tensor], owner_R: Tensor | None = None
    ) -> Tensor:
        """The head's prediction from noisy features, the modulation of the time being known: fp32
        [R, C].

        Args:
            x_NC: Noisy features, whatever their dtype.
            amounts: One time of `by_step`.
            owner_R: Which of the features each row denoises; row for row when None.
        """
        x_RW = self._input(x_NC.to(self.dtype))
        if owner_R is not None:
            x_RW = x_RW.index_select(0, owner_R)
        for index, (weight_W, bias_W, first, second) in enumerate(self._blocks):
            shift_RW, scale_RW, gate_RW = amounts[3 * index : 3 * index + 3]
            y_RW = torch.layer_norm(x_RW, (self.width,), weight_W, bias_W, HEAD_EPS)
            y_RW = second(first(torch.addcmul(shift_RW, y_RW, scale_RW)))
            x_RW = torch.addcmul(x_RW, gate_RW, y_RW)
        shift_RW, scale_RW = amounts[-2:]
        y_RW = torch.layer_norm(x_RW, (self.width,), None, None, HEAD_EPS)
        return self._output(torch.addcmul(shift_RW, y_RW, scale_RW)).float()
