"""`orthus distill guidance`: a model that draws with guidance in several streams becomes one that
draws the same in one.

The training is that of `posttrain`: its rows, states, figures and samples. Another loss takes the
place of its own (guidance_loss.py), and rows keep their words, as the student has no use for a
stream without them. What it draws guided by is written into its configuration.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.headers import ADAPTER_CONFIG, CONFIG
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import check_orthus, open_orthus, read_config
from orthus_core.data.encode import TokenIds
from orthus_core.distill.guidance_loss import GuidanceLoss, Teacher
from orthus_core.distill.guidance_streams import TaughtGuidance
from orthus_core.errors import CheckpointError, RecipeError
from orthus_core.events import Event, Note
from orthus_core.model.config import OrthusConfig
from orthus_core.recipe.distill_guidance import DistillGuidanceRecipe
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.train.batches import (
    orthus_batch_builder,
    read_rows,
    row_encoder,
    training_rule,
    usable,
)
from orthus_core.train.distributed import device, ends_together
from orthus_core.train.features import encoding, save_on_exit
from orthus_core.train.freeze import all_but_autoencoder, hold_frozen_in_bf16
from orthus_core.train.stages import RowsStage
from orthus_core.train.trainings import (
    Extras,
    cache_of,
    is_finished,
    run,
    samples_of,
    words_beside,
    words_of,
)
from orthus_core.user_files import user_path

UNGUIDED = {"guidance": 1.0, "image_guidance": 1.0}
"""Sampling defaults of a model that is guided inside."""
OF_TASKS = ("edit_guidance", "story_guidance")
"""Guidance of single tasks, which it has none of."""
OF_STREAMS = (*OF_TASKS, "guidance_interval", "guidance_schedule")
"""Sampling defaults that mean nothing without other streams."""


@ends_together
def distill_guidance(
    recipe: DistillGuidanceRecipe, init_from: str | Path, output: Path, **options: Any
) -> Generator[Event, None, None]:
    """Train a model to draw in one stream what it draws with guidance, in full or by adapters;
    options as for `run`.

    Raises:
        CheckpointError: As `check_teacher`.
        RecipeError: When the guidance to learn is none.
        DataError: When no row can be used (`RowRule`).
        TrainingError: When adapters are asked for and cannot be trained (`add_lora`).
    """
    output, mark = user_path(output), ADAPTER_CONFIG if recipe.lora.rank else CONFIG
    if (yield from is_finished(recipe, init_from, output, mark=mark, **options)):  # type: ignore[arg-type]
        return
    check_teacher(init_from)
    opened = open_orthus(init_from, device=device(), dtype="fp32")
    model, tokenizer = words_of(opened)
    taught = taught_guidance(recipe, model.config, PromptBuilder(model, tokenizer))
    yield Note(f"guidance to learn: {in_words(taught)}")
    own = SamplingParams.resolve(model.config)
    if own.guidance_interval or own.guidance_schedule not in (None, "constant"):
        yield Note(
            "the model's interval or schedule of guidance is not learnt: the new model is guided "
            "alike at all timesteps and patches"
        )

    # 1. The teacher is the model as it is now; the student draws in one stream from here on.
    teacher = Teacher(model, shares_backbone=bool(recipe.lora.rank))
    hold_frozen_in_bf16(teacher.model, model.device)
    inside = guided_inside(model.config, taught)
    if recipe.lora.rank:
        from orthus_core.train.lora import add_lora, merged_layers

        torch.manual_seed(recipe.seed)  # the adapters start from random weights
        trainable = add_lora(model, recipe.lora)
        hold_frozen_in_bf16(model, model.device)
        as_drawn = partial(merged_layers, model)
    else:
        trainable, as_drawn = all_but_autoencoder(model), nullcontext
        if recipe.head == "frozen":
            model.mlp_head.requires_grad_(False)
            trainable = [p for p in trainable if p.requires_grad]

    # 2. The rows, as for `posttrain`.
    rows = yield from read_rows(recipe.data, model.config.vq_config.resolution)
    rows = yield from usable(rows, training_rule(recipe, row_encoder(tokenizer, model.config)))
    cache = cache_of(opened, output, recipe.data)
    batches = orthus_batch_builder(recipe.data, model.config, tokenizer, cache).batches(
        rows, recipe.data, recipe.optim.batch_size, recipe.log.validate_rows, seed=recipe.seed
    )
    loss = GuidanceLoss(
        model,
        teacher,
        taught,
        TokenIds.of(model.config),
        lambda_image=recipe.lambda_image,
        text_weight=recipe.text_weight,
        repeats=recipe.repeats,
        patch_share=recipe.patch_share,
        prefix_noise=recipe.prefix_noise,
        timesteps=recipe.timesteps,
    )
    stage = RowsStage(loss, trainable, batches, draw=samples_of(model, tokenizer, rows, as_drawn))

    def finish() -> Generator[Event, None, Extras]:
        yield from ()
        return Extras(words_beside(opened.path), {"distilled_guidance": in_words(taught)})

    # 3. The training.
    with save_on_exit(cache):
        before = encoding(cache, rows, recipe, options.get("should_stop"))
        more: dict[str, Any] = {"before": before, "finish": finish, **options}
        if recipe.lora.rank:
            from orthus_core.train.lora import save_adapters

            base = {"base": fingerprint(opened.path), "base_name": str(init_from)}
            more["save"] = partial(
                save_adapters, model, **base, sampling=inside, distilled_guidance=taught.picture
            )
        yield from run(stage, recipe, opened, output, rows=rows.identity, **more)  # type: ignore[arg-type]
        yield from map(Note, cache.notes())


def check_teacher(init_from: str | Path) -> None:
    """Check, before a model is opened, that there is guidance to learn from it.

    Raises:
        CheckpointError: For a discrete Chameleon, a head that denoises nothing or takes few steps,
            and a model that is guided inside already.
    """
    folder = resolve(init_from)
    config = check_orthus(read_config(folder), folder)
    if not config.denoises:
        raise CheckpointError(
            "this model's head regresses features, and guidance is distilled into a diffusion head",
            where=str(folder),
            hint="take a model with a diffusion head",
        )
    if config.flow_map_head:
        raise CheckpointError(
            "this model's head takes few steps, and was taught to take them as it is guided",
            where=str(folder),
            hint="distil the guidance of the model that it was made from, and its head after that",
        )
    if config.distilled_guidance is not None:
        raise CheckpointError(
            f"this model already draws guidance {config.distilled_guidance:g} in one stream",
            where=str(folder),
            hint="distil the model that it was made from, whose streams are still apart",
        )


def taught_guidance(
    recipe: DistillGuidanceRecipe, config: OrthusConfig, builder: PromptBuilder
) -> TaughtGuidance:
    """The guidance of the recipe, and the model's own where it says nothing.

    Raises:
        RecipeError: When it is 1 for a picture from text, which is no guidance.
    """
    picture = SamplingParams.resolve(config, guidance=recipe.guidance)
    edit = SamplingParams.resolve(
        config, "edit", guidance=recipe.edit_guidance, image_guidance=recipe.image_guidance
    )
    story = SamplingParams.resolve(config, "story", guidance=recipe.story_guidance)
    if picture.guidance == 1:
        raise RecipeError(
            "guidance 1 is none, so there is nothing to learn",
            where="guidance",
            hint="set guidance to the scale that the model is to draw with, such as 2",
        )
    return TaughtGuidance(
        picture.guidance,
        edit.guidance,
        edit.image_guidance,
        story.guidance,
        builder.context(picture.negative_prompt).ids,
        builder.context(story.negative_prompt).ids,
    )


def in_words(taught: TaughtGuidance) -> str:
    """The guidance in the words of a model's card."""
    return (
        f"{taught.picture:g} for pictures, {taught.edit:g} and {taught.image:g} for edits, "
        f"{taught.story:g} for stories"
    )


def guided_inside(config: OrthusConfig, taught: TaughtGuidance) -> dict[str, Any]:
    """Make a configuration that of a model which draws this guidance in one stream; returns the
    sampling defaults that this sets.
    """
    config.distilled_guidance = taught.picture
    own = {n: value for n, value in (config.sampling or {}).items() if n not in OF_STREAMS}
    config.sampling = own | UNGUIDED
    return dict(UNGUIDED) | {name: 1.0 for name in OF_TASKS}
