"""`pretrain`: a small discrete Chameleon from scratch, in Chameleon's own Hugging Face layout.

Tokenizer, then vision autoencoder with codes, then next-token prediction over text and codes. A
small Orthus starts from it. The same training goes on from a discrete Chameleon, with its words and
its autoencoder; so the paper's discrete baseline sees as many rows as the Orthus made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    PreTrainedTokenizerBase,
)

from orthus_core.atomic_folder import staged_folder
from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.headers import CONFIG, MODEL_FILES
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import Opened, open_model
from orthus_core.data.document import Document
from orthus_core.data.known_words import VOCABULARY, WORDS, vocabulary_of
from orthus_core.data.latent_cache import weights_digest
from orthus_core.data.tokenizer import BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, train_tokenizer
from orthus_core.errors import CheckpointError, TrainingError
from orthus_core.evaluation.reconstruction import quality_notes, reconstruct
from orthus_core.events import Event, Note
from orthus_core.losses.joint import DiscreteLoss
from orthus_core.model.config import DiscreteConfig, InterleavedConfig, OrthusConfig
from orthus_core.model.vision import OrthusVQ
from orthus_core.recipe import save as save_recipe
from orthus_core.recipe.training import PretrainRecipe
from orthus_core.train.autoencoder import (
    DiscreteAutoencoderStage,
    fresh_autoencoder,
    trained_weights,
)
from orthus_core.train.batches import (
    RowSources,
    discrete_batch_builder,
    existing_words,
    listed_words,
    read_rows,
    row_encoder,
    share_of,
    training_rule,
    usable,
)
from orthus_core.train.distributed import current_rank, device, ends_together
from orthus_core.train.features import cache_folder, encoding, feature_cache, save_on_exit
from orthus_core.train.freeze import mark_rows
from orthus_core.train.linear_code import linear_quality
from orthus_core.train.loop import Stop, train
from orthus_core.train.picture_source import PictureSource, read_pictures
from orthus_core.train.run_lock import check_unlocked, locked
from orthus_core.train.runs import (
    AUTOENCODER,
    CODES_OF,
    KNOWN_LATER,
    TRANSFORMER,
    check_others,
    check_output,
    finished_note,
    may_replace,
    model_record,
    other_runs,
    plan_run,
)
from orthus_core.train.sharding import check_launch, gathered
from orthus_core.train.stages import RowsStage
from orthus_core.train.state import (
    Resume,
    origins,
    rows_origin,
    save_finished,
    saved_steps,
    state_at,
    training_folder,
)
from orthus_core.train.state_saver import check_disk
from orthus_core.user_files import user_path

# What determines its first training, and the key of its number of steps.
OF_AUTOENCODER = (
    *("seed", "autoencoder"),
    *("data.source", "data.sources", "data.held_out", "data.seed"),
)
AUTOENCODER_LENGTH = "autoencoder.optim.steps"


@ends_together
def pretrain(
    recipe: PretrainRecipe,
    output: Path,
    *,
    init_from: str | Path | None = None,
    resume: Resume = False,
    overwrite: bool = False,
    profile: bool = False,
    should_stop: Stop = lambda: False,
) -> Generator[Event, None, None]:
    """Train a discrete Chameleon and write it to `output` when it is done.

    Args:
        init_from: A discrete Chameleon to start from: its words, autoencoder and transformer. The
            recipe's `tokenizer`, `autoencoder` and `backbone` are then not read.
        resume: True continues the run beside `output` from its newest saved states, a path goes on
            from those that `states_of` finds there.
        overwrite: Whether an existing model folder at `output` is replaced, and, where nothing is
            resumed, the run beside it.
        profile: Whether both trainings write a trace and where their time went (`train`).
        should_stop: Called after each step; a stopped training has saved its state.

    Raises:
        OutputError: When `output` is taken, or its training folder, or the disk is full.
        UnplacedError: When the model could not be written to `output`; names where it is kept.
        TrainingError: As for `train` and `states_of`.
    """
    output = user_path(output)
    resumes = states_of(resume)
    if is_finished(recipe, output, resumes, init_from, overwrite=overwrite):
        yield finished_note(output, recipe.optim.steps)
        return
    work = training_folder(output)

    # 1. The words.
    shape = recipe.autoencoder
    begun = discrete_start(init_from) if init_from else None
    taken = begun.vq if begun else taken_autoencoder(shape.taken_from) if shape.taken_from else None
    rows = yield from read_rows(recipe.data, taken.config.resolution if taken else shape.resolution)
    if begun:
        tokenizer, vocabulary = begun.tokenizer, begun.vocabulary
    else:
        texts = list(texts_of(rows.train, recipe))
        codes = taken.config.num_embeddings if taken else shape.num_embeddings
        tokenizer = train_tokenizer(texts, recipe.tokenizer.vocab_size, codes)
        vocabulary = vocabulary_of(texts)

    # 2. The pictures.
    torch.manual_seed(recipe.seed)
    vq = taken or fresh_autoencoder(shape)
    if not taken:
        check_disk(output, vq, shape.optim, trained_weights(vq, vq, shape))
    own_config = begun.model.config if begun else chameleon_config(recipe, tokenizer, vq)
    config = OrthusConfig(**own_config.to_dict())
    rule = training_rule(recipe, row_encoder(tokenizer, config))
    rows = yield from usable(rows, rule)
    pictures = None if taken else (yield from read_pictures(recipe.data, shape.resolution))
    first = current_rank().is_first
    with locked(work) if first else nullcontext():
        # A transformer that begins does so with the autoencoder: what is left of an earlier one
        # must not be resumed beside it.
        others = other_runs(work, work / AUTOENCODER, work / TRANSFORMER)
        beside = others if resumes.transformer else (*others, work / TRANSFORMER)
        is_through = True
        if pictures is None:
            yield Note(f"autoencoder: that of {init_from or shape.taken_from}")
        else:
            is_through = yield from train_autoencoder(
                vq,
                recipe,
                pictures,
                work / AUTOENCODER,
                resume=resumes.autoencoder,
                overwrite=overwrite,
                replaced=beside,
                profile=profile,
                should_stop=should_stop,
            )
        if not is_through:
            return
        vq.eval().requires_grad_(False)

        # 3. Both in one sequence.
        torch.manual_seed(recipe.seed + 1)
        model = begun.model if begun else discrete_chameleon(recipe, tokenizer, vq)
        cache = feature_cache(vq, vq.codes, cache_folder(recipe.data, work), kind="codes")
        batch_builder = discrete_batch_builder(
            recipe.data, config, tokenizer, cache, own_pictures=recipe.data.own_pictures
        )
        batches = batch_builder.batches(
            rows, recipe.data, recipe.optim.batch_size, recipe.log.validate_rows
        )
        objective = DiscreteLoss(model.model, model.lm_head)
        trainable = [p for p in objective.parameters() if p.requires_grad]
        check_disk(output, objective, recipe.optim)
        known = {
            CODES_OF: weights_digest(vq),
            **start_origin(init_from),
            **rows_origin(rows.identity),
        }
        yield Note("transformer: next-token prediction over text and codes")
        with save_on_exit(cache):
            is_through = yield from train(
                RowsStage(objective, trainable, batches),
                optim=recipe.optim,
                log=recipe.log,
                devices=recipe.devices,
                seed=recipe.seed,
                folder=work / TRANSFORMER,
                origins=origins(recipe, **known),
                resume=resumes.transformer,
                overwrite=overwrite,
                replaced=(*others, work / AUTOENCODER) if taken else (),
                before=encoding(cache, rows, recipe, should_stop),
                profile=profile,
                should_stop=should_stop,
            )
            yield from map(Note, cache.notes())
        if not is_through:
            return
        finished = gathered(model, torch.bfloat16)
        if not first or finished is None:
            return

        # 4. One folder.
        overwrite = may_replace(output, work / TRANSFORMER, overwrite=overwrite)
        record = model_record(work / TRANSFORMER, recipe.optim.steps)

        def save(folder: Path) -> None:
            with staged_folder(
                folder, mark=CONFIG, replaces=MODEL_FILES, overwrite=overwrite
            ) as staged:
                finished.bfloat16()
                finished.save_pretrained(staged)
                processor(tokenizer, config).save_pretrained(staged)
                (staged / VOCABULARY).write_text(vocabulary, encoding="utf-8")
                if listed := listed_words(recipe.data):
                    (staged / WORDS).write_text(listed, encoding="utf-8")
                save_recipe(recipe, staged / "recipe.json")
                for name, text in record.items():
                    (staged / name).write_text(text)

        save_finished(save, output, work)
        yield Note(f"wrote {output}")


def is_finished(
    recipe: PretrainRecipe,
    output: Path,
    resumes: Resumes,
    init_from: str | Path | None = None,
    *,
    overwrite: bool,
) -> bool:
    """Check, before any data is read, that both trainings may begin or go on; returns whether they
    are through and the model in place.

    Raises:
        OutputError: When `output` is taken, or its training folder by another run or process.
        TrainingError: When a state to resume from is of another training.
    """
    work, steps = training_folder(output), recipe.optim.steps
    check_unlocked(work)
    others = other_runs(work, work / AUTOENCODER, work / TRANSFORMER)
    check_others(others, resumes.transformer or resumes.autoencoder, overwrite=overwrite)
    if not (init_from or recipe.autoencoder.taken_from):
        first = plan_run(work / AUTOENCODER, resumes.autoencoder, overwrite=overwrite)
        own = origins(recipe, *OF_AUTOENCODER)
        length = recipe.autoencoder.optim.steps
        first.check(own, length, length=AUTOENCODER_LENGTH, but=KNOWN_LATER)
    run = plan_run(work / TRANSFORMER, resumes.transformer, overwrite=overwrite)
    own = origins(recipe, **start_origin(init_from))
    run.check(own, steps, length="optim.steps", but=KNOWN_LATER[1:])
    finished = check_output(
        output,
        run,
        resumes.transformer,
        steps,
        overwrite=overwrite,
        parts=recipe.devices.sharding != "none",
    )
    check_launch(recipe, output, finished=finished)
    share_of(recipe.optim.batch_size, current_rank())
    if not (init_from or recipe.autoencoder.taken_from):
        batch_size = recipe.autoencoder.optim.batch_size
        share_of(batch_size, current_rank(), "autoencoder.optim.batch_size")
    return finished


def start_origin(init_from: str | Path | None) -> dict[str, str]:
    """The model that a training starts from as an origin of it; none for nothing."""
    return {"init_from": fingerprint(resolve(init_from))} if init_from else {}


class Resumes(NamedTuple):
    """What each of the two trainings continues from."""

    autoencoder: Resume
    transformer: Resume


def states_of(resume: Resume) -> Resumes:
    """What each of the two trainings continues from.

    Args:
        resume: True selects the newest states beside the output. A run (its output, or its training
            folder) selects the newest states of both; a state of the transformer selects itself and
            the newest one of its run's autoencoder; a state of the autoencoder selects itself, and
            the transformer starts anew.

    Raises:
        TrainingError: When there is no state, or it lies in no run of `pretrain`.
    """
    if isinstance(resume, bool):
        return Resumes(resume, resume)
    for run in (resume, training_folder(resume.absolute())):
        found = [run / name if saved_steps(run / name) else False for name in Resumes._fields]
        if any(found):
            return Resumes(*found)
    state = state_at(resume)
    training = state.parents[1]
    if training.name == AUTOENCODER:
        return Resumes(state, False)
    if training.name == TRANSFORMER:
        return Resumes(training.with_name(AUTOENCODER), state)
    raise TrainingError(
        "this state is none of a pretrain run's two trainings",
        where=str(state),
        hint=f"give one where it was saved, in OUTPUT.training/{AUTOENCODER} or "
        f"OUTPUT.training/{TRANSFORMER}, or the run's OUTPUT",
    )


class DiscreteStart(NamedTuple):
    """A discrete Chameleon that a training goes on from.

    Attributes:
        model: The model for training, in fp32, with the autoencoder `vq` in it.
        vocabulary: Text of its list of known words.
    """

    model: ChameleonForConditionalGeneration
    vq: OrthusVQ
    tokenizer: PreTrainedTokenizerBase
    vocabulary: str


def discrete_start(source: str | Path) -> DiscreteStart:
    """Open a discrete Chameleon to train it further.

    Raises:
        CheckpointError: When it is an Orthus, or has no tokenizer or pixel decoder.
    """
    opened = open_model(source, device=device(), dtype="fp32")
    check_discrete(opened.model.config, opened.path)
    if opened.processor is None:
        raise CheckpointError(
            "this model folder has no tokenizer, so it cannot be trained on words",
            where=str(opened.path),
            hint="copy the tokenizer and preprocessor files of the model it came from",
        )
    vq = autoencoder_of(opened)
    model = ChameleonForConditionalGeneration(ChameleonConfig.from_pretrained(opened.path))
    model.model.vqmodel = vq
    model.load_state_dict(opened.model.state_dict())
    mark_rows(model.model, model.model.embed_tokens, model.lm_head)
    words = opened.path / VOCABULARY
    known = words.read_text(encoding="utf-8") if words.is_file() else ""
    model.to(device())  # type: ignore[arg-type]
    return DiscreteStart(model, vq, opened.processor.tokenizer, known)


def check_discrete(config: InterleavedConfig, where: Path) -> None:
    """Check that a model is a discrete Chameleon.

    Raises:
        CheckpointError: When it is an Orthus.
    """
    if not isinstance(config, DiscreteConfig):
        raise CheckpointError(
            "this is an Orthus, and pretrain trains a discrete Chameleon",
            where=str(where),
            hint="train it with `orthus posttrain`, or name the Chameleon that it was made from",
        )


def taken_autoencoder(source: str) -> OrthusVQ:
    """The autoencoder of a trained model, a folder or an alias. Raises: As `autoencoder_of`."""
    return autoencoder_of(open_model(source, device=device(), dtype="fp32"))


def autoencoder_of(opened: Opened) -> OrthusVQ:
    """The autoencoder of an opened model.

    Raises:
        CheckpointError: When it has no decoder, without which no picture could be drawn.
    """
    vq = opened.model.model.vqmodel
    if vq.decoder is None:
        raise CheckpointError(
            "its autoencoder has no pixel decoder",
            where=str(opened.path),
            hint="take one that draws pictures",
        )
    return vq


def train_autoencoder(
    vq: OrthusVQ,
    recipe: PretrainRecipe,
    pictures: PictureSource,
    folder: Path,
    *,
    resume: Resume,
    overwrite: bool,
    replaced: Sequence[Path],
    profile: bool,
    should_stop: Stop,
) -> Generator[Event, None, bool]:
    """Train the autoencoder, and report how well it reconstructs held-out pictures; returns as
    `train`.
    """
    stage = DiscreteAutoencoderStage(
        vq,
        recipe.autoencoder,
        pictures,
        seed=recipe.seed,
        validate_rows=recipe.log.validate_rows,
    )
    yield Note("autoencoder: pictures to features and codes, and back")
    linear, held_out = stage.objective.linear, pictures.held_out_M3HW
    if linear is not None and len(held_out):
        floor = linear_quality(linear, held_out)
        yield Note(
            f"the linear code of {recipe.autoencoder.embed_dim} channels has {floor:.1f} dB on "
            "held-out pictures; an autoencoder that stays below it has failed to train"
        )
    is_through = yield from train(
        stage,
        optim=recipe.autoencoder.optim,
        log=recipe.log,
        devices=recipe.devices,
        seed=recipe.seed,
        folder=folder,
        origins=origins(recipe, *OF_AUTOENCODER, **rows_origin(pictures.identity)),
        length=AUTOENCODER_LENGTH,
        resume=resume,
        overwrite=overwrite,
        replaced=replaced,
        profile=profile,
        should_stop=should_stop,
    )
    if not is_through:
        return False
    stage.objective.fold_norm()
    if len(pictures.held_out_M3HW):
        yield from quality_notes(reconstruct(vq.eval(), pictures.held_out_M3HW), "trained")
    return True


def pretrain_rule(recipe: PretrainRecipe, rows: RowSources) -> Callable[[Document], None]:
    """The rule of a `pretrain` on these rows, which its tokenizer is trained on."""
    shape = recipe.autoencoder
    vq = taken_autoencoder(shape.taken_from) if shape.taken_from else fresh_autoencoder(shape)
    texts = texts_of(rows.train, recipe)
    tokenizer = train_tokenizer(texts, recipe.tokenizer.vocab_size, vq.config.num_embeddings)
    config = OrthusConfig(**chameleon_config(recipe, tokenizer, vq).to_dict())
    return training_rule(recipe, row_encoder(tokenizer, config))


def texts_of(source: Callable[[int], Document], recipe: PretrainRecipe) -> Iterator[str]:
    """The texts of the first rows of all kinds, which come after `data.first_rows`."""
    first = recipe.data.first_rows
    for document in map(source, range(first, first + recipe.tokenizer.rows)):
        yield from existing_words(recipe.data, document)


def discrete_chameleon(
    recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase, vq: OrthusVQ
) -> ChameleonForConditionalGeneration:
    """An untrained Chameleon around a trained autoencoder, drawn from torch's global generator."""
    model = ChameleonForConditionalGeneration(chameleon_config(recipe, tokenizer, vq))
    model.model.vqmodel = vq  # with its decoder, as Anole's folders have it
    mark_rows(model.model, model.model.embed_tokens, model.lm_head)
    return model


def chameleon_config(
    recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase, vq: OrthusVQ
) -> ChameleonConfig:
    """The model's configuration for transformers."""
    vocabulary = tokenizer.get_vocab()
    return ChameleonConfig(
        vocab_size=len(tokenizer),
        **recipe.backbone.config_values(),
        bos_token_id=vocabulary[BOS_TOKEN],
        pad_token_id=vocabulary[PAD_TOKEN],
        eos_token_id=vocabulary[EOS_TOKEN],
        vocabulary_map=vocabulary,
        vq_config={k: v for k, v in vq.config.to_dict().items() if k != "model_type"},
    )


def processor(tokenizer: PreTrainedTokenizerBase, config: OrthusConfig) -> ChameleonProcessor:
    """Chameleon's processor for pictures of the config's size."""
    side = config.vq_config.resolution
    return ChameleonProcessor(
        ChameleonImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer,
        image_seq_length=config.patches,
    )
