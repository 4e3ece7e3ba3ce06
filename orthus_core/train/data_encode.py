"""Encodes the pictures of a recipe's data for trainings to come: `orthus data encode`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_core.checkpoint.model_folder import open_model, open_orthus
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.row_faults import RowFaults
from orthus_core.errors import DataError, OutputError, RecipeError
from orthus_core.events import Event, Note
from orthus_core.model.config import OrthusConfig
from orthus_core.output_checks import check_room
from orthus_core.recipe.training import BuildBaseRecipe, FinetuneVaeRecipe, PretrainRecipe
from orthus_core.train.batches import pictures_alone, read_rows
from orthus_core.train.distributed import device, ends_together
from orthus_core.train.encode_first import (
    EncodingPlan,
    count_missing,
    encode_missing,
    pictures_of,
    summary_of,
)
from orthus_core.train.features import feature_cache
from orthus_core.train.loop import Stop

if TYPE_CHECKING:
    from orthus_core.data.row_rule import TrainingRecipe


@ends_together
def encode_data(
    recipe: TrainingRecipe,
    model: str,
    folder: Path,
    plan: EncodingPlan,
    faults: RowFaults,
    *,
    workers: int = 0,
    dry_run: bool = False,
    should_stop: Stop = lambda: False,
) -> Generator[Event, None, None]:
    """Encode the pictures of a recipe's data, held-out ones too, and store them in a folder.

    What is there already is not encoded again, so the work may be stopped and gone on with.

    Args:
        recipe: Recipe of the training that reads them; its kind decides whether features or codes
            are stored.
        model: Folder, alias or hub id of the model whose autoencoder encodes.
        folder: Folder of the features: `data.cache` of the trainings.
        plan: Receives what was found and done.
        faults: Counts the rows that cannot be read.
        workers: Number of processes that load pictures.
        dry_run: Whether only to tell what would be encoded.
        should_stop: Asked between two batches of pictures.

    Raises:
        RecipeError: When the training encodes nothing, or its rows have no end.
        DataError: When there is nothing to encode, or a row cannot be read and the recipe is
            strict.
        OutputError: When the disk has no room, or is full; what was written stays.
        CheckpointError, HubError: As for `open_model`.
    """
    check_finite(recipe)
    cache = cache_for(recipe, model, folder)
    yield from map(Note, cache.notes())
    rows = yield from read_rows(recipe.data, cache.size, faults)
    if recipe.command == "build-base":
        rows = pictures_alone(rows)
    plan.rows = pictures_of(rows, recipe.data.different_rows)
    yield from count_missing(cache, plan)
    if not plan.new + plan.stored:
        raise DataError(
            "there are no pictures to encode",
            where=", ".join(recipe.data.named_sources()),
            hint="`orthus data check` says what is wrong with each record",
        )
    yield Note(summary_of(plan))
    if not dry_run and plan.new:
        check_room(folder, plan.bytes)
        try:
            yield from encode_missing(cache, plan, should_stop, workers)
        finally:
            with suppress(OutputError):
                cache.save()
        cache.save()
        yield from map(Note, cache.notes())
    for fault in plan.faults:
        faults.add(fault)


def check_finite(recipe: TrainingRecipe) -> None:
    """Check that a training encodes pictures, and has an end of them.

    Raises:
        RecipeError: When it does not.
    """
    if isinstance(recipe, FinetuneVaeRecipe):
        raise RecipeError(
            "finetune-vae learns from pixels, and keeps no features",
            where=recipe.command,
            hint="name a recipe of build-base, posttrain or pretrain",
        )
    if recipe.data.makes_rows and not recipe.data.rows:
        raise RecipeError(
            "the rows of the small world have no end, so their pictures cannot all be encoded",
            where="data.rows",
            hint="--set data.rows=60000, here as in the training",
        )


def cache_for(recipe: TrainingRecipe, model: str, folder: Path) -> FeatureCache:
    """The cache of a model's features, or of its codes, which `pretrain` and discrete models use.

    Raises:
        CheckpointError, HubError: As for `open_model`.
    """
    if isinstance(recipe, BuildBaseRecipe):
        opened = open_orthus(model, device=device(), dtype="fp32")
    else:
        opened = open_model(model, device=device(), dtype="fp32")
    vq, is_orthus = opened.model.model.vqmodel, isinstance(opened.model.config, OrthusConfig)
    if isinstance(recipe, PretrainRecipe) or not is_orthus:
        return feature_cache(vq, vq.codes, folder, kind="codes")
    return feature_cache(vq, opened.model.encode_images, folder, sixteen_bit=True)
