"""The three trainings of an Orthus, each from one model folder to the next.

`finetune-vae` teaches the decoder to draw from features, `build-base` opens the soft embedding and
trains the diffusion head on pictures alone, `posttrain` trains everything but the autoencoder on
interleaved rows (2412.00127, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache as cache_result
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.checkpoint.card import origin_of
from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.headers import ADAPTER_CONFIG, CONFIG, read_folder
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.lazy import TORCH_DTYPES
from orthus_core.checkpoint.model_folder import (
    Opened,
    OpenedOrthus,
    open_orthus,
    read_config,
    save_model,
)
from orthus_core.data.known_words import VOCABULARY, WORDS
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.errors import CheckpointError, RecipeError
from orthus_core.events import Event, Note
from orthus_core.losses.joint import JointLoss
from orthus_core.model.config import DiscreteConfig, OrthusConfig, check_drawable
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.output_checks import check_room
from orthus_core.recipe import dump
from orthus_core.recipe.training import (
    BuildBaseRecipe,
    DataRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
)
from orthus_core.train.batches import (
    RowSources,
    made_pictures,
    orthus_batch_builder,
    pictures_alone,
    read_rows,
    row_encoder,
    share_of,
    training_rule,
    usable,
)
from orthus_core.train.distributed import current_rank, device, ends_together
from orthus_core.train.features import cache_folder, encoding, feature_cache, save_on_exit
from orthus_core.train.freeze import (
    all_but_autoencoder,
    check_text_untouched,
    hold_frozen_in_bf16,
    only_image_parts,
    text_fingerprint,
)
from orthus_core.train.loop import Before, Stage, Stop, train
from orthus_core.train.metrics import METRICS
from orthus_core.train.run_lock import check_unlocked, locked
from orthus_core.train.runs import (
    KNOWN_LATER,
    check_others,
    check_output,
    finished_note,
    may_replace,
    model_record,
    other_runs,
    plan_run,
)
from orthus_core.train.sharding import check_launch, drawable, gather_moved, gathered
from orthus_core.train.stages import BuildBaseStage, Draw, RowsStage
from orthus_core.train.state import (
    Resume,
    origins,
    rows_origin,
    save_finished,
    training_folder,
)
from orthus_core.train.state_saver import check_disk
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.recipe.distill_head import DistillHeadRecipe
    from orthus_core.train.redrawn import WantedWords

Trained: TypeAlias = "FinetuneVaeRecipe | BuildBaseRecipe | PosttrainRecipe | DistillHeadRecipe"


@ends_together
def finetune_vae(
    recipe: FinetuneVaeRecipe, init_from: str | Path, output: Path, **options
) -> Generator[Event, None, None]:
    """Train the pixel decoder on unquantised features; options as for `run`. Of the model, the
    autoencoder alone is opened.

    The reconstruction error of held-out pictures through codes and through features is measured
    before and after, and written to quality.json.

    Raises:
        CheckpointError: When the model has no decoder to train.
    """
    # Imported here, because the other trainings need no autoencoder losses or metrics.
    from orthus_core.checkpoint.autoencoder_alone import open_autoencoder, save_with_autoencoder
    from orthus_core.evaluation.reconstruction import (
        QUALITY,
        format_scores,
        quality_json,
        quality_notes,
        reconstruct,
    )
    from orthus_core.train.autoencoder import DecoderStage
    from orthus_core.train.picture_source import read_pictures

    output = user_path(output)
    if (yield from is_finished(recipe, init_from, output, **options)):
        return
    opened = open_autoencoder(init_from, device())
    check_room(output, sum(header.bytes for header in read_folder(opened.path).values()))
    begun_with = fingerprint(opened.path)
    vq = opened.model.model.vqmodel
    if vq.decoder is None:
        raise CheckpointError(
            "this model has no pixel decoder to go on from",
            where=str(opened.path),
            hint="convert again with --vqgan vqgan.ckpt",
        )
    rule = training_rule(recipe, None)
    pictures = yield from read_pictures(recipe.data, vq.config.resolution, rule)
    measured = pictures.held_out_M3HW
    before = reconstruct(vq, measured) if len(measured) else None
    if before:
        yield from quality_notes(before, "before")
    else:
        yield Note("no pictures are held out (data.held_out), so the quality is not measured")

    def finish() -> Generator[Event, None, Extras]:
        words = words_beside(opened.path)
        if before is None:
            return Extras(words)
        after = reconstruct(vq, measured)
        yield from quality_notes(after, "after")
        return Extras(
            files=words | {QUALITY: quality_json(before, after, len(measured))},
            origin={"reconstruction": format_scores(after)},
        )

    torch.manual_seed(recipe.seed)  # the discriminator starts from random weights
    stage = DecoderStage(vq, recipe, pictures)
    more = {"rows": pictures.identity, "finish": finish, **options}
    save = partial(save_with_autoencoder, opened, begun_with)
    yield from run(stage, recipe, opened, output, save=save, **more)


@ends_together
def build_base(
    recipe: BuildBaseRecipe, init_from: str | Path, output: Path, **options
) -> Generator[Event, None, None]:
    """Train the vision embedding and the head for image features on pictures alone; options as for
    `run`.

    Raises:
        RecipeError: As `check_head`.
        TrainingError: When a weight that text depends on has changed.
    """
    output = user_path(output)
    if (yield from is_finished(recipe, init_from, output, **options)):
        return
    check_head(recipe, init_from)
    opened = open_orthus(init_from, device=device(), dtype="fp32")
    model, tokenizer = words_of(opened)
    trainable = only_image_parts(model)
    hold_frozen_in_bf16(model, model.device)
    text_before = text_fingerprint(model)
    encode = row_encoder(tokenizer, model.config)
    rows = yield from read_rows(recipe.data, model.config.vq_config.resolution)
    rows = yield from usable(rows, training_rule(recipe, encode))
    cache = cache_of(opened, output, recipe.data)
    batch_builder = orthus_batch_builder(recipe.data, model.config, tokenizer, cache)
    stage = BuildBaseStage(
        JointLoss(
            model,
            lambda_image=recipe.lambda_image,
            text_weight=0,
            repeats=recipe.repeats,
            patch_share=recipe.patch_share,
            timesteps=recipe.timesteps,
        ),
        trainable,
        batch_builder.batches(
            pictures_alone(rows),
            recipe.data,
            recipe.optim.batch_size,
            recipe.log.validate_rows,
            seed=recipe.seed,
        ),
        temperature=recipe.temperature,
        steps=recipe.optim.steps,
    )

    def finish() -> Generator[Event, None, Extras]:
        check_text_untouched(text_before, model)
        # A training that was resumed at its end has run no step that could have set it.
        model.config.embedding_temperature = recipe.temperature.end
        yield Note("nothing that text depends on has moved")
        return Extras()

    with save_on_exit(cache):
        identity = rows.identity
        before = encoding(cache, pictures_alone(rows), recipe, options.get("should_stop"))
        yield from run(
            stage,
            recipe,
            opened,
            output,
            rows=identity,
            before=before,
            finish=finish,
            **options,
        )
        yield from map(Note, cache.notes())


@ends_together
def posttrain(
    recipe: PosttrainRecipe, init_from: str | Path, output: Path, **options
) -> Generator[Event, None, None]:
    """Train everything but the autoencoder on interleaved rows, or adapters of it where the recipe
    has a rank for them; a discrete Chameleon by its own tokens (`discrete_posttrain`). Options as
    for `run`.

    Raises:
        RecipeError: As `check_head`, and when the model could not be drawn with the recipe's
            `sampling`.
        DataError: When no row can be used (`RowRule`).
        TrainingError: When adapters are asked for and cannot be trained (`add_lora`).
    """
    output, mark = user_path(output), ADAPTER_CONFIG if recipe.lora.rank else CONFIG
    if (yield from is_finished(recipe, init_from, output, mark=mark, **options)):
        return
    if isinstance(read_config(resolve(init_from)), DiscreteConfig):
        # Imported here, because an Orthus needs none of it.
        from orthus_core.train.discrete_posttrain import discrete_posttrain

        yield from discrete_posttrain(recipe, init_from, output, **options)
        return
    check_head(recipe, init_from)
    opened = open_orthus(init_from, device=device(), dtype="fp32")
    model, tokenizer = words_of(opened)
    sampling = dict(recipe.sampling)
    if has_measured_norms := sampling.get("patch_norm") == MEASURED:
        del sampling["patch_norm"]
    if sampling:
        # Imported here, because a training without samples needs no sampling code.
        from orthus_core.train.sampling_check import check_sampling

        check_sampling(model.config, sampling)
    if recipe.lora.rank:
        from orthus_core.train.lora import add_lora, merged_layers

        torch.manual_seed(recipe.seed)  # the adapters start from random weights
        trainable = add_lora(model, recipe.lora, recipe.objective)
        hold_frozen_in_bf16(model, model.device)
        as_drawn = partial(merged_layers, model)
    else:
        trainable, as_drawn = all_but_autoencoder(model, objective=recipe.objective), nullcontext
    encode = row_encoder(tokenizer, model.config)
    rows = yield from read_rows(recipe.data, model.config.vq_config.resolution)
    rows = yield from usable(rows, training_rule(recipe, encode))
    wanted: Sequence[WantedWords] = ()
    kind_of_loss = JointLoss
    if recipe.redrawn:
        from orthus_core.train.redrawn import FOLDER, with_redrawn

        drawn_in = Path(FOLDER, fingerprint(opened.path)[:10])
        rows, wanted = with_redrawn(rows, recipe.data.rows, training_folder(output) / drawn_in)
    if recipe.kept_predictions:
        from orthus_core.losses.kept_predictions import KeepingLoss
        from orthus_core.train.redrawn import is_drawn

        is_kept = is_drawn(wanted) if recipe.redrawn else made_pictures()
        weights = {"weight": recipe.kept_predictions, "words_weight": recipe.kept_words}
        kind_of_loss = partial(KeepingLoss, is_kept=is_kept, **weights)
    lambda_image, text_weight = recipe.loss_weights
    model.config.sampling = (model.config.sampling or {}) | sampling
    cache = cache_of(opened, output, recipe.data)
    batch_builder = orthus_batch_builder(recipe.data, model.config, tokenizer, cache)

    stage = RowsStage(
        kind_of_loss(
            model,
            lambda_image=lambda_image,
            text_weight=text_weight,
            repeats=recipe.repeats,
            prefix_noise=recipe.prefix_noise,
            patch_share=recipe.patch_share,
            prefix_clean=recipe.prefix_clean,
            input_noise=recipe.input_noise,
            input_noise_of=recipe.input_noise_of,
            timesteps=recipe.timesteps,
            terms=recipe.loss_terms,
        ),
        trainable,
        batch_builder.batches(
            rows,
            recipe.data,
            recipe.optim.batch_size,
            recipe.log.validate_rows,
            seed=recipe.seed,
        ),
        draw=samples_of(model, tokenizer, rows, as_drawn),
        exchanges_words=True,
    )

    with save_on_exit(cache):
        before = encoding(cache, rows, recipe, options.get("should_stop"))
        if wanted:
            from orthus_core.train.redrawn import EarlierDrawings, drawing

            source, theirs = source_folder(output, **options), cache
            if source != training_folder(output):
                theirs = cache_in(opened, source, recipe.data)
            earlier = EarlierDrawings(source / drawn_in, theirs)
            before = drawing(
                wanted, stage.objective, model, tokenizer, cache, as_drawn, before, earlier
            )
        finish = partial(list_words, recipe, opened.path, rows)
        if has_measured_norms:
            measure = cache_result(partial(measure_norms, stage, model.config))
            before, finish = then_measuring(before, measure), then_measuring(finish, measure)
        more = {"before": before, "finish": finish, "interpolation": recipe.interpolation}
        more |= options
        if recipe.lora.rank:
            from orthus_core.train.lora import save_adapters

            base = {"base": fingerprint(opened.path), "base_name": str(init_from)}

            def save(folder: Path, **extras: Any) -> None:
                own = model.config.sampling or {}
                carried = {name: own[name] for name in recipe.sampling if name in own}
                save_adapters(model, folder, **base, sampling=carried, **extras)

            more["save"] = save
        yield from run(stage, recipe, opened, output, rows=rows.identity, **more)
        yield from map(Note, cache.notes())


OF_DIFFUSION_HEADS = ("repeats", "timesteps")
"""Keys that only mean something to a diffusion head."""


def check_head(recipe: BuildBaseRecipe | PosttrainRecipe, init_from: str | Path) -> None:
    """Check, before a model is opened, that a recipe states nothing that its head cannot have, and
    that pictures do not take guidance away that was distilled into it.

    Raises:
        RecipeError: Names every such key.
        CheckpointError: When a flow map head would be trained.
    """
    config, default = read_config(resolve(init_from)), type(recipe)()
    if not isinstance(config, OrthusConfig):
        return
    if config.flow_map_head and moves_head(recipe):
        raise CheckpointError(
            "this model's head was distilled for few steps, and this training would move it "
            "without them",
            where=f"{init_from}: config.json: flow_map_head",
            hint="train the model that it was distilled from (`orthus info` names it), then "
            "distil a head for the result with `orthus distill head`",
        )
    learns_pictures = not isinstance(recipe, PosttrainRecipe) or recipe.loss_weights[0]
    if config.distilled_guidance is not None and learns_pictures:
        raise RecipeError(
            f"this model draws guidance {config.distilled_guidance:g} by itself, and learning "
            "pictures would take that away again",
            where=str(init_from),
            hint="train the model that it was distilled from, then distil again; `orthus posttrain "
            "--set objective=understanding` trains its words alone",
        )
    if config.denoises:
        return
    names: list[str] = [*OF_DIFFUSION_HEADS]
    if isinstance(recipe, PosttrainRecipe):
        names += ["kept_predictions", "kept_words"]
    changed = [name for name in names if getattr(recipe, name) != getattr(default, name)]
    if changed:
        raise RecipeError(
            f'this model\'s head regresses features (image_head = "mse"), so it cannot be trained '
            f"with {', '.join(changed)}",
            where=changed[0],
            hint="leave these keys out, or train a model with a diffusion head",
        )


def moves_head(recipe: BuildBaseRecipe | PosttrainRecipe) -> bool:
    """Whether a training moves the head for features."""
    if isinstance(recipe, BuildBaseRecipe):
        return True
    frozen = recipe.lora.rank > 0 and recipe.lora.head == "frozen"
    return recipe.objective != "understanding" and not frozen


MEASURED = "measured"
"""`sampling.patch_norm` of a recipe: the limits are those of the first step's features."""


