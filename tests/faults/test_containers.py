"""A container's share of processors and memory is obeyed, whoever opens a model or trains."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import orthus_core
from orthus_cli.app import app
from orthus_core import device
from orthus_core.checkpoint.model_folder import open_model, open_orthus
from orthus_core.data.sources import Mixture
from orthus_core.device import cgroup_processors, devices, limit_threads, usable_processors
from orthus_core.recipe.training import DataRecipe
from orthus_core.train import batches
from orthus_core.train.distributed import current_rank
from tests.core.toy_data import SHORT, interleaved

Share = Callable[..., None]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

ONE_V2 = {"cpu.max": "100000 100000\n"}
ONE_V1 = {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def share(tmp_path, monkeypatch):
    """Lays control groups over the machine's own: eight processors, and torch on eight threads."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    root.mkdir()
    monkeypatch.setattr(device, "CGROUP", root)
    monkeypatch.setattr(device, "OWN_GROUPS", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    before = torch.get_num_threads()
    torch.set_num_threads(8)

    def write_groups(files: dict[str, str], own_groups: str = "") -> None:
        write(root, files)
        own.write_text(own_groups)

    yield write_groups
    torch.set_num_threads(before)


def test_without_a_share_all_threads_stay(share):
    share({})
    assert limit_threads() == 8 == usable_processors()


def run(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


def draw(folder: Path, work: Path) -> None:
    run("generate", "a cup", "-m", folder, "--steps", 1, "-o", work / "cup.png")


def train(folder: Path, work: Path) -> None:
    source = interleaved(work / "data", 6)
    changes = (*SHORT, f"data.source={source}", "optim.steps=1", "optim.batch_size=1")
    run("posttrain", "--init-from", folder, "-o", work / "out", *(f"--set={c}" for c in changes))


DOORS = {
    "generate": draw,
    "posttrain": train,
    "class Orthus": lambda folder, _: orthus_core.Orthus.open(folder, device="cpu"),
    "open_model": lambda folder, _: open_model(folder, device="cpu"),
    "open_orthus": lambda folder, _: open_orthus(folder, device=torch.device("cpu")),
    "a training's rank": lambda *_: current_rank(),
    "doctor's devices": lambda *_: devices(),
}


@pytest.mark.parametrize("files", [ONE_V2, ONE_V1], ids=["version 2", "version 1"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_limits_the_threads(share, tiny_folder, tmp_path, door, files):
    share(files)
    DOORS[door](tiny_folder, tmp_path)
    assert torch.get_num_threads() == 1


def test_a_model_that_was_opened_by_others_draws_within_the_share_too(share, tiny_folder):
    share({})
    opened = open_model(tiny_folder, device="cpu")
    share(ONE_V2)
    assert opened.processor is not None and torch.get_num_threads() == 8
    orthus_core.Orthus(opened.model, opened.processor.tokenizer)
    assert torch.get_num_threads() == 1


def v1(quota: int | str, period: int | str, folder: str = "cpu") -> dict[str, str]:
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("files", "own", "allowed"),
    [
        pytest.param(v1(250000, 100000), "", 2, id="version 1, in part"),
        pytest.param(v1(50000, 100000), "", 1, id="less than one is one"),
        pytest.param(v1(-1, 100000), "", None, id="version 1 without a limit"),
        pytest.param(v1(300000, 100000, "cpu,cpuacct"), "", 3, id="two controllers in one"),
        pytest.param({"cpu.max": "300000\n"}, "", 3, id="the default period"),
        pytest.param(
            {"cpu.max": "max 100000", "pod/box/cpu.max": "200000 100000"},
            "0::/pod/box\n",
            2,
            id="a group of its own",
        ),
        pytest.param(
            {"pod/cpu.max": "200000 100000", "pod/box/cpu.max": "max 100000"},
            "0::/pod/box\n",
            2,
            id="the group around it",
        ),
        pytest.param(
            {"pod/cpu.max": "400000 100000", "pod/box/cpu.max": "300000 100000"},
            "0::/pod/box\n",
            3,
            id="the smallest counts",
        ),
        pytest.param(
            v1(200000, 100000, "cpu,cpuacct/docker/7f"),
            "5:memory:/other\n4:cpu,cpuacct:/docker/7f\n0::/\n",
            2,
            id="version 1, a group of its own",
        ),
        pytest.param(
            v1(-1, 100000) | {"unified/a/cpu.max": "200000 100000"},
            "1:cpu:/\n0::/a\n",
            2,
            id="both versions",
        ),
        pytest.param(v1(200000, 100000), "1:cpu:/gone/away\n", 2, id="a path of the host"),
        pytest.param(ONE_V2, "0::/../../x\n", 1, id="a path outside"),
        pytest.param(ONE_V2, "no groups: at all\n\n:::::\n", 1, id="own groups that do not read"),
        pytest.param({"other/cpu.max": "100000 100000"}, "0::/mine\n", None, id="another's group"),
    ],
)
def test_shares_of_both_versions(share, files, own, allowed):
    share(files, own)
    assert cgroup_processors() == allowed
    assert limit_threads() == (allowed or 8)


@pytest.mark.parametrize("text", ["", "x y", "100000 0", "0 100000", "-1 100000", "1e5 1e5", "½ 3"])
@pytest.mark.parametrize("version", [1, 2])
def test_contents_that_are_no_share_are_passed_over(share, text, version):
    quota, period = (*text.split(), "", "")[:2]
    share({"cpu.max": text} if version == 2 else v1(quota, period or "0"))
    assert cgroup_processors() is None and limit_threads() == 8


def test_threads_are_never_raised(share):
    share({"cpu.max": "400000 100000"})
    torch.set_num_threads(2)
    assert limit_threads() == 2
    torch.set_num_threads(6)
    assert limit_threads() == 4


def test_processors_that_the_process_is_bound_to_count_as_well(share, monkeypatch):
    share({"cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert limit_threads() == 2


@pytest.mark.parametrize(("text", "workers"), [("200000 100000", 2), ("max 100000", 6)])
def test_no_more_workers_are_forked_than_the_share_has_processors(
    share, monkeypatch, tiny_folder, tmp_path, text, workers
):
    opened = open_orthus(tiny_folder, device="cpu")
    share({"cpu.max": text})
    asked = []
    monkeypatch.setattr(
        "orthus_core.train.prefetch.Prefetcher", lambda made, n, *_: asked.append(n)
    )
    data = DataRecipe(source=str(interleaved(tmp_path / "data", 6)), workers=6)
    tokenizer = opened.processor.tokenizer  # type: ignore[union-attr]
    builder = batches.orthus_batch_builder(data, opened.model.config, tokenizer, lambda p: p)  # type: ignore[arg-type]
    builder.batches(batches.RowSources(Mixture([]), None), data, 2, 2)
    assert asked == [workers]


def memory(limit: object, used: object, cached: object, folder: str = "memory") -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"cache 7\ntotal_inactive_file {cached}\n",
    }


@pytest.mark.parametrize(
    ("files", "own", "left"),
    [
        pytest.param(memory(1000, 700, 200), "", 500, id="version 1"),
        pytest.param(memory(9223372036854771712, 700, 200), "", None, id="without a limit"),
        pytest.param(memory("x", 700, 200), "", None, id="no number"),
        pytest.param(memory(1000, 700, "x"), "", 300, id="no figure of cached files"),
        pytest.param(
            memory(9223372036854771712, 9, 0) | memory(1000, 700, 0, "memory/a/b"),
            "4:memory:/a/b\n",
            300,
            id="a group of its own",
        ),
        pytest.param(
            {"a/memory.max": "1000", "a/memory.current": "400", "a/b/memory.max": "max"},
            "0::/a/b\n",
            600,
            id="version 2, the group around it",
        ),
        pytest.param(
            {"a/memory.max": "1000", "a/memory.current": "400"}
            | {"a/b/memory.max": "500", "a/b/memory.current": "100"},
            "0::/a/b\n",
            400,
            id="the least counts",
        ),
    ],
)
def test_memory_that_is_left_in_groups_of_both_versions(share, files, own, left):
    share(files, own)
    assert device._free_cgroup_memory() == left
    if left is not None:
        assert device.free_bytes(torch.device("cpu")) == left
