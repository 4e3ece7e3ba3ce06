"""The recipes that come along, and the page about all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthus_core.recipe import SCHEMAS, load
from orthus_core.recipe.docs import document
from orthus_core.recipe.load import command_of
from orthus_core.recipe.schema import keys, members
from orthus_core.recipe.shelf import find, shelf, shelved
from orthus_core.recipe.training import PosttrainRecipe

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


def test_the_tenth_recipe_stands_behind_the_ninth() -> None:
    starters = [name for name in FILES if name.startswith("starter/")]
    numbers = [int(name.split("/")[1].split("-")[0]) for name in starters]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 9


def test_the_starter_recipes_one_after_the_other_leave_the_sampling_that_mini_has() -> None:
    starters = [name for name in FILES if name.startswith("starter/")]
    left = {}
    for name in starters:
        if command_of(name) == "posttrain":
            left |= load(PosttrainRecipe, name).sampling
    bundled = json.loads((ROOT / "orthus_core" / "starter" / "mini" / "config.json").read_text())
    assert left == bundled["sampling"]


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
