"""Open and save model folders: weights, configuration, tokenizer and picture processor together.

Our folders, a released Orthus and a discrete Chameleon open alike. Errors are found from the
headers, before the weights are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import nn
from transformers import ChameleonProcessor
from transformers.utils import logging

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import staged_folder
from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.configuration import (
    check_keys,
    check_vocabulary,
    has_decoder,
    orthus_config,
    released_fields,
)
from orthus_core.checkpoint.headers import (
    ADAPTER_CONFIG,
    CONFIG,
    MODEL_FILES,
    check_path,
    listed,
    not_finite,
    read_folder,
)
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.layout import (
    check_family,
    is_meta,
    is_pickled,
    marked_files,
    read_json,
    tokenizer_vocabulary,
)
from orthus_core.checkpoint.parameter_names import EMBEDDINGS, LM_HEAD
from orthus_core.checkpoint.skeleton import Shapes, check_shapes, model_class, shapes_of, skeleton
from orthus_core.device import pick_device, pick_dtype
from orthus_core.errors import CheckpointError, OrthusError
from orthus_core.model.config import IMAGE_TOKEN, DiscreteConfig, InterleavedConfig, OrthusConfig
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.shell_words import shell_quoted
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.checkpoint.adapters import Adapters


ADAPTERS = "orthus_adapters"
"""Attribute of a model with the records of the adapters that were added to it."""


class Opened(NamedTuple):
    """A model ready to use.

    Attributes:
        model: The model, in evaluation mode, on its device.
        processor: Tokenizer and picture processor; None for a folder without a tokenizer.
        path: The folder it was opened from.
    """

    model: InterleavedModel
    processor: ChameleonProcessor | None
    path: Path

    @property
    def adapters(self) -> Sequence[dict[str, Any]]:
        """Name, path, scale and hash of the adapters that were added to the model."""
        return getattr(self.model, ADAPTERS, ())


class OpenedOrthus(NamedTuple):
    """An `Opened` model that is known to be an Orthus."""

    model: OrthusForConditionalGeneration
    processor: ChameleonProcessor | None
    path: Path


def open_model(
    source: str | Path,
    *,
    device: str | torch.device | None = "auto",
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    low_memory: bool = False,
    quantize: Literal[4, 8] | None = None,
    lora: Sequence[str | Path] = (),
) -> Opened:
    """Open an Orthus or a discrete Chameleon by folder, alias or hub id.

    Args:
        source: Folder, alias or hub id; see `resolve`.
        device: Device for the model; "auto" picks cuda, then mps, then cpu.
        dtype: Precision of the weights ("bf16", "fp16", "fp32" or torch's); None and "auto" are
            bf16 on cuda and fp32 elsewhere.
        device_map: Spreads a large model over devices (see transformers); `device` is then ignored.
        attn_implementation: "sdpa", "eager" or "flash_attention_2"; transformers' own choice by
            default.
        low_memory: Leaves the backbone's layers in their files and loads each when it is used.
        quantize: Number of bits for the backbone's layers (see `quantise`); "auto" dtype is then
            bf16.
        lora: Adapters that are added to the weights, each PATH or PATH:SCALE.

    Raises:
        CheckpointError: When the folder is incomplete, damaged, or holds neither model, when
            `quantize` and `low_memory` are combined, or when adapters do not read or are of another
            model.
        HubError: When a hub id cannot be downloaded.
    """
    place = pick_device(device)  # before a download
    path = resolve(source)
    config = read_config(path)
    if quantize and (low_memory or device_map is not None):
        raise CheckpointError(
            "layers that stay in their files, or are spread, cannot be quantised",
            where="quantize",
            hint="leave out --quantize, or --low-memory",
        )
    adapters: Sequence[Adapters] = ()
    if lora:
        from orthus_core.checkpoint.adapters import add_adapters, bring_settings, read_adapters

        if low_memory or device_map is not None:
            raise CheckpointError(
                "adapters cannot be added to layers that stay in their files, or are spread",
                where="lora",
                hint="merge them into a model folder first: orthus merge MODEL --lora PATH -o DIR",
            )
        adapters = read_adapters(lora, path, str(source))
    if low_memory or quantize:
        from orthus_core.checkpoint.offload import layers_in_their_files

        device_map = layers_in_their_files(skeleton(config), place)
    if quantize and dtype in (None, "auto"):
        dtype = "bf16"
    opened = _open(
        path,
        config,
        dtype=pick_dtype(dtype, place),
        device_map=device_map if device_map is not None else {"": place},
        attn_implementation=attn_implementation,
    )
    if adapters:
        add_adapters(opened.model, path, adapters)
        bring_settings(cast(OrthusConfig, opened.model.config), adapters)
    if quantize:
        from orthus_core.checkpoint.offload import bring_in, is_all_here
        from orthus_core.model.quantised import quantise

        names = {layer: f"model.layers.{n}." for n, layer in enumerate(opened.model.model.layers)}

        def bring(layer: nn.Module) -> None:
            bring_in(layer)
            if adapters:
                add_adapters(layer, path, adapters, names[layer])

        quantise(opened.model, quantize, bring=bring)
        is_all_here(opened.model, place)
    setattr(opened.model, ADAPTERS, [each.record for each in adapters])
    return opened


def open_orthus(
    source: str | Path,
    *,
    device: str | torch.device | None = "auto",
    dtype: str | torch.dtype | None = None,
) -> OpenedOrthus:
    """`open_model` for callers that require an Orthus, such as its trainings.

    Raises:
        CheckpointError, HubError: As for `open_model`, and for a discrete Chameleon.
    """
    place = pick_device(device)
    path = resolve(source)
    config = check_orthus(read_config(path), path)
    opened = _open(path, config, dtype=pick_dtype(dtype, place), device_map={"": place})
    return cast(OpenedOrthus, opened)


def check_orthus(config: InterleavedConfig, path: Path) -> OrthusConfig:
    """The configuration of a folder, if it is that of an Orthus.

    Raises:
        CheckpointError: When it is that of a discrete Chameleon.
    """
    if isinstance(config, OrthusConfig):
        return config
    raise CheckpointError(
        "this is a discrete Chameleon, not yet an Orthus",
        where=str(path),
        hint=shell_quoted(["orthus", "convert", str(path), "-o", "DIR"]),
    )


def _open(path: Path, config: InterleavedConfig, **how: Any) -> Opened:
    check_path(path)
    headers = read_folder(path)
    config.tie_word_embeddings = headers[LM_HEAD] == headers[EMBEDDINGS]
    with _no_bars(), _no_offload_warning():
        model = model_class(config).from_pretrained(unmarked(path), config=config, **how)
    if config.tie_word_embeddings:
        _untie(model)
    check_finite(model, path)
    return Opened(model.eval(), open_processor(path, config.image_token_id), path)


def unmarked(folder: Path) -> Path:
    """The folder, or a copy without byte order marks, which transformers does not read."""
    marked = marked_files(folder)
    if not marked:
        return folder
    from orthus_core.checkpoint.unmarked import copy_of

    return copy_of(folder, marked)


def _untie(model: InterleavedModel) -> None:
    """Give the LM head a table of its own, as every other part of the code expects."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def check_finite(model: InterleavedModel, path: Path) -> None:
    """Check that every weight is a finite number.

    Layers that stay in their files are read once for this; each pass reads them as well.

    Raises:
        CheckpointError: Names the first tensors that hold another value.
    """
    elsewhere = [name for name, weight in model.named_parameters() if weight.is_meta]
    if elsewhere:
        from orthus_core.checkpoint.lazy import safetensors_folder

        stored = safetensors_folder(path)
        for name in elsewhere:
            stored[name].read()
    named = [(n, p) for n, p in model.named_parameters() if not p.is_meta and p.numel()]
    with torch.no_grad():
        # One wait for the device, and no copy of a weight: the sum of a least and a largest value
        # is finite only if all values are.
        ends = [torch.stack(weight.aminmax()).float().sum().cpu() for _, weight in named]
    wrong = [name for (name, _), end in zip(named, ends, strict=True) if not end.isfinite()]
    if wrong:
        raise not_finite(wrong, str(path))


def read_config(folder: Path) -> InterleavedConfig:
    """Read the configuration of a model folder and check it against the headers of its weights.

    Returns:
        An `OrthusConfig`, or a `DiscreteConfig` without a diffusion head. A released folder has
            model type `chameleon` and omits the head's size, which is inferred from the weights.

    Raises:
        CheckpointError: When the folder is incomplete, damaged, or holds neither model.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise _no_config(folder)
    table = read_json(file)
    check_family(table, folder)
    if is_pickled(folder):
        raise CheckpointError(
            "the weights are pickled, and only safetensors are opened",
            where=str(folder),
            hint=shell_quoted(["orthus", "convert", str(folder), "-o", "DIR"]),
        )
    shapes: Shapes = {name: header.shape for name, header in read_folder(folder).items()}
    with _read_from(folder / "tokenizer.json", "the tokenizer does not read"):
        tokenizer = tokenizer_vocabulary(folder)
    with _read_from(file, "no model can be built with the values of the configuration"):
        config = _config_of(table, file, shapes, tokenizer)
        expected = shapes_of(skeleton(config))
    foreign = {parameter_names.from_hugging_face(name): name for name in shapes}
    other = [foreign[name] for name in expected if name not in shapes and name in foreign]
    if other:
        raise CheckpointError(
            f"{len(other)} tensors have the names of another program: {listed(other)}",
            where=str(folder),
            hint=f"orthus convert {folder} -o DIR gives them theirs",
        )
    check_shapes(expected, shapes, str(folder))
    return config


@contextmanager
def _read_from(file: Path, problem: str) -> Iterator[None]:
    """Whatever a damaged file leads to, here or in transformers, is an error that names the file.

    Raises:
        CheckpointError: For any error that is not ours.
    """
    try:
        yield
    except OrthusError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or "it has a value of the wrong kind"
        raise CheckpointError(
            f"{problem}: {said}" + " is unknown" * isinstance(error, KeyError),
            where=str(file),
            hint=f"compare it with the {file.name} of the model it came from",
        ) from error


def _config_of(
    table: Mapping[str, Any], file: Path, shapes: Shapes, tokenizer: dict[str, int] | None
) -> InterleavedConfig:
    found = released_fields(shapes)
    if table["model_type"] == "orthus":
        check_keys(table, str(file))
    if IMAGE_TOKEN not in (table.get("vocabulary_map") or ()) or "text_config" in table:
        from orthus_core.checkpoint.variants import settled

        table = settled(table, tokenizer, str(file))
    if table["model_type"] == "orthus":
        config = orthus_config(table, str(file))
    else:
        config = orthus_config(table, str(file), has_decoder=has_decoder(shapes), **found)
    check_vocabulary(config, tokenizer, str(file))
    is_discrete = table["model_type"] != "orthus" and not found
    return discrete_config(config) if is_discrete else config


def discrete_config(config: OrthusConfig) -> DiscreteConfig:
    """A Chameleon's configuration without the fields that only an Orthus has."""
    shared = {field.name for field in dataclasses.fields(DiscreteConfig)}
    table = config.to_dict()
    return DiscreteConfig(**{name: value for name, value in table.items() if name in shared})


def open_processor(folder: Path, image_token_id: int | None = None) -> ChameleonProcessor | None:
    """Tokenizer and picture processor of a folder, or None where there is no tokenizer.

    Args:
        folder: The folder.
        image_token_id: The model's token for the place of a patch, which the tokenizer may know
            under an earlier name.

    Raises:
        CheckpointError: When they exist but cannot be opened.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        processor = ChameleonProcessor.from_pretrained(unmarked(folder))
        known = processor.tokenizer.convert_ids_to_tokens(image_token_id or 0)
        if image_token_id is not None and known not in (None, processor.image_token):
            processor.image_token, processor.image_token_id = known, image_token_id
        return processor
    except Exception as error:  # tokenizers raises plain exceptions
        from orthus_core.wrong_content import true_cause

        problem = (
            f"tokenizer or picture processor do not open: {str(error).strip().splitlines()[0]}"
        )
        hint = "copy the tokenizer and preprocessor files of the model it came from"
        for file in sorted(folder.glob("*.json")):
            damaged = CheckpointError(problem, where=str(file), hint=hint)
            if (cause := true_cause(damaged, file)) is not damaged:
                raise cause from error
        raise CheckpointError(problem, where=str(folder), hint=hint) from error


def save_model(
    model: InterleavedModel,
    processor: ChameleonProcessor | None,
    folder: str | Path,
    *,
    texts: Mapping[str, str] | None = None,
    overwrite: bool = False,
    max_shard_size: str = "5GB",
) -> Path:
    """Save a model as a folder that is written completely or not at all.

    Args:
        model: Model to save; its configuration's `origin` should record what it was made from.
        processor: Its tokenizer and picture processor.
        folder: Folder to write.
        texts: Additional text files by name, such as the training recipe.
        overwrite: Whether an existing model folder is replaced.
        max_shard_size: Size limit of a weight file.

    Raises:
        OutputError: When the folder exists, cannot be written to, or the disk is full.
    """
    from orthus_core.checkpoint.card import model_card
    from orthus_core.checkpoint.hub_files import add_hub_files

    folder = user_path(folder)
    with staged_folder(folder, mark=CONFIG, replaces=MODEL_FILES, overwrite=overwrite) as staged:
        with _no_bars():
            model.save_pretrained(staged, max_shard_size=max_shard_size)
        if isinstance(model.config, DiscreteConfig):
            # The class that transformers opens it with, in place of ours.
            model.config.architectures = ["ChameleonForConditionalGeneration"]
            model.config.save_pretrained(staged)
        if processor is not None:
            processor.save_pretrained(staged)
        add_hub_files(staged)
        card = {"README.md": model_card(model.config, real_path(folder).name)}
        for name, text in (card | dict(texts or {})).items():
            (staged / name).write_text(text, encoding="utf-8")
    return folder


@contextmanager
def _no_bars() -> Iterator[None]:
    """Disable transformers' own progress bars, since core prints nothing."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _no_offload_warning() -> Iterator[None]:
    """Silence accelerate's warning about layers left in their files, which is intended here."""
    logger = getLogger("accelerate.big_modeling")
    level = logger.level
    logger.setLevel(ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _no_config(folder: Path) -> CheckpointError:
    if is_meta(folder):
        return CheckpointError(
            "this is a Chameleon in Meta's own layout, not yet an Orthus",
            where=str(folder),
            hint=shell_quoted(["orthus", "convert", str(folder), "-o", "DIR"]),
        )
    if (folder / ADAPTER_CONFIG).is_file():
        return CheckpointError(
            "these are adapters, which are added to a model",
            where=str(folder),
            hint="name the model that they were trained on, and them with --lora: -m MODEL --lora "
            + shell_quoted([str(folder)]),
        )
    return CheckpointError(
        "this is no model folder: it has no config.json",
        where=str(folder),
        hint="give the folder that holds config.json and the weights",
    )
