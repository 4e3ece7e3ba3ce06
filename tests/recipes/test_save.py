"""A recipe written down is the same recipe when it is read again."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orthus_core.errors import OutputError
from orthus_core.recipe import (
    SCHEMAS,
    ConvertRecipe,
    PosttrainRecipe,
    as_table,
    dump,
    key,
    load,
    save,
    shape,
)
from orthus_core.recipe.schema import keys, union_arms

AWKWARD = 'a "quoted" \\ back\tslash\nline \x00\x1f\x7f\x85 \u2028 snowman \u2603 \U0001f40c # = []'


@dataclass(frozen=True)
class Odd:
    command: ClassVar[str] = "odd"

    text: str = key(AWKWARD, "hard to write")
    numbers: tuple[float, ...] = key((1e-5, 1e22, 0.1, -0.0, 3.0), "hard to write")
    large: int = key(2**62, "a big one")
    lists: dict[str, Any] = key(
        {"a b": [[1, 2], [{"c": True, "d'": AWKWARD}]], "": 1, "deep": {"er.": {"x": 0.5}}}, "deep"
    )
    open: int | None = key(None, "not set")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@pytest.mark.parametrize("schema", [*SCHEMAS.values(), Odd])
def test_what_is_saved_loads_back_the_same(schema: type, suffix: str, tmp_path: Path) -> None:
    path = save(schema(), tmp_path / f"recipe{suffix}")
    assert load(schema, path) == schema()


def test_values_that_were_changed_come_back(tmp_path: Path) -> None:
    recipe = load(
        ConvertRecipe, None, ["head.width=384", "embedding.temperature=0.01", "dtype=bf16"]
    )
    assert load(ConvertRecipe, save(recipe, tmp_path / "r.toml")) == recipe
    assert shape(ConvertRecipe, json.loads(json.dumps(as_table(recipe)))) == recipe


def test_lists_of_tables_come_back_without_what_they_stand_in_place_of(tmp_path: Path) -> None:
    sets = ("data.sources=[{path='~/a b', weight=2, columns={x='y z'}}, {path='sprites'}]",)
    recipe = load(PosttrainRecipe, None, sets)
    for name in ("r.toml", "r.json"):
        assert load(PosttrainRecipe, save(recipe, tmp_path / name)) == recipe
    assert "source" not in as_table(recipe)["data"] and "sources" not in as_table(PosttrainRecipe())
    assert as_table(PosttrainRecipe())["data"]["source"] == "sprites"


def test_keys_that_are_not_set_are_left_out() -> None:
    assert "open" not in as_table(Odd())
    assert as_table(replace(Odd(), open=3))["open"] == 3


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_a_key_that_may_be_open_is_open_by_default(schema: type) -> None:
    # Otherwise "not set" could not be written down: TOML has no null.
    for found in keys(schema):
        if type(None) in union_arms(found.annotation):
            assert found.default is None, found.name


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_the_first_line_names_the_command(schema: type) -> None:
    assert dump(schema()).startswith(f"# A recipe for orthus {schema.command}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="folders without rights are a Unix thing")
def test_a_place_that_cannot_be_written_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError) as caught:
        save(ConvertRecipe(), tmp_path / "taken")
    assert caught.value.where == str(tmp_path / "taken")
    with pytest.raises(OutputError):
        save(ConvertRecipe(), tmp_path / "no" / "folder.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (
            "generate",
            "model preset steps scheduler time_grid step_tolerance guidance guidance_interval "
            "guidance_schedule noise_scale patch_norm negative_prompt seeds num_images batch_size "
            "device dtype quantize low_memory",
        ),
        (
            "edit",
            "model by_example preset steps scheduler time_grid step_tolerance guidance "
            "guidance_interval guidance_schedule image_guidance max_text noise_scale patch_norm "
            "seeds num_images batch_size device dtype quantize low_memory",
        ),
        (
            "story",
            "model panels free keep_panels from_story from_panel preset steps scheduler time_grid "
            "step_tolerance guidance guidance_interval guidance_schedule noise_scale patch_norm "
            "negative_prompt seed text device dtype "
            "quantize low_memory",
        ),
        ("caption", "model question seed text batch_size device dtype quantize low_memory"),
    ],
)
def test_keys_that_recipes_share_stay_in_the_order_pictures_carry_them(
    command: str, names: str
) -> None:
    values: dict[str, Any] = {name: 4 for name in names.split() if name != "text"}
    if "patch_norm" in values:
        values |= {"patch_norm": (4.0, 4.0), "time_grid": (999, 4), "guidance_interval": (4, 4)}
    whole = replace(SCHEMAS[command](), **values)
    assert list(as_table(whole)) == ["command", *names.split()]
