"""The three trainings of an Orthus, each from one model folder to the next.

`finetune-vae` teaches the decoder to draw from features, `build-base` opens the soft embedding and
trains the diffusion head on pictures alone, `posttrain` trains everything but the autoencoder on
interleaved rows (2412.00127, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orthus_core.checkpoint.folder import Opened, open_model, save_model
from orthus_core.checkpoint.staging import check_free
from orthus_core.data.augment import premultiplied
from orthus_core.data.latent_cache import FeatureCache, fingerprint
from orthus_core.data.sprites import SpritePack
from orthus_core.errors import CheckpointError
from orthus_core.events import Event, Note
from orthus_core.losses.joint import JointLoss
from orthus_core.recipe import dump
from orthus_core.recipe.training import BuildBaseRecipe, FinetuneVaeRecipe, PosttrainRecipe
from orthus_core.train.autoencoder import DecoderStage
from orthus_core.train.freeze import (
    all_but_autoencoder,
    check_text_untouched,
    only_image_parts,
    text_fingerprint,
)
from orthus_core.train.loop import Stage, train
from orthus_core.train.pretrain import Stop, training_folder
from orthus_core.train.rows import documents, orthus_batches, pictures_alone
from orthus_core.train.stages import BuildBaseStage, RowsStage
from orthus_core.train.watch import draw_words
from orthus_core.version import __version__

# What each objective of `posttrain` leaves of (lambda_image, text_weight).
OBJECTIVES = {"both": (1, 1), "understanding": (0, 1), "generation": (1, 0)}


def finetune_vae(
    recipe: FinetuneVaeRecipe, init_from: str | Path, output: Path, **options
) -> Iterator[Event]:
    """Train the pixel decoder on features that were not snapped to codes; options as for `run`.

    Raises: CheckpointError when the model has no decoder to train.
    """
    check_free(output, overwrite=options.get("overwrite", False))
    opened = open_model(init_from, dtype="fp32")
    vq = opened.model.model.vqmodel
    if vq.decoder is None:
        raise CheckpointError(
            "this model has no pixel decoder to go on from",
            where=str(opened.path),
            hint="convert again with --vqgan vqgan.ckpt",
        )
    pack = SpritePack.open()
    stage = DecoderStage(
        vq,
        premultiplied(pack, list(pack), vq.config.resolution),
        losses=recipe.losses,
        feature_noise=recipe.feature_noise,
        batch_size=recipe.optim.batch_size,
        seed=recipe.seed,
    )
    yield from run(stage, recipe, opened, output, **options)


def build_base(
    recipe: BuildBaseRecipe, init_from: str | Path, output: Path, **options
) -> Iterator[Event]:
    """Train the soft embedding and the diffusion head on pictures alone; options as for `run`.

    Raises: TrainingError when anything that text depends on has moved.
    """
    check_free(output, overwrite=options.get("overwrite", False))
    opened = open_model(init_from, dtype="fp32")
    model, tokenizer = words_of(opened)
    before = text_fingerprint(model)
    cache = feature_cache(opened, output)
    stage = BuildBaseStage(
        JointLoss(model, lambda_image=recipe.lambda_image, text_weight=0, repeats=recipe.repeats),
        only_image_parts(model),
        orthus_batches(
            pictures_alone(documents(recipe.data)),
            recipe.data,
            model.config,
            tokenizer,
            cache,
            recipe.optim.batch_size,
        ),
        temperature=recipe.temperature,
        steps=recipe.optim.steps,
    )

    def finish() -> None:
        check_text_untouched(before, model)
        # A training that was resumed at its end has made no step that could have set it.
        model.config.embedding_temperature = recipe.temperature.end

    with kept(cache):
        yield from run(stage, recipe, opened, output, finish=finish, **options)


def posttrain(
    recipe: PosttrainRecipe, init_from: str | Path, output: Path, **options
) -> Iterator[Event]:
    """Train everything but the autoencoder on interleaved rows; options as for `run`."""
    check_free(output, overwrite=options.get("overwrite", False))
    opened = open_model(init_from, dtype="fp32")
    model, tokenizer = words_of(opened)
    image, text = OBJECTIVES[recipe.objective]
    model.config.sampling = (model.config.sampling or {}) | recipe.sampling
    cache = feature_cache(opened, output)
    stage = RowsStage(
        JointLoss(
            model,
            lambda_image=image * recipe.lambda_image,
            text_weight=text * recipe.text_weight,
            repeats=recipe.repeats,
            prefix_noise=recipe.prefix_noise,
        ),
        all_but_autoencoder(model),
        orthus_batches(
            documents(recipe.data),
            recipe.data,
            model.config,
            tokenizer,
            cache,
            recipe.optim.batch_size,
        ),
        draw=partial(draw_words, model, tokenizer),
    )
    with kept(cache):
        yield from run(stage, recipe, opened, output, **options)


def run(
    stage: Stage,
    recipe: FinetuneVaeRecipe | BuildBaseRecipe | PosttrainRecipe,
    opened: Opened,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    should_stop: Stop = lambda: False,
    finish: Callable[[], None] = lambda: None,
) -> Iterator[Event]:
    """Train a stage of an opened model, finish it, and write the model to `output`.

    Args:
        resume: Go on from the newest saved state beside `output`.
        overwrite: Replace a model folder at `output`.
        should_stop: Asked after each step; a stopped training has saved its state.
        finish: Called before saving; raises when the result must not be saved.

    Raises: OutputError when `output` is taken; TrainingError when a loss is not finite.
    """
    work = training_folder(output)
    yield from train(
        stage,
        optim=recipe.optim,
        log=recipe.log,
        seed=recipe.seed,
        folder=work,
        resume=resume,
        should_stop=should_stop,
    )
    if should_stop():
        return
    finish()
    model = opened.model.eval()
    model.config.origin = origin(recipe.command, opened)
    texts = {"recipe.toml": dump(recipe), "metrics.jsonl": (work / "metrics.jsonl").read_text()}
    model.bfloat16()
    save_model(model, opened.processor, output, texts=texts, overwrite=overwrite)
    yield Note(f"wrote {output}")


def origin(command: str, opened: Opened) -> dict[str, Any]:
    """What the new model was made by and from, with every step before it."""
    before = opened.model.config.origin or {}
    lineage = list(before.get("lineage", []))
    if before:
        lineage.append(f"{before.get('made_by')} from {before.get('made_from')}")
    return {
        "made_by": f"orthus {command} {__version__}",
        "made_from": opened.path.name,
        "lineage": lineage,
    }


def words_of(opened: Opened):
    """Model and tokenizer of a folder. Raises: CheckpointError when there is no tokenizer."""
    if opened.processor is None:
        raise CheckpointError(
            "this model folder has no tokenizer, so it cannot be trained on words",
            where=str(opened.path),
            hint="copy the tokenizer and preprocessor files of the model it came from",
        )
    return opened.model, opened.processor.tokenizer


@contextmanager
def kept(cache: FeatureCache) -> Iterator[None]:
    """Writes the features to disk when a training ends or stops, so that going on is quick."""
    try:
        yield
    finally:
        cache.save()


def feature_cache(opened: Opened, output: Path) -> FeatureCache:
    """Features of the training's pictures, kept beside the states."""
    vq = opened.model.model.vqmodel
    return FeatureCache(
        fingerprint(vq),
        opened.model.encode_images,
        vq.config.resolution,
        folder=training_folder(output),
        device=opened.model.device,
    )
