"""`--skip-existing`: pictures of a run that are there already stay, and only others are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_cli.console import Reporter
from orthus_cli.drawing import kept_line, pictures
from orthus_core.errors import PromptError

if TYPE_CHECKING:
    from orthus_core.recipe import EditRecipe, GenerateRecipe
    from orthus_core.results.image_files import ImageFiles
    from orthus_core.results.output_names import Named


def keep_existing_files(
    r: Reporter,
    files: ImageFiles,
    recipe: GenerateRecipe | EditRecipe,
    subjects: Sequence[tuple[str, int, Sequence[str]]],
    output: str | Path | None,
    names: Sequence[Named],
) -> ImageFiles:
    """The files of a run, of which those that are there already are not drawn.

    Args:
        subjects: Prompt, seed and hashes of the input images of each image.
        output, names: What the paths were made from.

    Raises:
        PromptError: When seeds are random and part of the names, so that no file can be there.
        OutputError: When a file of another prompt, seed or image is there.
    """
    from orthus_core.recipe import as_table
    from orthus_core.results.image_files import Wanted, keep_existing
    from orthus_core.results.output_names import picture_paths

    # Without a seed, a name that has none says "any picture of this prompt".
    any_seed = not recipe.seeds
    others = [name._replace(seed=name.seed + 1) for name in names]
    if any_seed and picture_paths(output, others, keep=True) != files.paths:
        raise PromptError(
            "without a seed each run draws other pictures, so that none is there to be skipped",
            where="--skip-existing",
            hint="give the first seed of the run that is to go on, as in --seed 1",
        )
    table = as_table(recipe)
    wanted = [
        Wanted(prompt, None if any_seed else seed, inputs, table)
        for prompt, seed, inputs in subjects
    ]
    kept = keep_existing(files.paths, wanted)
    if kept.unknown:
        r.warn(f"{pictures(kept.unknown)} there already, without a record of how it was made")
    if kept.otherwise:
        r.warn(
            f"pictures that are there were drawn with other values of {', '.join(kept.otherwise)}"
        )
    if kept.numbers and any_seed:
        r.say("their seeds may be any, because neither --seed nor their names give one")
    return files._replace(kept=kept.numbers)


def report_all_kept(r: Reporter, files: ImageFiles) -> None:
    """Reports that all pictures were there, so that no model was loaded."""
    r.result(
        {
            "pictures": [],
            "skipped": files.kept_paths,
            **({"grid": str(files.grid)} if files.grid else {}),
        },
        text=kept_line(files).strip(),
        quiet=files.paths,
    )