def patch_norms(features_NC: Tensor | None) -> list[float] | None:
    """Limits of the norms of drawn features: the mean of these features' norms, two standard
    deviations less and more; None without features.
    """
    if features_NC is None or len(features_NC) < 2:
        return None
    norms_N = features_NC.float().norm(dim=-1)
    mean, spread = float(norms_N.mean()), float(norms_N.std())
    return [max(mean - 2 * spread, float(norms_N.min())), mean + 2 * spread]


def measure_norms(stage: Stage, config: OrthusConfig) -> None:
    """Give the model the limits of the first step's features; it keeps its own without any."""
    (first, _), *_ = stage.parts(0, 1)
    if norms := patch_norms(first.features_NC):
        config.sampling = (config.sampling or {}) | {"patch_norm": norms}


def then_measuring(
    work: Callable[..., Iterator[Event]], measure: Callable[[], None]
) -> Callable[..., Generator[Event, None, Any]]:
    """Work before or after the steps, followed by a measurement."""

    def both(*args: Any) -> Generator[Event, None, Any]:
        result = yield from work(*args)
        measure()
        return result

    return both


def is_finished(
    recipe: Trained,
    init_from: str | Path,
    output: Path,
    *,
    resume: Resume = False,
    overwrite: bool = False,
    mark: str = CONFIG,
    **_: object,
) -> Generator[Event, None, bool]:
    """Check, before any model or data is read, that a training may begin or go on; returns whether
    it is through and its model in place.

    Raises:
        OutputError: When `output` is taken, or its training folder by another run or process.
        TrainingError: When there is no state to resume from, or it is of another training.
    """
    folder, wanted = training_folder(output), origins(recipe)
    check_unlocked(folder)
    check_others(other_runs(folder, folder), resume, overwrite=overwrite)
    run = plan_run(folder, resume, overwrite=overwrite)
    run.check(wanted, recipe.optim.steps, length="optim.steps", but=KNOWN_LATER)
    finished = check_output(
        output,
        run,
        resume,
        recipe.optim.steps,
        overwrite=overwrite,
        mark=mark,
        parts=recipe.devices.sharding != "none",
    )
    check_launch(recipe, output, finished=finished)
    share_of(recipe.optim.batch_size, current_rank())
    if finished:
        wanted |= {"init_from": fingerprint(resolve(init_from))}
        run.check(wanted, recipe.optim.steps, length="optim.steps", but=KNOWN_LATER[1:])
        yield finished_note(output, recipe.optim.steps)
    return finished


