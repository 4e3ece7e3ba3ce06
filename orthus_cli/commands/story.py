"""`orthus story`: a story of alternating words and pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from orthus_cli import help_sections, options
from orthus_cli.console import reporter
from orthus_cli.drawing import hint_at_idle_seed, hint_at_unknown_words, open_model, story_enlarged
from orthus_cli.prompts import add_dash, read_text
from orthus_cli.recipe_options import SET_ONLY, Flags, recipe_options
from orthus_cli.stored import read_stored, sets_of
from orthus_core.errors import PromptError
from orthus_core.recipe import StoryRecipe, dump, load
from orthus_core.samplers.seeds import choose_seeds

Images = Annotated[
    list[Path] | None,
    options.option(
        help_sections.WHAT,
        "--image",
        metavar="PATH",
        help="Picture that the story begins with; repeat for more.",
    ),
]
Folder = Annotated[
    Path | None,
    options.option(
        help_sections.WHERE,
        "-o",
        "--output",
        metavar="DIR",
        help="Folder to make; story, when nothing is said.",
    ),
]


@recipe_options(StoryRecipe, but=SET_ONLY)
def story(
    ctx: typer.Context,
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help="How the story begins, in words.")
    ] = "",
    images: Images = None,
    output: Folder = None,
    *,
    flags: Flags,
    config_from: options.ConfigFrom = None,
    recipe: options.RecipeFile = None,
    sets: options.Sets = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Tell a story in words and pictures.

    Example: orthus story --image cat.png --panels 3 -o story

    The folder gets the pictures, story.html and story.md to read, and story.json. Every panel has
    words and a picture: where the model does not begin one itself, one is begun for it, and that is
    said. Words are sampled, so another seed tells another story; --temperature 0 takes the
    likeliest words, whatever the seed. A long story goes on from its opening and its latest panels.
    With --from-story DIR and --from-panel 3 all from panel 3 on is told anew.
    """
    from_story = flags["from_story"] and Path(flags["from_story"])
    from orthus_core.api.requests import run
    from orthus_core.api.stories import StoryCollector, earlier_values, open_story, prepare_story
    from orthus_core.atomic_folder import check_folder
    from orthus_core.results.story_folder import MARK, PAGE

    # 1. The inputs, and whether the output can be written.
    before = read_stored(config_from, "story")
    values, earlier = flags, before.sets
    if from_story is not None and recipe is None and before.record is None:
        found = earlier_values(from_story, flags)
        values = {**flags, "from_story": found.pop("from_story")}
        earlier = sets_of(found)
    resolved = load(StoryRecipe, recipe, [*earlier, *(sets or ())], values)
    before.check_harmless(resolved, named=(flags["model"], flags["scheduler"]))
    r = reporter(ctx)
    r.detail(dump(resolved))
    if resolved.from_story is None:  # a continued story has its own
        prompt, images = read_text(prompt) or before.prompt, images or before.inputs()
    try:
        opening = open_story(resolved, prompt, images or [])
    except PromptError as error:
        if not (prompt or images or resolved.from_story):
            error.hint += add_dash("orthus story -")
        raise
    (chosen,) = choose_seeds(() if resolved.seed is None else (resolved.seed,), 1)
    folder = output or Path("story" if from_story is None else f"{from_story.name}-{chosen}")
    check_folder(folder, mark=MARK, overwrite=overwrite)
    loaded = open_model(r, resolved)
    hint_at_unknown_words(r, loaded, [prompt])
    # 2. The model continues it, panel by panel.
    request = prepare_story(loaded, replace(resolved, seed=chosen), opening)
    hint_at_idle_seed(r, request.params, given=flags["seed"] is not None, tells=True)
    collector = StoryCollector(request)
    try:
        for event in r.track(run(request), images=request.images_to_draw):
            if panel := collector.add(event):
                r.detail(f"panel {collector.number}: {panel.text}")
    except KeyboardInterrupt:
        if collector.panels:
            collector.story.save(folder, overwrite=overwrite)
            r.say(f"the panels so far are in {folder}")
        raise
    # 3. The complete folder.
    story = collector.story
    record = story.save(folder, overwrite=overwrite)
    shown = sum(panel.image is not None for panel in story.panels)
    r.result(
        {"folder": str(folder), **record},
        text=f"{folder / PAGE}: {shown} picture{'s' * (shown != 1)}, seed {chosen}"
        + story_enlarged(story),
        quiet=[folder],
    )
