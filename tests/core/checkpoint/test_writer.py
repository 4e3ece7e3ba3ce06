"""Our streaming writer against safetensors' own reader."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from orthus_core.checkpoint.headers import INDEX, WEIGHTS
from orthus_core.checkpoint.lazy import (
    LazyTensor,
    averaged,
    cast,
    in_memory,
    joined,
    rows,
    safetensors_folder,
)
from orthus_core.checkpoint.writer import write_weights
from orthus_core.events import Progress


def some_tensors() -> dict[str, Tensor]:
    """Precisions mixed in an order that would misalign the wider ones, and a scalar."""
    return {
        "odd": torch.arange(3).bfloat16(),
        "wide": torch.randn(5, 2),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "turned": torch.randn(4, 6).T,
        "bytes": torch.arange(7, dtype=torch.uint8),
    }


def write(folder: Path, tensors: dict[str, Tensor], shard_bytes: int) -> list[Progress]:
    lazy = {name: in_memory(tensor, "here") for name, tensor in tensors.items()}
    return list(write_weights(folder, lazy, shard_bytes))


def test_the_library_reads_what_is_written(tmp_path: Path):
    tensors = some_tensors()
    write(tmp_path, tensors, 10**6)
    found = load_file(tmp_path / WEIGHTS)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_shards_keep_to_their_size_and_the_index_finds_everything(tmp_path: Path):
    tensors = {f"t{index}": torch.full((10,), float(index)) for index in range(7)}
    write(tmp_path, tensors, 80)
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]
    assert index["metadata"]["total_size"] == 7 * 40
    assert all(len(load_file(tmp_path / file)) <= 2 for file in files)
    found = safetensors_folder(tmp_path)
    assert all(torch.equal(found[name].read(), tensor) for name, tensor in tensors.items())


def test_a_tensor_larger_than_a_shard_gets_a_file_of_its_own(tmp_path: Path):
    write(tmp_path, {"a": torch.ones(1), "b": torch.ones(100), "c": torch.ones(1)}, 40)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_no_tensor_is_read_before_the_one_before_it_is_written(tmp_path: Path):
    read: list[str] = []

    def lazy(name: str) -> LazyTensor:
        def tensor() -> Tensor:
            read.append(name)
            return torch.ones(10**6)

        return LazyTensor((10**6,), torch.float32, tensor, "here")

    events = write_weights(tmp_path, {name: lazy(name) for name in "abc"}, 10**9)
    for count, event in enumerate(events, start=1):
        assert len(read) == count
        assert event == Progress("write", 4 * count, 12, "MB")


def test_lazy_tensors_join_average_cut_and_cast_as_torch_does():
    parts = [in_memory(torch.randn(2, 3), "here") for _ in range(2)]
    tensors = [part.read() for part in parts]
    for dim in (0, 1):
        whole = joined(parts, dim)
        assert torch.equal(whole.read(), torch.cat(tensors, dim))
        assert whole.shape == whole.read().shape
    assert torch.allclose(averaged(parts).read(), torch.stack(tensors).mean(0))
    assert torch.equal(averaged([parts[0]] * 4).read(), tensors[0])
    cut = rows(parts[0], 1, 2)
    assert torch.equal(cut.read(), tensors[0][1:2]) and cut.shape == (1, 3)
    half = cast(parts[0], torch.bfloat16)
    assert torch.equal(half.read(), tensors[0].bfloat16()) and half.dtype == torch.bfloat16
    whole_numbers = in_memory(torch.arange(3), "here")
    assert cast(whole_numbers, torch.bfloat16) is whole_numbers
