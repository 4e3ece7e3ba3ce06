"""Several processes that share what they train end with what one process does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from orthus_core.errors import OrthusError, RecipeError, TrainingError
from orthus_core.events import StepDone
from orthus_core.recipe import BuildBaseRecipe, FinetuneVaeRecipe, PosttrainRecipe, load
from orthus_core.train import distributed, heartbeat, loop, sharding
from orthus_core.train.sharded_tensors import is_sharded, local
from orthus_core.train.trainings import build_base, finetune_vae, posttrain
from tests.core.test_regression_head import write_regression_model
from tests.core.test_train_devices import free_port
from tests.core.toy_data import interleaved
from tests.discrete import write_tiny_chameleon

STEPS = 20
COMMON = (
    f"optim.steps={STEPS}",
    "optim.batch_size=8",
    "optim.warmup_steps=1",
    "optim.lr=0.001",
    "log.every=1",
    "log.sample_every=0",
    "log.save_every=0",
    "log.validate_every=10",
    "log.validate_rows=5",
    "data.held_out=0.3",
)
SHEET = f"samples/step-{STEPS:06d}.png"
CHECKPOINTED = "devices.checkpoint_activations=true"

Case = tuple[str, tuple[str, ...]]  # the training, and what its recipe sets


def run_cases(cases: Mapping[str, Case], starts: Mapping[str, str], folder: str) -> None:
    """Train each case from a model in STARTS into FOLDER/NAME, in this process."""
    kinds = {
        "posttrain": (PosttrainRecipe, posttrain, "orthus"),
        "build-base": (BuildBaseRecipe, build_base, "orthus"),
        "finetune-vae": (FinetuneVaeRecipe, finetune_vae, "orthus"),
        "discrete": (PosttrainRecipe, posttrain, "chameleon"),
        "regression": (PosttrainRecipe, posttrain, "mse"),
    }
    layouts: list[Any] = []
    lay_out = loop.lay_out

    def noted(*args: Any, **kwargs: Any) -> Any:
        layouts.append(lay_out(*args, **kwargs))
        return layouts[-1]

    loop.lay_out = noted
    for name, (kind, sets) in cases.items():
        schema, run, start = kinds[kind]
        place = Path(folder) / name
        recipe = load(schema, None, sets)
        steps = [e.metrics for e in run(recipe, starts[start], place) if isinstance(e, StepDone)]
        layout = layouts.pop()
        facts = {
            "steps": steps,
            "sharded": [is_sharded(p) for p in layout.parameters],
            "of": sum(p.numel() for p in layout.parameters),
            "held": sum(local(p).numel() for p in layout.parameters),
        }
        rank = os.environ.get("RANK", "0")
        place.with_name(f"{name}-{rank}.json").write_text(json.dumps(facts))
    loop.lay_out = lay_out


def _process(
    rank: int, count: int, port: str, do: Callable[..., None], arguments: tuple[Any, ...], log: str
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(to, 1)
    os.dup2(to, 2)
    do(*arguments)


def begin(count: int, do: Callable[..., None], *arguments: Any, logs: Path) -> list[Any]:
    """So many processes that meet, each of which does the same; they write to LOGS/log-RANK.txt."""
    logs.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.core.test_train_sharding"])
    port = free_port()
    processes = [
        context.Process(
            target=_process, args=(r, count, port, do, arguments, str(logs / f"log-{r}.txt"))
        )
        for r in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def together(
    count: int, cases: Mapping[str, Case], starts: Mapping[str, str], folder: Path
) -> None:
    """Train the cases by so many processes."""
    processes = begin(count, run_cases, dict(cases), starts, str(folder), logs=folder)
    for rank, process in enumerate(processes):
        process.join()
        assert process.exitcode == 0, (folder / f"log-{rank}.txt").read_text()


def facts(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def check_same(alone: Path, other: Path, name: str) -> None:
    one, many = facts(alone, plain(name))["steps"], facts(other, name)["steps"]
    assert len(one) == len(many) == STEPS
    for step, (a, b) in enumerate(zip(one, many, strict=True)):
        assert a.keys() == b.keys()
        for figure in a:
            close = pytest.approx(b[figure], rel=LOOSE.get(name, 1e-5), abs=1e-5)
            assert a[figure] == close, (step, figure)
    folders = (alone / plain(name), other / name)
    files = [next(folder.glob("*.safetensors")) for folder in folders]
    if name != "adapters":
        one, many = ((folder / "config.json").read_text() for folder in folders)
        assert one == many
    weights, others = map(load_file, files)
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        if name == "decoder" and key.endswith("conv1.bias"):
            continue  # a norm takes it away, so its gradient is rounding alone; see CRITIC
        assert (weight - others[key]).abs().max() <= 1e-5, key
    sheets = [folder.with_name(f"{folder.name}.training") / SHEET for folder in folders]
    assert sheets[0].is_file() == sheets[1].is_file() == (DRAWN in (PAIR | FOUR)[name][1])
    if sheets[0].is_file():
        drawn, also = (np.asarray(Image.open(sheet).convert("RGB"), int) for sheet in sheets)
        assert drawn.std() > 10 and abs(drawn - also).max() <= 2


DRAWN = f"log.sample_every={STEPS}"
FULL = (
    *("optim.ema_decay=0.9", "interpolation=0.75"),
    *("patch_share=0.5", "prefix_noise=0.1", DRAWN),
)
CRITIC = (
    # AdamW makes long steps of gradients that are zero up to rounding, as of biases before a norm.
    *("optim.lr=1e-5", "feature_noise=0.2"),
    *("losses.adversarial=0.5", "discriminator.start=5", "discriminator.levels=1"),
    *("discriminator.channels=8", "discriminator.penalty=0.1", "discriminator.augment=true"),
)
MUON = ("optim.kind=muon",)
# A new critic's gradient is small, and the adaptive weight divides by it: rounding, which differs
# from processor to processor, comes out 3e-4 large.
LOOSE = {"decoder": 1e-3}
MORE = ("optim.accumulate=2", "data.packing=true")


def check_sharded(folder: Path, name: str) -> None:
    """Check that a process had a part of every parameter, or all of each where that is wanted."""
    found = facts(folder, name)
    assert found["sharded"] and set(found["sharded"]) == {name not in WHOLE}
    held = sum(json.loads(each.read_text())["held"] for each in folder.glob(f"{name}-*.json"))
    copies = {"hybrid": 2, "whole": 4, "decoder": 2}.get(name, 1)
    assert held == copies * found["of"]


PAIR: dict[str, Case] = {
    "full": ("posttrain", FULL),
    "frozen": ("build-base", ("optim.clip_norm=0.1", "temperature.start=0.5")),
    "muon": ("posttrain", (*MUON, *MORE, CHECKPOINTED)),
    "adapters": ("posttrain", ("lora.rank=4", DRAWN, CHECKPOINTED)),
    "codes": ("discrete", (*MORE, DRAWN)),
    "regression": ("regression", ("input_noise=0.5", DRAWN)),
    "decoder": ("finetune-vae", CRITIC),
    # One row each, so that often a process has a picture and the other has none.
    "texts": ("posttrain", ("optim.batch_size=2",)),
}
FOUR: dict[str, Case] = {
    "hybrid": ("posttrain", (*MUON, *MORE, "devices.replicas=2")),
    "four": ("posttrain", FULL),
    "whole": ("posttrain", (*FULL, "devices.sharding=none")),
}
WHOLE = ("whole", "decoder")  # nothing of them is sharded


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    source = interleaved(tmp_path_factory.mktemp("rows") / "rows")
    texts = source.with_name("texts.jsonl")
    segments = [{"type": "text", "role": role, "value": role} for role in ("user", "model")]
    lines = [json.dumps({"segments": segments, "id": f"text {n}"}) for n in range(20)]
    texts.write_text(source.read_text() + "\n".join(lines) + "\n")
    return {
        name: (kind, (*COMMON, of_data(texts if name == "texts" else source), *more))
        for name, (kind, more) in (PAIR | FOUR).items()
    }


def of_data(source: Path) -> str:
    return f"data.source={json.dumps(str(source))}"


def plain(name: str) -> str:
    """The name under which one device trains a case in the plain way."""
    kind, sets = (PAIR | FOUR)[name]
    return "".join(c if c.isalnum() else "_" for c in "".join((kind, *without_devices(sets))))


def without_devices(sets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(each for each in sets if not each.startswith("devices."))


@pytest.fixture(scope="module")
def starts(tiny_folder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The models that the cases begin with."""
    chameleon = write_tiny_chameleon(tmp_path_factory.mktemp("models") / "chameleon", tiny_folder)
    regression = write_regression_model(chameleon.with_name("mse"), tiny_folder)
    return {"orthus": str(tiny_folder), "chameleon": str(chameleon), "mse": str(regression)}


