"""Options that mean the same in every command, each written down once.

    def generate(ctx: typer.Context, model: Model = None, steps: Steps = None) -> None:
        recipe = load(GenerateRecipe, ..., flags={"model": model, "steps": steps})

Those that name a recipe's key default to None, "not given": a recipe's value stands unless the
option is named. The global options (`--format`, `-v`, `-q`, `--debug`) belong to `app.py`, which
takes them before and after a command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orthus_core.recipe import drawing

Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="Folder, hub id, or mini, chameleon-mini, base, instruct, chameleon-7b, anole-7b.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="PATH", help="File, folder or template {prompt}_{seed}.png."
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
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="PATH", help="Picture to read; repeat for more than one."),
]

Steps = Annotated[
    int | None, typer.Option("--steps", "--num-inference-steps", help="Denoising steps a patch.")
]
Preset = Annotated[
    drawing.Preset | None,
    typer.Option("--preset", help="How much time to take; exact when not given."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="NAME",
        help="ddim, dpm++, unipc, or package.module.Class of a diffusers-style one.",
    ),
]
StepTolerance = Annotated[
    float | None,
    typer.Option(
        "--step-tolerance",
        metavar="SHARE",
        help="Stop a patch once its estimate can change by no more than this, such as 0.05.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", "--cfg-scale", help="Guidance towards the text; 1 is none."),
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(
        "--image-guidance", help="Guidance towards the picture that is edited; 1 is none."
    ),
]
MaxText = Annotated[
    int | None,
    typer.Option(
        "--max-text",
        metavar="TOKENS",
        help="Words the model may write first, of what the picture will show; 0 is none.",
    ),
]
NoiseScale = Annotated[
    float | None,
    typer.Option(
        "--noise-scale", help="Size of the noise each patch starts from; small models like less."
    ),
]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", metavar="TEXT", help="What to keep away from.")
]

NumImages = Annotated[
    int | None, typer.Option("-n", "--num-images", help="Pictures for each prompt.")
]


def batch_size(typed: str) -> int | Literal["auto"]:
    """A number of rows, or "auto". Raises: typer.BadParameter for other words."""
    if typed == "auto":
        return "auto"
    try:
        return int(typed)
    except ValueError:
        raise typer.BadParameter(f"{typed!r} is no whole number, nor auto") from None


BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N|auto",
        parser=batch_size,
        help="Pictures at once; auto is as many as fit into memory.",
    ),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", help="Seed of a picture; repeat for more pictures."),
]
AutoSeeds = Annotated[
    int | None, typer.Option("--auto-seeds", min=1, help="Draw this many seeds, and print them.")
]

Device = Annotated[drawing.Device | None, typer.Option("--device", help="Where the model runs.")]
Dtype = Annotated[drawing.Dtype | None, typer.Option("--dtype", help="Precision of the weights.")]
Quantize = Annotated[
    int | None,
    typer.Option("--quantize", metavar="4|8", help="Hold the backbone in so many bits."),
]
LowMemory = Annotated[
    bool | None,
    typer.Option(
        "--low-memory",
        help="Leave the backbone in its files and fetch each layer when it is used: slower.",
        show_default=False,
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
    ),
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe", metavar="FILE", help="Recipe: a TOML file, or a name from `orthus recipes ls`."
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the recipe, as in optim.lr=1e-5."
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
