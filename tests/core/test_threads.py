"""A container's share of processors is the number of threads, and fewer threads stay fewer."""

from __future__ import annotations

import pytest
import torch

from orthus_core.device import cgroup_processors, limit_threads


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("200000 100000\n", 2),
        ("350000 100000\n", 3),
        ("50000 100000\n", 1),
        ("max 100000\n", None),
        ("", None),
    ],
)
def test_a_share_is_so_many_whole_processors(tmp_path, said, allowed):
    (tmp_path / "cpu.max").write_text(said)
    assert cgroup_processors(tmp_path) == allowed
    assert cgroup_processors(tmp_path / "nowhere") is None


def test_threads_are_lowered_to_the_share_and_never_raised(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        (tmp_path / "cpu.max").write_text("200000 100000\n")
        assert limit_threads(tmp_path) == 2 == torch.get_num_threads()
        (tmp_path / "cpu.max").write_text("800000 100000\n")
        assert limit_threads(tmp_path) == 2
    finally:
        torch.set_num_threads(before)
