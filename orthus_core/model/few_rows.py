"""A backbone's products with the few rows that drawing has, asked for in the fastest way.

Torch hands every fp32 product on a CPU to one library, in one way. For two rows, a picture and its
unconditional twin, the same weight streams several times faster when the rows are made columns of
the right-hand factor; for more, oneDNN is ahead (`product.py` has the figures). Neither needs a
copy of the weights. While a layer is trained nothing changes: this holds within `faster` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from orthus_core.model.product import FEW_ROWS, packs


class FewRows:
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
