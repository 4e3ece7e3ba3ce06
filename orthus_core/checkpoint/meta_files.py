"""Read the configuration and tokenizer from the files that come with Meta's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.layout import read_json, vocabulary_in
from orthus_core.checkpoint.lazy import LazyTensor
from orthus_core.checkpoint.variants import EARLIER_IMAGE_TOKEN, rename_token
from orthus_core.errors import CheckpointError
from orthus_core.model.config import IMAGE_TOKEN
from orthus_core.wrong_content import true_cause

# Longest sequence of the released models, which no file records; a larger rotary base implies
# the longer one.
_CONTEXT, _LONG_CONTEXT, _ROTARY_BASE = 4096, 16384, 10000.0


class Params(NamedTuple):
    """The numbers of `params.json` that cannot be inferred from shapes."""

    heads: int
    kv_heads: int
    norm_eps: float
    rope_theta: float
    swin_norm: bool


def params(file: Path) -> Params:
    """The numbers of `params.json`.

    Raises:
        CheckpointError: When one is missing.
    """
    table = read_json(file)
    table |= table.get("model", {})
    try:
        heads = int(table["n_heads"])
        return Params(
            heads=heads,
            kv_heads=int(table.get("n_kv_heads") or heads),
            norm_eps=float(table.get("norm_eps", 1e-5)),
            rope_theta=float(table.get("rope_theta", _ROTARY_BASE)),
            swin_norm=bool(table.get("swin_norm", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "params.json does not say how many heads the model has (n_heads)",
            where=str(file),
            hint="download it again",
        ) from error


def config(
    params: Params,
    tensors: dict[str, LazyTensor],
    tokenizer: dict[str, Any],
    vq_config: dict[str, Any],
) -> dict[str, Any]:
    """The fields of ChameleonConfig; sizes are inferred from the weights.

    Raises:
        CheckpointError: When the weights that determine the sizes are missing.
    """
    needed = (parameter_names.EMBEDDINGS, "model.layers.0.mlp.gate_proj.weight")
    for name in needed:
        if name not in tensors:
            raise CheckpointError(
                f"the weights lack what becomes {name}",
                where=tensors[parameter_names.VQ_CODEBOOK].source,
                hint="give the folder of a Chameleon as Meta published it",
            )
    vocabulary = tokenizer["model"]["vocab"]
    embeddings = tensors[parameter_names.EMBEDDINGS]
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    return {
        "model_type": "chameleon",
        "vocab_size": embeddings.shape[0],
        "hidden_size": embeddings.shape[1],
        "intermediate_size": tensors["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": params.heads,
        "num_key_value_heads": params.kv_heads,
        "rms_norm_eps": params.norm_eps,
        "rope_theta": params.rope_theta,
        "swin_norm": params.swin_norm,
        "max_position_embeddings": _LONG_CONTEXT if params.rope_theta > _ROTARY_BASE else _CONTEXT,
        "bos_token_id": vocabulary.get("<s>"),
        "pad_token_id": vocabulary.get("<pad>"),
        "eos_token_id": vocabulary.get("</s>"),
        "vocabulary_map": vocabulary,
        "vq_config": vq_config,
    }


def vq_config(file: Path) -> dict[str, Any]:
    """The autoencoder's shape from its taming-style YAML, under transformers' names."""
    import yaml

    try:
        params = yaml.safe_load(file.read_bytes())["model"]["params"]
        shape = params["ddconfig"]
        return {
            "embed_dim": params["embed_dim"],
            "num_embeddings": params["n_embed"],
            "double_latent": shape["double_z"],
            "latent_channels": shape["z_channels"],
            "resolution": shape["resolution"],
            "in_channels": shape["in_channels"],
            "base_channels": shape["ch"],
            "channel_multiplier": shape["ch_mult"],
            "num_res_blocks": shape["num_res_blocks"],
            "attn_resolutions": shape["attn_resolutions"] or None,
            "dropout": shape["dropout"],
        }
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        damaged = CheckpointError(
            "the autoencoder's shape does not read from vqgan.yaml",
            where=str(file),
            hint="take the file that comes with the weights, in the folder `tokenizer`",
        )
        raise true_cause(damaged, file, error) from error


def tokenizer(file: Path) -> dict[str, Any]:
    """The text tokenizer, with the image placeholder named as the processor expects."""
    table = read_json(file)
    vocabulary = vocabulary_in(table)
    if IMAGE_TOKEN in vocabulary:
        return table
    if EARLIER_IMAGE_TOKEN not in vocabulary:
        raise CheckpointError(
            f"the tokenizer has neither {IMAGE_TOKEN} nor {EARLIER_IMAGE_TOKEN} for pictures in a "
            "text",
            where=str(file),
            hint="take the text_tokenizer.json that comes with Chameleon's weights",
        )
    return rename_token(table, EARLIER_IMAGE_TOKEN)
