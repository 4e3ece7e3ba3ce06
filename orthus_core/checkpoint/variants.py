"""Variants of a checkpoint that are not damage: tied embeddings, the older name of the image token,
and a nested text configuration.

They are decided here and nowhere else. `tied` gives a folder's tensors the one that its
configuration ties to another; `settled` gives a configuration the names that the rest of the code
knows, and `renamed` does the same to the tokenizer's files.

Sources: huggingface/transformers, `PreTrainedModel.tie_weights` (either of two tied tensors may be
the stored one) and models/chameleon/convert_chameleon_weights_to_hf.py (the image token's names).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.headers import CONFIG
from orthus_core.checkpoint.layout import read_json, vocabulary_in
from orthus_core.errors import CheckpointError
from orthus_core.model.config import (
    BOI_TOKEN,
    EOI_TOKEN,
    IMAGE_TOKEN,
    SEP_TOKEN,
    code_of_token_name,
)

T = TypeVar("T")

# Meta's vocabulary reserves this token; Hugging Face's Chameleon, and Orthus, use it as the
# image placeholder.
EARLIER_IMAGE_TOKEN = "<reserved08707>"
# Keys that state its id, the present one first.
_STATED = ("image_token_id", "image_token_index")
_TIED = (parameter_names.EMBEDDINGS, parameter_names.LM_HEAD)


def is_tied(table: Mapping[str, Any]) -> bool:
    """Whether a configuration says that the LM head is the embedding table."""
    places = (table, table.get("text_config") or {})
    return any(isinstance(p, Mapping) and p.get("tie_word_embeddings") is True for p in places)


def tied(tensors: dict[str, T], folder: Path) -> dict[str, T]:
    """The tensors of a folder, and, where its configuration ties the LM head to the embeddings, one
    of these in place of the other, which is not stored.

    Raises:
        CheckpointError: When the configuration cannot be read.
    """
    stored = [tensors[name] for name in _TIED if name in tensors]
    # A folder that is being written has no configuration yet, and lacks nothing.
    if (
        len(stored) != 1
        or not (folder / CONFIG).is_file()
        or not is_tied(read_json(folder / CONFIG))
    ):
        return tensors
    return tensors | dict.fromkeys(_TIED, stored[0])


def settled(
    table: Mapping[str, Any], tokenizer: Mapping[str, int] | None, where: str
) -> dict[str, Any]:
    """A configuration under the present names.

    The fields of a nested text configuration are the model's own, and a missing vocabulary is the
    tokenizer's. The place of a patch is `<image>`, else `<reserved08707>`, else the token of the
    vocabulary whose id the configuration states; it is called `<image>` from here on.

    Raises:
        CheckpointError: When the stated token cannot be the place of a patch.
    """
    nested = table.get("text_config")
    table = {**(nested if isinstance(nested, Mapping) else {}), **table}
    names = table.get("vocabulary_map") or tokenizer
    if isinstance(names, Mapping):
        token_id = names.get(IMAGE_TOKEN, names.get(EARLIER_IMAGE_TOKEN))
        if token_id is None:
            token_id = _stated_id(names, table, where)
        table["vocabulary_map"] = dict(names)
        if token_id is not None:  # otherwise `check_vocabulary` says what is missing
            others = {name: number for name, number in names.items() if number != token_id}
            table["vocabulary_map"] = others | {IMAGE_TOKEN: token_id}
    return table


def _stated_id(names: Mapping[str, int], table: Mapping[str, Any], where: str) -> int | None:
    """The image token that a configuration states; None when the vocabulary names no such token."""
    key = next((key for key in _STATED if table.get(key) is not None), None)
    if key is None:
        return None
    stated = table[key]
    marks = {table.get(f"{mark}_token_id"): f"{mark}_token_id" for mark in ("bos", "eos", "pad")}
    taken = marks | {number: name for name, number in names.items() if _has_meaning(name)}
    if not isinstance(stated, int) or isinstance(stated, bool):
        why = "a whole number is needed"
    elif stated in taken:
        why = f"that token is {taken[stated]}"
    else:
        return stated if stated in names.values() else None
    raise CheckpointError(
        f"the image token cannot be what the configuration says: {key} is {stated!r}, and {why}",
        where=where,
        hint="take the config.json and the vocabulary that come with the weights",
    )


def _has_meaning(name: str) -> bool:
    """Whether the name is that of a code or of a mark around a picture."""
    return name in (BOI_TOKEN, EOI_TOKEN, SEP_TOKEN) or code_of_token_name(name) is not None


def renamed(files: Mapping[str, str], image_token_id: int | None) -> dict[str, str]:
    """Those of a tokenizer's files that change when it knows the image token as `<image>`.

    Args:
        files: Texts of its JSON files by name, `tokenizer.json` among them.
        image_token_id: Id of the token.
    """
    if "tokenizer.json" not in files or image_token_id is None:
        return {}
    table = json.loads(files["tokenizer.json"])
    vocabulary = vocabulary_in(table)
    if IMAGE_TOKEN in vocabulary:
        return {}
    now = next((name for name, number in vocabulary.items() if number == image_token_id), None)
    if now is None:
        _add(table, image_token_id)
        return {"tokenizer.json": _text(table)}
    changed = {}
    for file, text in files.items():
        before = json.loads(text)
        after = rename_token(before, now)
        if after != before:
            changed[file] = _text(after)
    return changed


def rename_token(table: Any, name: str) -> Any:
    """A copy of a tokenizer's JSON in which the token of this name is `<image>`."""
    if isinstance(table, dict):
        return {
            IMAGE_TOKEN if key == name else key: value
            if key == "merges"
            else rename_token(value, name)
            for key, value in table.items()
        }
    if isinstance(table, list):
        return [rename_token(value, name) for value in table]
    return IMAGE_TOKEN if table == name else table


def _add(table: dict[str, Any], token_id: int) -> None:
    """Add the image token to a tokenizer that has none of this id."""
    vocabulary = table.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        vocabulary[IMAGE_TOKEN] = token_id
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {"id": token_id, "content": IMAGE_TOKEN, **flags, "special": True}
    table["added_tokens"] = [*table.get("added_tokens", ()), added]


def _text(table: Any) -> str:
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"
