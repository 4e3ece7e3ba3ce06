"""Launches of several processes that go wrong: one of them says why in its own words, all end, and
nothing is lost.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orthus_cli.app import main
from orthus_core.errors import TrainingError
from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.train import batches, distributed, heartbeat, loop, runs, state_files
from orthus_core.train.state import ABOUT, saved_steps
from orthus_core.train.trainings import posttrain
from tests.core.test_train_devices import free_port
from tests.core.toy_data import interleaved

SETS = (
    "optim.steps=6",
    "optim.batch_size=4",
    "optim.warmup_steps=1",
    "log.every=1",
    "log.sample_every=0",
    "log.save_every=2",
    "log.validate_every=0",
    "data.held_out=0.2",
)
LONGEST = 60.0  # seconds in which all processes have to end


@dataclass(frozen=True)
class Launch:
    """A launch of `orthus posttrain` by several processes.

    Attributes:
        told: What one of them says, with its own `next:`; "" when nothing is wrong.
        by_each: Whether each of them says so.
        ranks: RANK of each process.
        world: WORLD_SIZE of all.
        here: Changes of the environment, by the place of a process in `ranks`, or -1 for all.
        words: Further words of the command, likewise; FOLDER is the folder of the case.
        fault: What goes wrong in a process, likewise.
        codes: Exit codes that may be.
        begun: Whether the folder has states of steps 2 and 4 already; they stay.
        steps: Steps whose states are there in the end, where not those.
    """

    told: str
    ranks: tuple[Any, ...] = (0, 1)
    world: Any = 2
    here: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    words: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    fault: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    codes: tuple[int, ...] = (1,)
    begun: bool = False
    damage: Callable[[Path], None] | None = None
    steps: tuple[int, ...] = ()
    by_each: bool = False


def changes(*changed: str) -> tuple[str, ...]:
    return tuple(word for change in changed for word in ("--set", change))


def once_after(step: int, fault: Callable[[], Any]) -> None:
    update = loop.WeightAverage.update

    def updated(average: Any, done: int) -> None:
        update(average, done)
        if done + 1 == step:
            fault()

    loop.WeightAverage.update = updated  # type: ignore[method-assign]


def killed() -> None:
    once_after(3, lambda: os.kill(os.getpid(), signal.SIGKILL))


def terminated() -> None:
    once_after(3, lambda: os.kill(os.getpid(), signal.SIGTERM))


def interrupted() -> None:
    once_after(3, lambda: os.kill(os.getpid(), signal.SIGINT))


def interrupted_twice() -> None:
    once_after(3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])


def fails() -> None:
    def fail() -> None:
        raise KeyError("of a plugin")

    once_after(3, fail)


def lacks_memory() -> None:
    def lack() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    once_after(3, lack)


def finds_no_number() -> None:
    figures_of, calls = loop.figures_of, iter(range(100))

    def found(losses: Any) -> dict[str, float]:
        return figures_of(losses) | ({"total": float("nan")} if next(calls) == 2 else {})

    loop.figures_of = found


def has_a_full_disk() -> None:
    write_data = state_files.FilesWriter.write_data

    def write(*arguments: Any) -> Any:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            return write_data(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    state_files.FilesWriter.write_data = write  # type: ignore[method-assign]


def may_not_write() -> None:
    mkdir = Path.mkdir

    def refused(path: Path, *arguments: Any, **more: Any) -> None:
        if "launch" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *arguments, **more)

    Path.mkdir = refused  # type: ignore[method-assign]


def sees_no_states() -> None:
    runs.saved_steps = lambda folder: []


def has_no_data() -> None:
    opened = batches.open_source
    batches.open_source = lambda name, source, **more: opened(
        name, replace(source, path="/nowhere"), **more
    )


def is_impatient() -> None:
    distributed.MEETING, distributed.NAME_KNOWN = timedelta(seconds=2), timedelta(seconds=1)


def has_no_gloo() -> None:
    torch.distributed.is_gloo_available = lambda: False


def has_an_old_torch() -> None:
    torch.__version__ = "2.5.1"  # type: ignore[assignment]


def has_another_version() -> None:
    import orthus_core

    orthus_core.__version__ = "0.0.1"


def flip(folder: Path) -> None:
    part = max((folder / "out.training" / "states").glob("*/part-*"))
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)


def as_an_earlier_version(folder: Path) -> None:
    for state in (folder / "out.training" / "states").iterdir():
        about = json.loads((state / ABOUT).read_text())
        about.pop("files")
        (state / ABOUT).write_text(json.dumps(about))
        (state / "part-1-of-1.safetensors").rename(state / "state.pt")


RESUMED = ("--resume", "auto")
IMPATIENT = {-1: is_impatient}
NO_STEPS: dict[str, Launch] = {
    "two processes with one rank": Launch("two processes have RANK=1", (0, 1, 1), 3),
    "figures saved at other steps": Launch(
        "do not agree on log.save_every: 2 on process 0, 1 on process 1",
        words={1: changes("log.save_every=1")},
    ),
    "a batch that three cannot share": Launch(
        "a batch of 32 rows cannot be shared evenly by 3.*such as 33",
        (0, 1, 2),
        3,
        words={-1: (*changes("optim.batch_size=32"), "--init-from", "/not/opened")},
    ),
    "begun anew by the first, resumed by the other": Launch(
        "do not agree on the saved state: None on process 0, .*step-000004",
        words={0: ("--overwrite",), 1: RESUMED},
        begun=True,
    ),
    "one without the data": Launch(
        "process 1 has ended: there is no such file or folder", fault={1: has_no_data}
    ),
    "one may not write": Launch("states could not be written", fault={1: may_not_write}),
}
STEPS: dict[str, Launch] = {
    "the disk of one is full": Launch("the disk is full", fault={1: has_a_full_disk}, by_each=True),
    "Ctrl-C to one": Launch(
        "stopped after step 3", fault={1: interrupted}, codes=(130,), steps=(2, 3)
    ),
}
SLOW: dict[str, Launch] = {
    "begun anew by one": Launch(
        "there is a run here already", words={1: ("--overwrite",)}, begun=True
    ),
    "no number on one": Launch(
        "the loss is nan at step 2.*goes on after step 2",
        fault={1: finds_no_number},
        steps=(2,),
        by_each=True,
    ),
    "one lacks memory": Launch("the memory is full", fault={1: lacks_memory}, steps=(2,)),
    "another output": Launch("do not agree on the output", words={1: ("-o", "FOLDER/other")}),
    "sharded by one": Launch(
        "do not agree on devices.sharding", words={1: changes("devices.sharding=none")}
    ),
    "counts differ": Launch(
        "WORLD_SIZE is . for one process, . for another", here={1: {"WORLD_SIZE": 3}}
    ),
    "nothing is wrong": Launch("", codes=(0,), steps=(4, 6)),
    "a rank too many": Launch(
        "RANK is 2, and the ranks of 2 processes are 0 to 1", (0, 2), fault=IMPATIENT
    ),
    "two first ones": Launch("the port .* is taken.*RANK=0", (0, 0), fault=IMPATIENT),
    "the first alone": Launch("has not met the others.*clients", (0,), fault=IMPATIENT),
    "the other alone": Launch("has not met the others.*refused", (1,), fault=IMPATIENT),
    "three counted, two wait": Launch(
        "WORLD_SIZE is . for one", (0, 1, 2), 3, here={0: {"WORLD_SIZE": 2}}
    ),
    "an unknown machine": Launch(
        "no machine is known by the name 'no-such-host.invalid'",
        here={1: {"MASTER_ADDR": "no-such-host.invalid"}},
        fault=IMPATIENT,
    ),
    "one without gloo": Launch("built without gloo", fault=IMPATIENT | {1: has_no_gloo}),
    "one with an old torch": Launch("too old", fault=IMPATIENT | {1: has_an_old_torch}),
    "one of another version": Launch("agree on the versions", fault={1: has_another_version}),
    "started twice, without a launcher": Launch(
        "a training is at work here|a run here already",
        (None, None),
        None,
        codes=(0, 1),
        steps=(4, 6),
    ),
    "groups of unequal size": Launch(
        "2 processes do not divide into 3 groups", words={-1: changes("devices.replicas=3")}
    ),
    "another seed": Launch("agree on seed: 0 on .* 5 on", words={1: changes("seed=5")}),
    "another recipe": Launch(
        "there is no recipe 'none.toml'", words={1: ("none.toml",)}, fault=IMPATIENT
    ),
    "no model on one": Launch("there is no model", words={1: ("--init-from", "/nowhere")}),
    "resumed by one": Launch("there is a run here already", words={1: RESUMED}, begun=True),
    "begun anew by the other, resumed by the first": Launch(
        "do not agree on the saved state", words={0: RESUMED, 1: ("--overwrite",)}, begun=True
    ),
    "one sees no states": Launch(
        "do not agree on the saved state",
        words={-1: RESUMED},
        fault={1: sees_no_states},
        begun=True,
    ),
    "states of another recipe": Launch(
        "the saved state was made with optim.lr = 1e-05, now 0.5",
        words={-1: (*RESUMED, *changes("optim.lr=0.5"))},
        begun=True,
    ),
    "a damaged state": Launch(
        "is not the file that was written", words={-1: RESUMED}, begun=True, damage=flip
    ),
    "a state of an earlier version at four": Launch(
        "of an earlier version, which saved whole tensors",
        (0, 1, 2, 3),
        4,
        words={-1: RESUMED},
        begun=True,
        damage=as_an_earlier_version,
    ),
    "the disk of the first is full": Launch("the disk is full", fault={0: has_a_full_disk}),
    "the first may not write": Launch("could not be written", fault={0: may_not_write}),
    "one may not write, and need not": Launch(
        "",
        fault={1: may_not_write},
        words={-1: changes("devices.sharding=none")},
        codes=(0,),
        steps=(4, 6),
    ),
    "one is killed": Launch("so this one ends", fault={1: killed}, codes=(1, -9)),
    "the first is killed": Launch("so this one ends", fault={0: killed}, codes=(1, -9)),
    "one is told to end": Launch("so this one ends", fault={1: terminated}, codes=(1, -15)),
    "Ctrl-C to all": Launch("stopped", fault={-1: interrupted}, codes=(130,), steps=(2, 3)),
    "Ctrl-C twice to one": Launch(
        "process 1 has ended: it was stopped", fault={1: interrupted_twice}, codes=(1, 130)
    ),
    "a plugin fails on one": Launch("KeyError: 'of a plugin'", fault={1: fails}, steps=(2,)),
    "a plugin fails on the first": Launch(
        "process 0 has ended: KeyError: 'of a plugin'", fault={0: fails}, steps=(2,)
    ),
    "held-out rows that two cannot share": Launch(
        "on held-out rows after step 2",
        words={-1: changes("log.validate_every=2", "log.validate_rows=3")},
        codes=(0,),
        steps=(4, 6),
    ),
}


def _process(
    environment: Mapping[str, str],
    words: list[str],
    log: str,
    faults: list[Callable[[], None]],
) -> None:
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    heartbeat.BEAT, heartbeat.LONGEST_SILENCE, heartbeat.GRACE = 0.2, 6.0, 1.0
    distributed.MEETING = timedelta(seconds=2 * LONGEST)
    for fault in faults:
        fault()
    sys.argv = ["orthus", *words]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


@dataclass(frozen=True)
class Place:
    """Where launches take place: a model, rows, and the states of a training of four steps."""

    model: Path
    source: Path
    begun: Path

    def start(self, case: Launch, folder: Path, *, port: str = "", log: str = "log") -> list[Any]:
        """The processes of a launch; they write to LOG-PLACE.txt in the folder."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.core.test_train_launches"])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or free_port()}
        processes = []
        for place, rank in enumerate(case.ranks):
            own = {"RANK": rank, "LOCAL_RANK": place, "WORLD_SIZE": case.world}
            own |= {**meeting, "ACCELERATE_USE_CPU": "true", **case.here.get(place, {})}
            environment = {name: str(value) for name, value in own.items() if value is not None}
            words = ["posttrain", "--init-from", str(self.model), "-o", str(folder / "out")]
            words += changes(*SETS, f"data.source={json.dumps(str(self.source))}")
            more = (*case.words.get(-1, ()), *case.words.get(place, ()))
            words += [word.replace("FOLDER", str(folder)) for word in more]
            faults = [case.fault[each] for each in (-1, place) if each in case.fault]
            path = str(folder / f"{log}-{place}.txt")
            processes.append(
                context.Process(target=_process, args=(environment, words, path, faults))
            )
            processes[-1].start()
        return processes


