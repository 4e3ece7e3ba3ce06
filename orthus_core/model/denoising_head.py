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

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.model.diffusion_head import HEAD_EPS, DiffusionHead

# How a product of few rows with a weight is asked for: the same numbers, at different speeds. Which
# is fastest is measured by `orthus bench --only head`.
Layout = Literal["rows", "columns", "transposed"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def layout_for(device: torch.device, dtype: torch.dtype) -> Layout:
    """The layout for few rows on this kind of processor."""
    # Measured by `orthus bench`: for two rows of small heads a transposed copy is the fastest by
    # far, for the released 50M head "columns" is ahead by a sixth.
    return "transposed" if device.type == "cpu" and dtype == torch.float32 else "rows"


class DenoisingHead:
    """A head as the denoising loop wants it; it sees weights as they are when it is made.

    Args:
        head: Whose weights are read, never changed.
        dtype: Of products; by default the weights' own.
        layout: Of products with few rows; by default `layout_for` its device.
    """

    @torch.no_grad()
    def __init__(
        self, head: DiffusionHead, *, dtype: torch.dtype | None = None, layout: Layout | None = None
    ) -> None:
        weight = head.input_proj.weight
        self.device, self.dtype = weight.device, dtype or weight.dtype
        layout = layout or layout_for(self.device, self.dtype)
        self._time_embed, self._width = head.time_embed, head.width

        def ready(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
            return _laid_out(layer.weight, layer.bias, layout, self.dtype)

        self._condition = _laid_out(
            head.cond_embed.weight, head.cond_embed.bias, "rows", self.dtype
        )
        modulations = [
            cast(nn.Linear, owner.adaLN_modulation[1]) for owner in (*head.blocks, head.final_layer)
        ]
        self._modulations = _laid_out(
            torch.cat([layer.weight for layer in modulations]),
            torch.cat([layer.bias for layer in modulations]),
            "rows",
            self.dtype,
        )
        self._input, self._output = ready(head.input_proj), ready(head.final_layer.linear)
        self._blocks = [
            (
                block.in_ln.weight.detach().to(self.dtype),
                block.in_ln.bias.detach().to(self.dtype),
                ready(cast(nn.Linear, block.mlp[0])),
                ready(cast(nn.Linear, block.mlp[2])),
            )
            for block in head.blocks
        ]
        self.amounts = (3 * len(self._blocks) + 2) * self._width

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
        amounts_TRA = self._modulations(F.silu(times_TW.unsqueeze(1) + condition_RW))
        # Every third is a scale. The 1 is added here for all times, and not into a bias, where 16
        # bits would round it together with what was learnt.
        amounts_TRA.unflatten(-1, (-1, self._width))[:, :, 1::3] += 1
        return amounts_TRA

    def step(self, x_RC: Tensor, amounts_RA: Tensor) -> Tensor:
        """The head's prediction from noisy features, whatever their dtype, with the modulation of
        the time already known: fp32 [R, C].
        """
        amounts = amounts_RA.split(self._width, dim=-1)
        x_RW = self._input(x_RC.to(self.dtype))
        for index, (weight_W, bias_W, first, second) in enumerate(self._blocks):
            shift_RW, scale_RW, gate_RW = amounts[3 * index : 3 * index + 3]
            y_RW = F.layer_norm(x_RW, (self._width,), weight_W, bias_W, HEAD_EPS)
            y_RW = second(F.silu(first(torch.addcmul(shift_RW, y_RW, scale_RW))))
            x_RW = torch.addcmul(x_RW, gate_RW, y_RW)
        shift_RW, scale_RW = amounts[-2:]
        y_RW = F.layer_norm(x_RW, (self._width,), eps=HEAD_EPS)
        return self._output(torch.addcmul(shift_RW, y_RW, scale_RW)).float()


def _laid_out(
    weight: Tensor, bias: Tensor, layout: Layout, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """A linear layer as a function of rows. "rows" reads the weight as it is stored, [out, in];
    "columns" makes the rows columns of the right-hand factor; "transposed" keeps a copy as [in,
    out].
    """
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    if layout == "columns":
        bias_column = bias.unsqueeze(1)
        return lambda rows: torch.addmm(bias_column, weight, rows.t()).t()
    if layout == "transposed":
        weight_t = weight.t().contiguous()
        return lambda rows: torch.addmm(bias, rows, weight_t)
    return lambda rows: F.linear(rows, weight, bias)
