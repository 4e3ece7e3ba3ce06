"""`orthus generate`: pictures from text."""

from __future__ import annotations

from typing import Annotated

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.drawing import (
    check_one,
    hint_at_idle_seed,
    hint_at_unknown_words,
    kept_line,
    open_model,
    picture_line,
    save_images,
)
from orthus_cli.prompts import check_count, hint_at_slips, read_prompts
from orthus_cli.recipe_options import SET_ONLY, Flags, recipe_options
from orthus_cli.stored import continuation_from, read_stored
from orthus_core.recipe import GenerateRecipe, dump, load
from orthus_core.results.output_names import Named, picture_paths
from orthus_core.samplers.seeds import choose_seeds


@recipe_options(GenerateRecipe, but=SET_ONLY)
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
    prompt_file: options.PromptFile = None,
    output: options.Output = None,
    grid: options.Grid = None,
    *,
    flags: Flags,
    continued: options.Continue = None,
    keep_rows: options.KeepRows = None,
    config_from: options.ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    metadata: options.Metadata = None,
    preview: options.Preview = False,
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
) -> None:
    """Draw pictures from text.

    Example: orthus generate "a snowman" -o out.png

    A seed is a picture, whatever batch it is drawn in: -n 4 --seed 1 draws seeds 1 to 4. How much
    they differ depends on the model: those of mini differ in place and background, and hardly in
    the thing itself. Values that are not given are the model's own. A run that was stopped goes on
    with --skip-existing.
    """
    check_one(overwrite, skip_existing)
    # 1. The request, and whether its output can be written.
    continuation, begun_with = continuation_from(continued, keep_rows)
    before = read_stored(config_from, "generate") if config_from else begun_with
    resolved = load(GenerateRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(flags["model"], flags["scheduler"]))
    said = list(prompts or ()) or [before.prompt] * bool(before.prompt and prompt_file is None)
    texts = read_prompts(said, prompt_file)
    check_count(len(texts), max(resolved.num_images, len(resolved.seeds)))
    r = reporter(ctx)
    r.detail(dump(resolved))
    hint_at_slips(r, prompts or ())
    chosen = choose_seeds(resolved.seeds, resolved.num_images)
    names = [Named(text, seed) for text in texts for seed in chosen]
    paths = picture_paths(output, names, overwrite=overwrite, keep=skip_existing)

    from orthus_core.api.images import prepare_generate
    from orthus_core.results.image_files import ImageFiles

    files = ImageFiles(paths, grid, metadata, overwrite)
    if skip_existing:
        from orthus_cli.kept import keep_existing_files

        inputs = [continuation.pixels] if continuation else []
        subjects = [(name.prompt, name.seed, inputs) for name in names]
        files = keep_existing_files(r, files, resolved, subjects, output, names)
    files.check()
    if not files.missing:
        files.save_grid(len(chosen), [name.prompt for name in names], chosen * len(texts))
        from orthus_cli.kept import report_all_kept

        return report_all_kept(r, files)
    # 2. The model and the prompts.
    loaded = open_model(r, resolved)
    hint_at_unknown_words(r, loaded, texts)
    request = prepare_generate(loaded, resolved, texts, chosen, continuation)
    several = len(chosen) > 1 or bool(resolved.best_of)
    hint_at_idle_seed(r, request.params, given=bool(flags["seeds"]) or several)
    # 3. Pictures, each saved when it is done.
    saved = save_images(r, request, files, resolved, preview=preview)
    files.save_grid(len(chosen), [name.prompt for name in names], [name.seed for name in names])
    r.result(
        {
            "pictures": saved,
            **({"skipped": files.kept_paths} if skip_existing else {}),
            **({"grid": str(grid)} if grid else {}),
            "sampling": request.params.to_dict(),
            "model": loaded.about,
        },
        text="\n".join(map(picture_line, saved))
        + kept_line(files)
        + (f"\n{grid}: all of them" if grid else ""),
        quiet=files.paths,
    )
