"""AdamW or Muon, the learning-rate schedule, and the average of the weights that is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orthus_core.errors import TrainingError
from orthus_core.recipe.training import OptimRecipe
from orthus_core.train import muon
from orthus_core.train.muon import KernelMuon, batched_muon
from orthus_core.train.sharded_tensors import local

# Final learning rate of the cosine schedule, as a share of the peak.
COSINE_FLOOR = 0.02
COLOURS = 3  # channels of a pixel


def learning_rate(recipe: OptimRecipe, step: int) -> float:
    """Learning rate of step 0, 1, ...: a linear rise over `warmup_steps`, then constant, half a
    cosine, or a trapezoid, which is constant until it falls linearly over the last `decay_steps`
    and would be zero after the last step.
    """
    rise = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if recipe.schedule == "constant":
        return recipe.lr * rise
    if recipe.schedule == "trapezoid":
        return recipe.lr * rise * min(1.0, max(0, recipe.steps - step) / recipe.decay_steps)
    past = max(0, step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, past)))
    return recipe.lr * rise * (COSINE_FLOOR + (1 - COSINE_FLOOR) * fall)


def make_optimizers(
    parameters: Sequence[nn.Parameter], recipe: OptimRecipe
) -> list[torch.optim.Optimizer]:
    """Up to three optimisers that together hold every parameter once, at one learning rate.

    Muon (Jordan et al., 2024) trains the matrices that map one vector to another, and the kernels
    of convolutions but those from and to pixels. Matrices whose rows are words, codes or heads
    (marked `by_row`) and all other parameters use AdamW. Muon's updates have the size of AdamW's
    (Liu et al., 2502.16982), so that one rate suits both.

    Raises:
        TrainingError: When this torch has no Muon.
    """
    if recipe.kind == "adamw":
        return [adamw(parameters, recipe)]
    if not hasattr(torch.optim, "Muon"):
        raise TrainingError(
            f"torch {torch.__version__} has no Muon",
            where="optim.kind",
            hint='install torch 2.9 or later, or set optim.kind = "adamw"',
        )
    maps = [p for p in parameters if p.ndim == 2 and not getattr(p, "by_row", False)]
    kernels = [p for p in parameters if p.ndim == 4 and min(p.shape[:2]) > COLOURS]
    taken = {id(p) for p in (*maps, *kernels)}
    others = [p for p in parameters if id(p) not in taken]
    rate = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    optimizers: list[torch.optim.Optimizer] = []
    if maps:
        optimizers.append(batched_muon()(maps, **rate, adjust_lr_fn="match_rms_adamw"))
    if kernels:
        optimizers.append(KernelMuon(kernels, **rate))
    if others:
        optimizers.append(adamw(others, recipe))
    return optimizers


def adamw(parameters: Sequence[nn.Parameter], recipe: OptimRecipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices and kernels; not on norms, biases, or `no_decay` parameters."""
    matrices = [p for p in parameters if p.ndim > 1 and not getattr(p, "no_decay", False)]
    taken = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in taken]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        betas=recipe.betas,
        fused=True,
    )


class WeightAverage:
    """The weights that are saved: the parameters' exponential moving average, and of this as much
    as is wanted beside the first weights. With decay 0 and all of it, the parameters themselves.

    Until `decay` is reached, the decay of step t is (1 + t) / (10 + t), which soon forgets the
    first weights. Together, all weights before step s then count about (s / t)^9: the last tenth of
    the steps carries 60 % of the weight. (A plain mean: the decay (1 + t) / (2 + t), and 10 %.)

    Args:
        parameters: What is trained, as it is before the first step.
        decay: Decay of the average.
        interpolation: Share of the way from the first weights to the average (WiSE-FT, Wortsman et
            al., 2109.01903): a model that is adapted to a few things keeps what it knew where its
            weights are led back a part of the way.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], decay: float, interpolation: float = 1.0
    ) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.interpolation = interpolation
        self.averages = [p.detach().clone() for p in parameters] if decay else []
        self._first = [p.detach().clone() for p in parameters] if interpolation < 1 else []
        self._trained: list[Tensor] = []  # the parameters while interpolated ones are in place

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the parameters after step 0, 1, ... to the average."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, now = ([local(t) for t in each] for each in (self.averages, self.parameters))
        muon.lerp_(averages, now, 1 - decay)

    @torch.no_grad()
    def restart(self, parameters: Sequence[nn.Parameter]) -> None:
        """Restart the average of parameters that were reinitialised."""
        if not self.decay:
            return
        place = {id(parameter): index for index, parameter in enumerate(self.parameters)}
        for parameter in parameters:
            self.averages[place[id(parameter)]].copy_(parameter)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the weights that are saved in the place of the parameters; a second call undoes the
        first.
        """
        if not self._first:
            for parameter, average in zip(self.parameters, self.averages, strict=False):
                here, there = local(parameter), local(average)
                kept = here.detach().clone()
                here.copy_(there)
                there.copy_(kept)
            return
        if self._trained:
            for parameter, trained in zip(self.parameters, self._trained, strict=True):
                local(parameter).copy_(trained)
            self._trained = []
            return
        self._trained = [local(parameter).detach().clone() for parameter in self.parameters]
        averages = self.averages or self.parameters
        for parameter, first, average in zip(self.parameters, self._first, averages, strict=True):
            between = torch.lerp(local(first), local(average), self.interpolation)
            local(parameter).copy_(between)

    def state(self) -> list[Tensor]:
        return self.averages

    def load(self, averages: list[Tensor]) -> None:
        for mine, theirs in zip(self.averages, averages, strict=True):
            mine.copy_(theirs)
