"""Runs do not mix: a training folder is continued, begun anew on request, or refused by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.atomic import write_text
from orthus_core.errors import DataError, OutputError, TrainingError
from orthus_core.events import Note, StepDone
from orthus_core.recipe import PosttrainRecipe, PretrainRecipe, load
from orthus_core.train import autoencoder
from orthus_core.train.distributed import Rank
from orthus_core.train.loop import train
from orthus_core.train.optim import make_optimizers
from orthus_core.train.pretrain import pretrain
from orthus_core.train.run_lock import locked
from orthus_core.train.runs import RUN, read_run
from orthus_core.train.state import ABOUT, saved_steps, state_path, training_folder
from orthus_core.train.state_saver import StateSaver
from orthus_core.train.trainings import posttrain
from tests.core.test_train_loop import LOG, Fit, optim
from tests.core.toy_data import interleaved

SETS = (
    "optim.steps=15",
    "optim.batch_size=2",
    "optim.warmup_steps=0",
    "log.every=1",
    "log.sample_every=0",
    "log.save_every=0",
    "log.validate_every=0",
    "data.held_out=0",
)
PRETRAIN = (
    "tokenizer.vocab_size=300",
    "tokenizer.rows=20",
    "autoencoder.resolution=16",
    "autoencoder.channel_multiplier=[1, 1]",
    "autoencoder.embed_dim=8",
    "autoencoder.latent_channels=8",
    "autoencoder.num_embeddings=16",
    "autoencoder.continuous_steps=1",
    "autoencoder.optim.steps=2",
    "autoencoder.optim.batch_size=2",
    "backbone.hidden_size=16",
    "backbone.intermediate_size=24",
    "backbone.num_hidden_layers=1",
    "backbone.num_attention_heads=2",
)
STAGES = ("finetune-vae", "build-base", "posttrain")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return interleaved(tmp_path_factory.mktemp("data") / "rows", count=6)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def trained(tiny_folder, source, output):
    """Posttrains into `output`, at most to a step; returns its notes."""

    def train_to(stop_at: int | None, *sets: str, to: Path = output, **options: Any) -> list[str]:
        done, notes = [], []
        data = f"data.source={json.dumps(str(source))}"
        events = posttrain(
            load(PosttrainRecipe, None, (*SETS, data, *sets)),
            tiny_folder,
            to,
            should_stop=lambda: bool(done) and done[-1] == stop_at,
            **options,
        )
        for event in events:
            if isinstance(event, StepDone):
                done.append(event.step)
            if isinstance(event, Note):
                notes.append(event.message)
        return notes

    return train_to


@pytest.fixture
def orthus(tiny_folder, source, output):
    """`orthus posttrain` with the same values, in this process."""

    def run(*words: object, command: str = "posttrain"):
        start = [] if command == "pretrain" else ["--init-from", tiny_folder]
        sets = (*SETS, f"data.source={json.dumps(str(source))}")
        typed = [command, "-o", output, *start, *words]
        typed += [word for change in sets for word in ("--set", change)]
        return CliRunner().invoke(app, [str(word) for word in typed], prog_name="orthus")

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def metric_steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    one_, other_ = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(one_[name].equal(other_[name]) for name in one_)


def fit(folder: Path, *, stop_at: int | None = None, stage: Any = None, **options: Any):
    """A tiny fit, eight steps long; returns what it says."""
    done: list[int] = []
    notes: list[str] = []
    settings = {"optim": optim(), "log": LOG, "seed": 3} | options
    events = train(
        stage or Fit(),
        folder=folder,
        should_stop=lambda: bool(done) and done[-1] == stop_at,
        **settings,
    )
    for event in events:
        if isinstance(event, StepDone):
            done.append(event.step)
        else:
            notes.append(event.message)
    return done, notes


def forget_the_run(folder: Path) -> None:
    """Make a folder of `Fit` what earlier versions left: no identity, neither of the run nor in
    states, and one file with all that a training has.
    """
    (folder / RUN).unlink()
    for step in saved_steps(folder):
        state = state_path(folder, step)
        path = state / ABOUT
        about = json.loads(path.read_text())
        times = path.stat()
        path.write_text(json.dumps({"step": about["step"], "origins": about["origins"]}))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        (part,) = state.glob("part-*")
        torch.save(as_one_file(load_file(part)), state / "state.pt")
        part.unlink()


def as_one_file(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The content of a `state.pt` of `Fit`."""
    names = ("linear.weight", "linear.bias")  # in the order of the optimiser, too
    (optimizer,) = make_optimizers(Fit().trainable(), optim())
    moments = ("exp_avg", "exp_avg_sq", "step")
    state = {
        number: {moment: tensors[f"optimizer.{name}.{moment}"] for moment in moments}
        for number, name in enumerate(names)
    }
    return {
        "objective": {name: tensors[f"objective.{name}"] for name in names},
        "optimizers": [optimizer.state_dict() | {"state": state}],
        "average": [tensors[f"average.{name}"] for name in names],
    }


