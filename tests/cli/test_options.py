"""The shared options: one word, one meaning, and none of them said unless the user says it."""

from __future__ import annotations

import re
import typing
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orthus_cli import options
from orthus_cli.app import app

SHARED: dict[str, Any] = {
    name: value
    for name, value in vars(options).items()
    if typing.get_origin(value) is typing.Annotated
}


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


@pytest.mark.parametrize("name", SHARED)
def test_typer_can_read_every_option_and_explains_it(name: str) -> None:
    result = CliRunner().invoke(app_with(SHARED[name], None), ["--help"])
    assert result.exit_code == 0
    assert words(SHARED[name])[-1] in result.stdout
    assert typing.get_args(SHARED[name])[1].help.endswith(".")


@pytest.mark.parametrize("name", SHARED)
def test_an_option_of_a_recipe_is_none_unless_it_is_given(name: str) -> None:
    annotation = typing.get_args(SHARED[name])[0]
    if type(None) in typing.get_args(annotation):
        assert CliRunner().invoke(app_with(SHARED[name], None), []).stdout == "None\n"


@pytest.mark.parametrize(
    ("name", "spoken", "value"),
    [
        ("Steps", ["--steps", "10"], "10"),
        ("Steps", ["--num-inference-steps", "10"], "10"),
        ("Guidance", ["--cfg-scale", "1.5"], "1.5"),
        ("Seeds", ["--seed", "1", "--seed", "2"], "[1, 2]"),
        ("Sets", ["--set", "a.b=c", "--set", "d=[1, 2]"], "['a.b=c', 'd=[1, 2]']"),
        ("Dtype", ["--dtype", "bf16"], "'bf16'"),
        ("BatchSize", ["--batch-size", "8"], "8"),
        ("BatchSize", ["--batch-size", "auto"], "'auto'"),
    ],
)
def test_the_words_of_the_field_are_understood(name: str, spoken: list[str], value: str) -> None:
    assert CliRunner().invoke(app_with(SHARED[name], None), spoken).stdout == f"{value}\n"


@pytest.mark.parametrize(
    ("name", "word"),
    [("Dtype", "bf15"), ("Device", "gpu"), ("Steps", "ten"), ("BatchSize", "most")],
)
def test_a_word_that_is_none_of_the_choices_is_wrong_usage(name: str, word: str) -> None:
    result = CliRunner().invoke(app_with(SHARED[name], None), [words(SHARED[name])[0], word])
    assert result.exit_code == 2


def test_no_two_options_share_a_word_unless_they_are_one_idea() -> None:
    seen: dict[str, str] = {}
    for name, option in SHARED.items():
        for word in words(option):
            other = seen.setdefault(word, name)
            assert other == name or {other, name} == {"Output", "OutputFolder"}


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
        ("edit", "--cfg-scale", "instruction"),
        ("story", "--seed", "story"),
        ("story", "--image", "story"),
        ("story", "--cfg-scale", "story"),
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
