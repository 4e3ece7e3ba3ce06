"""Matrix products with few rows on a CPU, asked for in the fastest way.

`FastLinear` lays one weight out once for the processor at hand; `FewRowLinears` swaps the products
of a backbone's layers while it draws, without a copy of their weights.
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

# So few rows are fastest as columns, more of them packed (`orthus bench --only head`).
FEW_ROWS = 2


class FastLinear:
    """x -> activation(x weight^T + bias), for 2D x.

    Args:
        weight: [O, I].
        bias: [O].
        dtype: Of the product; by default the weight's own.
        layout: "rows" reads the weight as it is stored; "columns" makes the rows columns of the
            right-hand factor, which needs no copy; "packed" keeps a copy in the blocks that oneDNN
            works with. By default whichever is fastest, chosen by the number of rows alone, so that
            the same shapes always round alike.
        activation: What follows the product.
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
    """Whether packed products are to be had for this weight: oneDNN, on a CPU, in fp32.

    Its operators are what torch's own compiler calls on a CPU; a torch without them does without.
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
    """The linear layers of a module that may be asked faster: those on a CPU in fp32 that nothing
    else has laid hands on.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = [
            (layer, _few_rows(layer))
            for layer in module.modules()
            if type(layer) is nn.Linear and "forward" not in vars(layer) and packs(layer.weight)
        ]

    @contextmanager
    def faster(self) -> Iterator[None]:
        """Within it, the layers ask so."""
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
