"""`orthus finetune-vae`: the pixel decoder learns to draw from features."""

from __future__ import annotations

from orthus_cli.training import from_a_model
from orthus_core.recipe import FinetuneVaeRecipe

finetune_vae = from_a_model(
    FinetuneVaeRecipe,
    "orthus_core.train.trainings:finetune_vae",
    """Train the pixel decoder on features that were not snapped to codes.

    The encoder stays as it is. Ctrl-C saves, --resume auto goes on.
    """,
)
