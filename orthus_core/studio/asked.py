"""What a recipe asks of the sampler, whichever keys it has for it."""

from __future__ import annotations

import dataclasses
from typing import Any

from orthus_core.recipe import Recipe
from orthus_core.recipe.drawing import TextSampling
from orthus_core.samplers.requests import Sampling
from orthus_core.samplers.settings import Settings

ASKED = {"preset", *Sampling._fields}


def sampling_asked(recipe: Recipe) -> dict[str, Any]:
    """Its keys as `sampling_of` takes them; None is not asked."""
    names = [field.name for field in dataclasses.fields(recipe)]
    return {name: getattr(recipe, name) for name in names if name in ASKED}


def answer_settings(text: TextSampling) -> Settings:
    """What an answer in words alone asks of the sampler."""
    return Settings(
        max_images=0,
        max_text=text.max_new_tokens,
        temperature=text.temperature,
        top_p=text.top_p,
    )
