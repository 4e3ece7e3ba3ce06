"""States written in the background by any number of processes, and loaded by any other number."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from orthus_core.errors import OutputError, TrainingError
from orthus_core.recipe.training import LogRecipe, OptimRecipe
from orthus_core.train import state_files
from orthus_core.train.loop import train
from orthus_core.train.optim import WeightAverage, make_optimizers
from orthus_core.train.runs import TrainingRun
from orthus_core.train.state import ABOUT, saved_steps, state_path
from orthus_core.train.state_saver import Moving, StateSaver, state_bytes
from tests.core.test_train_loop import Fit

RUN = "one"


class Toy(nn.Module):
    """Sizes that no number of processes divides, a weight of one number, a frozen layer, and a
    buffer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.table.weight.by_row = True
        self.layer = nn.Linear(5, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.conv = nn.Conv2d(4, 5, 3)
        self.one = nn.Parameter(torch.zeros(1))
        self.again = self.layer
        self.register_buffer("count_K", torch.zeros(3, dtype=torch.long))


def optim(**changes) -> OptimRecipe:
    fields = dict(lr=1e-2, steps=8, batch_size=8, warmup_steps=2, schedule="cosine", ema_decay=0.9)
    return OptimRecipe(**(fields | changes))


def value_of(name: str, like: Tensor, step: int) -> Tensor:
    """What the whole tensor of this name is after a step, in whatever process."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {step}".encode()))
    return torch.randint(-99, 99, like.shape, generator=generator).to(like.dtype)


def toy(mesh=None, kind: str = "adamw") -> Moving:
    model = Toy()
    if mesh is not None:
        fully_shard(model.layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.table.weight.by_row = True  # sharding makes new parameters
    trained = [p for p in model.parameters() if p.requires_grad]
    recipe = optim(kind=kind)
    return Moving(model, make_optimizers(trained, recipe), WeightAverage(trained, 0.9))


@torch.no_grad()
def fill(moving: Moving, step: int) -> None:
    """Give everything that moves the values of a step, moments of optimisers included."""
    for optimizer in moving.optimizers:
        is_adam = isinstance(optimizer, torch.optim.AdamW)
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            names = ("exp_avg", "exp_avg_sq") if is_adam else ("momentum_buffer",)
            moments = {name: torch.zeros_like(p) for name in names}
            optimizer.state[p] = moments | ({"step": torch.zeros(())} if is_adam else {})
    for name, tensor in moving.tensors().items():
        value = value_of(name, tensor, step)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
        tensor.copy_(value)


def check(moving: Moving, step: int) -> None:
    found = moving.tensors()
    kinds = {name.partition(".")[0] for name in found}
    assert kinds == {"objective", "optimizer", "average"}
    for name, tensor in found.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        assert torch.equal(whole, value_of(name, whole, step)), name
    own = [p for each in moving.optimizers for group in each.param_groups for p in group["params"]]
    assert sum(len(each.state) for each in moving.optimizers) == len(own) == 6


def saver_of(moving: Moving, folder: Path, keep_last: int = 2) -> StateSaver:
    saver = StateSaver()
    saver.attach(TrainingRun(folder, id=RUN), *moving, keep_last=keep_last, origins={"a": 1})
    return saver


def save(moving: Moving, folder: Path, step: int) -> None:
    fill(moving, step)
    with saver_of(moving, folder) as saver:
        saver.save(step)


def load(moving: Moving, folder: Path, step: int) -> None:
    with saver_of(moving, folder) as saver:
        assert saver.load(state_path(folder, step)) == step
    check(moving, step)


def process(rank: int, world: int, folder: str, work: Callable[[Path], None]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    work(Path(folder))
    dist.barrier()
    dist.destroy_process_group()


def on_processes(world: int, folder: Path, work: Callable[[Path], None]) -> None:
    """Do work on several processes that form a group."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.core.toy_data", "orthus_core.train.trainings"])
    (folder / "store").unlink(missing_ok=True)
    started = [
        context.Process(target=process, args=(rank, world, str(folder), work), daemon=True)
        for rank in range(world)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join(120)
    assert [each.exitcode for each in started] == [0] * world


KINDS = ("adamw", "muon")


def work_of_two(folder: Path) -> None:
    mesh = init_device_mesh("cpu", (2,))
    for kind in KINDS:
        load(toy(mesh, kind), folder / kind, 1)
        save(toy(mesh, kind), folder / kind, 2)
        load(toy(mesh, kind), folder / kind, 2)
    # A file that is damaged is seen by one process, and told by both.
    damaged = state_path(folder / "damaged", 2)
    if dist.get_rank() == 0:
        shutil.copytree(state_path(folder / "adamw", 2), damaged)
        flip(damaged / "part-2-of-2.safetensors")
    dist.barrier()
    with pytest.raises(TrainingError, match=r"part-2-of-2.safetensors is not the file"):
        load(toy(mesh), folder / "damaged", 2)
    # A disk that is full for one process is so for both, and the last good state stays.
    save(toy(mesh), folder / "full", 1)
    if dist.get_rank() == 1:
        state_files.write_tensors = no_room
    with pytest.raises(OutputError, match="the disk is full"):
        save(toy(mesh), folder / "full", 2)
    dist.barrier()
    assert names(folder / "full" / "states") == ["step-000001"]
    # What an earlier version saved goes on with one process first.
    if dist.get_rank() == 0:
        as_earlier(toy(), folder / "earlier", 1)
    dist.barrier()
    with pytest.raises(TrainingError, match="of an earlier version") as caught:
        load(toy(mesh), folder / "earlier", 1)
    assert "one process" in caught.value.hint


def work_of_four(folder: Path) -> None:
    mesh = init_device_mesh("cpu", (4,))
    for kind in KINDS:
        for step in (1, 2):
            load(toy(mesh, kind), folder / kind, step)
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    load(toy(both), folder / "adamw", 2)
    save(toy(mesh), folder / "adamw", 3)
    save(toy(both), folder / "adamw", 4)


def no_room(stream, tensors, metadata):
    stream.write(b"half")
    raise OSError(28, "No space left on device")
    yield


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def as_earlier(moving: Moving, folder: Path, step: int, only: bool = False) -> None:
    """Save a state as earlier versions did; those of adapters held only what moves."""
    fill(moving, step)
    weights = moving.objective.state_dict()
    if only:
        weights = {name: weights[name] for name in moving.weights()}
    state = {
        "objective": weights,
        "optimizers": [optimizer.state_dict() for optimizer in moving.optimizers],
        "average": moving.average.averages,
    }
    path = state_path(folder, step)
    path.mkdir(parents=True)
    torch.save(state, path / "state.pt")
    (path / ABOUT).write_text(json.dumps({"step": step, "run": RUN, "origins": {}}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_state_goes_on_at_any_number_of_processes(tmp_path):
    for kind in KINDS:
        save(toy(kind=kind), tmp_path / kind, 1)
        load(toy(kind=kind), tmp_path / kind, 1)
    on_processes(2, tmp_path, work_of_two)
    load(toy(), tmp_path / "adamw", 2)
    load(toy(kind="muon"), tmp_path / "muon", 2)
    on_processes(4, tmp_path, work_of_four)
    assert saved_steps(tmp_path / "adamw") == [3, 4]
    for step in (3, 4):
        load(toy(), tmp_path / "adamw", step)
    parts = sorted(path.name for path in state_path(tmp_path / "adamw", 4).glob("part-*"))
    assert parts == ["part-1-of-4.safetensors", "part-2-of-4.safetensors"], "equal shards but once"


def test_a_state_holds_what_moves_and_nothing_else_and_no_pickle(tmp_path):
    moving = toy()
    save(moving, tmp_path, 1)
    path = state_path(tmp_path, 1)
    assert names(path) == [ABOUT, "part-1-of-1.safetensors"]
    stored = load_file(path / "part-1-of-1.safetensors")
    weights = {name.removeprefix("objective.") for name in stored if name.startswith("objective")}
    model = moving.objective
    moves = {name for name, p in model.named_parameters() if not name.startswith("frozen")}
    assert weights == moves | {"count_K"}
    assert stored.keys() == moving.tensors().keys()
    for kind in KINDS:
        of_kind = toy(kind=kind)
        fill(of_kind, 1)
        size = sum(tensor.nbytes for name, tensor in of_kind.tensors().items())
        steps = sum(tensor.nbytes for name, tensor in of_kind.tensors().items() if not tensor.ndim)
        assert state_bytes(of_kind.objective, optim(kind=kind)) == size - steps
    about = json.loads((path / ABOUT).read_text())
    assert about["step"] == 1 and about["run"] == RUN and about["origins"] == {"a": 1}
    (record,) = about["files"]
    content = (path / record["name"]).read_bytes()
    assert record["bytes"] == len(content) and record["crc32"] == zlib.crc32(content)


@pytest.mark.parametrize("only", [False, True], ids=["whole", "adapters"])
def test_a_state_of_an_earlier_version_goes_on(only, tmp_path):
    before = toy()
    nn.init.ones_(before.objective.frozen.weight)
    as_earlier(before, tmp_path, 1, only)
    after = toy()
    load(after, tmp_path, 1)
    assert bool((after.objective.frozen.weight == 1).all()) != only, "frozen ones where it has them"
    state = torch.load(state_path(tmp_path, 1) / "state.pt", weights_only=True)
    name = next(name for name in state["objective"] if "layer" in name)
    del state["objective"][name]
    torch.save(state, state_path(tmp_path, 1) / "state.pt")
    with pytest.raises(TrainingError, match=f"it has no {name}"):
        load(toy(), tmp_path, 1)


class Wider(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.zeros(2))


class More(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Parameter(torch.zeros(1))


class Fewer(Toy):
    def __init__(self) -> None:
        super().__init__()
        del self.one


def cut(folder: Path, part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-9])


def unlinked(folder: Path, part: Path) -> None:
    part.unlink()


def flipped(folder: Path, part: Path) -> None:
    flip(part)


def foreign(folder: Path, part: Path) -> None:
    other = state_path(folder, 2) / part.name
    assert other.stat().st_size == part.stat().st_size
    shutil.copyfile(other, part)


def outside(folder: Path, part: Path) -> None:
    about = part.parent / ABOUT
    about.write_text(about.read_text().replace(part.name, f"../{part.name}"))


def no_records(folder: Path, part: Path) -> None:
    about = part.parent / ABOUT
    about.write_text(json.dumps(json.loads(about.read_text()) | {"files": 3}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, r"part-1-of-1\.safetensors has \d+ of its \d+ bytes"),
        (unlinked, r"part-1-of-1\.safetensors is missing"),
        (flipped, r"part-1-of-1\.safetensors is not the file that was written"),
        (foreign, r"part-1-of-1\.safetensors is not the file that was written"),
        (outside, r"\.\./part-1-of-1\.safetensors lies outside of the folder"),
        (no_records, "does not read"),
        (Wider, r"objective\.one has the shape \[1\], not \[2\]"),
        (More, "it has no objective.two"),
        (Fewer, "it has average.one, which does not move here"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_damaged_or_foreign_state_is_refused_by_name(damage, told, tmp_path, monkeypatch):
    save(toy(), tmp_path, 1)
    save(toy(), tmp_path, 2)
    if isinstance(damage, type):
        monkeypatch.setitem(globals(), "Toy", damage)
    else:
        damage(tmp_path, state_path(tmp_path, 1) / "part-1-of-1.safetensors")
    moving = toy()
    with pytest.raises(TrainingError, match=told) as caught:
        load(moving, tmp_path, 1)
    assert caught.value.where == str(state_path(tmp_path, 1))
    assert "resume from the one before it" in caught.value.hint


class Gate:
    """Writing waits here until it is opened."""

    def __init__(self, monkeypatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        write = state_files.write_tensors

        def gated(*arguments):
            self.reached.set()
            assert self.opened.wait(60)
            yield from write(*arguments)

        monkeypatch.setattr(state_files, "write_tensors", gated)


def test_a_step_goes_on_while_a_state_is_written_and_the_next_one_waits(tmp_path, monkeypatch):
    moving, gate = toy(), Gate(monkeypatch)
    fill(moving, 1)
    with saver_of(moving, tmp_path) as saver:
        saver.save(1)
        assert gate.reached.wait(60) and saved_steps(tmp_path) == []
        fill(moving, 2)  # what is written must not be
        threading.Timer(0.2, gate.opened.set).start()
        saver.save(2)
        assert saved_steps(tmp_path)[:1] == [1], "one at a time"
    assert saved_steps(tmp_path) == [1, 2], "it is waited for"
    for step in (1, 2):
        load(toy(), tmp_path, step)


@pytest.mark.parametrize("ends", ["error", "closed"])
def test_an_end_in_between_waits_for_what_is_written(ends, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    stage = Fit(poison_at=3 if ends == "error" else -1)
    log = LogRecipe(every=1, sample_every=0, save_every=3, keep_last=2)
    events = train(stage, optim=optim(), log=log, seed=0, folder=tmp_path)
    if ends == "error":
        threading.Timer(0.3, gate.opened.set).start()
        with pytest.raises(TrainingError, match="step 3") as caught:
            list(events)
        assert "after step 3, the last good state" in caught.value.hint
    else:
        assert [next(events).step for _ in range(4)] == [1, 2, 3, 4]
        assert gate.reached.wait(60) and saved_steps(tmp_path) == []
        threading.Timer(0.3, gate.opened.set).start()
        events.close()
    assert saved_steps(tmp_path) == [3]


def test_a_full_disk_is_told_at_the_next_state_and_the_last_good_one_stays(tmp_path):
    moving = toy()
    saver = saver_of(moving, tmp_path, keep_last=1)
    save(moving, tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        saver.save(2)
        saver._join()
        for wait in (False, True):
            with pytest.raises(OutputError, match="the disk is full") as caught:
                saver.save(3, wait=wait)
            assert "--resume auto" in caught.value.hint
            assert caught.value.where == str(state_path(tmp_path, 3 if wait else 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path / "states") == ["step-000001"]
    load(toy(), tmp_path, 1)
    save(moving, tmp_path, 4)
    load(toy(), tmp_path, 4)


def saves_slowly(folder: str) -> None:
    write = state_files.Summed.write

    def slowly(self, data) -> None:
        write(self, data)
        self.stream.flush()
        time.sleep(0.2)

    state_files.Summed.write = slowly
    save(toy(), Path(folder), 2)


def test_a_process_killed_while_it_writes_leaves_the_last_state_and_no_other(tmp_path):
    save(toy(), tmp_path, 1)
    context = multiprocessing.get_context("forkserver")
    killed = context.Process(target=saves_slowly, args=(str(tmp_path),))
    killed.start()
    while killed.is_alive() and not list((tmp_path / "states").glob(".*/part-*")):
        time.sleep(0.01)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert saved_steps(tmp_path) == [1] and len(names(tmp_path / "states")) == 2
    load(toy(), tmp_path, 1)
    save(toy(), tmp_path, 2)
    assert names(tmp_path / "states") == ["step-000001", "step-000002"], "what it left is cleared"
    load(toy(), tmp_path, 2)
