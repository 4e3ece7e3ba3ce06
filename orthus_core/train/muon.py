"""Muon in the precision that a device is fast in, with one orthogonalisation for all matrices of a
shape and operations on many tensors at once; and Muon for the kernels of convolutions, which
torch's does not take.

A sharded matrix is gathered for it: the orthogonal matrix of a part is no part of the orthogonal
matrix. Every process computes it, and moves its own rows. Of matrices that every process holds
whole, each process orthogonalises a share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
from torch import Tensor, nn

from orthus_core.device import has_bf16
from orthus_core.train import muon
from orthus_core.train.distributed import shared_out
from orthus_core.train.sharded_tensors import is_sharded, like, local, part_of, whole

add_ = torch._foreach_add_  # type: ignore[reportPrivateImportUsage]
lerp = torch._foreach_lerp  # type: ignore[reportPrivateImportUsage]
lerp_ = torch._foreach_lerp_  # type: ignore[reportPrivateImportUsage]
mul_ = torch._foreach_mul_  # type: ignore[reportPrivateImportUsage]


# Jordan et al. (2024): the coefficients of an iteration, their number, the momentum, and what keeps
# a norm off zero. They are the defaults of torch.optim.Muon.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
EPS = 1e-7
GATHERED = 2**28
"""Values of sharded matrices that are gathered and orthogonalised at once."""


def orthogonalised(
    updates_KMN: Tensor,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = ITERATIONS,
    eps: float = EPS,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """K matrices with their singular values brought near 1, by Newton-Schulz iteration (Jordan et
    al., 2024): with bf16, what torch.optim.Muon computes one matrix at a time. Returns `dtype`.
    """
    a, b, c = coefficients
    wide = updates_KMN.shape[1] <= updates_KMN.shape[2]
    x = (updates_KMN if wide else updates_KMN.mT).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16, which suffices, where the device is faster in it; else fp32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


@cache
def batched_muon() -> Callable[..., torch.optim.Optimizer]:
    """torch.optim.Muon with matrices of a shape batched, and in fp32 where bf16 is slower; defined
    on demand, since torch before 2.9 has no Muon. Its state is torch's own.
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
            momenta = [local(self.state[p]["momentum_buffer"]) for p in moved]
            gradients, parts = [local(g) for g in gradients], [local(p) for p in moved]
            momentum = group["momentum"]
            muon.lerp_(momenta, gradients, 1 - momentum)
            wanted = muon.lerp(gradients, momenta, momentum) if group["nesterov"] else momenta
            muon.mul_(parts, 1 - group["lr"] * group["weight_decay"])
            of_shape = defaultdict(list)
            for p, update in zip(moved, wanted, strict=True):
                of_shape[p.shape].append((p, update))
            for shape, alike in of_shape.items():
                at_once = len(alike)
                if is_sharded(alike[0][0]):  # gathered matrices must fit beside all else
                    at_once = max(1, GATHERED // shape.numel())
                for at in range(0, len(alike), at_once):
                    matrices, updates = zip(*alike[at : at + at_once], strict=True)
                    whole_ones = [whole(like(u, p)) for p, u in zip(matrices, updates, strict=True)]
                    orthogonal = partial(
                        orthogonalised,
                        coefficients=group["ns_coefficients"],
                        steps=group["ns_steps"],
                        eps=group["eps"],
                        dtype=fast_dtype(updates[0].device),
                    )
                    stack_KMN = torch.stack(whole_ones)
                    if is_sharded(matrices[0]):
                        steps_KMN = orthogonal(stack_KMN)
                    else:
                        steps_KMN = shared_out(stack_KMN, orthogonal)
                    # The size of AdamW's updates: "match_rms_adamw" (Liu et al., 2502.16982).
                    rate = group["lr"] * 0.2 * max(shape) ** 0.5
                    steps = steps_KMN.to(matrices[0].dtype).unbind()
                    own = [part_of(step, p) for p, step in zip(matrices, steps, strict=True)]
                    muon.add_([local(p) for p in matrices], own, alpha=-rate)

    return BatchedMuon


class KernelMuon(torch.optim.Optimizer):
    """Muon on kernels of convolutions, each seen as the matrix from a window to its outputs,
    [O, I k k] (Jordan et al., 2024, train convolutions so).

    Updates have the size of AdamW's (Liu et al., 2502.16982). They are orthogonalised in bf16 where
    the device is faster in it, else in fp32.

    Args:
        kernels: Kernels [O, I, k, k].
        lr: Learning rate.
        weight_decay: Decoupled decay, times the learning rate.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        assert closure is None, "the loop computes the loss"
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for kernel in group["params"]:
                if kernel.grad is not None:
                    of_shape[kernel.shape].append(kernel)
            for kernels in of_shape.values():
                updates = torch.stack(
                    [self._with_momentum(kernel).flatten(1) for kernel in kernels]
                )
                dtype = fast_dtype(updates.device)
                orthogonal = partial(orthogonalised, dtype=dtype)
                steps_KMN = shared_out(updates, orthogonal).to(updates.dtype)
                rate = group["lr"] * 0.2 * max(updates.shape[1:]) ** 0.5
                for kernel, step_MN in zip(kernels, steps_KMN, strict=True):
                    kernel.mul_(1 - group["lr"] * group["weight_decay"])
                    kernel.add_(step_MN.view(kernel.shape), alpha=-rate)

    def _with_momentum(self, kernel: Tensor) -> Tensor:
        """The gradient with Nesterov's momentum."""
        assert kernel.grad is not None
        state = self.state[kernel]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(kernel)
        momentum = state["momentum_buffer"].lerp_(kernel.grad, 1 - MOMENTUM)
        return kernel.grad.lerp(momentum, MOMENTUM)
