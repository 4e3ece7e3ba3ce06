"""Safetensors written one tensor at a time: a 7B model passes through in the memory of its largest
tensor.

The library's own `save_file` wants a whole file's tensors at once. The format is open and short
(huggingface.co/docs/safetensors): shapes are known beforehand, so the header is written first and
the bytes follow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from orthus_core.checkpoint.headers import INDEX, WEIGHTS
from orthus_core.checkpoint.lazy import TORCH_DTYPES, LazyTensor
from orthus_core.events import Progress

_NAME_OF_DTYPE = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_ALIGNMENT = 8  # the format wants the tensors' bytes to begin at a multiple of this

Shard = dict[str, LazyTensor]


def split_into_shards(tensors: Mapping[str, LazyTensor], shard_bytes: int) -> list[Shard]:
    """The tensors in order, in as few files as hold `shard_bytes` each; a larger tensor gets a
    file of its own.
    """
    shards: list[Shard] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.bytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.bytes
    return shards


def write_weights(
    folder: Path, tensors: Mapping[str, LazyTensor], shard_bytes: int
) -> Iterator[Progress]:
    """Writes `model.safetensors`, or shards with their index, and yields the megabytes done.

    Args:
        folder: Where to; it exists.
        tensors: What to write; each is read when its turn comes, and let go.
        shard_bytes: Size of one file at most.

    Raises:
        OSError: When the place cannot be written to; whoever made the folder clears it away.
    """
    total = sum(tensor.bytes for tensor in tensors.values())
    shards = split_into_shards(tensors, shard_bytes)
    done = 0
    file_of: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = (
            f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else WEIGHTS
        )
        for written in _write_shard(folder / file, shard):
            before, done = done, done + written
            if done // 10**6 > before // 10**6:  # small tensors come by the hundred
                yield Progress("write", done // 10**6, total // 10**6, "MB")
        file_of |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(file: Path, shard: Shard) -> Iterator[int]:
    """Writes one file and yields the size of each tensor as it is done."""
    # Wide elements first: every tensor then begins at a multiple of its own element size, as a
    # view of it needs.
    ordered = dict(sorted(shard.items(), key=lambda item: -item[1].dtype.itemsize))
    with file.open("wb") as stream:
        stream.write(_header(ordered))
        for name, lazy in ordered.items():
            tensor = lazy.read()
            assert tuple(tensor.shape) == lazy.shape and tensor.dtype == lazy.dtype, name
            stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
            yield lazy.bytes
        stream.flush()
        os.fsync(stream.fileno())


def _header(shard: Shard) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in shard.items():
        entries[name] = {
            "dtype": _NAME_OF_DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.bytes],
        }
        offset += tensor.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
