"""Describe the contents of a folder from its headers, for `orthus info`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.checkpoint import chameleon_meta, parameter_names
from orthus_core.checkpoint.configuration import (
    has_decoder,
    orthus_config,
    released_fields,
)
from orthus_core.checkpoint.headers import CONFIG, TensorHeader, read_folder
from orthus_core.checkpoint.layout import (
    check_family,
    is_hugging_face,
    is_meta,
    is_pickled,
    read_json,
    tokenizer_vocabulary,
)
from orthus_core.checkpoint.lazy import LazyTensor
from orthus_core.checkpoint.parts import Part, parts_of
from orthus_core.checkpoint.pickled import pickled_folder
from orthus_core.checkpoint.source import vqgan_tensors
from orthus_core.checkpoint.variants import settled
from orthus_core.errors import CheckpointError
from orthus_core.model.config import CHAMELEON_SAMPLING, OrthusConfig, code_of_token_name
from orthus_core.shell_words import shell_quoted
from orthus_core.wrong_content import true_cause

Tensor = TensorHeader | LazyTensor


class Missing(NamedTuple):
    """A missing part, and the command or step that provides it."""

    part: str
    next: str


class Description(NamedTuple):
    """A checkpoint in words and numbers.

    Attributes:
        kind: "Orthus", "Orthus, as released", "discrete Chameleon", "discrete Chameleon with a
            pixel decoder", ...
        layout: "Hugging Face", "Meta's own", or "VQGAN checkpoint".
        facts: Names and JSON values, in display order.
    """

    path: Path
    kind: str
    layout: str
    parts: tuple[Part, ...]
    missing: tuple[Missing, ...]
    facts: dict[str, Any]

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def describe(path: Path) -> Description:
    """Describe a folder or a `vqgan.ckpt`.

    Raises:
        CheckpointError: When it is not a supported checkpoint, or is damaged.
    """
    if path.is_file():
        if path.suffix not in (".ckpt", ".pth", ".pt", ".bin", ".safetensors"):
            no_checkpoint = CheckpointError(
                "this file is no checkpoint",
                where=str(path),
                hint="give a model's folder, or a vqgan.ckpt",
            )
            raise true_cause(no_checkpoint, path)
        tensors = vqgan_tensors(path)
        kind = "vision autoencoder"
        return Description(path, kind, "VQGAN checkpoint", tuple(parts_of(tensors)), (), {})
    if is_hugging_face(path):
        return _describe_folder(path)
    if is_meta(path):
        source = chameleon_meta.open_folder(path)
        return _chameleon(path, source.layout, source.config, source.tensors, has_tokenizer=True)
    raise CheckpointError(
        "there is no checkpoint here: neither config.json nor params.json with consolidated*.pth",
        where=str(path),
        hint="give the folder of an Orthus, a Chameleon or an Anole",
    )


def _describe_folder(folder: Path) -> Description:
    table = read_json(folder / CONFIG)
    check_family(table, folder)
    table = settled(table, tokenizer_vocabulary(folder), str(folder / CONFIG))
    tensors = _tensors(folder)
    has_tokenizer = (folder / "tokenizer.json").is_file()
    found = released_fields({name: tensor.shape for name, tensor in tensors.items()})
    if not (found or table["model_type"] == "orthus"):
        return _chameleon(folder, "Hugging Face", table, tensors, has_tokenizer)
    is_ours = table["model_type"] == "orthus"
    fields = {} if is_ours else {**found, "has_decoder": has_decoder(tensors)}
    config = orthus_config(table, str(folder / CONFIG), **fields)
    return Description(
        path=folder,
        kind="Orthus" if is_ours else "Orthus, as released",
        layout="Hugging Face",
        parts=tuple(parts_of(tensors)),
        missing=_missing(folder, tensors, has_tokenizer),
        facts=_backbone_facts(config.to_dict()) | _orthus_facts(config),
    )


def _tensors(folder: Path) -> Mapping[str, Tensor]:
    if is_pickled(folder):
        return pickled_folder(folder)
    return read_folder(folder)


def _chameleon(
    path: Path,
    layout: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    has_tokenizer: bool,
) -> Description:
    facts = _backbone_facts(config)
    if layout == "Hugging Face" and has_decoder(tensors):  # it draws as it is
        facts["sampling"] = CHAMELEON_SAMPLING | (config.get("sampling") or {})
    return Description(
        path=path,
        kind="discrete Chameleon" + (" with a pixel decoder" if has_decoder(tensors) else ""),
        layout=layout,
        parts=tuple(parts_of(tensors)),
        missing=_missing(path, tensors, has_tokenizer),
        facts=facts,
    )


def _backbone_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    vq = config.get("vq_config") or {}
    vocabulary = config.get("vocabulary_map") or {}
    codes = [code for code in map(code_of_token_name, vocabulary) if code is not None]
    facts = {
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "context": config.get("max_position_embeddings"),
        "vocabulary": config.get("vocab_size"),
        "image_tokens": len(codes),
        "resolution": vq.get("resolution"),
        "feature_channels": vq.get("embed_dim"),
        "codes": vq.get("num_embeddings"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _orthus_facts(config: OrthusConfig) -> dict[str, Any]:
    ending = ", zero terminal SNR" if config.zero_terminal_snr else ""
    kind = {"image_head": "flow map" if config.flow_map_head else config.image_head}
    noise = {
        "prediction": config.prediction,
        "schedule": f"{config.beta_schedule} {config.beta_start:g} to {config.beta_end:g}, "
        f"{config.num_train_timesteps} steps{ending}",
    }
    learnt = config.distilled_guidance
    inside = {} if learnt is None else {"guided_inside": f"{learnt:g}, in one stream"}
    return {
        **inside,
        "patches": config.patches,
        "embedding": config.embedding,
        "temperature": config.embedding_temperature,
        "distance": config.embedding_distance,
        **kind,
        "head_width": config.head_width,
        "head_depth": config.head_depth,
        **(noise if config.denoises else {}),
        "latent_scale": config.latent_scale,
        "sampling": _sampling_facts(config),
        "origin": config.origin or {},
    }


def _sampling_facts(config: OrthusConfig) -> dict[str, Any]:
    """The sampling defaults; of time grids, which are long, the numbers of steps alone."""
    sampling = config.sampling_defaults
    grids = sampling.get("time_grids")
    if not isinstance(grids, dict):
        return sampling
    times = {name: each.get("times") for name, each in grids.items() if isinstance(each, dict)}
    return sampling | {"time_grids": {name: [*(each or ())] for name, each in times.items()}}


def _missing(path: Path, tensors: Mapping[str, Tensor], has_tokenizer: bool) -> tuple[Missing, ...]:
    missing, convert = [], ["orthus", "convert", str(path), "-o", "DIR"]
    if not any(name.startswith(parameter_names.IMAGE_HEAD) for name in tensors):
        missing.append(Missing("diffusion head", shell_quoted(convert)))
        if not has_decoder(tensors):
            missing.append(Missing("pixel decoder", "orthus convert ... --vqgan vqgan.ckpt"))
    elif not has_decoder(tensors):
        missing.append(Missing("pixel decoder", shell_quoted([*convert, "--vqgan", "vqgan.ckpt"])))
    if not has_tokenizer:
        missing.append(Missing("tokenizer", "copy tokenizer.json and the processor's files here"))
    return tuple(missing)
