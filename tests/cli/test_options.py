"""Options that commands share, and those that are a recipe's keys: one word, one meaning."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from orthus_cli import options
from orthus_cli.app import app
from orthus_cli.plugins import discover
from orthus_cli.recipe_options import Flags, help_of, parameter_name, recipe_options
from orthus_core.recipe import SCHEMAS, EditRecipe, StoryRecipe, key, keys

SHARED: dict[str, Any] = {
    name: value
    for name, value in vars(options).items()
    if typing.get_origin(value) is typing.Annotated
}
DRAWING = ("generate", "edit", "story", "caption")
SET_ONLY = {"by_example", "time_grid", "patch_norm", "guidance_interval", "guidance_schedule"}
"""Keys without an option of their name: `--example` sets it."""


def words(option: Any) -> list[str]:
    """The spellings of an option, as in ["-m", "--model"]."""
    about = typing.get_args(option)[1]
    said = [about.default, *about.param_decls]  # in Annotated, the first word is Option's `default`
    return [spelling for each in said for spelling in each.split("/")]  # as in --yes/--no


def app_with(option: Any, default: Any) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)

    def command(value: Any = default) -> None:
        print(repr(value))

    command.__annotations__["value"] = option
    app.command()(command)
    return app


def told(*spoken: str, schema: Any = EditRecipe, **choice: Any) -> dict[str, Any] | int:
    """The flags of a command with a recipe's options that are given, or its exit code."""
    app, seen = typer.Typer(rich_markup_mode=None), {}

    @app.command()
    @recipe_options(schema, **choice)
    def command(*, flags: Flags) -> None:
        seen.update(flags)

    code = CliRunner().invoke(app, list(spoken)).exit_code
    return code or {name: value for name, value in seen.items() if value is not None}


@pytest.mark.parametrize("name", SHARED)
def test_typer_can_read_every_option_and_explains_it(name: str) -> None:
    result = CliRunner().invoke(app_with(SHARED[name], None), ["--help"])
    assert result.exit_code == 0
    assert words(SHARED[name])[-1] in result.stdout
    assert typing.get_args(SHARED[name])[1].help.endswith(".")


@pytest.mark.parametrize("name", SHARED)
def test_an_option_that_may_be_left_out_is_none_then(name: str) -> None:
    annotation = typing.get_args(SHARED[name])[0]
    if type(None) in typing.get_args(annotation):
        assert CliRunner().invoke(app_with(SHARED[name], None), []).stdout == "None\n"


def test_a_list_is_read_word_by_word() -> None:
    spoken = ["--set", "a.b=c", "--set", "d=[1, 2]"]
    result = CliRunner().invoke(app_with(SHARED["Sets"], None), spoken)
    assert result.stdout == "['a.b=c', 'd=[1, 2]']\n"


@pytest.mark.parametrize(
    ("spoken", "flags"),
    [
        ("--steps 10", {"steps": 10}),
        ("--num-inference-steps 10", {"steps": 10}),
        ("--cfg-scale 1.5", {"guidance": 1.5}),
        ("--guidance-scale 1.5", {"guidance": 1.5}),
        ("--seed 1 --seed 2", {"seeds": [1, 2]}),
        ("-n 3", {"num_images": 3}),
        ("--auto-seeds 3", {"num_images": 3, "seeds": []}),
        ("--auto-seeds 3 --seed 7 -n 5", {"num_images": 3, "seeds": [7]}),
        ("-m base --dtype bf16", {"model": "base", "dtype": "bf16"}),
        ("--batch-size 8", {"batch_size": 8}),
        ("--batch-size auto", {"batch_size": "auto"}),
        ("--quantize 4", {"quantize": 4}),
        ("--low-memory", {"low_memory": True}),
        ("", {}),
    ],
)
def test_what_is_given_is_a_flag_under_its_key(spoken: str, flags: dict[str, Any]) -> None:
    assert told(*spoken.split()) == flags


