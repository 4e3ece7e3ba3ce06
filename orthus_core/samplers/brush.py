"""What fills the slots of a picture: a denoising run for an Orthus, a choice among codes for a
discrete Chameleon. All else about a picture is the same for both.

Legend: N pictures, R streams of all of them (guidance), C feature channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.codes import CodeChoice
from orthus_core.samplers.denoising import Denoising
from orthus_core.samplers.settings import Settings


class Brush(Protocol):
    """Draws the next patch of any number of pictures."""

    def noise(self, seed: int) -> Iterator[Tensor]:
        """The randomness of patch after patch, from a picture's seed alone."""
        ...

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NX: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
        /,
    ) -> Tensor:
        """The next feature of each picture: fp32 [N, C].

        Args:
            hidden_RD: Hidden states of all streams, one position before the patch.
            noise_NX: Of each picture, as `noise` gives it; its streams share it.
            mix_NR: Weight of each stream in each picture, 0 for the streams of others.
            drawn_N: How many patches of each picture there are already; None is none of any.
        """
        ...


def brush_for(model: InterleavedModel, settings: Settings) -> Brush:
    """The brush of a model's kind. Raises: PromptError, CheckpointError as `Denoising`."""
    if isinstance(model, DiscreteChameleon):
        return CodeChoice(model, settings)
    assert isinstance(model, OrthusForConditionalGeneration), "there are two kinds of models"
    return Denoising(model, settings)
