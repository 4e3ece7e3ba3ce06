"""The recipes that come along, and the page about all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orthus_core.recipe import SCHEMAS, load
from orthus_core.recipe.distill_head import DistillHeadRecipe
from orthus_core.recipe.docs import document
from orthus_core.recipe.load import command_of
from orthus_core.recipe.schema import keys, members
from orthus_core.recipe.shelf import find, shelf, shelved
from orthus_core.recipe.starter import BASELINE, FOLDER, STAGES, starter_stages
from orthus_core.recipe.training import BuildBaseRecipe, PosttrainRecipe, PretrainRecipe

ROOT = Path(__file__).parents[2]
FILES = shelved()


def test_the_source_trees_recipes_are_the_shelf() -> None:
    assert shelf() == ROOT / "recipes"
    assert FILES


@pytest.mark.parametrize("name", FILES)
def test_every_recipe_loads_by_its_name(name: str) -> None:
    assert find(name) == FILES[name]
    load(SCHEMAS[command_of(name)], name)


@pytest.mark.parametrize("name", FILES)
def test_every_recipe_opens_with_the_command_that_runs_it(name: str) -> None:
    first = FILES[name].read_text().splitlines()[0]
    assert first.startswith(f"# orthus {command_of(name)} ")
    assert name in first.split()


def test_the_tenth_recipe_stands_behind_the_ninth(tmp_path, monkeypatch) -> None:
    names = [f"{number}-train" for number in (10, 9, 1, 2)]
    for name in names:
        (tmp_path / f"{name}.toml").touch()
    monkeypatch.setattr("orthus_core.recipe.shelf.shelf", lambda: tmp_path)
    assert list(shelved()) == ["1-train", "2-train", "9-train", "10-train"]


def test_the_shelf_has_each_stage_of_the_starter() -> None:
    stages = {stage.stage for stage in (*STAGES, BASELINE)}
    assert {name for name in FILES if name.startswith(f"{FOLDER}/")} == {
        f"{FOLDER}/{stage}" for stage in stages
    }


def test_no_row_of_the_starter_comes_again() -> None:
    """Texts of rows that come again are learnt by heart; the baseline reads the same ones."""
    recipes = [stage.recipe for stage in starter_stages(baseline=True)]
    read = (PretrainRecipe, BuildBaseRecipe, PosttrainRecipe)
    rows = [recipe.data for recipe in recipes if isinstance(recipe, read)]
    assert len(rows) == 4
    assert {data.rows for data in rows} == {0}
    assert len({str(data.tasks) for data in rows}) == 1


def test_the_starter_asks_about_clean_pictures_and_often_enough() -> None:
    """A question about a picture that is drowned in noise teaches to guess."""
    (recipe,) = (s.recipe for s in starter_stages() if isinstance(s.recipe, PosttrainRecipe))
    assert recipe.input_noise and recipe.input_noise_of == "drawn"
    tasks = recipe.data.tasks
    read = tasks.caption + tasks.scene_question + tasks.edit + tasks.scene_edit
    assert 0.45 <= read <= 0.55


def test_the_bundled_model_samples_as_its_recipe_says() -> None:
    mini = ROOT / "orthus_core" / "starter" / "mini"
    carried = json.loads((mini / "config.json").read_text())["sampling"]
    assert load(PosttrainRecipe, mini / "recipe.toml").sampling == carried


def test_the_recipe_of_a_distilled_head_states_the_defaults() -> None:
    stated, default = load(DistillHeadRecipe, "distill/head"), DistillHeadRecipe()
    assert replace(stated, log=default.log) == default


def test_every_file_of_the_folder_is_a_recipe() -> None:
    files = {path for path in (ROOT / "recipes").rglob("*") if path.is_file()}
    assert files == set(FILES.values())


def test_the_page_about_recipes_is_current() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert page == document(), "python -m orthus_core.recipe.docs > docs/recipes.md"


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_key_says_what_it_means(schema: type) -> None:
    assert all(found.doc for found in keys(schema))
    assert all(found.doc for found in members(schema).values())


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_default_would_pass_as_a_value(schema: type) -> None:
    flags = {found.name: found.default for found in keys(schema)}
    assert load(schema, None, (), flags) == schema()
