"""`orthus generate`: pictures from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import help, options
from orthus_cli.console import reporter
from orthus_cli.continuing import beginning_of
from orthus_cli.drawing import (
    check_grid,
    check_sidecars,
    hint_at_unknown_words,
    open_model,
    save_each,
    save_grid,
)
from orthus_cli.preview import previewed
from orthus_cli.prompts import check_count, read_prompts
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.stored import stored
from orthus_core.recipe import GenerateRecipe, dump, load
from orthus_core.results.output_names import Named, picture_paths
from orthus_core.samplers.seeds import choose_seeds

PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompt-file",
        metavar="FILE",
        help="File with one prompt a line.",
        rich_help_panel=help.WHAT,
    ),
]
Grid = Annotated[
    Path | None,
    typer.Option(
        "--grid",
        metavar="PATH",
        help="All pictures of this run on one sheet, too.",
        rich_help_panel=help.WHERE,
    ),
]
Continue = Annotated[
    Path | None,
    typer.Option(
        "--continue",
        metavar="PICTURE",
        help="Keep the top of this picture and draw the rest; its prompt and values hold.",
        rich_help_panel=help.WHAT,
    ),
]
KeepRows = Annotated[
    int | None,
    typer.Option(
        "--keep-rows",
        help="Rows of patches to keep; half of them when not given.",
        rich_help_panel=help.WHAT,
    ),
]
Preview = Annotated[
    bool,
    typer.Option(
        "--preview",
        help="Show the picture in the terminal as its rows arrive.",
        rich_help_panel=help.WHERE,
    ),
]


@recipe_options(GenerateRecipe)
def generate(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...",
            help="What to draw; each its own picture, and - for lines of standard input.",
            show_default=False,
        ),
    ] = None,
    prompt_file: PromptFile = None,
    output: options.Output = None,
    grid: Grid = None,
    *,
    flags: Flags,
    continued: Continue = None,
    keep_rows: KeepRows = None,
    config_from: options.ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    metadata: options.Metadata = None,
    preview: Preview = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw pictures from text.

    Example: orthus generate "a snowman" -o out.png

    A seed is a picture, whatever batch it is drawn in: -n 4 --seed 1 draws seeds 1 to 4. Values
    that are not given are the model's own.
    """
    # 1. What is asked, and whether there is a place for it.
    before = stored(config_from, "generate")
    beginning = beginning_of(continued, keep_rows) if continued or keep_rows else None
    if beginning and not config_from:
        before = beginning.stored
    resolved = load(GenerateRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(flags["model"], flags["scheduler"]))
    said = list(prompts or ()) or [before.prompt] * bool(before.prompt and prompt_file is None)
    texts = read_prompts(said, prompt_file)
    check_count(len(texts), max(resolved.num_images, len(resolved.seeds)))
    r = reporter(ctx)
    r.detail(dump(resolved))
    chosen = choose_seeds(resolved.seeds, resolved.num_images)
    wanted = [Named(text, seed) for text in texts for seed in chosen]
    paths = picture_paths(output, wanted, overwrite=overwrite)
    if metadata:
        check_sidecars(paths, overwrite=overwrite)
    if grid:
        check_grid(grid, paths, metadata=metadata, overwrite=overwrite)

    from orthus_core.api.images import info_of
    from orthus_core.api.inputs import Edit
    from orthus_core.samplers.generate import generate
    from orthus_core.samplers.params import sampling_asked, sampling_of

    # 2. The model, and prompts as it knows them.
    loaded = open_model(r, resolved)
    hint_at_unknown_words(r, loaded, texts)
    sampling = sampling_of(loaded.model.config, **sampling_asked(resolved))
    asked = {text: loaded.builder.picture(text, sampling) for text in texts}
    if beginning:
        begun = beginning.features(r, loaded)
        asked = {text: prompt._replace(begun=begun) for text, prompt in asked.items()}
    # 3. Pictures, each saved when it is finished.
    events = generate(
        loaded.model,
        [asked[text]._replace(seed=seed) for text, seed in wanted],
        sampling.settings(max_images=1),
        resolved.batch_size,
    )
    infos = [
        info_of(resolved, sampling, loaded.about, Edit([], text), seed) for text, seed in wanted
    ]
    saved = save_each(
        r,
        previewed(r, events, loaded.model) if preview else events,
        wanted,
        paths,
        [beginning.told(made, loaded) for made in infos] if beginning else infos,
        overwrite=overwrite,
        metadata=metadata,
    )
    if grid:
        save_grid(grid, paths, per_prompt=len(chosen), overwrite=overwrite)
    r.result(
        {
            "pictures": saved,
            **({"grid": str(grid)} if grid else {}),
            "sampling": sampling.told(),
            "model": loaded.about,
        },
        text="\n".join(f"{one['path']}: {one['prompt']}, seed {one['seed']}" for one in saved),
        quiet=[one["path"] for one in saved],
    )
