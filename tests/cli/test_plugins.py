"""Strangers' commands: found as ours are, harmless when broken, silent when told so."""

from __future__ import annotations

import json

import pytest

from orthus_cli.plugins import discover
from orthus_core.entry_points import OURS

HELLO = 'def hello():\n    """Greet the world."""\n    print("hello")\n'


def problem_of(orthus, name: str) -> str:
    rows = json.loads(orthus("plugins", "--format", "json").stdout)["plugins"]
    return next(row["problem"] for row in rows if row["command"].startswith(name))


def test_a_strangers_function_becomes_a_command(orthus, stranger) -> None:
    stranger("hello", HELLO)
    assert "Greet the world." in orthus("--help").stdout
    assert orthus("hello").stdout == "hello\n"


def test_a_strangers_typer_becomes_a_command_with_commands(orthus, stranger) -> None:
    stranger(
        "zoo",
        "import typer\napp = typer.Typer(rich_markup_mode=None)\n"
        "@app.command()\ndef feed(): print('fed')\n"
        "@app.command()\ndef count(): print(7)\n",
        target="app",
    )
    assert orthus("zoo", "count").stdout == "7\n"
    assert orthus("zoo", "feed", "-q").stdout == "fed\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def (", "SyntaxError"),
        ("other = 1", "AttributeError"),
        ("hello = {}", "it is a dict, and must be a function or a typer.Typer"),
        ("class hello: pass", "it is a type"),
        ("def hello(x: 'NoSuchType'): pass", "NameError"),
    ],
)
def test_a_broken_plugin_is_listed_and_hurts_nothing(orthus, stranger, code, reason) -> None:
    stranger("hello", code)
    helped = orthus("--help")
    assert helped.exit_code == 0
    commands, failed = helped.stdout.split("Failed to load:")
    assert "recipes" in commands and "hello" not in commands
    assert "hello" in failed
    assert reason in problem_of(orthus, "hello")
    assert orthus("recipes", "ls").exit_code == 0


def test_calling_a_broken_plugin_says_whose_it_is(orthus, stranger) -> None:
    stranger("hello", "import no_such_module")
    result = orthus("hello", "--name", "you")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith(
        "error: the command 'hello' of orthus-hello did not load: ModuleNotFoundError"
    )
    assert result.stderr.splitlines()[1] == "where: orthus_hello:hello"
    assert "No module named 'no_such_module'" in orthus("hello", "--debug").stderr


def test_a_stranger_cannot_take_a_name_of_ours(orthus, stranger) -> None:
    stranger("recipes", "def recipes(): print('mine now')", distribution="orthus-thief")
    assert orthus("recipes", "ls").exit_code == 0
    assert problem_of(orthus, "recipes (orthus-thief)") == f"the name is taken by {OURS}"


def test_orthus_plugins_empty_loads_only_ours(stranger, monkeypatch) -> None:
    stranger("hello", HELLO)
    monkeypatch.setenv("ORTHUS_PLUGINS", "")
    assert {plugin.distribution for plugin in discover().values()} == {OURS}


@pytest.mark.parametrize("names", ["hello", "orthus-hello", " Orthus_Hello , other"])
def test_orthus_plugins_names_commands_or_distributions(stranger, monkeypatch, names) -> None:
    stranger("hello", HELLO)
    stranger("other", "def other(): pass")
    stranger("third", "def third(): pass")
    monkeypatch.setenv("ORTHUS_PLUGINS", names)
    strangers = {plugin.name for plugin in discover().values() if not plugin.is_ours}
    assert strangers == ({"hello", "other"} if "other" in names else {"hello"})


def test_a_named_plugin_that_is_not_installed_is_listed_as_failed(orthus, monkeypatch) -> None:
    monkeypatch.setenv("ORTHUS_PLUGINS", "ghost")
    assert "not installed" in problem_of(orthus, "ghost")
    assert orthus("ghost").exit_code == 1


def test_a_plugin_that_is_left_out_is_never_imported(
    orthus, stranger, monkeypatch, tmp_path
) -> None:
    mark = tmp_path / "imported"
    stranger("hello", f"open({str(mark)!r}, 'w').close()\n" + HELLO)
    monkeypatch.setenv("ORTHUS_PLUGINS", "")
    orthus("--help")
    assert not mark.exists()
    monkeypatch.delenv("ORTHUS_PLUGINS")
    orthus("recipes", "ls")  # another command does not import it either
    assert not mark.exists()
    orthus("--help")
    assert mark.exists()
