"""Open the autoencoder of an Orthus alone, and write a model whose other weights are copied from
file to file: a 7B is trained on with the memory of its 69 M of autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import staged_folder
from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.card import model_card
from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.headers import CONFIG, MODEL_FILES, check_path
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.hub_files import add_hub_files
from orthus_core.checkpoint.lazy import LazyTensor, in_memory, safetensors_folder
from orthus_core.checkpoint.model_folder import (
    OpenedOrthus,
    check_orthus,
    open_processor,
    read_config,
)
from orthus_core.checkpoint.skeleton import skeleton
from orthus_core.checkpoint.writer import write_weights
from orthus_core.errors import CheckpointError
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.user_files import user_path

SHARD_BYTES = 5 * 10**9


def open_autoencoder(source: str | Path, device: torch.device) -> OpenedOrthus:
    """An Orthus of which the autoencoder alone is read, in fp32; its other weights are on torch's
    meta device, and take no memory.

    Raises:
        CheckpointError, HubError: As for `open_orthus`.
    """
    path = resolve(source)
    config = check_orthus(read_config(path), path)
    check_path(path)
    stored = safetensors_folder(path)
    model = skeleton(config)
    vq = model.model.vqmodel.to_empty(device="cpu")
    shapes = vq.state_dict()
    assert {name for name, _ in vq.named_buffers()} <= shapes.keys(), "each is in the files"
    weights = {name: stored[parameter_names.VQ + name].read().float() for name in shapes}
    vq.load_state_dict(weights)
    vq.to(device)  # type: ignore[arg-type]
    return OpenedOrthus(model.eval(), open_processor(path, config.image_token_id), path)


def save_with_autoencoder(
    opened: OpenedOrthus,
    begun_with: str,
    folder: str | Path,
    *,
    texts: Mapping[str, str],
    overwrite: bool = False,
) -> Path:
    """Save a model that `open_autoencoder` opened: what was trained of its autoencoder from memory,
    everything else from the files it was opened from, one tensor at a time. Each tensor keeps the
    precision that it is stored in.

    Args:
        opened: The model; its configuration's `origin` should record what it was made from.
        begun_with: Fingerprint of the folder when the training began.
        folder: Folder to write.
        texts: Additional text files by name.
        overwrite: Whether an existing model folder is replaced.

    Raises:
        CheckpointError: When the files it was opened from are no longer there, or others.
        OutputError: When the folder exists, cannot be written to, or the disk is full.
    """
    model, processor, source = opened
    check_same_model(source, begun_with)
    stored = safetensors_folder(source)
    tensors = {name: stored[name] for name in model.state_dict()} | trained(model, stored)
    config = model.config
    config.dtype = tensors[parameter_names.LM_HEAD].dtype
    config.tie_word_embeddings = False  # both are written out
    folder = user_path(folder)
    with staged_folder(folder, mark=CONFIG, replaces=MODEL_FILES, overwrite=overwrite) as staged:
        for _ in write_weights(staged, tensors, SHARD_BYTES):
            pass  # without progress, as the end of every training
        config.save_pretrained(staged)
        if processor is not None:
            processor.save_pretrained(staged)
        card = {"README.md": model_card(config, real_path(folder).name)}
        for name, text in (card | dict(texts)).items():
            (staged / name).write_text(text, encoding="utf-8")
        add_hub_files(staged)
    return folder


def trained(
    model: OrthusForConditionalGeneration, stored: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """What moved of the autoencoder, in the precision that it was stored in."""
    return {
        name: in_memory(weight.detach().cpu().to(stored[name].dtype), "the training")
        for name, weight in model.named_parameters()
        if name.startswith(parameter_names.VQ) and weight.requires_grad
    }


def check_same_model(folder: Path, begun_with: str) -> None:
    """Check that a folder still holds the model that a training began with.

    Raises:
        CheckpointError: When it does not.
    """
    try:
        found = fingerprint(folder)
    except CheckpointError as error:
        raise _moved(folder, error.message) from error
    if found != begun_with:
        raise _moved(folder, "it holds another model now")


def _moved(folder: Path, how: str) -> CheckpointError:
    return CheckpointError(
        "the model that the training began with is no longer there, and what was not trained is "
        f"copied from it: {how}",
        where=str(folder),
        hint="put it back, then run the same command with --resume auto: the last state is kept",
    )