def ended(processes: list[Any]) -> list[int | None]:
    """Exit codes of processes; None of one that did not end in time."""
    end = time.monotonic() + LONGEST
    for process in processes:
        process.join(max(0.1, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("launches")
    source = interleaved(folder / "rows")
    recipe = load(PosttrainRecipe, None, (*SETS, f"data.source={json.dumps(str(source))}"))
    done: list[Any] = []
    events = posttrain(recipe, tiny_folder, folder / "out", should_stop=lambda: len(done) > 3)
    done.extend(event for event in events if hasattr(event, "metrics"))
    return Place(tiny_folder, source, folder / "out.training")


def check_launch(case: Launch, place: Place, folder: Path) -> None:
    folder.mkdir()
    kept = folder / "out.training"
    if case.begun:
        shutil.copytree(place.begun, kept)
        if case.damage:
            case.damage(folder)
    before = files(kept / "states")
    codes = ended(place.start(case, folder))
    texts = [(folder / f"log-{n}.txt").read_text() for n in range(len(case.ranks))]
    assert set(codes) <= set(case.codes), texts
    assert not any("Traceback" in text for text in texts), texts
    told = [" ".join(text.split()) for text in texts]
    if case.told:
        found = [re.search(case.told, text) is not None for text in told]
        assert all(found) if case.by_each else any(found), told
        assert 0 in codes or 130 in codes or any(" next: " in text for text in told), told
    if case.begun:
        assert files(kept / "states") == before
    elif case.steps:
        assert tuple(saved_steps(kept)) == case.steps
    left = [path.name for path in folder.rglob(".*")]
    assert left == [] or -9 in codes or -15 in codes, left
    assert (folder / "out").exists() == (0 in codes)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", [*NO_STEPS, *STEPS, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_a_bad_launch_says_why_and_all_processes_end(name, place, tmp_path):
    check_launch((NO_STEPS | STEPS | SLOW)[name], place, tmp_path / "launch")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": 1}, "RANK is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": 2}, "WORLD_SIZE is set and RANK is not"),
        ({"RANK": 2, "WORLD_SIZE": 2}, "RANK is 2, and the ranks of 2 processes are 0 to 1"),
        ({"RANK": -1, "WORLD_SIZE": 2}, "RANK is -1"),
        ({"RANK": "one", "WORLD_SIZE": 2}, "RANK is no number: 'one'"),
        ({"RANK": 0, "WORLD_SIZE": 0}, "WORLD_SIZE is 0"),
        ({"RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 1}, "MASTER_ADDR is not set"),
        ({"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "here"}, "MASTER_PORT is not set"),
        (
            {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "here", "MASTER_PORT": 70_000},
            "MASTER_PORT is 70000, and ports are 1 to 65535",
        ),
    ],
)
def test_half_of_an_environment_is_no_launch(environment, told, monkeypatch):
    set_environment(monkeypatch, environment)
    with pytest.raises(TrainingError, match=told) as error:
        distributed.meet.__wrapped__()
    assert "torchrun" in error.value.hint


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": 1}, {"RANK": 0, "WORLD_SIZE": 1}])
def test_a_launch_of_one_process_needs_no_meeting(environment, monkeypatch):
    set_environment(monkeypatch, environment)
    assert distributed.meet.__wrapped__() == distributed.Rank()


def test_processes_of_one_machine_do_not_take_the_same_gpu(monkeypatch):
    set_environment(monkeypatch, {"RANK": 1, "WORLD_SIZE": 2})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(TrainingError, match="LOCAL_RANK is not set"):
        distributed._own_card()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed._own_card() == 1


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, Any]) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.slow
def test_two_launches_into_one_folder_are_one(place, tmp_path):
    folder = tmp_path / "launch"
    folder.mkdir()
    case = Launch("", words={-1: changes("optim.steps=20")})
    first, second = (place.start(case, folder, log=f"log-{n}") for n in range(2))
    codes = sorted([ended(first), ended(second)])
    assert codes == [[0, 0], [1, 1]]
    texts = [path.read_text() for path in folder.glob("log-*.txt")]
    assert any("a training is at work here: process" in text for text in texts), texts
    assert saved_steps(folder / "out.training")[-1] == 20 and (folder / "out").is_dir()


def test_a_taken_port_ends_all_processes(place, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        codes = ended(place.start(Launch("", fault={-1: is_impatient}), tmp_path, port=port))
    assert codes == [1, 1]
    first, other = ((tmp_path / f"log-{n}.txt").read_text() for n in range(2))
    assert f"taken: 127.0.0.1:{port}" in first and "--master-port" in first
    assert "what answers there is none of them" in other


KILLS = 5
WHOLE = changes(
    *("optim.steps=30", "optim.batch_size=8", "optim.lr=0.001", "optim.ema_decay=0.9"),
    *("patch_share=0.5", "prefix_noise=0.1", "log.save_every=3"),
)


@pytest.mark.slow
def test_a_training_killed_at_random_steps_goes_on_with_any_number_of_processes(place, tmp_path):
    def train(count: int, folder: Path) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        words = {-1: (*WHOLE, *RESUMED)}
        codes = ended(place.start(Launch("", tuple(range(count)), count, words=words), folder))
        assert set(codes) == {0}, [path.read_text() for path in folder.glob("log-*.txt")]
        return load_file(folder / "out" / "model.safetensors")

    whole = train(1, tmp_path / "whole")
    draws = random.Random(1)
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        step, kept = draws.randrange(1, 28), folder / "out.training"
        victims = draws.choice([(0,), (1,), (0, 1)])
        processes = place.start(Launch("", words={-1: WHOLE}), folder)
        while lines_of(kept / "metrics.jsonl") < step and processes[0].is_alive():
            time.sleep(0.002)
        for victim in victims:
            processes[victim].kill()
        codes = ended(processes)
        assert -signal.SIGKILL in codes and 0 not in codes and None not in codes, codes
        for count in (1, 2, 4):
            goes_on = tmp_path / f"killed-{number}-{count}"
            shutil.copytree(kept, goes_on / "out.training")
            found = train(count, goes_on)
            assert found.keys() == whole.keys()
            apart = {name: float((whole[name] - found[name]).abs().max()) for name in whole}
            assert max(apart.values()) <= 1e-5, (step, victims, count, apart)


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
