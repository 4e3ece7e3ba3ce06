"""`orthus starter`: its plan, the order of the stages, going on; .ci/run makes a toy."""

from __future__ import annotations

import json
import shlex

import pytest

from orthus_core.checkpoint.headers import CONFIG
from orthus_core.errors import OutputError, RecipeError
from orthus_core.events import Note, StepDone
from orthus_core.recipe import as_table
from orthus_core.recipe.starter import BASELINE, STAGES, TOY, starter_stages
from orthus_core.recipe.training import PretrainRecipe
from orthus_core.train import starter_run
from orthus_core.train.starter_run import StageDone, run_starter

STAGE_FUNCTIONS = {
    "pretrain": ("orthus_core.train.pretrain", "pretrain"),
    "finetune-vae": ("orthus_core.train.trainings", "finetune_vae"),
    "build-base": ("orthus_core.train.trainings", "build_base"),
    "posttrain": ("orthus_core.train.trainings", "posttrain"),
}


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, str | None, str, bool, bool]]:
    """The stages that ran: command, start, output, resume, overwrite. None of them trains."""
    found = []

    def stand_in(command: str):
        def run(recipe, *places, init_from=None, resume, overwrite, should_stop):
            start, output = (init_from, *places) if len(places) == 1 else places
            assert start is None or (start / CONFIG).is_file(), "its start is there"
            found.append((command, start and start.name, output.name, resume, overwrite))
            yield StepDone(1, 1, {"total": 0.5})
            output.mkdir(parents=True, exist_ok=True)
            (output / CONFIG).write_text("{}")

        return run

    for command, (module, name) in STAGE_FUNCTIONS.items():
        monkeypatch.setattr(f"{module}.{name}", stand_in(command))

    def convert(recipe, start, output, *, overwrite):
        found.append(("convert", start.name, output.name, overwrite, overwrite))
        output.mkdir(exist_ok=True)
        (output / CONFIG).write_text('{"origin": {"made_by": "orthus convert 1"}}')
        yield Note("wrote it")

    monkeypatch.setattr(starter_run, "_convert", convert)
    return found


def test_the_stages_run_in_order_each_from_the_model_before(orthus, ran, tmp_path):
    done = orthus("starter", "-o", tmp_path / "runs", "--baseline", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert [stage[:3] for stage in ran] == [
        ("pretrain", None, "chameleon-start"),
        ("convert", "chameleon-start", "mini-start"),
        ("finetune-vae", "mini-start", "mini-vae"),
        ("build-base", "mini-vae", "mini-base"),
        ("posttrain", "mini-base", "mini"),
        ("pretrain", "chameleon-start", "chameleon-mini"),
    ]
    told = json.loads(done.stdout)["stages"]
    assert [row["stage"] for row in told] == [stage.stage for stage in (*STAGES, BASELINE)]
    assert told[0]["figures"] == {"total": 0.5} and told[0]["steps"] == 1
    assert told[1]["steps"] == 0 and told[4]["output"] == str(tmp_path / "runs" / "mini")


def test_what_is_there_is_gone_on_with_or_replaced_only_when_told(orthus, ran, tmp_path):
    (tmp_path / "mini-vae.training").mkdir()
    refused = orthus("starter", "-o", tmp_path)
    assert refused.exit_code == 1 and not ran
    assert "3-finetune-vae was begun" in refused.stderr and "mini-vae.training" in refused.stderr
    assert "--resume auto" in refused.stderr
    assert orthus("starter", "-o", tmp_path, "--resume", "auto").exit_code == 0
    assert {stage[3:] for stage in ran if stage[0] != "convert"} == {(True, False)}
    ran.clear()
    assert orthus("starter", "-o", tmp_path, "--overwrite").exit_code == 0
    assert {stage[3:] for stage in ran if stage[0] != "convert"} == {(False, True)}


def test_a_run_that_is_stopped_begins_no_further_stage(ran, tmp_path):
    stages = starter_stages(toy=True)
    events = run_starter(stages, tmp_path, should_stop=lambda: len(ran) == 3)
    assert [event.name for event in events if isinstance(event, StageDone)] == [
        "1-pretrain",
        "2-convert",
    ]
    assert len(ran) == 3


def test_a_model_that_was_not_converted_here_is_not_replaced(tmp_path):
    (convert,) = (stage for stage in starter_stages() if stage.name == "2-convert")
    precious = tmp_path / "mini-start"
    precious.mkdir()
    (precious / CONFIG).write_text('{"origin": {"made_by": "orthus posttrain 0.1.0"}}')
    with pytest.raises(OutputError, match="did not make") as caught:
        how = {"resume": True, "overwrite": False, "should_stop": lambda: False}
        list(starter_run.run_stage(convert, tmp_path, **how))
    assert caught.value.where == str(precious)


def test_a_dry_run_shows_commands_that_do_the_same(orthus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("starter", "--toy", "--set", "posttrain.optim.steps=7", "--dry-run")
    told = json.loads(orthus(*words, "--format", "json").stdout)
    assert [row["stage"] for row in told["stages"]] == [stage.stage for stage in STAGES]
    assert told["stages"][4]["recipe"]["optim"]["steps"] == 7
    lines = orthus(*words, "--format", "quiet").stdout.splitlines()
    for line, row in zip(lines, told["stages"], strict=True):
        if "convert" in line:  # it opens its source first
            continue
        done = orthus(*shlex.split(line)[1:], "--dry-run", "--format", "json")
        assert done.exit_code == 0, done.stderr
        alone = json.loads(done.stdout)
        assert alone["recipe"] == row["recipe"] and alone["output"] == row["makes"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("typed", ["optim.steps=7", "posttrian.optim.steps=7", "posttrain=7"])
def test_a_change_names_a_stage(typed):
    with pytest.raises(RecipeError) as caught:
        starter_stages([typed])
    assert "5-posttrain" in caught.value.hint or "posttrain" in str(caught.value)


def test_a_change_is_for_its_own_stage_alone():
    plain, changed = (
        starter_stages(),
        starter_stages(["build-base.optim.steps=7", "5-posttrain.seed=9"]),
    )
    for before, after in zip(plain, changed, strict=True):
        same = as_table(before.recipe) == as_table(after.recipe)
        assert same == (before.name not in ("4-build-base", "5-posttrain"))


def test_the_baseline_sees_the_rows_that_made_mini():
    by_name = {stage.name: stage.recipe for stage in starter_stages(baseline=True)}
    base, post, baseline = (by_name[n] for n in ("4-build-base", "5-posttrain", "baseline"))
    assert isinstance(baseline, PretrainRecipe)
    seen = [r.optim.steps * r.optim.batch_size * r.optim.accumulate for r in (base, post, baseline)]
    assert seen[0] + seen[1] == seen[2]
    assert baseline.data.condition_dropout == post.data.condition_dropout
    # Equal rows, so that pictures are encoded once.
    of_rows = [by_name[name].data for name in ("1-pretrain", "4-build-base", "5-posttrain")]
    for data in (*of_rows, baseline.data):
        assert (data.tasks, data.rows, data.seed) == (post.data.tasks, post.data.rows, 0)


def test_every_stage_has_a_toy_and_says_what_it_takes():
    assert set(TOY) == {stage.stage for stage in (*STAGES, BASELINE)}
    assert all(stage.about.startswith("Takes ") for stage in starter_stages(baseline=True))
    assert all(stage.steps is None or stage.steps <= 3 for stage in starter_stages(toy=True))
