"""What a training of Orthus is watched by: a sheet of pictures for fixed words and fixed seeds,
drawn with guidance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from orthus_core.events import ImageDone
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.interleave import interleave
from orthus_core.samplers.requests import Asking, sampling_of
from orthus_core.samplers.settings import Settings
from orthus_core.train.sheet import sheet

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
    model: OrthusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    words: Sequence[str] = WORDS,
    *,
    seed: int = 1,
    steps: int = 25,
) -> Image.Image:
    """One picture for each phrase, side by side; picture number i has seed `seed + i`."""
    sampling = sampling_of(model.config, steps=steps)
    asking = Asking(model, tokenizer)
    prompts = [
        asking.picture(phrase, sampling)._replace(seed=seed + index)
        for index, phrase in enumerate(words)
    ]
    settings = Settings(steps=sampling.steps, noise_scale=sampling.noise_scale)
    pictures = {
        event.row: event.pixels_3HW
        for event in interleave(model, prompts, settings)
        if isinstance(event, ImageDone)
    }
    return sheet([torch.stack([pictures[row] for row in range(len(prompts))])])
