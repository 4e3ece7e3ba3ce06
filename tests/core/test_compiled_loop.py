"""The compiled denoising steps are those of torch, for any sizes and threads, and optional."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from orthus_core.bench.model_sizes import random_head
from orthus_core.errors import OrthusError, OutputError
from orthus_core.model import compiled_loop as loop_module
from orthus_core.model.compiled_loop import Library, build, compiler, library, library_path
from orthus_core.model.denoising_head import DenoisingHead
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.schedule import make_schedule
from orthus_core.samplers import patch_sampler as patch_module
from orthus_core.samplers.patch_sampler import PatchPlan, denoise
from orthus_core.samplers.prompt import Guidance, mixing
from orthus_core.samplers.solvers import solver_for

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

CPU = torch.device("cpu")
GUIDANCES = [Guidance.text(5.0), Guidance.none(), Guidance.edit(4.0, 1.5)]  # six rows
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
# No multiple of a panel on any processor, and fewer channels than one holds.
SIZES = {"channels": 11, "cond_dim": 20, "width": 150, "depth": 2}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The library, in a folder of this file's own, so that no other test draws with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORTHUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        build()
        found = library()
        assert found is not None
        yield found


@lru_cache
def head_of(**sizes: int) -> DiffusionHead:
    return random_head(CPU, torch.float32, SIZES | sizes)


def plan_of(scheduler: str, steps: int, *, with_library: bool = True, **sizes: int) -> PatchPlan:
    head = DenoisingHead(head_of(**sizes))
    assert head.loop is not None
    if not with_library:
        head.loop = None
    solver = solver_for(make_schedule(), scheduler, steps)
    return PatchPlan(solver, head, head.times(solver.timesteps_T), 0.5)


def inputs_of(guidances: list[Guidance]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    mix_NR = mixing(guidances)
    hidden_RD = torch.randn(mix_NR.shape[1], SIZES["cond_dim"], generator=random)
    return hidden_RD, torch.randn(len(guidances), SIZES["channels"], generator=random), mix_NR


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("width", [150, 128])
def test_the_compiled_steps_are_those_of_torch(scheduler, width, monkeypatch):
    inputs = inputs_of(GUIDANCES)
    expected_NC = denoise(plan_of(scheduler, 12, with_library=False, width=width), *inputs)
    monkeypatch.setattr(DenoisingHead, "step", None)  # torch's steps are not taken
    found_NC = denoise(plan_of(scheduler, 12, width=width), *inputs)
    torch.testing.assert_close(found_NC, expected_NC, **CLOSE)


@pytest.mark.parametrize("number", range(3))
def test_one_image_alone_has_one_to_three_rows(number):
    inputs = inputs_of([GUIDANCES[number]])
    expected_NC = denoise(plan_of("unipc", 6, with_library=False), *inputs)
    torch.testing.assert_close(denoise(plan_of("unipc", 6), *inputs), expected_NC, **CLOSE)


def test_results_are_equal_for_any_number_of_threads_rows_and_images():
    plan, (_, noise_NC, mix_NR) = plan_of("ddim", 5, width=300), inputs_of(GUIDANCES)
    loop, random = plan.head.loop, torch.Generator().manual_seed(3)
    assert loop is not None
    amounts_TRA = torch.randn(5, 6, plan.head.amounts, generator=random)
    owner_R, updates_TSK = mix_NR.abs().argmax(dim=0), plan.solver.updates_TSK
    together: list[torch.Tensor] = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            together += loop.steps(amounts_TRA, owner_R, mix_NR, updates_TSK, [noise_NC])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together[0], together[1]) and torch.equal(together[0], together[2])
    for image in range(3):
        rows = owner_R == image
        (alone_1C,) = loop.steps(
            amounts_TRA[:, rows],
            torch.zeros(int(rows.sum())),
            mix_NR[image : image + 1, rows],
            updates_TSK,
            [noise_NC[image : image + 1]],
        )
        assert torch.equal(alone_1C[0], together[0][image])


def test_steps_in_several_parts_are_the_same(monkeypatch):
    plan, inputs = plan_of("unipc", 10), inputs_of(GUIDANCES)
    whole_NC = denoise(plan, *inputs)
    monkeypatch.setattr(patch_module, "MODULATION_BYTES", 3 * 6 * plan.head.amounts * 4)
    torch.testing.assert_close(denoise(plan, *inputs), whole_NC, **CLOSE)


def test_more_rows_than_the_library_takes_are_left_to_torch(compiled):
    inputs = inputs_of([Guidance.text(3.0)] * (compiled.most_rows // 2 + 1))
    expected_NC = denoise(plan_of("ddim", 3, with_library=False), *inputs)
    assert torch.equal(denoise(plan_of("ddim", 3), *inputs), expected_NC)


def test_other_precisions_layouts_and_machines_do_without(monkeypatch, tmp_path):
    head = head_of()
    assert DenoisingHead(head).loop is not None
    assert DenoisingHead(head, dtype=torch.bfloat16).loop is None
    assert DenoisingHead(head, layout="columns").loop is None
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "_processor", lambda: "another processor")
        assert DenoisingHead(head).loop is None
    monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path))
    assert DenoisingHead(head).loop is None
    library_path().parent.mkdir()
    library_path().write_bytes(b"half of a file")
    loop_module._loaded.cache_clear()  # it remembers that there was none
    assert DenoisingHead(head).loop is None


def test_a_user_without_a_home_folder_does_without(monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("ORTHUS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert DenoisingHead(head_of()).loop is None
    with pytest.raises(OutputError, match="no home folder") as refused:
        build()
    assert "ORTHUS_CACHE" in refused.value.hint


def test_a_library_that_others_can_write_is_not_loaded(monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ORTHUS_CACHE", str(cache))
    (cache / "compiled").mkdir(parents=True)
    (cache / "compiled").chmod(0o777)
    file = build().library
    assert library() is not None, "the folder and the file are closed to others"

    def loads() -> bool:
        loop_module._loaded.cache_clear()
        return library() is not None

    for place, mode in ((file, 0o775), (file.parent, 0o775), (cache, 0o757)):
        place.chmod(mode)
        assert not loads(), place
        place.chmod(0o755)
        assert loads()
    cache.chmod(0o777)
    with pytest.raises(OrthusError, match="other users can write"):
        build()
    cache.chmod(0o1777)  # as /tmp, where nobody moves the folders of others
    assert loads()
    if os.getuid():
        monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + 1)
    else:
        os.chown(file, 54321, -1)
    assert not loads()


def test_the_memory_of_the_loop_is_fp32_under_any_default(monkeypatch):
    (loop, made, empty) = DenoisingHead(head_of()).loop, [], torch.empty
    assert loop is not None

    def checked(*size: int, **options) -> torch.Tensor:
        made.append(empty(*size, **options))
        assert made[-1].dtype == torch.float32  # before anything is written there
        return made[-1]

    amounts_TRA = torch.ones(1, 1, 8 * SIZES["width"])
    one = torch.ones(1, 1)
    monkeypatch.setattr(torch, "empty", checked)
    torch.set_default_dtype(torch.bfloat16)
    try:
        updates_TSK = torch.tensor([[[0.0, 1.0]]], dtype=torch.float32)
        noise_NC = torch.ones(1, SIZES["channels"])
        loop.steps(amounts_TRA, torch.zeros(1), one, updates_TSK, [noise_NC])
    finally:
        torch.set_default_dtype(torch.float32)
    assert made


def script(folder: Path, text: str) -> str:
    """A compiler of our own."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_loop_that_computes_something_else_takes_no_place(monkeypatch, tmp_path):
    wrong = tmp_path / "wrong.c"
    wrong.write_text(loop_module.SOURCE.read_text().replace("return x / (", "return x / (1e-3f + "))
    monkeypatch.setattr(loop_module, "SOURCE", wrong)
    monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OrthusError, match="compiled is .* off"):
        build()
    assert not list((tmp_path / "cache" / "compiled").iterdir()) and library() is None


def test_what_a_compiler_says_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", script(tmp_path, "echo 'error: no OpenMP here' >&2; exit 1"))
    with pytest.raises(OrthusError, match="does not compile the loop: error: no OpenMP") as caught:
        build()
    assert "install gcc" in caught.value.hint
    monkeypatch.setenv("CC", script(tmp_path, 'echo > "$9"'))  # the library
    with pytest.raises(OrthusError, match="does not load"):
        build()
    monkeypatch.setenv("PATH", str(tmp_path))
    for nothing in ("", "gcc '"):
        monkeypatch.setenv("CC", nothing)
        with pytest.raises(OrthusError, match="no C compiler"):
            build()
