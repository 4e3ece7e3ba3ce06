"""`orthus generate`: pictures from text."""

from __future__ import annotations

from typing import Annotated

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.studio import hint_at_unknown_words, making, open_studio, save_each
from orthus_core.recipe import GenerateRecipe, dump, load
from orthus_core.results.names import Named, picture_paths
from orthus_core.samplers.seeds import choose_seeds


def generate(
    ctx: typer.Context,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="What to draw; each its own picture.")
    ],
    output: options.Output = None,
    num_images: options.NumImages = None,
    seeds: options.Seeds = None,
    auto_seeds: options.AutoSeeds = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    noise_scale: options.NoiseScale = None,
    negative_prompt: options.NegativePrompt = None,
    batch_size: options.BatchSize = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw pictures from text: orthus generate "a snowman" -o out.png

    A seed is a picture, whatever batch it is drawn in: -n 4 --seed 1 draws seeds 1 to 4. Values
    that are not given are the model's own.
    """
    flags = {
        "num_images": auto_seeds or num_images,
        "seeds": seeds or ([] if auto_seeds else None),
        "steps": steps,
        "guidance": guidance,
        "noise_scale": noise_scale,
        "negative_prompt": negative_prompt,
        "batch_size": batch_size,
        "model": model,
        "device": device,
        "dtype": dtype,
    }
    resolved = load(GenerateRecipe, recipe, sets or (), flags)
    r = reporter(ctx)
    r.detail(dump(resolved))
    chosen = choose_seeds(resolved.seeds, resolved.num_images)
    wanted = [Named(prompt, seed) for prompt in prompts for seed in chosen]
    paths = picture_paths(output, wanted, overwrite=overwrite)

    from orthus_core.samplers.batches import in_batches
    from orthus_core.samplers.requests import sampling_of

    studio = open_studio(r, resolved)
    hint_at_unknown_words(r, studio, prompts)
    sampling = sampling_of(
        studio.model.config,
        steps=resolved.steps,
        guidance=resolved.guidance,
        noise_scale=resolved.noise_scale,
        negative_prompt=resolved.negative_prompt,
    )
    asked = {prompt: studio.asking.picture(prompt, sampling) for prompt in prompts}
    saved = save_each(
        r,
        in_batches(
            studio.model,
            [asked[prompt]._replace(seed=seed) for prompt, seed in wanted],
            sampling.settings(max_images=1),
            resolved.batch_size,
        ),
        wanted,
        paths,
        [making(studio, resolved, sampling, prompt, seed) for prompt, seed in wanted],
        overwrite=overwrite,
    )
    r.result(
        {"pictures": saved, "sampling": sampling.told(), "model": studio.about},
        text="\n".join(f"{one['path']}: {one['prompt']}, seed {one['seed']}" for one in saved),
        quiet=[one["path"] for one in saved],
    )
