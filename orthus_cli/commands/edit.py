"""`orthus edit`: a picture changed by an instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.studio import hashes, hint_at_unknown_words, making, open_studio, save_each
from orthus_core.recipe import EditRecipe, dump, load
from orthus_core.results.names import Named, picture_paths
from orthus_core.samplers.seeds import choose_seeds


def edit(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Picture to change.")],
    instruction: Annotated[
        str, typer.Argument(metavar="INSTRUCTION", help='How, such as "make it night".')
    ],
    output: options.Output = None,
    num_images: options.NumImages = None,
    seeds: options.Seeds = None,
    auto_seeds: options.AutoSeeds = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    image_guidance: options.ImageGuidance = None,
    noise_scale: options.NoiseScale = None,
    batch_size: options.BatchSize = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Change a picture: orthus edit cat.png "add a hat" -o hat.png

    Guidance leads towards the instruction, image guidance towards the picture as it was. The
    picture is scaled and cropped to the square that the model sees.
    """
    flags = {
        "num_images": auto_seeds or num_images,
        "seeds": seeds or ([] if auto_seeds else None),
        "steps": steps,
        "guidance": guidance,
        "image_guidance": image_guidance,
        "noise_scale": noise_scale,
        "batch_size": batch_size,
        "model": model,
        "device": device,
        "dtype": dtype,
    }
    resolved = load(EditRecipe, recipe, sets or (), flags)
    r = reporter(ctx)
    r.detail(dump(resolved))
    chosen = choose_seeds(resolved.seeds, resolved.num_images)
    wanted = [Named(instruction, seed) for seed in chosen]
    paths = picture_paths(output, wanted, overwrite=overwrite)

    from orthus_core.data.pictures import FilePicture
    from orthus_core.samplers.batches import in_batches
    from orthus_core.samplers.requests import sampling_of

    studio = open_studio(r, resolved)
    hint_at_unknown_words(r, studio, [instruction])
    sampling = sampling_of(
        studio.model.config,
        steps=resolved.steps,
        guidance=resolved.guidance,
        image_guidance=resolved.image_guidance,
        noise_scale=resolved.noise_scale,
    )
    asked = studio.asking.edit([FilePicture(image)], instruction, sampling)
    seen = hashes([image])
    saved = save_each(
        r,
        in_batches(
            studio.model,
            [asked._replace(seed=seed) for seed in chosen],
            sampling.settings(max_images=1),
            resolved.batch_size,
        ),
        wanted,
        paths,
        [making(studio, resolved, sampling, instruction, seed, seen) for seed in chosen],
        overwrite=overwrite,
    )
    r.result(
        {
            "pictures": saved,
            "image": str(image),
            "sampling": sampling.told(),
            "model": studio.about,
        },
        text="\n".join(f"{one['path']}: {one['prompt']}, seed {one['seed']}" for one in saved),
        quiet=[one["path"] for one in saved],
    )
