"""`orthus edit`: pictures changed by an instruction, or as an example was."""

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
    say_framing,
)
from orthus_cli.edit_inputs import file_label, read_edits
from orthus_cli.kept import keep_existing_files, report_all_kept
from orthus_cli.recipe_options import SET_ONLY, Flags, recipe_options
from orthus_cli.stored import read_stored
from orthus_core.recipe import EditRecipe, dump, load
from orthus_core.results.output_names import Named, check_free, picture_paths
from orthus_core.samplers.seeds import choose_seeds

Subject = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE... INSTRUCTION",
        help='Pictures or folders to change, then how, such as "make it night".',
        show_default=False,
    ),
]


@recipe_options(EditRecipe, but=("by_example", *SET_ONLY))  # the first is --example
def edit(
    ctx: typer.Context,
    subject: Subject = None,
    example: options.Example = None,
    each: options.Each = False,
    output: options.Output = None,
    compare: options.Compare = False,
    *,
    flags: Flags,
    config_from: options.ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    metadata: options.Metadata = None,
    overwrite: options.Overwrite = False,
    skip_existing: options.SkipExisting = False,
) -> None:
    """Change pictures by an instruction or an example.

    Example: orthus edit cat.png "add a hat" -o hat.png

    Guidance leads towards the instruction, image guidance towards the picture as it was. A model
    may say in words first what the new picture will show; --max-text 0 has it draw at once. Several
    pictures are read together, unless --each is given or they are a folder. With --example BEFORE
    AFTER two pictures say what to do. A picture of any size is scaled and cropped to the square
    that the model sees. With -C hat.png what hat.png was made by is done again, to other pictures
    or with another instruction where one is given.
    """
    check_one(overwrite, skip_existing)
    flags["by_example"] = True if example else None
    # 1. The request, and whether its output can be written.
    before = read_stored(config_from, "edit")
    resolved = load(EditRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(flags["model"], flags["scheduler"]))
    r = reporter(ctx)
    r.detail(dump(resolved))
    chosen = choose_seeds(resolved.seeds, resolved.num_images)
    by_example = resolved.by_example
    edits = read_edits(subject or [], example, before, by_example=by_example, each=each, note=r.say)
    wanted = [(one, seed) for one in edits for seed in chosen]
    names = [Named(file_label(one, among=len(edits)), seed) for one, seed in wanted]
    paths = picture_paths(output, names, overwrite=overwrite, keep=skip_existing)

    from orthus_core.api.images import prepare_edit
    from orthus_core.results.image_files import ImageFiles, save_comparisons

    files = ImageFiles(paths, metadata=metadata, overwrite=overwrite)
    if skip_existing:
        subjects = [(one.instruction, seed, one.inputs) for one, seed in wanted]
        files = keep_existing_files(r, files, resolved, subjects, output, names)
    files.check()
    compared = [path.with_name(f"{path.stem}_compare.png") for path in paths] if compare else []
    befores = [[image.image for image in one.images] for one, _ in wanted]
    for number in files.missing if compare else ():
        check_free(compared[number], overwrite=overwrite)
    if not files.missing:
        save_comparisons(befores, paths, compared, overwrite=overwrite)
        return report_all_kept(r, files)
    # 2. The model and the edits.
    loaded = open_model(r, resolved)
    hint_at_unknown_words(r, loaded, [edits[0].instruction])
    inputs = [image for one in edits for image in one.images]
    say_framing(r, inputs, loaded.model.model.vqmodel.config.resolution)
    request = prepare_edit(loaded, resolved, edits, chosen)
    hint_at_idle_seed(r, request.params, given=bool(flags["seeds"]) or len(chosen) > 1)
    # 3. Pictures, each saved when it is done.
    saved = save_images(r, request, files, resolved)
    save_comparisons(befores, paths, compared, overwrite=overwrite)
    for number, entry in zip(files.missing, saved, strict=True):
        entry["images"] = list(wanted[number][0].files)
        entry |= {"compare": str(compared[number])} if compare else {}
    skipped = {"skipped": files.kept_paths} if skip_existing else {}
    r.result(
        {"pictures": saved, **skipped, "sampling": request.params.to_dict(), "model": loaded.about},
        text="\n".join(
            picture_line(one) + (f"; beside what it was: {one['compare']}" if compare else "")
            for one in saved
        )
        + kept_line(files),
        quiet=files.paths,
    )
