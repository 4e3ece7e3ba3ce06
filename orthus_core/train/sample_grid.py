"""Samples for monitoring a training: a grid of pictures for fixed words and seeds, drawn
with guidance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.image_grid import image_grid, labelled_sheet, rounded_image
from orthus_core.model.interleaved import InterleavedModel


def sample_grid(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of pictures [M, 3, H, W] in [-1, 1], all of one size, as one picture."""
    return image_grid([[_image_of(picture) for picture in row] for row in rows])


def _image_of(picture_3HW: Tensor) -> Image.Image:
    return rounded_image((picture_3HW.float().clamp(-1, 1) + 1) / 2)


WORDS = (
    "a snowman",
    "a red apple",
    "a dog",
    "a sailboat",
    "a pizza",
    "a rocket",
    "a sunflower",
    "a guitar",
    "a cat",
    "a house",
    "a robot on a blue background",
    "an octopus",
)


@torch.no_grad()
def draw_words(
    model: InterleavedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: Sequence[str] = WORDS,
    *,
    seed: int = 1,
    steps: int = 25,
) -> Image.Image:
    """One picture for each phrase, which labels it; picture number i has seed `seed + i`.

    Args:
        steps: Denoising steps of a patch; a model that denoises nothing takes none.
    """
    # Imported here, so that a training without samples imports no sampling code.
    from orthus_core.events import ImageDone
    from orthus_core.samplers.generate import generate
    from orthus_core.samplers.params import SamplingParams
    from orthus_core.samplers.prompt_builder import PromptBuilder

    # DDIM whatever the model's default, so that sheets of different runs can be compared.
    asked = {"steps": steps, "scheduler": "ddim", "step_tolerance": 0}
    if not model.config.denoises:
        asked = {}
    params = SamplingParams.resolve(model.config, **asked)
    builder = PromptBuilder(model, tokenizer)
    prompts = [
        builder.picture(phrase, params)._replace(seed=seed + index)
        for index, phrase in enumerate(words)
    ]
    pictures = {
        event.row: event.pixels_3HW
        # A training has most of the memory, and its weights are in fp32.
        for event in generate(model, prompts, params, "auto")
        if isinstance(event, ImageDone)
    }
    images = [_image_of(pictures[row]) for row in range(len(prompts))]
    return labelled_sheet(images, words)
