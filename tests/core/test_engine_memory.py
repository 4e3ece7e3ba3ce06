"""Memory: what is free, what is needed, and how running out of it is told from other errors."""

from __future__ import annotations

import sys

import pytest
import torch

from orthus_core import device
from orthus_core.device import free_bytes, is_out_of_memory
from orthus_core.samplers import memory_estimate
from orthus_core.samplers.engine import Backbone
from orthus_core.samplers.memory_estimate import cache_bytes, need
from orthus_core.samplers.prompt import Branch
from tests.conftest import make_tiny_config, make_tiny_model


def test_the_cache_takes_what_was_computed(tiny_model):
    with torch.no_grad():
        slots, _ = Backbone(tiny_model).read([Branch((0, 40, 38)), Branch((0, 41, 38))], 50)
    held = [*slots._keys, *slots._values]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)
    assert taken == 2 * cache_bytes(tiny_model.config, 50, 4)


def test_the_released_model_takes_half_a_megabyte_a_slot_and_half_a_gigabyte_to_decode():
    config = make_tiny_config(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32
    )
    assert cache_bytes(config, 1, 2) == 2 * 32 * 4096 * 2
    config.vq_config.base_channels, config.vq_config.channel_multiplier = 128, [1, 1, 2, 2, 4]
    config.vq_config.resolution = 512
    assert memory_estimate.decoder_bytes(config, 4) == 4 * 128 * 512 * 512 * 4


def test_longer_rows_with_more_streams_need_more(tiny_model):
    fields = {"slots": 20, "branches": 2, "tokens_at_once": 64, "decoded_at_once": 1}
    least = need(tiny_model, **fields)
    for name in ("slots", "branches"):
        assert need(tiny_model, **(fields | {name: 40})).row > least.row
    for name in ("tokens_at_once", "decoded_at_once"):
        assert need(tiny_model, **(fields | {name: 640})).fixed > least.fixed


def test_this_machine_says_how_much_is_free():
    free = free_bytes(torch.device("cpu"))
    assert free is not None and free > 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_containers_limit_counts(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert device._free_cgroup_memory(tmp_path) == 500000
    (tmp_path / "memory.max").write_text("max\n")
    assert device._free_cgroup_memory(tmp_path) is None
    assert device._free_cgroup_memory(tmp_path / "nowhere") is None


def test_an_allocation_that_failed_is_out_of_memory_and_other_errors_are_not():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.gpu
def test_a_gpu_says_how_much_is_free():
    place = torch.device("cuda")
    before = free_bytes(place)
    kept = torch.empty(2**28, dtype=torch.uint8, device=place)
    assert free_bytes(place) <= before - len(kept)


def test_what_was_freed_is_given_back_without_complaint():
    device.release_memory(torch.device("cpu"))
    assert make_tiny_model().device == torch.device("cpu")
