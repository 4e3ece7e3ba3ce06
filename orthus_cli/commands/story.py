"""`orthus story`: words and pictures by turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orthus_cli import options
from orthus_cli.console import reporter
from orthus_cli.studio import hashes, hint_at_unknown_words, making, open_studio
from orthus_core.errors import PromptError
from orthus_core.events import Event, ImageDone, Note, TextPiece
from orthus_core.recipe import StoryRecipe, dump, load
from orthus_core.samplers.seeds import choose_seeds

if TYPE_CHECKING:
    from orthus_core.data.pictures import Picture
    from orthus_core.results.story import Panel
    from orthus_core.samplers.requests import Sampling
    from orthus_core.samplers.settings import Settings

# What story data ends the user's part with (StoryStream, and the bundled model's own stories).
CONTINUE = "Please continue this story."


def story(
    ctx: typer.Context,
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help="How the story begins, in words.")
    ] = "",
    images: options.Images = None,
    panels: Annotated[
        int | None, typer.Option("--panels", help="Pictures to draw.", show_default=False)
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")
    ] = Path("story"),
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    noise_scale: options.NoiseScale = None,
    negative_prompt: options.NegativePrompt = None,
    max_new_tokens: options.MaxNewTokens = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Tell a story in pictures: orthus story --image cat.png --panels 3 -o story

    The folder gets the pictures, story.md to read and story.json. Every panel is drawn: where the
    model does not begin a picture itself, one is begun for it, and that is said.
    """
    flags = {
        "panels": panels,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "noise_scale": noise_scale,
        "negative_prompt": negative_prompt,
        "text.max_new_tokens": max_new_tokens,
        "model": model,
        "device": device,
        "dtype": dtype,
    }
    resolved = load(StoryRecipe, recipe, sets or (), flags)
    r = reporter(ctx)
    r.detail(dump(resolved))
    (chosen,) = choose_seeds(() if resolved.seed is None else (resolved.seed,), 1)

    from orthus_core.results.files import check_folder
    from orthus_core.results.story import MARK, write_story
    from orthus_core.samplers.interleave import interleave
    from orthus_core.samplers.requests import sampling_of
    from orthus_core.samplers.words import with_words

    # 1. What is given, and whether there is a place for what is made.
    opening = _opening(prompt.strip(), images or [])
    check_folder(output, mark=MARK, overwrite=overwrite)
    studio = open_studio(r, resolved)
    hint_at_unknown_words(r, studio, [prompt])
    sampling = sampling_of(
        studio.model.config,
        story=True,
        steps=resolved.steps,
        guidance=resolved.guidance,
        noise_scale=resolved.noise_scale,
        negative_prompt=resolved.negative_prompt,
    )
    made = making(studio, resolved, sampling, prompt, chosen, hashes(images or []))
    # 2. The model goes on from it, panel by panel.
    asked = studio.asking.story(_request(prompt, images or []), sampling)._replace(seed=chosen)
    events = interleave(studio.model, [asked], _settings(resolved, sampling))
    told: list[Panel] = []
    try:
        for panel in _panels(r.track(with_words(events, studio.tokenizer), images=resolved.panels)):
            told.append(panel)
            r.detail(f"panel {len(told)}: {panel.text}")
    except KeyboardInterrupt:
        if told:
            write_story(output, [*opening, *told], made, overwrite=overwrite)
            r.say(f"the panels so far are in {output}")
        raise
    # 3. The folder, whole.
    record = write_story(output, [*opening, *told], made, overwrite=overwrite)
    drawn = sum(panel.image is not None for panel in told)
    if drawn < resolved.panels:
        r.warn(f"the model's context was full after {drawn} of {resolved.panels} pictures")
    r.result(
        {"folder": str(output), **record},
        text=f"{output}: {drawn} pictures, seed {chosen}",
        quiet=[output],
    )


def _opening(prompt: str, images: list[Path]) -> list[Panel]:
    """The panels that the user brings: their pictures, the words with the last of them."""
    from orthus_core.data.pixels import open_image
    from orthus_core.results.story import Panel

    if not images and not prompt:
        raise PromptError(
            "a story needs something to go on from",
            where="story",
            hint='give a picture with --image, words such as "Once upon a time", or both',
        )
    panels = [Panel("", open_image(image), given=True) for image in images]
    *before, last = panels or [Panel("", None, given=True)]
    return [*before, last._replace(text=prompt)]


def _request(prompt: str, images: list[Path]) -> list[str | Picture]:
    """What the model is given: after a picture, words that ask it to go on."""
    from orthus_core.data.pictures import FilePicture

    words = " ".join([*prompt.split(), CONTINUE]) if images else prompt
    return [*map(FilePicture, images), words]


def _settings(recipe: StoryRecipe, sampling: Sampling) -> Settings:
    """So many pictures, each after its share of the text; a last share follows the last one."""
    text = recipe.text
    return sampling.settings(
        max_images=recipe.panels,
        min_images=recipe.panels,
        max_text=text.max_new_tokens,
        text_before_image=max(1, text.max_new_tokens // (recipe.panels + 1)),
        temperature=text.temperature,
        top_p=text.top_p,
    )


def _panels(events: Iterable[Event]) -> Iterator[Panel]:
    """A panel for each picture, with the words before it; then one for what is written last."""
    from orthus_core.data.pixels import to_image
    from orthus_core.results.story import Panel

    text, forced = "", False
    for event in events:
        if isinstance(event, TextPiece):
            text += event.text
        elif isinstance(event, Note):
            forced = True
        elif isinstance(event, ImageDone):
            yield Panel(text.strip(), to_image(event.pixels_3HW), forced=forced)
            text, forced = "", False
    if text.strip():
        yield Panel(text.strip(), None)
