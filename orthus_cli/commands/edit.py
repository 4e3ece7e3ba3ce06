"""`orthus edit`: pictures changed by an instruction, or as an example was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli import help, options
from orthus_cli.console import Reporter, reporter
from orthus_cli.drawing import check_sidecars, hint_at_unknown_words, open_model, save_each
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.stored import Stored, stored
from orthus_core.errors import PromptError
from orthus_core.recipe import EditRecipe, dump, load
from orthus_core.results.output_names import Named, check_free, picture_paths
from orthus_core.samplers.seeds import choose_seeds

if TYPE_CHECKING:
    from orthus_core.api.inputs import Edit, InputImage

# More pictures than this are not told of one by one.
TOLD_ONE_BY_ONE = 8

Subject = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE... INSTRUCTION",
        help='Pictures or folders to change, then how, such as "make it night".',
        show_default=False,
    ),
]
Example = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--example",
        metavar="BEFORE AFTER",
        help="Change likewise, without words.",
        show_default=False,
        rich_help_panel=help.WHAT,
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each",
        help="A result of each picture, as for a folder; else one of them all.",
        rich_help_panel=help.WHAT,
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="Also before and after side by side, in NAME_compare.png.",
        rich_help_panel=help.WHERE,
    ),
]


@recipe_options(EditRecipe, but=("by_example",))  # that is --example
def edit(
    ctx: typer.Context,
    subject: Subject = None,
    example: Example = None,
    each: Each = False,
    output: options.Output = None,
    compare: Compare = False,
    *,
    flags: Flags,
    config_from: options.ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    metadata: options.Metadata = None,
    overwrite: options.Overwrite = False,
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
    flags["by_example"] = True if example else None
    # 1. What is asked, and whether there is a place for it.
    before = stored(config_from, "edit")
    resolved = load(EditRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(flags["model"], flags["scheduler"]))
    r = reporter(ctx)
    r.detail(dump(resolved))
    chosen = choose_seeds(resolved.seeds, resolved.num_images)
    edits = _read(subject or [], example, before, by_example=resolved.by_example, each=each)
    wanted = [(one, seed) for one in edits for seed in chosen]
    named = [Named(_label(one, among=len(edits)), seed) for one, seed in wanted]
    paths = picture_paths(output, named, overwrite=overwrite)
    compared = [path.with_name(f"{path.stem}_compare.png") for path in paths] if compare else []
    for path in compared:
        check_free(path, overwrite=overwrite)
    if metadata:
        check_sidecars(paths, overwrite=overwrite)

    from orthus_core.api.images import info_of
    from orthus_core.samplers.generate import generate
    from orthus_core.samplers.params import sampling_asked, sampling_of
    from orthus_core.samplers.text import with_words

    # 2. The model, and pictures as it sees them.
    loaded = open_model(r, resolved)
    hint_at_unknown_words(r, loaded, [edits[0].instruction])
    size = loaded.model.model.vqmodel.config.resolution
    _tell_framing(r, [input_image for one in edits for input_image in one.given], size)
    sampling = sampling_of(loaded.model.config, "edit", **sampling_asked(resolved))
    prompts = {id(one): one.prompt(loaded.builder, sampling) for one in edits}
    # 3. Results, each saved when it is finished.
    saved = save_each(
        r,
        with_words(
            generate(
                loaded.model,
                [prompts[id(one)]._replace(seed=seed) for one, seed in wanted],
                sampling.settings(max_images=1),
                resolved.batch_size,
            ),
            loaded.builder.tokenizer,
        ),
        named,
        paths,
        [info_of(resolved, sampling, loaded.about, one, seed) for one, seed in wanted],
        overwrite=overwrite,
        metadata=metadata,
    )
    told = [_told(entry, one) for entry, (one, _) in zip(saved, wanted, strict=True)]
    for entry, (one, _), path in zip(told, wanted, compared, strict=False):
        _save_comparison(one, Path(entry["path"]), path, overwrite=overwrite)
        entry["compare"] = str(path)
    r.result(
        {"pictures": told, "sampling": sampling.told(), "model": loaded.about},
        text="\n".join(
            f"{one['path']}: {one['prompt'] or 'as the example'}, seed {one['seed']}"
            + (f"; drawn as: {one['text']}" if "text" in one else "")
            for one in told
        ),
        quiet=[one["path"] for one in told],
    )


def _read(
    subject: Sequence[str],
    example: tuple[Path, Path] | None,
    before: Stored,
    *,
    by_example: bool,
    each: bool,
) -> list[Edit]:
    """The edits that the arguments ask for, their pictures opened."""
    from orthus_core.api.inputs import edits_of, input_image
    from orthus_core.data.listing import picture_files

    named, instruction = ([*subject], "") if by_example else _parted(subject, before)
    each = each or any(Path(name).is_dir() for name in named)
    files, shown = picture_files(map(Path, named)), list(example or ())
    if before.record is not None and not (files and (shown or not by_example)):
        stored = before.inputs()
        own = 2 if before.record.info.recipe.get("by_example") else 0
        files, shown = files or stored[own:], shown or stored[:own]
    if not files:
        raise PromptError(
            "there is no picture to change",
            where="edit",
            hint='orthus edit cat.png "add a hat"',
        )
    if by_example and not shown:  # a recipe says so: then the first two are the example
        shown, files = files[:2], files[2:]
    return edits_of(
        [input_image(file) for file in files],
        instruction.strip(),
        [input_image(file) for file in shown] if by_example else [],
        each=each,
    )


def _parted(subject: Sequence[str], before: Stored) -> tuple[list[str], str]:
    """The pictures that are named, and the instruction: the last word, or the one from before."""
    if not subject:
        return [], before.prompt
    *named, last = subject
    if before.record is not None and (_is_picture(last) or os.path.isdir(last)):
        return [*subject], before.prompt
    if _is_picture(last):
        raise PromptError(
            "the last argument is a picture, so there is no instruction",
            where=last,
            hint='orthus edit cat.png "add a hat", or --example BEFORE AFTER',
        )
    return named, last


def _is_picture(word: str) -> bool:
    """Whether somebody who types this means a file; it need not be there."""
    from orthus_core.data.formats.image_folder import PICTURE_SUFFIXES

    return os.path.isfile(word) or Path(word).suffix.lower() in PICTURE_SUFFIXES


def _label(edit: Edit, *, among: int) -> str:
    """What a result is named after: the instruction, and its picture where there are several."""
    picture = edit.given[-1].file
    stem = picture.stem if picture else ""
    if not edit.instruction:
        return f"{stem} edited"
    return edit.instruction if among == 1 else f"{stem} {edit.instruction}"


def _tell_framing(r: Reporter, pictures: Sequence[InputImage], size: int) -> None:
    """A word about each picture that is scaled or cropped, or about how many."""
    from orthus_core.data.framing import framing

    changed = {
        f"{picture.file}: {width} x {height}, {said}": None
        for picture in pictures
        for width, height in [picture.image.size]
        if (said := framing(width, height, size))
    }
    if len(changed) > TOLD_ONE_BY_ONE:
        changed = {f"{len(changed)} pictures are scaled or cropped to {size} x {size}": None}
    for line in changed:
        r.say(line)


def _told(entry: dict[str, Any], edit: Edit) -> dict[str, Any]:
    """What results say of a picture: the instruction rather than what it was named after."""
    return {**entry, "prompt": edit.instruction, "images": list(edit.files)}


def _save_comparison(edit: Edit, result: Path, path: Path, *, overwrite: bool) -> None:
    """What it was made from, as the model saw it, and what it became: side by side."""
    from PIL import Image

    from orthus_core.data.pixels import open_image, square
    from orthus_core.image_grid import contact_sheet
    from orthus_core.results.metadata import save_picture

    after = open_image(result)
    before = [Image.fromarray(square(input_image.image, after.width)) for input_image in edit.given]
    sheet = contact_sheet([*before, after], columns=len(before) + 1)
    save_picture(sheet, path, None, overwrite=overwrite)
