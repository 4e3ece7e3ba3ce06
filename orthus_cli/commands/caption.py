"""`orthus caption`: words for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import help_sections, options
from orthus_cli.answers import answers_path, ask_each, check_pictures, open_answers, report_answers
from orthus_cli.console import reporter
from orthus_cli.drawing import hint_at_idle_seed, hint_at_unknown_words, open_model
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.stored import read_stored
from orthus_core.recipe import CaptionRecipe, dump, load
from orthus_core.samplers.seeds import choose_seeds

Pictures = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Pictures to read, or folders of them.")
]
Overwrite = Annotated[
    bool,
    options.option(
        help_sections.WHERE, "--overwrite", help="Ask all anew, and replace the answers file."
    ),
]
Lines = Annotated[
    str | None,  # a path would lose the slash of a folder
    options.option(
        help_sections.WHERE,
        "-o",
        "--output",
        metavar="FILE",
        help="JSON Lines file for the answers; what it has already is not asked again.",
        show_default=False,
    ),
]
ConfigFrom = Annotated[
    Path | None,
    options.option(
        help_sections.RECIPE,
        "-C",
        "--config-from",
        metavar="FILE",
        help="Take question and values from an earlier answers.jsonl; options that are given win.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool,
    options.option(help_sections.ASK, "--strict", help="Stop at a picture that does not read."),
]


@recipe_options(CaptionRecipe)
def caption(
    ctx: typer.Context,
    images: Pictures,
    output: Lines = None,
    strict: Strict = False,
    *,
    flags: Flags,
    config_from: ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what pictures show, or answer a question about them.

    Example: orthus caption out.png

    With -o captions.jsonl a large folder may be read in several runs: each goes on where the last
    one stopped. Pictures that do not read are named and left out, unless --strict is given.
    """
    # 1. The question and the files.
    before = read_stored(config_from, "caption")
    resolved = load(CaptionRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(flags["model"],))
    r = reporter(ctx)
    r.detail(dump(resolved))

    from orthus_core.api.captions import prepare_caption
    from orthus_core.data.listing import picture_files
    from orthus_core.results.answer_file import check_answers

    answers = answers_path(output)
    passed_over: list[str] = []
    files = picture_files(images, passed_over.append)
    for line in passed_over:
        r.say(line)
    check_pictures(files, strict=strict)
    (first,) = choose_seeds(() if resolved.seed is None else (resolved.seed,), 1)
    seeds = choose_seeds((first,), len(files))
    if answers:
        check_answers(answers)
    # 2. The model, and its earlier answers.
    loaded = open_model(r, resolved)
    store = open_answers(answers, resolved, loaded.about, overwrite=overwrite) if answers else None
    request = prepare_caption(loaded, resolved, files, seeds, store.known if store else None)
    hint_at_unknown_words(r, loaded, [resolved.question])
    hint_at_idle_seed(r, request.params, given=flags["seed"] is not None)
    # 3. Answers, each written as soon as it is complete.
    report_answers(r, request, ask_each(r, request, store, strict=strict), store, passed_over)
