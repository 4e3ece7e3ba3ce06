"""Options of the drawing commands that are not recipe keys, each defined once.

Options for recipe keys come from the recipe's schema (`orthus_cli.recipe_options`). The global
options (`--format`, `-v`, `-q`, `--debug`) belong to `app.py`, which takes them before and after a
command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orthus_cli import help_sections


def option(section: str, *words: str, **settings: Any) -> Any:
    """An option that the help lists in a section; the other arguments are those of typer."""
    return typer.Option(*words, rich_help_panel=section, **settings)


def model_names() -> list[str]:
    """The names of models that a shell completes; folders it completes by itself."""
    from orthus_core.checkpoint.hub import BUNDLED, HUB_ALIASES

    return [*BUNDLED, *HUB_ALIASES]


def recipe_names(ctx: typer.Context) -> list[str]:
    """The names of the included recipes that a shell completes: for a command with recipes of its
    own those, and for any other all.
    """
    from orthus_core.recipe import SCHEMAS
    from orthus_core.recipe.load import command_of
    from orthus_core.recipe.shelf import shelved

    names = shelved()
    if ctx.info_name not in SCHEMAS:
        return [*names]
    return [name for name, path in names.items() if command_of(path) == ctx.info_name]


Output = Annotated[
    str | None,  # a path would lose the slash that says that NAME.v2/ is a folder
    option(
        help_sections.WHERE,
        "-o",
        "--output",
        metavar="PATH",
        help="File, folder or template {prompt}_{seed}.png; also .jpg, and .webp without loss.",
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.", show_default=False)
]
Metadata = Annotated[
    bool | None,
    option(
        help_sections.WHERE,
        "--metadata/--no-metadata",
        help="How it was made also beside the picture, as JSON; or not even in it.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, option(help_sections.WHERE, "--overwrite", help="Replace what is there.")
]
SkipExisting = Annotated[
    bool,
    option(
        help_sections.WHERE,
        "--skip-existing",
        help="Keep pictures that are there, and draw the others.",
    ),
]
Images = Annotated[
    list[Path] | None,
    option(
        help_sections.WHAT,
        "--image",
        metavar="PATH",
        help="Picture to read; repeat for more than one.",
    ),
]

ConfigFrom = Annotated[
    Path | None,
    option(
        help_sections.RECIPE,
        "-C",
        "--config-from",
        metavar="FILE",
        help="Take words, pictures and values from an earlier result; what is given wins.",
        show_default=False,
    ),
]
RecipeFile = Annotated[
    str | None,
    option(
        help_sections.RECIPE,
        "--recipe",
        metavar="FILE",
        autocompletion=recipe_names,
        help="Recipe: a TOML file, or a name from `orthus recipes ls`.",
    ),
]
Sets = Annotated[
    list[str] | None,
    option(
        help_sections.RECIPE,
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, as in optim.lr=1e-5.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
OverwriteRun = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the model at the output and, without --resume, begin anew: the states, "
        "figures and samples of the run beside it are removed.",
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="auto|PATH",
        help="Go on from a saved state: the newest of the run beside the output (auto; begins one "
        "where there is none), or PATH, a state such as OUTPUT.training/states/step-000500, or "
        "another run's OUTPUT for its newest.",
    ),
]

ResumeStages = Annotated[
    Literal["auto"] | None,
    typer.Option(
        "--resume",
        metavar="auto",
        help="Go on where an earlier run stopped; begins one where there is none.",
    ),
]

# Options of the commands that read a data set.
DataFormat = Annotated[
    str, typer.Option("--as", metavar="NAME", help="Data format; found by itself if left out.")
]
PicturesFolder = Annotated[
    str,
    typer.Option(
        "--images", metavar="DIR", help="Folder that the records' picture paths are relative to."
    ),
]
Split = Annotated[
    str, typer.Option("--split", metavar="NAME", help="Part of the data set, such as train.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=COLUMN",
        help="Column of the data set for a field, as in caption=TEXT (repeatable).",
    ),
]

# Options of `orthus generate` alone.
PromptFile = Annotated[
    Path | None,
    option(
        help_sections.WHAT, "--prompt-file", metavar="FILE", help="File with one prompt a line."
    ),
]
Grid = Annotated[
    Path | None,
    option(
        help_sections.WHERE,
        "--grid",
        metavar="PATH",
        help="All pictures of this run on one sheet, too, with their prompts and seeds.",
    ),
]
Continue = Annotated[
    Path | None,
    option(
        help_sections.WHAT,
        "--continue",
        metavar="PICTURE",
        help="Keep the top of this picture and draw the rest; its prompt and values hold. Other "
        "words change the rest most; how much a seed does depends on the model.",
    ),
]
KeepRows = Annotated[
    int | None,
    option(
        help_sections.WHAT,
        "--keep-rows",
        help="Rows of patches to keep; half of them when not given.",
    ),
]
Preview = Annotated[
    bool,
    option(
        help_sections.WHERE,
        "--preview",
        help="Show the picture in the terminal as its rows arrive.",
    ),
]

# Options of `orthus edit` alone.
Example = Annotated[
    tuple[Path, Path] | None,
    option(
        help_sections.WHAT,
        "--example",
        metavar="BEFORE AFTER",
        help="Change likewise, without words.",
        show_default=False,
    ),
]
Each = Annotated[
    bool,
    option(
        help_sections.WHAT,
        "--each",
        help="A result of each picture, as for a folder; else one of them all.",
    ),
]
Compare = Annotated[
    bool,
    option(
        help_sections.WHERE,
        "--compare",
        help="Also before and after side by side, in NAME_compare.png.",
    ),
]
