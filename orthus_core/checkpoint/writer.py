"""Write safetensors one tensor at a time: a 7B model needs only the memory of its largest
tensor.

The library's own `save_file` needs all tensors of a file at once. The format is open and short
(huggingface.co/docs/safetensors): shapes are known in advance, so the header is written first and
the bytes follow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from orthus_core.checkpoint.headers import INDEX, WEIGHTS
from orthus_core.checkpoint.lazy import TORCH_DTYPES, LazyTensor
from orthus_core.events import Progress

_NAME_OF_DTYPE = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_ALIGNMENT = 8  # the format requires the tensor data to start at a multiple of this

Shard = dict[str, LazyTensor]


class SupportsWrite(Protocol):
    """What bytes are written to."""

    def write(self, data: Any, /) -> object: ...


def split_into_shards(tensors: Mapping[str, LazyTensor], shard_bytes: int) -> list[Shard]:
    """Group the tensors, in order, into as few files of at most `shard_bytes` as possible; a larger
    tensor gets its own file.
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
    """Write `model.safetensors`, or shards with their index, and yield the megabytes done.

    Args:
        folder: Existing folder to write to.
        tensors: Tensors to write; each is read when needed and then released.
        shard_bytes: Size limit of a file.

    Raises:
        OSError: When the folder cannot be written to; its creator cleans it up.
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
            if done // 10**6 > before // 10**6:  # there are hundreds of small tensors
                yield Progress("write", done // 10**6, total // 10**6, "MB")
        file_of |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(file: Path, shard: Shard) -> Iterator[int]:
    """Write one file and yield the size of each tensor once it is written."""
    with file.open("wb") as stream:
        yield from write_tensors(stream, shard)
        stream.flush()
        os.fsync(stream.fileno())


def write_tensors(
    stream: SupportsWrite, tensors: Shard, metadata: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Write a safetensors file to a stream and yield the size of each tensor once it is written.

    Args:
        stream: Anything with a `write` that takes bytes.
        metadata: Texts that the file holds beside its tensors.
    """
    # Wide elements first: every tensor then starts at a multiple of its own element size, as a view
    # of it requires.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    stream.write(_header(ordered, metadata or {}))
    for name, lazy in ordered.items():
        tensor = lazy.read()
        assert tuple(tensor.shape) == lazy.shape and tensor.dtype == lazy.dtype, name
        stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        yield lazy.bytes


def _header(shard: Shard, metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
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
