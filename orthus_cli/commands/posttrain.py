"""`orthus posttrain`: everything but the autoencoder, on interleaved rows."""

from __future__ import annotations

from orthus_cli.training import from_a_model
from orthus_core.recipe import PosttrainRecipe

posttrain = from_a_model(
    PosttrainRecipe,
    "orthus_core.train.trainings:posttrain",
    """Train on mixed rows: text by cross-entropy, pictures by diffusion.

    States, figures and samples lie in OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """,
)