def test_a_folder_and_a_key_of_a_table_are_read_as_the_recipe_holds_them(
    tmp_path: Path,
) -> None:
    given = told("--from-story", str(tmp_path), "--max-new-tokens", "9", schema=StoryRecipe)
    assert given == {"from_story": str(tmp_path), "text.max_new_tokens": 9}
    given = told("--from-story", "some/where", schema=StoryRecipe)
    assert given == {"from_story": str(Path("some/where").absolute())}


@pytest.mark.parametrize(
    "spoken", ["--dtype bf15", "--device gpu", "--steps ten", "--batch-size most", "--auto-seeds 0"]
)
def test_a_word_that_is_none_of_the_choices_is_wrong_usage(spoken: str) -> None:
    assert told(*spoken.split()) == 2


def test_only_some_keys_can_become_options() -> None:
    assert told("--steps", "4", only=("steps",)) == {"steps": 4}
    assert told("-n", "4", only=("steps",)) == 2
    assert told("-n", "4", but=("num_images",)) == 2
    with pytest.raises(ValueError, match="EditRecipe has no key stepz"):
        recipe_options(EditRecipe, only=("stepz",))


def test_options_stand_where_flags_stood_and_are_explained_by_the_key() -> None:
    @dataclass(frozen=True)
    class Recipe:
        command: ClassVar[str] = "sample"
        size: int = key(3, "how large it is", minimum=1, maximum=5)
        names: tuple[str, ...] = key((), "what it is called")

    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @recipe_options(Recipe)
    def command(first: int = 1, *, flags: Flags, last: int = 2) -> None: ...

    made = typer.main.get_command(app)
    assert [option.name for option in made.params][:4] == ["first", "size", "names", "last"]
    assert made.params[1].help == "How large it is.  [1 to 5; default: 3]"
    assert made.params[2].help == "What it is called.  [repeatable]"


@pytest.mark.parametrize("command", DRAWING)
def test_every_key_of_a_drawing_recipe_is_an_option_in_the_words_of_its_schema(
    command: str,
) -> None:
    said = {option.name: option.help for option in discover()[command].command.params}
    for found in keys(SCHEMAS[command]):
        name = parameter_name(found)
        assert (name in said) != (found.name in SET_ONLY), found.name
        if name in said:
            assert said[name] == help_of(found)
            assert said[name].lower().startswith(f"{found.doc}.".lower())


def test_no_two_options_share_a_word_unless_they_are_one_idea() -> None:
    seen: dict[str, str] = {}
    for name, option in SHARED.items():
        for word in words(option):
            other = seen.setdefault(word, name)
            one_idea = (
                {"Output", "OutputFolder"},
                {"Overwrite", "OverwriteRun"},
                {"Resume", "ResumeStages"},
            )
            assert other == name or {other, name} in one_idea
    for command in DRAWING:
        spelled = [word for option in discover()[command].command.params for word in option.opts]
        assert len(spelled) == len(set(spelled)), command


def explained(command: str) -> dict[str, str]:
    """The help of each option of a command, by its longest spelling."""
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {max(each.opts, key=len): getattr(each, "help", None) or "" for each in found.params}


@pytest.mark.parametrize(
    ("command", "option", "of"),
    [
        ("generate", "--num-images", "prompt"),
        ("edit", "--num-images", "edit"),
        ("edit", "--seed", "result"),
        ("edit", "--guidance-scale", "instruction"),
        ("story", "--seed", "story"),
        ("story", "--image", "story"),
        ("story", "--guidance-scale", "story"),
        ("story", "--max-new-tokens", "panel"),
        ("caption", "--seed", "answer"),
        ("caption", "--max-new-tokens", "answer"),
        ("caption", "--overwrite", "answers"),
    ],
)
def test_help_says_what_an_option_means_in_this_command(command: str, option: str, of: str) -> None:
    assert re.search(rf"\b{of}\b", explained(command)[option])


@pytest.mark.parametrize("command", ["edit", "story", "caption"])
def test_commands_without_prompts_do_not_count_by_them(command: str) -> None:
    assert not [said for said in explained(command).values() if "each prompt" in said]
