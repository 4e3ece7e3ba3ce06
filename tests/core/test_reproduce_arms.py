"""The arms of the paper's comparisons: their recipes, and that nothing but these differs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orthus_core.errors import RecipeError
from orthus_core.recipe import PosttrainRecipe, as_table
from orthus_core.recipe.paper_arm import ArmRecipe
from orthus_core.reproduce import paper_arms as arms_of
from orthus_core.reproduce.arm_results import made_by, recipes_of, tasks_of
from orthus_core.reproduce.arm_times import expected_times
from orthus_core.reproduce.claims import REPRODUCTIONS, needed_measures, reproductions
from orthus_core.reproduce.measures import MEASURES
from orthus_core.reproduce.paper_arms import Arm, arm_recipes, paper_arms
from orthus_core.reproduce.verdicts import LEAST_SEEDS
from orthus_core.train.discrete_posttrain import check_keys
from orthus_core.train.trainings import OF_DIFFUSION_HEADS

# Keys that are equal in all arms, whatever their recipes state.
EQUAL = {"seed", "optim", "data", "log", "devices"}
TASKS = {"answers", "pope", "geneval", "edit", "recon", "diversity"}
HOURS = 8
# Two threads do not halve a step: so much of one core's time is left at the worst.
OF_TWO_CORES = 1 / 1.4


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return {arm.name: arm for arm in paper_arms(arm_recipes())}


def differences(table: dict[str, Any], other: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name in table.keys() | other.keys():
        ours, theirs = table.get(name), other.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            found |= differences(ours, theirs, f"{prefix}{name}.")
        elif ours != theirs:
            found.add(f"{prefix}{name}")
    return found


def test_every_arm_of_a_claim_has_a_recipe_and_every_recipe_a_claim_or_a_table(arms):
    named = {arm for each in REPRODUCTIONS.values() for arm in each.arms}
    claimed = {arm for r in REPRODUCTIONS.values() for c in r.claims for arm in (c.better, c.worse)}
    assert named == set(arms) and claimed <= named
    assert all(len(arms[name].seeds) == LEAST_SEEDS for name in claimed - {"start"})
    for each in REPRODUCTIONS.values():
        assert each.claims and {c.better for c in each.claims} <= set(each.arms)
        assert {name for arm in each.arms for name in each.measures_of(arm)} <= set(MEASURES)


def test_an_arm_differs_in_what_its_recipe_states_and_nothing_else(arms):
    """Of the stages that an arm shares with the reference arm by their command."""
    reference = {
        stage.recipe.command: as_table(stage.recipe) for stage in arms["softmax"].stages[1]
    }
    for arm in arms.values():
        stated = {
            f"{command}: {key}"
            for command in ("pretrain", "convert", "build_base", "posttrain")
            for key in dict(arms_of._flat(getattr(arm.recipe, command)))
        }
        found = {
            f"{stage.recipe.command.replace('-', '_')}: {key}"
            for stage in arm.stages[max(arm.seeds)]
            if stage.recipe.command in reference
            for key in differences(as_table(stage.recipe), reference[stage.recipe.command])
            if key not in ("seed", "data.seed", "autoencoder.taken_from")
        }
        # The common start of an arm with its own is the reference's; so are equal values.
        assert found <= stated, arm.name
        trained = arm.recipe.kind in ("orthus", "discrete") and not arm.recipe.drawn_by
        assert bool(found) == (trained and arm.name != "softmax"), arm.name


def test_the_arms_of_a_seed_read_the_same_rows(arms):
    for seed in range(3):
        last = [arm.stages[seed][-1].recipe for arm in arms.values() if seed in arm.seeds]
        trained = [each for each in last if isinstance(each, PosttrainRecipe)]
        assert len(trained) > 10 and all(each.seed == seed for each in trained)
        assert len({str(each.data) for each in trained}) == 1
        assert trained[0].data.seed == seed


def test_rows_seeds_steps_and_schedules_are_those_of_the_reference_arm(arms):
    """In every stage of every seed; the baseline has one training in place of two."""
    allowed = {"dagger": {"posttrain: optim.steps"}}
    for arm in arms.values():
        for seed in arm.seeds:
            reference = {
                stage.recipe.command: as_table(stage.recipe)
                for stage in arms["softmax"].stages[seed]
            }
            found = {
                f"{stage.recipe.command}: {key}"
                for stage in arm.stages[seed]
                if stage.recipe.command in reference
                for key in differences(as_table(stage.recipe), reference[stage.recipe.command])
                if key.partition(".")[0] in EQUAL
            }
            assert found == allowed.get(arm.name, set()), arm.name


def test_what_arms_share_is_trained_once(arms):
    """The folders of a name hold one recipe, whichever arm it is of."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms.values():
        for seed in arm.seeds:
            for stage in arm.stages[seed]:
                table = as_table(stage.recipe)
                assert found.setdefault(stage.name, table) == table, stage.name
    assert arms["argmin"].stages[0][0] == arms["dagger"].stages[0][0]
    assert arms["noised"].stages[0][-2].name == "softmax/base"
    assert arms["argmin"].stages[0][-2].name == "argmin/base"
    assert arms["steps-10"].stages == arms["softmax"].stages
    assert arms["large"].stages[0][-2].start == "large/converted"


