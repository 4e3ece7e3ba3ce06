"""Chameleon as Meta published it, Anole as GAIR did: params.json, consolidated*.pth, tokenizer/.

Larger models are shared out over several files, one a device. Their rotary embedding turns
neighbouring channels (2i, 2i+1) where transformers turns (i, i + half), so query and key rows are
put into the other order here.

Facts: facebookresearch/chameleon, chameleon/inference/{loader,transformer}.py, and
huggingface/transformers, models/chameleon/convert_chameleon_weights_to_hf.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.checkpoint import meta_files, parameter_names
from orthus_core.checkpoint.layout import meta_params_files
from orthus_core.checkpoint.lazy import LazyTensor, averaged, joined, rows
from orthus_core.checkpoint.meta_files import Params
from orthus_core.checkpoint.meta_layerwise import stack
from orthus_core.checkpoint.pickled import pickled_file
from orthus_core.checkpoint.processor import tokenizer_files
from orthus_core.checkpoint.source import Source, vqgan_tensors
from orthus_core.errors import CheckpointError

Shard = dict[str, LazyTensor]

_LAYER_NUMBER = re.compile(r"^layers\.(\d+)\.")


class Places(NamedTuple):
    """Where the parts of a folder lie."""

    params: Path
    shards: tuple[Path, ...]
    tokenizer: Path


def open_folder(folder: Path) -> Source:
    """The checkpoint in Meta's layout.

    Args:
        folder: What was downloaded (with `models/7b` and `tokenizer`), or the model's folder in it.

    Raises:
        CheckpointError: When a part is missing, unsafe or damaged, or does not fit the others.
    """
    places = _find(folder)
    params = meta_files.params(places.params)
    shards = [
        _split_fused(pickled_file(file), params, len(places.shards)) for file in places.shards
    ]
    tensors = _under_our_names(shards, params, places)
    tensors |= vqgan_tensors(places.tokenizer / "vqgan.ckpt")
    tokenizer = meta_files.tokenizer(places.tokenizer / "text_tokenizer.json")
    vq_config = meta_files.vq_config(places.tokenizer / "vqgan.yaml")
    config = meta_files.config(params, tensors, tokenizer, vq_config)
    return Source(
        path=folder,
        layout="Meta's own",
        config=config,
        tensors=tensors,
        keep=tuple(sorted(folder.glob("LICENSE*")) + sorted(folder.glob("USE_POLICY*"))),
        texts=tokenizer_files(tokenizer, config["max_position_embeddings"]),
        stack=lambda dtype: stack(shards, params, dtype),
    )


def _find(folder: Path) -> Places:
    found = list(meta_params_files(folder))
    if len(found) > 1:
        raise CheckpointError(
            "there are several models here: " + ", ".join(file.parent.name for file in found),
            where=str(folder),
            hint=f"give one of them, such as {found[0].parent}",
        )
    model = found[0].parent
    above = (folder, model, model.parent, model.parent.parent)
    tokenizer = next(
        (place / "tokenizer" for place in above if (place / "tokenizer").is_dir()), None
    )
    if tokenizer is None:
        raise CheckpointError(
            "the folder `tokenizer` with text_tokenizer.json, vqgan.ckpt and vqgan.yaml is missing",
            where=str(folder),
            hint="put it beside `models`, as the download has it",
        )
    whole = model / "consolidated.pth"
    shards = (whole,) if whole.is_file() else tuple(sorted(model.glob("consolidated.*.pth")))
    numbers = [file.name for file in shards]
    expected = [f"consolidated.{number:02d}.pth" for number in range(len(shards))]
    if shards != (whole,) and numbers != expected:
        raise CheckpointError(
            f"the weight files are not numbered without gaps: {', '.join(numbers)}",
            where=str(model),
            hint="download the missing ones",
        )
    return Places(found[0], shards, tokenizer)


def _split_fused(shard: Shard, params: Params, shards: int) -> Shard:
    """The file with wqkv and w13, which Meta's code makes of them in memory, taken apart again."""
    apart: Shard = {}
    for name, tensor in shard.items():
        if name.endswith("attention.wqkv.weight"):
            head = tensor.shape[0] // ((params.heads + 2 * params.kv_heads) // shards)
            sizes = [params.heads // shards * head] + [params.kv_heads // shards * head] * 2
            parts = ("wq", "wk", "wv")
        elif name.endswith("feed_forward.w13.weight"):
            sizes, parts = [tensor.shape[0] // 2] * 2, ("w1", "w3")
        else:
            apart[name] = tensor
            continue
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            prefix = name.removesuffix(".weight").rpartition(".")[0]
            apart[f"{prefix}.{part}.weight"] = rows(tensor, start, start + size)
            start += size
    return apart


def _under_our_names(
    shards: Sequence[Shard], params: Params, places: Places
) -> dict[str, LazyTensor]:
    """All files' tensors as one model's; unknown names stay, for the error that will list them."""
    tensors: dict[str, LazyTensor] = {}
    for name in shards[0]:
        if parameter_names.from_hugging_face(name) is None:
            continue  # rope.freqs, which the config tells
        without = [number for number, shard in enumerate(shards) if name not in shard]
        if without:
            raise CheckpointError(
                f"{places.shards[without[0]].name} lacks {name}, which {places.shards[0].name} has",
                where=str(places.params.parent),
                hint="the files must be of one model; download them again",
            )
        number = _LAYER_NUMBER.match(name)
        layer = number[1] if number else ""
        pattern = _LAYER_NUMBER.sub("layers.{}.", name)
        parts = [shard[name] for shard in shards]
        if pattern in parameter_names.META_NAMES:
            ours, split, rotary = parameter_names.META_NAMES[pattern]
            whole = averaged(parts) if split is None else joined(parts, split)
            if rotary:
                whole = _reordered(whole, params.heads if ".wq." in pattern else params.kv_heads)
            tensors[ours.format(layer)] = whole
        elif pattern in parameter_names.META_HEAD_NORMS:
            heads = params.heads if ".q_normalization." in pattern else params.kv_heads
            tensors[parameter_names.META_HEAD_NORMS[pattern].format(layer)] = _head_norm(
                parts, heads
            )
        else:
            tensors[name] = parts[0]
    return tensors


def half_split(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from x0 y0 x1 y1 ... to x0 x1 ... y0 y1 ..., where (x, y) turn together."""
    pairs = weight.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def _reordered(weight: LazyTensor, heads: int) -> LazyTensor:
    return weight._replace(read=lambda: half_split(weight.read(), heads))


def _head_norm(parts: Sequence[LazyTensor], heads: int) -> LazyTensor:
    """A row for each head [heads, E] out of one norm [E] a file."""
    each = heads // len(parts)
    size = parts[0].numel

    def read() -> Tensor:
        norms = [half_split(part.read(), 1).expand(each, size) for part in parts]
        return torch.cat(norms)

    return parts[0]._replace(shape=(heads, size), read=read)
