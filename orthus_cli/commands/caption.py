"""`orthus caption`: words for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import options
from orthus_cli.answers import ask_each, open_answers, report_answers
from orthus_cli.console import reporter
from orthus_cli.drawing import open_model
from orthus_cli.stored import stored
from orthus_core.recipe import CaptionRecipe, dump, load
from orthus_core.samplers.seeds import choose_seeds

Pictures = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Pictures to read, or folders of them.")
]
AskedFor = Annotated[
    str | None, typer.Option("--question", metavar="TEXT", help="What is asked about each.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="Seed of the first answer, the next count on; matters where text is sampled.",
    ),
]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Ask all anew, and replace the answers file.")
]
Lines = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="JSON Lines file for the answers; what it has already is not asked again.",
        show_default=False,
    ),
]
ConfigFrom = Annotated[
    Path | None,
    typer.Option(
        "-C",
        "--config-from",
        metavar="FILE",
        help="Take question and values from an earlier answers.jsonl; options that are given win.",
        show_default=False,
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a picture that does not read.")]


def caption(
    ctx: typer.Context,
    images: Pictures,
    question: AskedFor = None,
    output: Lines = None,
    strict: Strict = False,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
    batch_size: options.BatchSize = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    low_memory: options.LowMemory = None,
    config_from: ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what pictures show: orthus caption out.png

    With -o captions.jsonl a large folder may be read in several runs: each goes on where the last
    one stopped. Pictures that do not read are named and left out, unless --strict is given.
    """
    flags = {
        "question": question,
        "text.max_new_tokens": max_new_tokens,
        "seed": seed,
        "batch_size": batch_size,
        "model": model,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "low_memory": low_memory,
    }
    # 1. What is asked, about which files.
    before = stored(config_from, "caption")
    resolved = load(CaptionRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(model,))
    r = reporter(ctx)
    r.detail(dump(resolved))

    from orthus_core.api.captions import prepare_caption
    from orthus_core.data.listing import picture_files

    files = picture_files(images)
    (first,) = choose_seeds(() if resolved.seed is None else (resolved.seed,), 1)
    seeds = choose_seeds((first,), len(files))
    # 2. The model, and what it answered before.
    loaded = open_model(r, resolved)
    store = open_answers(output, resolved, loaded.about, overwrite=overwrite) if output else None
    request = prepare_caption(loaded, resolved, files, seeds, store.known if store else None)
    # 3. Answers, each written down when it is there.
    report_answers(r, request, ask_each(r, request, store, strict=strict), store)
