"""Options that mean the same in several commands and are no key of a recipe, each written once.

Those that are a key come from the recipe's schema (`orthus_cli.recipe_options`). The global options
(`--format`, `-v`, `-q`, `--debug`) belong to `app.py`, which takes them before and after a command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import help_sections

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="File, folder or template {prompt}_{seed}.png.",
        rich_help_panel=help_sections.WHERE,
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.", show_default=False)
]
Metadata = Annotated[
    bool | None,
    typer.Option(
        "--metadata/--no-metadata",
        help="How it was made also beside the picture, as JSON; or not even in it.",
        show_default=False,
        rich_help_panel=help_sections.WHERE,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=help_sections.WHERE),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="PATH",
        help="Picture to read; repeat for more than one.",
        rich_help_panel=help_sections.WHAT,
    ),
]

ConfigFrom = Annotated[
    Path | None,
    typer.Option(
        "-C",
        "--config-from",
        metavar="FILE",
        help="Take words, pictures and values from an earlier result; what is given wins.",
        show_default=False,
        rich_help_panel=help_sections.RECIPE,
    ),
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="Recipe: a TOML file, or a name from `orthus recipes ls`.",
        rich_help_panel=help_sections.RECIPE,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, as in optim.lr=1e-5.",
        rich_help_panel=help_sections.RECIPE,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="auto|PATH",
        help="Go on from a saved state: the newest beside the output (auto), or PATH, a state such "
        "as OUTPUT.training/states/step-000500, or a run's OUTPUT for its newest.",
    ),
]
