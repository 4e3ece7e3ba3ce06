"""`orthus recipes`: list, show, copy, check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthus_core.recipe.shelf import shelved

CONVERT = '# orthus convert SOURCE -o DIR\ncommand = "convert"\n\n[head]\nwidth = 384\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(CONVERT)
    return path


def test_ls_names_every_recipe_with_its_command(orthus) -> None:
    rows = json.loads(orthus("recipes", "ls", "--format", "json").stdout)["recipes"]
    assert [row["name"] for row in rows] == list(shelved())
    assert all(row["run"].startswith(f"orthus {row['command']}") for row in rows)


def test_cat_prints_the_file_as_it_is(orthus, recipe: Path) -> None:
    assert orthus("recipes", "cat", recipe).stdout == CONVERT


def test_cp_copies_into_a_folder_or_to_a_name(orthus, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    orthus("recipes", "cp", recipe, tmp_path / "folder")
    orthus("recipes", "cp", recipe, tmp_path / "other.toml")
    assert (tmp_path / "folder" / "mine.toml").read_text() == CONVERT
    assert (tmp_path / "other.toml").read_text() == CONVERT


def test_cp_never_overwrites_unless_told(orthus, recipe: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious.toml"
    target.write_text("precious")
    refused = orthus("recipes", "cp", recipe, target)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert target.read_text() == "precious"
    assert orthus("recipes", "cp", recipe, target, "--overwrite").exit_code == 0
    assert target.read_text() == CONVERT


def test_cp_to_a_place_that_is_not_there_leaves_nothing(
    orthus, recipe: Path, tmp_path: Path
) -> None:
    result = orthus("recipes", "cp", recipe, tmp_path / "no" / "such" / "place.toml")
    assert result.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml"]


def test_validate_shows_what_a_recipe_resolves_to(orthus, recipe: Path) -> None:
    answer = json.loads(orthus("recipes", "validate", recipe, "--format", "json").stdout)
    (row,) = answer["valid"]
    assert row["command"] == "convert"
    assert row["resolved"]["head"] == {"kind": "diffusion", "width": 384, "depth": 3, "seed": 0}


def test_validate_tells_the_mistake_and_nothing_else(orthus, recipe: Path, tmp_path: Path) -> None:
    typo = tmp_path / "typo.toml"
    typo.write_text('command = "convert"\n\n[head]\nwidht = 384\n')
    result = orthus("recipes", "validate", recipe, typo)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: unknown key 'head.widht', did you mean 'head.width'?",
        f"where: {typo}, line 4",
        "next: the keys here are kind, width, depth, seed",
    ]


def test_validate_refuses_a_command_that_takes_no_recipe(orthus, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text('command = "dance"\n')
    assert "'dance'" in orthus("recipes", "validate", path).stderr


def test_keys_lists_every_key_with_its_default(orthus) -> None:
    lines = orthus("recipes", "keys", "convert").stdout.splitlines()
    assert any(line.startswith("sampling.steps\t100\ta whole number, 1 to 1000") for line in lines)
    assert orthus("recipes", "keys", "dance").exit_code == 1


def test_a_name_that_is_nearly_right_is_suggested(orthus, monkeypatch, recipe: Path) -> None:
    monkeypatch.setattr("orthus_core.recipe.shelf.shelf", lambda: recipe.parent)
    assert orthus("recipes", "cat", "mine").stdout == CONVERT
    assert "did you mean 'mine'?" in orthus("recipes", "cat", "mime").stderr
