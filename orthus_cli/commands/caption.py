"""`orthus caption`: words for pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orthus_cli import help, options
from orthus_cli.console import reporter
from orthus_cli.drawing import open_model
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.stored import stored
from orthus_core.errors import DataError
from orthus_core.recipe import CaptionRecipe, dump, load
from orthus_core.results.answer_file import AnswerFile, Question
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.version import __version__

if TYPE_CHECKING:
    from orthus_core.api.caption_files import Answered, Broken

Pictures = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Pictures to read, or folders of them.")
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Ask all anew, and replace the answers file.",
        rich_help_panel=help.WHERE,
    ),
]
Lines = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="JSON Lines file for the answers; what it has already is not asked again.",
        show_default=False,
        rich_help_panel=help.WHERE,
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
        rich_help_panel=help.RECIPE,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Stop at a picture that does not read.", rich_help_panel=help.ASK
    ),
]


@recipe_options(CaptionRecipe, but=("text.temperature", "text.top_p"))
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
    # 1. What is asked, about which files.
    before = stored(config_from, "caption")
    resolved = load(CaptionRecipe, recipe, [*before.sets, *(sets or ())], flags)
    before.check_harmless(resolved, named=(flags["model"],))
    r = reporter(ctx)
    r.detail(dump(resolved))

    from orthus_core.api.caption_files import Answered, Broken, read_files
    from orthus_core.data.listing import picture_files
    from orthus_core.samplers.params import answer_settings

    files = picture_files(images)
    (first,) = choose_seeds(() if resolved.seed is None else (resolved.seed,), 1)
    seeds = choose_seeds((first,), len(files))
    # 2. The model, and what it answered before.
    loaded = open_model(r, resolved)
    text = resolved.text
    settings = answer_settings(text)
    store = None
    if output is not None:
        asked = Question(resolved.question, loaded.about["hash"], dataclasses.asdict(text))
        bits = {"quantize": resolved.quantize} if resolved.quantize else {}
        made = {name: value for name, value in loaded.about.items() if name != "hash"}
        made = {"version": __version__, **made, **bits}
        store = AnswerFile(output, asked, made, anew=overwrite)
    # 3. Answers, each written down when it is there.
    answered: list[Answered] = []
    broken: list[Broken] = []
    events = read_files(
        loaded.builder,
        files,
        resolved.question,
        settings,
        seeds=seeds,
        batch_size=resolved.batch_size,
        known=store.known if store else None,
    )
    try:
        for event in r.track(events):
            if isinstance(event, Answered):
                answered.append(event)
                if store:
                    store.add(str(event.file), event.content, event.text, event.seed)
            elif isinstance(event, Broken):
                if strict:
                    raise event.error
                broken.append(event)
                if len(files) > 1:
                    r.warn(f"{event.file} is left out: {event.error.message}")
    except KeyboardInterrupt:
        if store:
            r.say(f"the answers so far are in {store.path}; the same command goes on with it")
        raise
    if not answered:
        raise _none_reads(broken)
    answered.sort(key=lambda one: one.number)
    _say(r, resolved, loaded.about, store, answered, broken)


def _none_reads(broken: list[Broken]) -> DataError:
    error = broken[0].error
    if len(broken) == 1:
        return error
    return DataError(f"none of {len(broken)} pictures reads; the first: {error.message}")


def _say(
    r: Any,
    recipe: CaptionRecipe,
    about: dict[str, str],
    store: AnswerFile | None,
    answered: list[Answered],
    broken: list[Broken],
) -> None:
    """The answers, or where they are."""
    lines = [f"{one.file}: {one.text}" for one in answered]
    if len(answered) == 1 and not broken:
        lines = [answered[0].text]
    new = sum(not one.known for one in answered)
    left_out = f", {len(broken)} left out" if broken else ""
    if store:
        lines = [f"{store.path}: {len(answered)} pictures, {new} of them new{left_out}"]
    elif broken:
        r.say(f"{len(answered)} pictures read{left_out}")
    r.result(
        {
            "question": recipe.question,
            **({"output": str(store.path)} if store else {}),
            "answers": [
                {"image": str(one.file), "text": one.text, "known": one.known} for one in answered
            ],
            "left_out": [{"image": str(one.file), "error": one.error.message} for one in broken],
            "model": about,
        },
        text="\n".join(lines),
        quiet=[store.path] if store else [one.text for one in answered],
    )
