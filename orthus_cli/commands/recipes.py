"""`orthus recipes`: lists, prints, copies and checks the included recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orthus_cli.console import reporter
from orthus_cli.help_sections import CommandList
from orthus_cli.options import Overwrite, recipe_names
from orthus_core.atomic import write_text
from orthus_core.errors import OutputError, RecipeError
from orthus_core.recipe import SCHEMAS, as_table, load
from orthus_core.recipe.docs import default_text, listed_keys, type_text
from orthus_core.recipe.load import command_of, raise_all
from orthus_core.recipe.shelf import find, shelved
from orthus_core.user_files import marked_encoding, read_text

app = typer.Typer(
    cls=CommandList,
    help="List, show, copy and check recipes.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", autocompletion=recipe_names, help="A name from `ls`, or a file."
    ),
]


@app.command("ls")
def ls(ctx: typer.Context) -> None:
    """List the recipes that come along."""
    rows = [
        {"name": name, "command": command_of(path), "run": _first_comment(path), "path": str(path)}
        for name, path in shelved().items()
    ]
    r = reporter(ctx)
    r.table(
        ("name", "command", "run it with"),
        [(row["name"], row["command"], row["run"]) for row in rows],
    )
    r.result({"recipes": rows}, text="", quiet=[row["name"] for row in rows])


@app.command("cat")
def cat(ctx: typer.Context, recipe: Name) -> None:
    """Print a recipe as it was written."""
    path = find(recipe)
    text, written = _read(path), path.read_bytes()
    encoding, mark = marked_encoding(written)
    reporter(ctx).result(
        {"path": str(path), "text": text},
        text=text.rstrip("\n"),
        quiet=[text.rstrip("\n")],
        content=written[mark:].decode(encoding).encode(),
    )


@app.command("cp")
def cp(
    ctx: typer.Context,
    recipe: Name,
    target: Annotated[Path, typer.Argument(metavar="PATH", help="File or folder to copy to.")],
    overwrite: Overwrite = False,
) -> None:
    """Copy a recipe, to change it."""
    source = find(recipe)
    target = target / source.name if target.is_dir() else target
    if target.exists() and not overwrite:
        raise OutputError(
            "a file of this name is already there",
            where=str(target),
            hint="name another one, or replace it with --overwrite",
        )
    write_text(target, _read(source), failure="cannot write the file")
    reporter(ctx).result(
        {"path": str(target)}, text=f"copied {source.stem} to {target}", quiet=[target]
    )


@app.command("validate")
def validate(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...", autocompletion=recipe_names, help="Names or files to check."
        ),
    ],
) -> None:
    """Check recipes without running them; all mistakes are told."""
    checked, mistakes = [], list[RecipeError]()
    for recipe in recipes:
        try:
            checked.append(_check(recipe))
        except RecipeError as error:
            mistakes.append(error)
    raise_all(mistakes)
    lines = [f"{row['path']}: a valid recipe for orthus {row['command']}" for row in checked]
    reporter(ctx).result(
        {"valid": checked}, text="\n".join(lines), quiet=[row["path"] for row in checked]
    )


def _check(recipe: str) -> dict[str, Any]:
    command = command_of(recipe)
    if command not in SCHEMAS:
        raise RecipeError(
            f"there is no command {command!r} that takes a recipe",
            where=str(find(recipe)),
            hint="recipes are for " + ", ".join(SCHEMAS),
        )
    resolved = load(SCHEMAS[command], recipe)
    return {"path": str(find(recipe)), "command": command, "resolved": as_table(resolved)}


@app.command("keys")
def list_keys(
    ctx: typer.Context,
    command: Annotated[
        str, typer.Argument(metavar="COMMAND", help="A command that takes a recipe.")
    ],
) -> None:
    """List the keys of a command's recipe."""
    if command not in SCHEMAS:
        raise RecipeError(
            f"there is no command {command!r} that takes a recipe",
            hint="recipes are for " + ", ".join(SCHEMAS),
        )
    rows = [
        {"key": key.name, "default": default_text(key), "takes": type_text(key), "meaning": key.doc}
        for key in listed_keys(SCHEMAS[command])
    ]
    r = reporter(ctx)
    r.table(("key", "default", "takes", "meaning"), [tuple(row.values()) for row in rows])
    r.result({"command": command, "keys": rows}, text="", quiet=[row["key"] for row in rows])


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"cannot read the recipe: {reason}", where=str(path)) from error


def _first_comment(path: Path) -> str:
    first = _read(path).partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
