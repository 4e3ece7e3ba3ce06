"""`orthus pretrain`, `finetune-vae`, `build-base` and `posttrain`: the four trainings."""

from __future__ import annotations

from orthus_cli.training import from_a_model, from_nothing
from orthus_core.recipe import (
    BuildBaseRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
)

pretrain = from_nothing(
    PretrainRecipe,
    "orthus_core.train.pretrain:pretrain",
    """Train a small discrete Chameleon from nothing.

    That is a tokenizer, an autoencoder with codes, and a transformer. States, figures and samples
    lie in OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """,
)

finetune_vae = from_a_model(
    FinetuneVaeRecipe,
    "orthus_core.train.trainings:finetune_vae",
    """Train the pixel decoder on features without codes.

    They are those that were not snapped to the codebook. The encoder stays as it is; of the model,
    the autoencoder alone is opened. Ctrl-C saves, --resume auto goes on.
    """,
)

build_base = from_a_model(
    BuildBaseRecipe,
    "orthus_core.train.trainings:build_base",
    """Train the soft embedding and the diffusion head alone.

    They learn from pictures. Nothing that text depends on moves, and that is checked. Ctrl-C saves,
    --resume auto goes on.
    """,
)

posttrain = from_a_model(
    PosttrainRecipe,
    "orthus_core.train.trainings:posttrain",
    """Train the model on rows of text and pictures.

    Text is learned by cross-entropy, pictures by diffusion; a discrete Chameleon learns both by
    its own tokens. States, figures and samples lie in
    OUTPUT.training; Ctrl-C saves, --resume auto goes on.
    """,
)
