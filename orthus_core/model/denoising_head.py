"""The diffusion head for the many steps of a patch: whatever does not change from step to step is
computed before the first one.

`DiffusionHead.forward` defines the result; this class computes the same with fewer and larger
products. Time embeddings are known before the first patch. Shift, scale and gate of every block
depend on time and condition, not on the noisy feature, so those of many steps are one GEMM. Weights
are cast and laid out once. Each step is then two linear layers a block.

Legend: R rows (a patch in one guidance branch), N patches, C feature channels, D hidden, W head
width, L blocks, T times of a run, A = (3 L + 2) W modulation values, also called amounts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.model.compiled_loop import compiled_loop
from orthus_core.model.cpu_linear import Activation, FastLinear, Layout
from orthus_core.model.diffusion_head import HEAD_EPS, DiffusionHead


def with_adapters_merged(head: DiffusionHead) -> DiffusionHead:
    """The head, or a copy of it whose linear layers contain the adapters that peft put around them.

    An adapted layer computes with its adapters, but its `weight` is that of the layer inside.
    """
    if not any(hasattr(module, "base_layer") for module in head.modules()):
        return head
    merged = copy.deepcopy(head)
    adapted = [name for name, module in merged.named_modules() if hasattr(module, "base_layer")]
    for name in adapted:
        layer = cast(Any, merged.get_submodule(name))
        if not (layer.disable_adapters or layer.merged):
            layer.merge()
        merged.set_submodule(name, layer.base_layer)
    return merged


class DenoisingHead:
    """A diffusion head prepared for inference; make a new one when the head's weights change.

    Args:
        head: Head whose weights are read; it is not changed.
        dtype: Precision of the products; by default the weights' own.
        layout: Layout of the weights; by default the fastest on this processor (see `FastLinear`).

    Attributes:
        device, dtype: Device and precision of the products.
        width: W.
        amounts: A, the number of modulation values of one row at one time.
        loop: All of a patch's steps in one call, where they have been compiled (compiled_loop.py).
        is_flow_map: Whether the head knows where a step ends.
    """

    @torch.no_grad()
    def __init__(
        self, head: DiffusionHead, *, dtype: torch.dtype | None = None, layout: Layout | None = None
    ) -> None:
        head = with_adapters_merged(head)
        weight = head.input_proj.weight
        self.device, self.dtype = weight.device, dtype or weight.dtype
        self._time_embed, self.width = head.time_embed, head.width
        self.is_flow_map = hasattr(head.time_embed, "end_mlp")

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
        # A layout is asked for to measure it.
        self.loop = None if layout else compiled_loop(head, self.dtype)

    @torch.no_grad()
    def times(self, timesteps_T: Tensor, ends_T: Tensor | None = None) -> Tensor:
        """Time embeddings: [T, W].

        Args:
            timesteps_T: Timesteps where the steps start.
            ends_T: Angles where they end, of a flow map head alone; None asks it for velocities.
        """
        ends = () if ends_T is None else (ends_T.to(self.device),)
        return self._time_embed(timesteps_T.to(self.device), *ends).to(self.dtype)

    def condition(self, hidden_RD: Tensor) -> Tensor:
        """Condition embeddings, computed once a patch: [R, W]."""
        return self._condition(hidden_RD.to(self.device, self.dtype))

    def modulation(self, times_TW: Tensor, condition_RW: Tensor) -> Tensor:
        """Modulation values for these times and conditions, in one GEMM over T x R rows: [T, R, A].

        They are shift, 1 + scale and gate of every block, then shift and 1 + scale of the final
        layer.
        """
        active_TRW = F.silu(times_TW.unsqueeze(1) + condition_RW)
        amounts_TRA = self._modulations(active_TRW.flatten(0, 1)).unflatten(0, active_TRW.shape[:2])
        # Every third value is a scale. The 1 is added here for all times, rather than to the bias,
        # where 16 bits would round it together with the learnt value.
        amounts_TRA.unflatten(-1, (-1, self.width))[:, :, 1::3] += 1
        return amounts_TRA

    def by_step(self, amounts_TRA: Tensor) -> list[tuple[Tensor, ...]]:
        """The modulation values of each time, as `step` takes them: T times (3 L + 2) of [R, W].

        All views are made at once; inside the loop they would cost as much as a layer.
        """
        parts = amounts_TRA.split(self.width, dim=-1)
        return list(zip(*(part_TRW.unbind() for part_TRW in parts), strict=True))

    def step(
        self, x_NC: Tensor, amounts: Sequence[Tensor], owner_R: Tensor | None = None
    ) -> Tensor:
        """The head's prediction from noisy features at one time: fp32 [R, C].

        Args:
            x_NC: Noisy features of any dtype.
            amounts: Modulation values of the time, one item of `by_step`.
            owner_R: Index of the feature that each row denoises; None when N = R, in order.
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
