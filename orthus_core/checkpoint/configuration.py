"""Read a `config.json` as our configuration: drop foreign fields, infer missing ones from the
weights, and report misspelt keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.configuration_utils import PreTrainedConfig

from orthus_core.checkpoint import parameter_names
from orthus_core.errors import CheckpointError
from orthus_core.model.config import IMAGE_TOKEN, OrthusConfig, OrthusVQConfig, code_of_token_name

Shapes = Mapping[str, Sequence[int]]

# Spellings of earlier transformers versions, which its configuration class still reads.
_EARLIER = ("rope_theta", "rope_scaling", "torch_dtype", "image_token_id")
_OUR_FIELDS = {field.name for field in dataclasses.fields(OrthusConfig)} | set(_EARLIER)
_VQ_FIELDS = {field.name for field in dataclasses.fields(OrthusVQConfig)}
# Fields of every transformers model; a source's values for them do not describe the model.
_COMMON = {field.name for field in dataclasses.fields(PreTrainedConfig)} - {"dtype"}
# Our own fields and the type of value that each takes.
_KINDS = {
    field.name: type(field.default)
    for field in dataclasses.fields(OrthusConfig)
    if field.name in OrthusConfig.__annotations__ and field.default is not None
}


def released_fields(shapes: Shapes) -> dict[str, Any]:
    """Fields that a released `config.json` lacks, inferred from the weights; {} without a head."""
    projection = shapes.get(parameter_names.IMAGE_HEAD + "input_proj.weight")
    if projection is None:
        return {}
    prefix = parameter_names.IMAGE_HEAD + "res_blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)}
    linear = any(name.startswith(parameter_names.LINEAR_EMBEDDING) for name in shapes)
    return {
        "head_width": projection[0],
        "head_depth": len(blocks),
        "embedding": "linear" if linear else "softmax",
    }


def has_decoder(tensors: Iterable[str]) -> bool:
    """Whether these tensor names include the pixel decoder."""
    return any(name.startswith(parameter_names.VQ_DECODER) for name in tensors)


def orthus_config(table: Mapping[str, Any], where: str, **fields: Any) -> OrthusConfig:
    """Build our configuration from a source's.

    Args:
        table: A `config.json` of Chameleon, Anole, a released Orthus, or ours. Fields common to all
            of transformers (such as the text sampling that a release left in it) are dropped.
        where: Path of the file, for error messages.
        fields: Values that override the table's; `has_decoder` goes to the autoencoder.

    Raises:
        CheckpointError: When a value has the wrong type or is not an allowed one.
    """
    kept = {name: value for name, value in table.items() if name in _OUR_FIELDS - _COMMON}
    vq = {
        name: value
        for name, value in (table.get("vq_config") or {}).items()
        if name in _VQ_FIELDS - _COMMON
    }
    if "has_decoder" in fields:
        vq["has_decoder"] = fields.pop("has_decoder")
    if "image_token_id" in kept and kept.get("vocabulary_map"):
        del kept["image_token_id"]  # the vocabulary determines it
    if wrong := _not_finite(kept | {"vq_config": vq}):
        raise CheckpointError(
            f"{wrong[0]} is {wrong[1]}, and a finite number is needed",
            where=where,
            hint="compare it with the config.json of the model it came from",
        )
    try:
        config = OrthusConfig(**{**kept, "vq_config": vq, **fields})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the configuration has a value of the wrong kind: " + " ".join(str(error).split()),
            where=where,
            hint="compare it with the config.json of the model it came from",
        ) from error
    _check_kinds(config, where)
    config.validate_choices()
    config.architectures = ["OrthusForConditionalGeneration"]
    return config


def _not_finite(table: Mapping[str, Any], prefix: str = "") -> tuple[str, float] | None:
    """The first value that is no finite number, which JSON can hold, and its dotted key."""
    for name, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            return prefix + name, value
        if isinstance(value, Mapping) and (found := _not_finite(value, f"{prefix}{name}.")):
            return found
    return None


def _check_kinds(config: OrthusConfig, where: str) -> None:
    for name, kind in _KINDS.items():
        value = getattr(config, name)
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(
                f"{name} is {value!r}, and a {kind.__name__} is needed",
                where=where,
                hint="compare it with the config.json of the model it came from",
            )


def check_keys(table: Mapping[str, Any], where: str) -> None:
    """Check our `config.json` for misspelt keys, which transformers would keep silently.

    Raises:
        CheckpointError: For a key that is unknown and close to one of ours.
    """
    for part, known in ((table, _OUR_FIELDS), (table.get("vq_config") or {}, _VQ_FIELDS)):
        for name in part:
            # A misspelling leaves the correct key absent; extra keys of transformers do not.
            absent = known - _COMMON - part.keys()
            close = difflib.get_close_matches(name, absent, n=1, cutoff=0.8)
            if name not in known and close:
                raise CheckpointError(
                    f"unknown key {name!r}, did you mean {close[0]!r}?",
                    where=where,
                    hint="correct the key, or remove it",
                )


def check_vocabulary(config: OrthusConfig, tokenizer: Mapping[str, int] | None, where: str) -> None:
    """Check that each image code has the token named after it, in the model and the tokenizer.

    Args:
        config: Configuration whose `vocabulary_map` the model uses.
        tokenizer: The tokenizer's names and ids; None without a tokenizer.
        where: Path of the configuration file, for error messages.

    Raises:
        CheckpointError: When a code or an image boundary token is missing, two codes share a token,
            or the tokenizer disagrees.
    """
    ids = config.code_token_ids  # raises when a code has none
    vocabulary = config.vocabulary_map or {}
    codes = [code for code in map(code_of_token_name, vocabulary) if code is not None]
    if len(codes) != len(ids):
        raise CheckpointError(
            f"the vocabulary names {len(codes)} image codes and the codebook has {len(ids)}",
            where=where,
            hint="tokenizer and autoencoder must be of one checkpoint",
        )
    if len(set(ids)) != len(ids) or not 0 <= min(ids) <= max(ids) < config.vocab_size:
        raise CheckpointError(
            f"image codes do not have a token each among the {config.vocab_size} of the model",
            where=where,
            hint="take the vocabulary that comes with the weights",
        )
    marks = {
        "the beginning of a picture": config.boi_token_id,
        "the end of a picture": config.eoi_token_id,
        "the end of a prompt": config.sep_token_id,
        "the place of a patch": config.image_token_id,
    }
    for meaning, token_id in marks.items():
        if token_id is None:
            raise CheckpointError(
                f"the vocabulary has no token for {meaning}",
                where=where,
                hint="take the vocabulary that comes with the weights",
            )
        if type(token_id) is not int or not 0 <= token_id < config.vocab_size:
            raise CheckpointError(
                f"the token for {meaning} is {token_id!r}, which is none of the model's "
                f"{config.vocab_size}",
                where=where,
                hint="take the vocabulary that comes with the weights",
            )
    if tokenizer is None:
        return
    for name, token_id in vocabulary.items():
        # A tokenizer may know the image token under its earlier name, or not at all.
        is_image = name == IMAGE_TOKEN and name in tokenizer
        is_compared = is_image or code_of_token_name(name) is not None
        if is_compared and tokenizer.get(name) != token_id:
            raise CheckpointError(
                f"{name} is token {token_id} in the configuration "
                f"and {tokenizer.get(name)} in the tokenizer",
                where=where,
                hint="tokenizer and configuration must be of one checkpoint",
            )