def test_the_reported_case(trained, orthus, output, tmp_path):
    """Stopped at 13, begun again without --resume, stopped at 9, resumed."""
    folder = training_folder(output)
    trained(13)
    before = contents(folder)
    done = orthus()
    assert done.exit_code == 1
    for words in ("states up to step 13", "begun 20", "--resume auto", "--overwrite"):
        assert words in done.stderr
    assert contents(folder) == before
    trained(9, overwrite=True)
    assert saved_steps(folder) == [9] and metric_steps(folder) == list(range(1, 10))
    notes = trained(11, resume=True)
    assert "resuming after step 9 of 15" in notes
    assert saved_steps(folder) == [9, 11], "state 9 is kept, and 11 is its next"
    trained(None, resume=True)
    trained(None, to=tmp_path / "whole")
    assert metric_steps(folder) == list(range(1, 16))
    assert same_weights(output, tmp_path / "whole")


@pytest.mark.parametrize(
    ("command", "part"),
    [("pretrain", "autoencoder"), ("pretrain", "transformer"), *((name, "") for name in STAGES)],
)
def test_a_folder_with_states_is_refused_before_a_model_or_data_is_read(
    orthus, output, command, part
):
    folder = training_folder(output) / part
    state_path(folder, 13).mkdir(parents=True)
    (state_path(folder, 13) / ABOUT).write_text('{"step": 13, "origins": {}}')
    words = ["--set", "data.source=nowhere"]
    words += [] if command == "pretrain" else ["--init-from", "nowhere"]
    done = orthus(*words, command=command)
    assert done.exit_code == 1 and "states up to step 13" in done.stderr
    assert "--resume auto" in done.stderr and "--overwrite" in done.stderr