class Extras(NamedTuple):
    """Additions of a finished training to the model's folder.

    Attributes:
        files: Texts by file name.
        origin: Entries about the training for the model's card.
    """

    files: Mapping[str, str] = {}
    origin: Mapping[str, Any] = {}


def nothing_more() -> Generator[Event, None, Extras]:
    """The end of a training without additions."""
    yield from ()
    return Extras()


def list_words(
    recipe: PosttrainRecipe, folder: Path, rows: RowSources
) -> Generator[Event, None, Extras]:
    """The end of a training on these rows, from the model in `folder`: the lists of the words that
    the new model knows.
    """
    yield from ()
    if recipe.data.makes_rows:
        return Extras()
    from orthus_core.train.caption_words import words_after

    return Extras(files=words_after(folder, rows))


def run(
    stage: Stage,
    recipe: Trained,
    opened: Opened | OpenedOrthus,
    output: Path,
    *,
    rows: str = "",
    before: Before | None = None,
    interpolation: float = 1.0,
    resume: Resume = False,
    overwrite: bool = False,
    profile: bool = False,
    should_stop: Stop = lambda: False,
    finish: Callable[[], Generator[Event, None, Extras]] = nothing_more,
    save: Callable[..., object] | None = None,
) -> Iterator[Event]:
    """Train a stage of an opened model, finish it, and write the model to `output`.

    Args:
        rows: What tells the training's data from other data (`identity_of`).
        before, interpolation: As for `train`.
        resume: True continues the run beside `output` from its newest saved state, a path goes on
            from the state it names (see `plan_run`).
        overwrite: Whether an existing model folder at `output` is replaced, and, where nothing is
            resumed, the run beside it.
        profile: Whether a trace and where the time went are written (`train`).
        should_stop: Called after each step; a stopped training has saved its state.
        finish: Called before saving; raises an error when the result must not be saved.
        save: Writes the result to a folder, with arguments as `save_model` after its second; by
            default the whole model is written.

    Raises:
        OutputError: When `output` is taken, or its training folder, or the disk is full.
        UnplacedError: When the model could not be written to `output`; names where it is kept.
        TrainingError: As for `train`.
    """
    work = training_folder(output)
    check_disk(output, stage.objective, recipe.optim)
    start = fingerprint(opened.path)
    first = current_rank().is_first
    with locked(work) if first else nullcontext():
        is_through = yield from train(
            stage,
            optim=recipe.optim,
            log=recipe.log,
            devices=recipe.devices,
            seed=recipe.seed,
            folder=work,
            origins=origins(recipe, init_from=start, **rows_origin(rows)),
            resume=resume,
            overwrite=overwrite,
            replaced=other_runs(work, work),
            before=before,
            interpolation=interpolation,
            profile=profile,
            should_stop=should_stop,
        )
        if not is_through:
            return
        extras = yield from finish()
        model = opened.model.eval()
        if save is None:
            model = gathered(model, stored_dtype(opened.path))
        else:
            gather_moved(model)
        if not first or model is None:
            return
        made = origin_of(recipe.command, model.config, opened.path.name)
        model.config.origin = made | dict(extras.origin)
        files = {
            "recipe.toml": dump(recipe),
            **model_record(work, recipe.optim.steps),
        }
        if (work / METRICS).is_file():  # figures that were lost must not cost the model
            files[METRICS] = (work / METRICS).read_text()
        if save is None:
            files |= words_beside(opened.path)
            model.to(stored_dtype(opened.path))  # type: ignore[arg-type]
            save = partial(save_model, model, opened.processor)
        files |= extras.files
        overwrite = may_replace(output, work, overwrite=overwrite)
        save_finished(partial(save, texts=files, overwrite=overwrite), output, work)
        yield Note(f"wrote {output}")


