"""Help pages: what belongs together stands together, and no line is cut off."""

from __future__ import annotations

import re

import pytest

from orthus_cli.help_sections import COMMAND_GROUPS, OPTION_GROUPS
from orthus_cli.plugins import discover

BLURB = 60
DRAWING = ("generate", "edit", "story", "caption")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def sections(page: str) -> dict[str, list[str]]:
    """The rows of a help page by heading, each row's wrapped lines as one."""
    found: dict[str, list[str]] = {}
    rows: list[str] = []
    for line in page.splitlines():
        if re.fullmatch(r"[A-Z][\w ]*:", line):
            rows = found.setdefault(line[:-1], [])
        elif re.match(r"  \S", line):
            rows.append(" ".join(line.split()))
        elif line.strip() and rows:
            rows[-1] += " " + " ".join(line.split())
    return found


def test_commands_of_ours_stand_under_what_they_are_for(orthus) -> None:
    page = sections(orthus("--help").stdout)
    for heading, names in COMMAND_GROUPS.items():
        assert [row.split()[0] for row in page[heading]] == list(names)
    ours = {name for name, plugin in discover().items() if plugin.is_ours}
    assert ours == {name for names in COMMAND_GROUPS.values() for name in names}


def test_a_strangers_command_is_listed_apart(orthus, stranger) -> None:
    assert "Other" not in sections(orthus("--help").stdout)
    stranger("hello", 'def hello():\n    """Greet the world."""\n')
    assert sections(orthus("--help").stdout)["Other"] == ["hello Greet the world."]


@pytest.mark.parametrize("words", [(), ("data",), ("data", "prepare"), ("eval",), ("recipes",)])
def test_what_a_command_does_is_one_whole_line_in_the_list(orthus, words) -> None:
    page = orthus(*words, "--help").stdout
    assert "..." not in page.partition("-h, --help")[2]
    listed = page.partition("-h, --help")[2].splitlines()[1:]
    rows = [line for line in listed if line and not line.endswith(":")]
    assert rows and all(re.fullmatch(r"  [a-z][\w-]* +[A-Z].*\.", line) for line in rows)
    assert all(len(line) <= 78 for line in rows)


def test_a_blurb_is_short(orthus) -> None:
    rows = [row for rows in (*sections(orthus("--help").stdout).values(),) for row in rows]
    blurbs = [row.partition(" ")[2] for row in rows if row[0].islower()]
    assert len(blurbs) > 15
    assert [blurb for blurb in blurbs if len(blurb) > BLURB] == []


def test_a_long_blurb_of_a_stranger_is_wrapped_and_not_cut(orthus, stranger) -> None:
    said = "Do one thing " + "and another " * 12 + "to the end."
    stranger("hello", f'def hello():\n    """{said}"""\n')
    assert sections(orthus("--help").stdout)["Other"] == [f"hello {said}"]


@pytest.mark.parametrize("command", DRAWING)
def test_options_of_a_drawing_command_stand_under_headings(orthus, command) -> None:
    page = sections(orthus(command, "--help").stdout)
    headings = [heading for heading in page if heading in OPTION_GROUPS]
    assert headings == sorted(headings, key=OPTION_GROUPS.index)
    assert {"How it is sampled", "Where it goes", "Model and device"} < set(headings)
    assert page["Other"] == ["-h, --help Show this message and exit."]
    assert "Options" not in page
    shown = sum(len(rows) for heading, rows in page.items() if heading != "Arguments")
    params = discover()[command].command.params
    known = [each for each in params if each.param_type_name == "option" and not each.hidden]
    assert shown == len(known) + 1


@pytest.mark.parametrize(
    ("option", "heading"),
    [
        ("--negative-prompt", "What to draw"),
        ("--seed", "What to draw"),
        ("--steps", "How it is sampled"),
        ("--guidance", "How it is sampled"),
        ("--output", "Where it goes"),
        ("--preview", "Where it goes"),
        ("--model", "Model and device"),
        ("--batch-size", "Model and device"),
        ("--set", "Recipe and earlier results"),
    ],
)
def test_an_option_stands_where_one_looks_for_it(orthus, option, heading) -> None:
    page = sections(orthus("generate", "--help").stdout)
    spelled = re.compile(rf"(\S+, )*{option}\b")
    assert [head for head, rows in page.items() if any(map(spelled.match, rows))] == [heading]


def test_options_are_one_list_where_not_all_have_a_heading(orthus, stranger) -> None:
    assert "Options" in sections(orthus("convert", "--help").stdout)
    stranger(
        "hello",
        "from typing import Annotated\nimport typer\n"
        "A = Annotated[int, typer.Option('--a', rich_help_panel='Mine')]\n"
        "def hello(a: A = 1, b: int = 2): ...\n",
    )
    assert len(sections(orthus("hello", "--help").stdout)["Options"]) == 3


def test_a_stranger_may_name_headings_of_its_own(orthus, stranger) -> None:
    stranger(
        "hello",
        "from typing import Annotated\nimport typer\n"
        "A = Annotated[int, typer.Option('--a', rich_help_panel='Mine')]\n"
        "def hello(a: A = 1): ...\n",
    )
    page = sections(orthus("hello", "--help").stdout)
    assert len(page["Mine"]) == 1 and len(page["Other"]) == 1
