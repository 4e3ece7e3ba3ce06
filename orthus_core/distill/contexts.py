"""Contexts of a diffusion head: the hidden states that it denoises patches from, recorded while a
model draws.

They are computed once, and are all that is needed to study the head by itself: how its paths run,
what a solver's steps miss, and later what another head predicts.

Legend: N images, R branches of all of them (guidance), D hidden, C feature channels, P patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.events import PatchDone, Progress
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.generate import fitting_batch_size, prepare_batch, run_batch
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import PatchSampler
from orthus_core.samplers.prompt import Prompt

PICTURES = 16
"""Pictures that contexts are recorded from, unless prompts are given."""

PROMPTS = (
    *("a snowman", "a red bus in front of a house", "two cats on a sofa", "a bowl of fruit"),
    *("a lighthouse by the sea", "a child with a kite", "an old clock", "a mountain at sunset"),
    *("a dog that runs on a beach", "a green bottle and a glass", "a street at night in the rain"),
    *("a plate of noodles", "a portrait of a woman", "three birds on a wire", "a blue bicycle"),
    "a forest in autumn",
)
"""Prompts for a model that lists no words of its own."""


class Contexts(NamedTuple):
    """The contexts of one patch of each of several images.

    Attributes:
        hidden_RD: Hidden states of all branches, one position before the patch.
        mix_NR: Weight of each branch in each image, 0 for the branches of others.
    """

    hidden_RD: Tensor
    mix_NR: Tensor

    @property
    def images(self) -> int:
        """N."""
        return len(self.mix_NR)


class ContextRecorder:
    """A patch sampler that also keeps the contexts of some patches.

    Args:
        sampler: Draws the patches.
        patches: Numbers of the patches whose contexts are kept, from 0.

    Attributes:
        recorded: The contexts, one item for each call and number.
    """

    def __init__(self, sampler: PatchSampler, patches: Sequence[int]) -> None:
        self._sampler, self._patches = sampler, frozenset(patches)
        self.recorded: list[Contexts] = []

    def noise(self, seed: int) -> Iterator[Tensor]:
        """The randomness of patch after patch, as the sampler gives it."""
        return self._sampler.noise(seed)

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NX: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
    ) -> Tensor:
        """The next feature of each image: fp32 [N, C]."""
        places = drawn_N or [0] * len(noise_NX)
        for number in sorted(self._patches & set(places)):
            rows = [row for row, place in enumerate(places) if place == number]
            branches = mix_NR[rows].ne(0).any(dim=0).nonzero().flatten()
            hidden = hidden_RD[branches.to(hidden_RD.device)].clone()
            self.recorded.append(Contexts(hidden, mix_NR[rows][:, branches].clone()))
        return self._sampler.draw(hidden_RD, noise_NX, mix_NR, drawn_N)


@torch.no_grad()
def record_contexts(
    model: OrthusForConditionalGeneration,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    wanted: int,
) -> Iterator[Progress | list[Contexts]]:
    """Draws an image for each prompt and keeps the contexts of evenly spaced patches.

    Args:
        wanted: Contexts to keep, all images together; at least two of each image are kept where it
            has two patches, so that one can measure what the other led to.

    Yields: Progress, and at last the contexts.

    Raises:
        PromptError, CheckpointError: As `generate`.
    """
    patches = model.config.patches
    each = min(patches, max(2, round(wanted / len(prompts))))
    chosen = [number * patches // each for number in range(each)]
    job, sequences = prepare_batch(model, prompts, params)
    assert job.patch_sampler is not None, "the prompts ask for images"
    recorder = ContextRecorder(job.patch_sampler, chosen)
    recording, done = job._replace(patch_sampler=recorder), 0
    size = fitting_batch_size(job, sequences)
    with job.decoder:
        while sequences:
            together, sequences = sequences[:size], sequences[size:]
            for event in run_batch(recording, together):
                if isinstance(event, PatchDone):
                    done += 1
                    yield Progress("contexts", done, len(prompts) * patches, "patches")
    yield recorder.recorded
