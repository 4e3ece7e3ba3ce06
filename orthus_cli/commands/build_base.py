"""`orthus build-base`: a converted Chameleon becomes an Orthus base."""

from __future__ import annotations

from orthus_cli.training import from_a_model
from orthus_core.recipe import BuildBaseRecipe

build_base = from_a_model(
    BuildBaseRecipe,
    "orthus_core.train.trainings:build_base",
    """Train the soft embedding and the diffusion head on pictures alone.

    Nothing that text depends on moves, and that is checked. Ctrl-C saves, --resume auto goes on.
    """,
)
