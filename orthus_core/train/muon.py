"""Muon for a GPU: one orthogonalisation for all matrices of a shape, and operations on many
tensors at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from orthus_core.train import muon

add_ = torch._foreach_add_  # type: ignore[reportPrivateImportUsage]
lerp = torch._foreach_lerp  # type: ignore[reportPrivateImportUsage]
lerp_ = torch._foreach_lerp_  # type: ignore[reportPrivateImportUsage]
mul_ = torch._foreach_mul_  # type: ignore[reportPrivateImportUsage]


def orthogonalised(
    updates_KMN: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """K matrices with their singular values brought near 1, by Newton-Schulz iteration in bf16
    (Jordan et al., 2024): what torch.optim.Muon computes one matrix at a time. Returns bf16.
    """
    a, b, c = coefficients
    wide = updates_KMN.shape[1] <= updates_KMN.shape[2]
    x = (updates_KMN if wide else updates_KMN.mT).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


@cache
def batched_muon() -> Callable[..., torch.optim.Optimizer]:
    """torch.optim.Muon with matrices of a shape batched; defined on demand, since torch before 2.9
    has no Muon. Its state is torch's own.
    """

    class BatchedMuon(torch.optim.Muon):
        @torch.no_grad()
        def step(self, closure=None):  # type: ignore[override]
            assert closure is None, "the loop computes the loss"
            for group in self.param_groups:
                pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
                if pairs:
                    moved, gradients = zip(*pairs, strict=True)
                    self._move(list(moved), list(gradients), group)

        def _move(self, moved: list[Tensor], gradients: list[Tensor], group: dict) -> None:
            for p in moved:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum_buffer"] for p in moved]
            momentum = group["momentum"]
            muon.lerp_(momenta, gradients, 1 - momentum)
            wanted = muon.lerp(gradients, momenta, momentum) if group["nesterov"] else momenta
            muon.mul_(moved, 1 - group["lr"] * group["weight_decay"])
            of_shape = defaultdict(list)
            for p, update in zip(moved, wanted, strict=True):
                of_shape[p.shape].append((p, update))
            for shape, alike in of_shape.items():
                matrices, updates = zip(*alike, strict=True)
                steps_KMN = orthogonalised(
                    torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                # The size of AdamW's updates: "match_rms_adamw" (Liu et al., 2502.16982).
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                steps = list(steps_KMN.to(matrices[0].dtype).unbind())
                muon.add_(list(matrices), steps, alpha=-rate)

    return BatchedMuon