def words_beside(folder: Path) -> dict[str, str]:
    """The files of a model folder that list the words it knows."""
    found = (folder / name for name in (VOCABULARY, WORDS))
    return {file.name: file.read_text(encoding="utf-8") for file in found if file.is_file()}


def words_of(
    opened: OpenedOrthus,
) -> tuple[OrthusForConditionalGeneration, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder.

    Raises:
        CheckpointError: As `tokenizer_of` and `check_drawable`.
    """
    if opened.model.config.denoises:
        check_drawable(opened.model.schedule)
    return opened.model, tokenizer_of(opened)


def samples_of(
    model: InterleavedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: RowSources,
    as_drawn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Draw:
    """What makes the sample sheet of a training on rows: pictures of their captions.

    Args:
        as_drawn: Puts the model into a form that can be drawn with, for as long as it lasts.
    """

    @cache_result  # of a large data set without captions, many rows are read to find that
    def phrases() -> tuple[str, ...]:
        # Imported here, because a training without samples draws nothing.
        from orthus_core.train.caption_words import sample_words

        return sample_words(rows)

    def draw() -> Image.Image | None:
        from orthus_core.train.sample_grid import draw_words

        with drawable(model, as_drawn) as drawn:
            return None if drawn is None else draw_words(drawn, tokenizer, phrases())

    return draw


def tokenizer_of(opened: Opened | OpenedOrthus) -> PreTrainedTokenizerBase:
    """The tokenizer of an opened model.

    Raises:
        CheckpointError: When there is none.
    """
    if opened.processor is None:
        raise CheckpointError(
            "this model folder has no tokenizer, so it cannot be trained on words",
            where=str(opened.path),
            hint="copy the tokenizer and preprocessor files of the model it came from",
        )
    return opened.processor.tokenizer


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision a model's weights are stored in. A training keeps it: rounding them again would
    change weights that must stay the same.
    """
    return TORCH_DTYPES[read_folder(folder)["lm_head.weight"].dtype]


def cache_of(opened: OpenedOrthus, output: Path, data: DataRecipe) -> FeatureCache:
    """Features of the training's pictures, stored next to the states or where the recipe says."""
    return cache_in(opened, training_folder(output), data)


def cache_in(opened: OpenedOrthus, work: Path, data: DataRecipe) -> FeatureCache:
    """As `cache_of`, of a training folder."""
    vq, folder = opened.model.model.vqmodel, cache_folder(data, work)
    return feature_cache(vq, opened.model.encode_images, folder, sixteen_bit=True)


def source_folder(
    output: Path, *, resume: Resume = False, overwrite: bool = False, **_: object
) -> Path:
    """The training folder of the state that a training goes on from; its own when it begins."""
    work = training_folder(output)
    state = plan_run(work, resume, overwrite=overwrite).state
    return work if state is None else state.parents[1]