def test_the_discrete_baseline_has_as_many_rows(arms):
    base, last = arms["softmax"].stages[0][-2:]
    assert arms["dagger"].stages[0][-1].steps == base.steps + last.steps


@pytest.mark.parametrize("quick", [False, True])
def test_arms_of_other_heads_have_no_keys_that_their_trainings_refuse(quick):
    dagger, mse = paper_arms(["dagger", "mse"], quick=quick)
    baseline = dagger.stages[0][-1].recipe
    assert isinstance(baseline, PosttrainRecipe) and baseline.sampling["steps"] == 1
    check_keys(baseline)
    for stage in mse.stages[0][-2:]:
        for name in OF_DIFFUSION_HEADS:
            assert getattr(stage.recipe, name) == getattr(type(stage.recipe)(), name)


@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_resolves_and_a_rehearsal_of_it_is_short(quick):
    for arm in paper_arms(arm_recipes(), seeds=2, quick=quick):
        assert arm.seeds == ((0,) if quick or arm.name == "start" else (0, 1))
        assert not quick or max(stage.steps for stage in arm.stages[0]) <= 5


def test_a_mistyped_difference_is_told_with_the_arm(monkeypatch):
    wrong = {"odd": ArmRecipe(convert={"embedding": {"knid": "linear"}})}
    monkeypatch.setattr(arms_of, "arm_recipes", lambda: wrong)
    with pytest.raises(RecipeError, match="did you mean 'embedding.kind'") as error:
        paper_arms(["odd"])
    assert "the arm odd" in str(error.value)


def test_a_change_of_a_recipe_is_a_change_of_what_tells_its_results(arms):
    tables = {name: json.dumps(recipes_of(arm, 0)) for name, arm in arms.items()}
    assert len(set(tables.values())) == len(tables)
    softmax = arms["softmax"]
    assert made_by(json.loads(tables["softmax"]), softmax, 0)
    assert not made_by(json.loads(tables["softmax"]), softmax, 1)
    assert not any(
        made_by(json.loads(tables[name]), softmax, 0) for name in arms if name != "softmax"
    )


def test_a_result_stands_when_recipes_get_a_key_that_is_at_its_default(arms):
    softmax = arms["softmax"]
    then = recipes_of(softmax, 0)
    last = then["stages"]["softmax/seed-0"]
    assert last["prefix_clean"] == PosttrainRecipe().prefix_clean and last["repeats"] != 8
    del last["prefix_clean"]
    assert made_by(then, softmax, 0)
    wanted = last.pop("repeats")
    assert not made_by(then, softmax, 0), "it says another thing than its default"
    last["repeats"] = wanted
    last["gone"] = 1
    assert not made_by(then, softmax, 0), "what that key changed is not known any more"


def test_the_whole_fits_into_eight_hours_of_two_cores(arms):
    measures = needed_measures(reproductions("all"))
    tasks = {name: tasks_of(each) for name, each in measures.items()}
    assert {
        task.split(".")[-2] if "." in task else task for each in tasks.values() for task in each
    } == {"scene_answers" if task == "answers" else task for task in TASKS}
    found = expected_times([arms[name] for name in measures], tasks, {})
    assert all(each.seconds > 0 for each in found)
    hours = sum(each.seconds for each in found) / 3600
    assert 4 < hours * OF_TWO_CORES < HOURS
