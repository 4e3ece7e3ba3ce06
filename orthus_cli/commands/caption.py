"""`orthus caption`: words for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.studio import open_studio
from orthus_core.events import TextPiece
from orthus_core.recipe import CaptionRecipe, dump, load
from orthus_core.samplers.seeds import choose_seeds


def caption(
    ctx: typer.Context,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures to read.")],
    question: Annotated[
        str | None, typer.Option("--question", metavar="TEXT", help="What is asked about each.")
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = None,
    batch_size: options.BatchSize = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
) -> None:
    """Say what pictures show: orthus caption out.png"""
    flags = {
        "question": question,
        "text.max_new_tokens": max_new_tokens,
        "seed": seed,
        "batch_size": batch_size,
        "model": model,
        "device": device,
        "dtype": dtype,
    }
    resolved = load(CaptionRecipe, recipe, sets or (), flags)
    r = reporter(ctx)
    r.detail(dump(resolved))
    text = resolved.text
    given = () if resolved.seed is None else (resolved.seed,)
    (first,) = choose_seeds(given, 1)
    seeds = choose_seeds((first,), len(images))

    from orthus_core.data.pictures import FilePicture
    from orthus_core.samplers.batches import in_batches
    from orthus_core.samplers.settings import Settings
    from orthus_core.samplers.words import with_words

    studio = open_studio(r, resolved)
    prompts = [
        studio.asking.question(FilePicture(image), resolved.question)._replace(seed=seed)
        for image, seed in zip(images, seeds, strict=True)
    ]
    settings = Settings(
        max_images=0,
        max_text=text.max_new_tokens,
        temperature=text.temperature,
        top_p=text.top_p,
    )
    events = in_batches(studio.model, prompts, settings, resolved.batch_size)
    said = [""] * len(images)
    for event in r.track(with_words(events, studio.tokenizer)):
        if isinstance(event, TextPiece):
            said[event.row] += event.text
    answers = [answer.strip() for answer in said]
    lines = (
        answers
        if len(images) == 1
        else [f"{image}: {answer}" for image, answer in zip(images, answers, strict=True)]
    )
    r.result(
        {
            "question": resolved.question,
            "answers": [
                {"image": str(image), "text": answer}
                for image, answer in zip(images, answers, strict=True)
            ],
            "model": studio.about,
        },
        text="\n".join(lines),
        quiet=answers,
    )