@pytest.fixture(scope="module")
def alone(cases, starts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process does, in the plain way."""
    folder = tmp_path_factory.mktemp("alone")
    distinct = {plain(name): (kind, without_devices(s)) for name, (kind, s) in cases.items()}
    run_cases(distinct, starts, str(folder))
    return folder


@pytest.fixture(scope="module")
def pair(cases, starts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes do."""
    folder = tmp_path_factory.mktemp("pair")
    together(2, {name: cases[name] for name in PAIR}, starts, folder)
    return folder


@pytest.fixture(scope="module")
def four(cases, starts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes do."""
    folder = tmp_path_factory.mktemp("four")
    together(4, {name: cases[name] for name in FOUR}, starts, folder)
    return folder


@pytest.mark.parametrize("name", PAIR)
def test_two_processes_train_as_one(alone, pair, name):
    check_same(alone, pair, name)
    check_sharded(pair, name)
    assert not any(facts(alone, plain(name))["sharded"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_four_processes_train_as_one(alone, four, name):
    check_same(alone, four, name)
    check_sharded(four, name)


def train_and_freeze(start: str, sets: tuple[str, ...], output: str, dies: int, how: str) -> None:
    """A long training, in which one process is stopped by a signal at the third step."""
    heartbeat.BEAT, heartbeat.LONGEST_SILENCE, heartbeat.GRACE = 0.2, 2.0, 1.0
    recipe = load(PosttrainRecipe, None, (*sets, "optim.steps=100000"))
    try:
        for event in posttrain(recipe, start, Path(output)):
            if isinstance(event, StepDone) and event.step == 3 and os.environ["RANK"] == str(dies):
                os.kill(os.getpid(), getattr(signal, how))
    except OrthusError as error:
        print(f"{error.message}; {error.hint}", flush=True)
        sys.exit(1)


@pytest.mark.parametrize(
    ("dies", "how"),
    [(1, "SIGKILL"), (1, "SIGSTOP"), pytest.param(0, "SIGKILL", marks=pytest.mark.slow)],
)
def test_when_a_process_dies_the_other_ends_and_says_so(cases, tiny_folder, tmp_path, dies, how):
    sets = cases["full"][1]
    arguments = (str(tiny_folder), sets, str(tmp_path / "out"), dies, how)
    processes = begin(2, train_and_freeze, *arguments, logs=tmp_path / "logs")
    other = processes[1 - dies]
    other.join(60)
    told = (tmp_path / "logs" / f"log-{1 - dies}.txt").read_text()
    for process in processes:
        process.kill()
    assert other.exitcode == 1, told
    assert "so this one ends as well" in told and "--resume auto" in told
    if dies:
        assert "process 1 has not been heard of" in told


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of the first of two processes; the other never comes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        monkeypatch.setattr(distributed, "MEETING", timedelta(seconds=1))
        yield monkeypatch


def refused() -> str:
    with pytest.raises(TrainingError) as error:
        distributed.meet.__wrapped__()
    return f"{error.value.message}; {error.value.hint}"


def test_a_taken_port_is_named(launched):
    assert os.environ["MASTER_PORT"] in refused() and "--master-port" in refused()


def test_processes_that_do_not_come_are_waited_for_only_so_long(launched):
    launched.setenv("MASTER_PORT", free_port())
    assert "all 2 processes have to start within" in refused()


def test_what_torch_lacks_is_said(launched):
    with launched.context() as old:
        old.setattr(torch, "__version__", "2.5.1+cpu")
        assert "2.6 or later" in refused()
    launched.setattr(torch.distributed, "is_gloo_available", lambda: False)
    assert "without gloo" in refused()


def test_a_launcher_that_started_one_process_for_two_is_refused(launched):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        launched.delenv(name)
    launched.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "--multi_gpu" in refused()
    launched.delenv("MASTER_PORT")  # as accelerate does when it was asked for one
    assert distributed.meet.__wrapped__() == distributed.Rank()


def test_processes_that_would_train_something_else_are_named(monkeypatch):
    facts = {"the versions": "torch 2.13", "rows": "100 rows"}
    monkeypatch.setattr(sharding, "gather_each", lambda own: [own, own, own | {"rows": "99 rows"}])
    with pytest.raises(TrainingError, match="rows: '100 rows' on process 0, '99.*process 2"):
        sharding.check_alike(facts)
    monkeypatch.setattr(sharding, "gather_each", lambda own: [own, own])
    sharding.check_alike(facts)


@pytest.mark.parametrize(
    ("sets", "shards", "replicas"),
    [
        ((), 4, 1),
        (("devices.replicas=2",), 4, 2),
        (("devices.replicas=3",), 4, "do not divide"),
        (("devices.sharding=hybrid",), 4, 2),
        (("devices.replicas=3",), 1, 1),
    ],
)
def test_replicas_are_groups_of_one_size(monkeypatch, sets, shards, replicas):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # processes of this machine
    devices = load(PosttrainRecipe, None, sets).devices
    if isinstance(replicas, int):
        assert sharding.check_replicas(devices, shards) == replicas
    else:
        with pytest.raises(TrainingError, match=replicas):
            sharding.check_replicas(devices, shards)


def test_only_hybrid_sharding_has_replicas():
    with pytest.raises(RecipeError, match="only hybrid has replicas"):
        load(PosttrainRecipe, None, ("devices.sharding=none", "devices.replicas=2"))
