"""The configuration of the model to plan for: from a folder, or of a released model that is not
downloaded. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orthus_core.checkpoint.hub import HUB_ALIASES, resolve
from orthus_core.checkpoint.model_folder import discrete_config, read_config
from orthus_core.errors import CheckpointError
from orthus_core.model.config import (
    DiscreteConfig,
    InterleavedConfig,
    OrthusConfig,
    OrthusVQConfig,
    token_name_of_code,
)
from orthus_core.recipe import PretrainRecipe
from orthus_core.train.autoencoder import vision_config
from orthus_core.user_files import user_path

# Aliases of Orthus; the others are discrete Chameleons of the same size.
ORTHUS = ("base", "instruct")
# Chameleon's vocabulary: four special tokens, then the image codes, then four more, then text.
FIRST_CODE = 4
BEFORE_TEXT = 4


class PlannedModel(NamedTuple):
    """A configuration, and whether it came from a folder or from the table of released models."""

    config: InterleavedConfig
    is_here: bool


def planned_model(model: str) -> PlannedModel:
    """The configuration that a model's name means.

    Raises:
        CheckpointError: When it is a hub model that is neither local nor one of the released ones.
    """
    from huggingface_hub import try_to_load_from_cache

    hub_id = HUB_ALIASES.get(model, model)
    if user_path(model).is_dir() or "/" not in hub_id:
        return PlannedModel(read_config(resolve(model)), True)
    config = try_to_load_from_cache(hub_id, "config.json")
    if isinstance(config, str):
        return PlannedModel(read_config(Path(config).parent), True)
    if hub_id not in HUB_ALIASES.values():
        raise CheckpointError(
            f"{model} is not on this machine, and a plan downloads nothing",
            where=model,
            hint=f"run `hf download {model}` first, or name a folder",
        )
    return PlannedModel(released(hub_id in (HUB_ALIASES[name] for name in ORTHUS)), False)


def released(is_orthus: bool) -> InterleavedConfig:
    """The configuration of the released 7B, as far as sizes matter (2412.00127; 2405.09818)."""
    vq = OrthusVQConfig()
    codes = {token_name_of_code(code): FIRST_CODE + code for code in range(vq.num_embeddings)}
    config = OrthusConfig(vq_config=vq, vocabulary_map=codes)
    return config if is_orthus else discrete_config(config)


def pretrain_config(recipe: PretrainRecipe) -> DiscreteConfig:
    """The configuration of the model that `pretrain` creates, with a new or an existing
    autoencoder, assuming its texts yield the requested number of tokens.

    Raises:
        CheckpointError: As for `planned_model`, for the model that provides the autoencoder.
    """
    taken = recipe.autoencoder.taken_from
    vision = planned_model(taken).config.vq_config if taken else vision_config(recipe.autoencoder)
    codes = {token_name_of_code(code): FIRST_CODE + code for code in range(vision.num_embeddings)}
    config = OrthusConfig(
        vocab_size=FIRST_CODE + len(codes) + BEFORE_TEXT + recipe.tokenizer.vocab_size,
        **recipe.backbone.config_values(),
        vocabulary_map=codes,
        vq_config=vision,
    )
    return discrete_config(config)
