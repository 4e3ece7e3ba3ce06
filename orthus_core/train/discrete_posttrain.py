"""`posttrain` of a discrete Chameleon: the paper's baseline, trained on an Orthus's rows by its own
tokens, of words and of codes (2412.00127, section 5; 2405.09818).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from orthus_core.checkpoint.model_folder import open_model
from orthus_core.errors import RecipeError
from orthus_core.events import Event, Note
from orthus_core.losses.joint import DiscreteLoss
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.recipe.training import PosttrainRecipe
from orthus_core.train.batches import (
    discrete_batch_builder,
    read_rows,
    row_encoder,
    training_rule,
    usable,
)
from orthus_core.train.distributed import device
from orthus_core.train.features import cache_folder, encoding, feature_cache, save_on_exit
from orthus_core.train.freeze import mark_rows
from orthus_core.train.sampling_check import check_sampling
from orthus_core.train.stages import RowsStage, draw_nothing
from orthus_core.train.state import training_folder
from orthus_core.train.trainings import list_words, run, samples_of, tokenizer_of

# Keys that only mean something to a diffusion head, or weigh it against text: a discrete Chameleon
# has one loss, the mean over all tokens.
OF_DIFFUSION = (
    *("lambda_image", "text_weight", "repeats", "patch_share", "timesteps"),
    *("prefix_noise", "prefix_clean", "input_noise", "input_noise_of", "loss_terms"),
    *("redrawn", "kept_predictions", "kept_words", "lora"),
)


def discrete_posttrain(
    recipe: PosttrainRecipe, init_from: str | Path, output: Path, **options: Any
) -> Iterator[Event]:
    """Train a discrete Chameleon, all but its autoencoder, by next-token prediction; arguments as
    for `posttrain`, which has checked that this may begin or go on.

    Raises:
        RecipeError: When the recipe has keys that only mean something to an Orthus, or the model
            could not be drawn with its `sampling`.
        CheckpointError: When the model has no tokenizer.
        DataError: When no row can be used (`RowRule`).
    """
    check_keys(recipe)
    opened = open_model(init_from, device=device(), dtype="fp32")
    model, tokenizer = opened.model, tokenizer_of(opened)
    assert isinstance(model, DiscreteChameleon), "the caller checked the configuration"
    trainable = all_but_autoencoder(model)
    check_sampling(model.config, recipe.sampling)
    model.config.sampling = (model.config.sampling or {}) | recipe.sampling
    rows = yield from read_rows(recipe.data, model.config.vq_config.resolution)
    encode = row_encoder(tokenizer, model.config)
    rows = yield from usable(rows, training_rule(recipe, encode))
    vq, folder = model.model.vqmodel, cache_folder(recipe.data, training_folder(output))
    if vq.decoder is None:
        yield Note(
            "the model has no pixel decoder: it will read pictures and answer, and draw none"
        )
    cache = feature_cache(vq, vq.codes, folder, kind="codes")
    image, text = recipe.loss_weights
    batch_builder = discrete_batch_builder(
        recipe.data,
        model.config,
        tokenizer,
        cache,
        own_pictures=recipe.data.own_pictures,
        words=bool(text),
        pictures=bool(image),
    )

    stage = RowsStage(
        DiscreteLoss(model.model, model.lm_head),
        trainable,
        batch_builder.batches(
            rows, recipe.data, recipe.optim.batch_size, recipe.log.validate_rows, seed=recipe.seed
        ),
        draw=draw_nothing if vq.decoder is None else samples_of(model, tokenizer, rows),
    )
    with save_on_exit(cache):
        yield from run(
            stage,
            recipe,
            opened,
            output,
            rows=rows.identity,
            before=encoding(cache, rows, recipe, options.get("should_stop")),
            interpolation=recipe.interpolation,
            finish=partial(list_words, recipe, opened.path, rows),
            **options,
        )
        yield from map(Note, cache.notes())


def check_keys(recipe: PosttrainRecipe) -> None:
    """Check that a recipe states nothing that only means something to an Orthus.

    Raises:
        RecipeError: Names every such key.
    """
    default = PosttrainRecipe()
    changed = [name for name in OF_DIFFUSION if getattr(recipe, name) != getattr(default, name)]
    of_patches = ("patch_norm", "guidance_interval")
    changed += [f"sampling.{name}" for name in of_patches if name in recipe.sampling]
    if changed:
        raise RecipeError(
            f"a discrete Chameleon has no diffusion head and one loss for all tokens, so it cannot "
            f"be trained with {', '.join(changed)}",
            where=changed[0],
            hint="leave these keys out, or train the Orthus that `orthus convert` makes of it",
        )


def all_but_autoencoder(model: DiscreteChameleon) -> list[nn.Parameter]:
    """What is trained: the whole model without its autoencoder."""
    model.requires_grad_(True)
    model.model.vqmodel.requires_grad_(False)
    mark_rows(model.model, model.model.embed_tokens, model.lm_head)
    return [p for p in model.parameters() if p.requires_grad]
