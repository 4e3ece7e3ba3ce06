"""The first patches of a picture: drawn again from a prompt, to be gone on from."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import Tensor

from orthus_core.events import PatchDone
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt


def first_patches(
    model: InterleavedModel, prompt: Prompt, params: SamplingParams, count: int
) -> Tensor:
    """Features of the first `count` patches of the picture that a prompt draws: [count, C].

    A causal model draws them the same whatever comes after; so the rest is not drawn at all.
    """
    drawn: list[Tensor] = []
    with closing(generate(model, [prompt], params)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, PatchDone) and event.feature_C is not None:
                drawn.append(event.feature_C)
            if len(drawn) == count:
                break
    return torch.stack(drawn)
