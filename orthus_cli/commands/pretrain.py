"""`orthus pretrain`: a small discrete Chameleon from nothing."""

from __future__ import annotations

from orthus_cli.training import from_nothing
from orthus_core.recipe import PretrainRecipe

pretrain = from_nothing(
    PretrainRecipe,
    "orthus_core.train.pretrain:pretrain",
    """Train a small discrete Chameleon: tokenizer, autoencoder with codes, transformer.

    States, figures and samples lie in OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """,
)