def test_figures_without_a_state_are_not_lost_either(tmp_path):
    log = replace(LOG, save_every=0)
    with pytest.raises(TrainingError, match="not finite|nan"):
        fit(tmp_path, log=log, stage=Fit(poison_at=5), origins={"optim.lr": 9.0})
    with pytest.raises(OutputError, match="figures up to step 5 and no state"):
        fit(tmp_path, origins={"optim.lr": 1.0})
    with pytest.raises(TrainingError, match=r"figures here were made with optim.lr = 9.0, now 1.0"):
        fit(tmp_path, resume=True, origins={"optim.lr": 1.0})
    assert metric_steps(tmp_path) == [1, 2, 3, 4, 5]
    done, _ = fit(tmp_path, resume=True, origins={"optim.lr": 9.0})
    assert done[0] == 1 and metric_steps(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize(
    "change", ["data.source=nowhere", "log.tensorboard=true", "objective=understanding"]
)
def test_a_run_is_replaced_only_once_the_new_one_can_begin(trained, output, change, monkeypatch):
    trained(3)
    before = contents(training_folder(output))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if "objective" in change:  # a model without any weight to train
        monkeypatch.setattr("orthus_core.train.trainings.all_but_autoencoder", lambda *_, **__: [])
    with pytest.raises((DataError, TrainingError, ValueError)):
        trained(2, change, overwrite=True)
    assert contents(training_folder(output)) == before


def test_more_steps_go_on_and_replace_the_runs_own_model(trained, output, tmp_path):
    trained(None, "optim.steps=3")
    notes = trained(None, "optim.steps=5", resume=True)
    assert "optim.steps was 3, now 5" in notes and f"wrote {output}" in notes
    trained(None, "optim.steps=5", to=tmp_path / "whole")
    assert same_weights(output, tmp_path / "whole"), "with a constant rate, as from the beginning"
    assert metric_steps(training_folder(output)) == [1, 2, 3, 4, 5]
    with pytest.raises(TrainingError, match="after step 5, and optim.steps = 4 ends before it"):
        trained(None, "optim.steps=4", resume=True)


def test_a_schedule_over_the_steps_is_said_to_follow_the_new_length(tmp_path):
    heat = {"temperature.start": 1.0, "temperature.end": 2.0}
    fit(tmp_path, origins={"optim.steps": 8, **heat})
    _, notes = fit(
        tmp_path, resume=True, optim=optim(steps=10), origins={"optim.steps": 10, **heat}
    )
    assert "was 8, now 10; the learning rate and the temperature of each step" in notes[1]


def test_a_finished_training_says_so_and_writes_nothing(trained, orthus, output, tiny_folder):
    trained(None)
    before, weights = contents(training_folder(output)), (output / "model.safetensors").stat()
    done = orthus("--resume", "auto")
    assert done.exit_code == 0, done.stderr
    assert "finished" in done.stderr and str(output) in done.stdout
    assert contents(training_folder(output)) == before
    assert (output / "model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns
    assert orthus("--resume", "auto", "--set", "optim.lr=0.5").exit_code == 1
    assert orthus("--resume", "auto", "--init-from", "mini").exit_code == 1
    shutil.rmtree(output)
    assert trained(None, resume=True)[-1] == f"wrote {output}"


def test_a_lock_that_a_kill_left_beside_a_finished_training_is_removed(trained, orthus, output):
    trained(None)
    lock = training_folder(output) / "run.lock"
    lock.write_text("process 1 on elsewhere")
    assert orthus("--resume", "auto").exit_code == 0
    assert not lock.exists()


def test_another_model_at_the_output_is_not_replaced(trained, output, tiny_folder, tmp_path):
    trained(3)
    shutil.copytree(tiny_folder, output)
    before = contents(output)
    with pytest.raises(OutputError, match="not empty"):
        trained(None, resume=True)
    shutil.rmtree(output)
    trained(None, to=tmp_path / "other")
    shutil.copytree(tmp_path / "other", output)
    with pytest.raises(OutputError, match="not empty"):
        trained(None, resume=True)
    assert contents(output) != before


def test_everything_that_changed_is_named(trained, output):
    trained(2)
    changes = ("seed=4", "repeats=2", "lambda_image=1.0", "text_weight=2.0", "optim.lr=0.5")
    with pytest.raises(TrainingError) as caught:
        trained(3, *changes, "data.packing=true", "prefix_noise=0.5", resume=True)
    for key in ("seed", "repeats", "lambda_image", "text_weight", "optim.lr", "data.packing"):
        assert key in caught.value.message
    assert "prefix_noise" in caught.value.message
    assert saved_steps(training_folder(output)) == [2]


@pytest.mark.parametrize(
    "change", ["more rows", "another text", "another picture of that name", "another order"]
)
def test_data_that_changed_under_the_same_name_is_named(trained, output, source, tmp_path, change):
    mine = shutil.copytree(source.parent, tmp_path / "mine")
    records = mine / source.name
    named = f"data.source={json.dumps(str(records))}"
    trained(2, named)
    lines = records.read_text().splitlines()
    if change == "more rows":
        lines.append(lines[0])
    elif change == "another text":
        row = json.loads(lines[1])
        next(each for each in row["segments"] if each["type"] == "text")["value"] += " indeed"
        lines[1] = json.dumps(row)
    elif change == "another order":
        lines.reverse()
    else:
        picture = next(mine.rglob("*.png"))
        Image.new("RGB", (40, 30), "teal").save(picture)
    records.write_text("\n".join(lines) + "\n")
    with pytest.raises(TrainingError, match=r"rows = 'order 2; \d rows, \w+', now 'order 2; "):
        trained(3, named, resume=True)
    assert saved_steps(training_folder(output)) == [2]


def test_data_that_was_moved_or_copied_is_the_same(trained, output, source, tmp_path, monkeypatch):
    named = f"data.source={source.name}"
    monkeypatch.chdir(shutil.copytree(source.parent, tmp_path / "a"))
    trained(2, named)
    monkeypatch.chdir(shutil.copytree(source.parent, tmp_path / "b"))
    trained(None, named, resume=True)


@pytest.mark.parametrize("rows", [None, "6 rows, 0123456789"])
def test_a_state_of_a_version_that_read_rows_in_another_order_is_refused(trained, output, rows):
    trained(2)
    about = state_path(training_folder(output), 2) / ABOUT
    told = json.loads(about.read_text())
    assert told["origins"].pop("rows").startswith("order 2; ")
    del told["origins"]["data.sources"]
    told["origins"] |= {"rows": rows} if rows else {}
    about.write_text(json.dumps(told))
    with pytest.raises(TrainingError, match="an earlier version, which read the rows of data sets"):
        trained(3, resume=True)
    assert saved_steps(training_folder(output)) == [2]


def test_a_key_that_is_newer_than_the_state_may_be_off(trained, output):
    trained(2)
    about = state_path(training_folder(output), 2) / ABOUT
    told = json.loads(about.read_text())
    assert told["origins"].pop("data.packing") is False
    about.write_text(json.dumps(told))
    with pytest.raises(TrainingError, match="data.packing = not set, now True"):
        trained(3, "data.packing=true", resume=True)
    trained(None, resume=True)


def test_what_changes_no_number_may_change(trained, output, source, monkeypatch):
    trained(2)
    monkeypatch.chdir(source.parent)
    changes = ("sampling.steps=9", "log.every=2", "data.strict=true", f"data.source={source.name}")
    trained(None, *changes, resume=True)
    assert json.loads((output / "config.json").read_text())["sampling"]["steps"] == 9


def test_going_back_in_a_folder_leaves_the_later_states_to_the_abandoned_run(tmp_path):
    fit(tmp_path)
    assert saved_steps(tmp_path) == [6, 8]
    later = contents(state_path(tmp_path, 8))
    fit(tmp_path, resume=state_path(tmp_path, 6), stop_at=7)
    _, notes = fit(tmp_path, resume=True)
    assert notes[0] == "resuming after step 7 of 8"
    assert "states of another run are left as they are: after steps 8" in notes
    (kept,) = (tmp_path / "states").glob("of-*-step-000008")
    assert contents(kept) == later, "copied aside before the run's own step 8 was saved"
    assert metric_steps(tmp_path) == list(range(1, 9))


def test_going_back_and_being_killed_at_once_goes_on_from_there(tmp_path):
    fit(tmp_path)
    log = replace(LOG, save_every=0)
    with pytest.raises(TrainingError):
        back = state_path(tmp_path, 6)
        fit(tmp_path, resume=back, log=log, stage=Fit(poison_at=7))
    done, _ = fit(tmp_path, resume=True)
    assert done == [7, 8]


@pytest.mark.parametrize("content", [{}, {"objective": {}, "optimizers": [], "average": []}])
def test_an_earlier_state_of_other_values_is_named_and_the_one_before_taken(tmp_path, content):
    fit(tmp_path, stop_at=2)
    fit(tmp_path, stop_at=3, resume=True)
    newest = state_path(tmp_path, 3)
    torch.save(content, newest / "state.pt")
    about = json.loads((newest / ABOUT).read_text())
    del about["files"]  # which earlier versions did not tell
    (newest / ABOUT).write_text(json.dumps(about))
    before = contents(tmp_path)
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, resume=True)
    assert re.fullmatch("the saved state does not read: .{,99}", caught.value.message)
    assert caught.value.where == str(newest) and contents(tmp_path) == before
    shutil.rmtree(newest)  # as its hint says
    assert fit(tmp_path, resume=True)[0] == [3, 4, 5, 6, 7, 8]


def test_states_of_another_run_are_neither_taken_nor_deleted(tmp_path):
    fit(tmp_path / "one", stop_at=3)
    fit(tmp_path / "two", seed=9, stop_at=1)
    foreign = [state_path(tmp_path / "one", 1), state_path(tmp_path / "one", 7)]
    for path in foreign:
        shutil.copytree(state_path(tmp_path / "two", 1), path)
        about = json.loads((path / ABOUT).read_text()) | {"step": int(path.name[-6:])}
        (path / ABOUT).write_text(json.dumps(about))
    before = [contents(path) for path in foreign]
    done, _ = fit(tmp_path / "one", resume=True)
    assert done == [4, 5, 6, 7, 8]
    assert [contents(path) for path in foreign] == before
    assert saved_steps(tmp_path / "one") == [1, 6, 7, 8]


def test_a_branch_does_not_mix_with_a_run_that_is_there(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    fit(one, stop_at=4)
    fit(two, seed=9, stop_at=6)
    before = contents(two)
    with pytest.raises(OutputError, match="states up to step 6"):
        fit(two, resume=one)
    assert contents(two) == before
    log = replace(LOG, save_every=0)
    with pytest.raises(TrainingError):
        fit(two, resume=one, overwrite=True, log=log, stage=Fit(poison_at=6))
    assert saved_steps(two) == [] and metric_steps(two) == [1, 2, 3, 4, 5, 6]
    done, _ = fit(two, resume=True, stop_at=5)
    assert done == [5], "from where it branched off, though it had saved nothing"
    assert metric_steps(two) == [1, 2, 3, 4, 5] and saved_steps(two) == [5]
    with pytest.raises(OutputError, match="states up to step 5"):
        fit(two, resume=one)
    assert read_run(two).id != read_run(one).id


def test_a_killed_replacement_is_completed_and_the_old_run_never_taken(tmp_path):
    fit(tmp_path, stop_at=7)
    record = json.loads((tmp_path / RUN).read_text())
    write_text(tmp_path / RUN, json.dumps(record | {"id": "new", "replacing": True}))
    done, _ = fit(tmp_path, resume=True, stop_at=2)
    assert done == [1, 2] and saved_steps(tmp_path) == [2] and metric_steps(tmp_path) == [1, 2]
    assert read_run(tmp_path).id == "new" and not read_run(tmp_path).replacing


@pytest.fixture
def pretrained(source, output, monkeypatch):
    """Pretrains into `output`, stopped after a number of steps; returns the steps it did."""
    monkeypatch.setattr(autoencoder, "KMEANS_PICTURES", 64)
    data = f"data.source={json.dumps(str(source))}"

    def run(stop_after: int, *sets: str, **options: Any) -> list[int]:
        done: list[int] = []
        recipe = load(PretrainRecipe, None, (*SETS, *PRETRAIN, data, "optim.steps=2", *sets))
        events = pretrain(recipe, output, should_stop=lambda: len(done) == stop_after, **options)
        for event in events:
            if isinstance(event, StepDone):
                done.append(event.step)
        return done

    return run


def test_a_pretrain_begun_anew_resumes_no_transformer_of_the_old_one(pretrained, output):
    run = pretrained
    parts = [training_folder(output) / name for name in ("autoencoder", "transformer")]
    assert run(3) == [1, 2, 1]
    with pytest.raises(OutputError, match="states up to step"):
        run(3)
    with pytest.raises(TrainingError, match="autoencoder.optim.steps = 2, now 3"):
        run(9, "autoencoder.optim.steps=3", resume=True)
    assert [saved_steps(part) for part in parts] == [[2], [1]]
    assert run(1, overwrite=True) == [1]
    assert [saved_steps(part) for part in parts] == [[1], []]
    assert run(9, resume=True) == [2, 1, 2] and output.is_dir()
    assert run(9, resume=True) == [], "finished"


def test_a_pretrain_does_not_begin_beside_another_trainings_run(trained, pretrained, output):
    trained(3)
    work = training_folder(output)
    before = contents(work)
    for options in ({}, {"resume": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(OutputError, match="another command here already, with states up to"):
            pretrained(9, **options)
    assert contents(work) == before
    assert pretrained(3, overwrite=True) == [1, 2, 1]
    assert saved_steps(work) == [] and not (work / "metrics.jsonl").exists()
    assert not (work / RUN).exists()
    assert pretrained(9, resume=True) == [2], "its own run goes on"


def test_a_training_does_not_begin_beside_the_runs_of_a_pretrain(trained, pretrained, output):
    assert pretrained(1) == [1]
    work = training_folder(output)
    before = contents(work)
    for options in ({}, {"resume": True}):
        with pytest.raises(OutputError, match="another command here already, with states up to"):
            trained(None, **options)
    assert contents(work) == before
    trained(2, overwrite=True)
    assert saved_steps(work) == [2] and saved_steps(work / "autoencoder") == []
    assert any("resuming after step 2" in note for note in trained(3, resume=True))


def test_the_folder_of_an_earlier_version_goes_on(tmp_path):
    fit(tmp_path, stop_at=7)
    forget_the_run(tmp_path)
    with pytest.raises(OutputError, match="states up to step 7"):
        fit(tmp_path)
    done, _ = fit(tmp_path, resume=True, stop_at=8)
    assert done == [8] and saved_steps(tmp_path) == [7, 8], "keep_last counts its older states"
    fit(tmp_path / "whole")
    one, other = (
        load_file(next(state_path(f, 8).glob("part-*"))) for f in (tmp_path, tmp_path / "whole")
    )
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("shown", ["times", "figures", "identities"])
def test_the_states_of_two_runs_of_earlier_versions_are_refused_by_name(tmp_path, shown):
    fit(tmp_path, stop_at=7)
    forget_the_run(tmp_path)
    assert saved_steps(tmp_path) == [6, 7]
    if shown == "times":
        os.utime(state_path(tmp_path, 7) / ABOUT, ns=(1, 1))
    elif shown == "figures":
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "metrics.jsonl").write_text("".join(lines[:5]))
    else:
        path = state_path(tmp_path, 7) / ABOUT
        path.write_text(json.dumps(json.loads(path.read_text()) | {"run": "another"}))
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"after steps 6, 7\) are not of one run") as caught:
        fit(tmp_path, resume=True)
    assert str(state_path(tmp_path, 6)) in caught.value.hint
    assert contents(tmp_path) == before
    done, _ = fit(tmp_path, resume=state_path(tmp_path, 6))
    assert done == [7, 8]


def test_samples_after_the_resumed_step_go_with_its_figures(tmp_path):
    fit(tmp_path, stop_at=6)
    (tmp_path / "samples").mkdir()
    for step in (3, 6, 7):
        (tmp_path / "samples" / f"step-{step:06d}.png").touch()
    fit(tmp_path, resume=True)
    assert sorted(path.name[-5] for path in (tmp_path / "samples").iterdir()) == ["3", "6"]


HOLD = """
import sys, time
from pathlib import Path
from orthus_core.train.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_train_into_one_folder(trained, orthus, output):
    trained(2)
    folder = training_folder(output)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert holder.stdout and holder.stdout.readline()
        for words in (["--resume", "auto"], ["--overwrite"]):
            done = orthus(*words)
            assert done.exit_code == 1 and f"process {holder.pid}" in done.stderr
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (folder / "run.lock").exists(), "a killed process leaves it, unlocked"
    assert "resuming after step 2 of 15" in trained(3, resume=True)
    assert not (folder / "run.lock").exists()


def test_one_process_does_not_train_twice_into_one_folder(tmp_path):
    with locked(tmp_path / "a"):
        with pytest.raises(OutputError, match=f"process {os.getpid()}"), locked(tmp_path / "a"):
            pass
        with locked(tmp_path / "b"):
            pass
    assert list(tmp_path.iterdir()) == [], "nothing is left where nothing was trained"


def test_only_the_first_of_several_devices_takes_the_folder(tmp_path, monkeypatch):
    fit(tmp_path, stop_at=3)
    before = contents(tmp_path)
    monkeypatch.setattr("orthus_core.train.loop.current_rank", lambda: Rank(1, 2))
    # All of them save a state; it asks the processes' group who is first (test_train_states.py).
    monkeypatch.setattr(StateSaver, "save", lambda saver, step, wait=False: None)
    fit(tmp_path, overwrite=True)
    assert contents(tmp_path) == before
