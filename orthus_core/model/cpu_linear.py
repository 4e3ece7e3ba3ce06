"""Fast linear layers on a CPU for inputs of few rows.

`FastLinear` stores a weight once in the layout that is fastest on this processor. `FewRowLinears`
makes the linear layers of a backbone faster while it draws, without a copy of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layout = Literal["rows", "columns", "packed"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Activation = Literal["none", "silu"]

# Up to this many rows, "columns" is the fastest layout; above, "packed" is (`orthus bench --only
# head`).
FEW_ROWS = 2


class FastLinear:
    """x -> activation(x weight^T + bias), for 2D x.

    Args:
        weight: Weight [O, I].
        bias: Bias [O].
        dtype: Precision of the product; by default the weight's own.
        layout: "rows" reads the weight as it is stored. "columns" multiplies the weight by the
            transposed input, which needs no copy. "packed" keeps a copy in oneDNN's blocks. By
            default the fastest one, chosen by the number of rows alone, so that equal shapes
            always round alike.
        activation: Function applied to the product.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype | None = None,
        layout: Layout | None = None,
        activation: Activation = "none",
    ) -> None:
        dtype = dtype or weight.dtype
        self._weight, self._bias = weight.detach().to(dtype), bias.detach().to(dtype)
        self._silu = activation == "silu"
        self._as_columns = {"columns": math.inf, None: FEW_ROWS}.get(layout, 0)
        self._packed: Callable[[Tensor], Tensor] | None = None
        if layout is None and not packs(self._weight):
            self._as_columns = 0
        elif layout in (None, "packed"):
            self._packed = _packed(self._weight, self._bias, self._silu)

    def __call__(self, x_NI: Tensor) -> Tensor:
        if len(x_NI) <= self._as_columns:
            y_ON = torch.addmm(self._bias.unsqueeze(1), self._weight, x_NI.t())
            y_NO = y_ON.t().contiguous()
        elif self._packed:
            return self._packed(x_NI)
        else:
            y_NO = F.linear(x_NI, self._weight, self._bias)
        return F.silu(y_NO, inplace=True) if self._silu else y_NO


def packs(weight: Tensor) -> bool:
    """Whether this weight can be packed: it is fp32 on a CPU, and torch has oneDNN's operators.

    Torch's own compiler calls these operators on a CPU. Not every build of torch has them.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _packed(weight: Tensor, bias: Tensor, silu: bool) -> Callable[[Tensor], Tensor]:
    mkldnn = torch.ops.mkldnn
    blocks = mkldnn._reorder_linear_weight(weight)
    activation = "swish" if silu else "none"
    return lambda x_NI: mkldnn._linear_pointwise(x_NI, blocks, bias, activation, [], "")


class FewRowLinears:
    """The linear layers of a module that have a faster forward.

    These are the layers on a CPU in fp32 whose forward nothing else has replaced.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = [
            (layer, _few_rows(layer))
            for layer in module.modules()
            if type(layer) is nn.Linear and "forward" not in vars(layer) and packs(layer.weight)
        ]

    @contextmanager
    def faster(self) -> Iterator[None]:
        """Within this context, the layers use the faster forward."""
        for layer, forward in self._forwards:
            vars(layer)["forward"] = forward
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                vars(layer).pop("forward", None)


def _few_rows(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    linear = torch.ops.mkldnn._linear_pointwise

    def forward(x: Tensor) -> Tensor:
        weight_OI, bias_O = layer.weight, layer.bias
        x_NI = x.reshape(-1, weight_OI.shape[1])
        if len(x_NI) > FEW_ROWS:
            return linear(x, weight_OI, bias_O, "none", [], "")
        y_NO = (weight_OI @ x_NI.t()).t().contiguous()
        if bias_O is not None:
            y_NO += bias_O
        return y_NO.view(*x.shape[:-1], -1)

    return forward
