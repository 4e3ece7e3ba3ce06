"""`orthus replay`: remakes a finished result and compares it, pixel by pixel or word by word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orthus_cli import options
from orthus_cli.answers_again import ask_again
from orthus_cli.console import Reporter, reporter
from orthus_cli.drawing import hint_at_unknown_words, open_model, say_framing
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_cli.replay_report import report_replay
from orthus_cli.stored import words_of
from orthus_core.errors import OutputError
from orthus_core.recipe import GenerateRecipe, dump
from orthus_core.shell_words import shell_quoted

if TYPE_CHECKING:
    from orthus_core.api.loaded import LoadedModel
    from orthus_core.api.replay import Remake
    from orthus_core.recipe.drawing import DrawingRecipe
    from orthus_core.results.record import Record, Run

ANSWERS = ".jsonl"
RESULT = "A picture, its JSON, a story or its folder, or answers.jsonl."
Finished = Annotated[Path, typer.Argument(metavar="PATH", help=RESULT)]
NewPicture = typer.Option("-o", "--output", metavar="PATH", help="Keep the new picture, too.")


@recipe_options(GenerateRecipe, only=("model", "lora", "device", "dtype"))
def replay(
    ctx: typer.Context,
    path: Finished,
    output: Annotated[Path | None, NewPicture] = None,
    images: options.Images = None,
    *,
    flags: Flags,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw a result again and say whether it is identical.

    Example: orthus replay out.png

    The command that `orthus info` shows is run, and pixels are compared by their hash. What differs
    is told, and exit code 1 says that something does.
    """
    r = reporter(ctx)
    opened = [flags[name] for name in ("model", "device", "dtype", "lora")]
    if path.suffix.lower() == ANSWERS:
        if output:
            raise OutputError(
                "answers are asked again, and no picture is drawn",
                where=str(output),
                hint=f"orthus caption -C {shell_quoted([str(path)])} IMAGE... "
                f"-o {shell_quoted([str(output)])} keeps new ones",
            )
        if not ask_again(r, path, images or [], *opened):
            raise typer.Exit(1)
        return

    from orthus_core.api import replay as again
    from orthus_core.results.output_names import check_free
    from orthus_core.results.record import asked_of, find_inputs, read_made, run_of
    from orthus_core.results.trusted import check_harmless

    # 1. How it was made, and whether everything needed is here.
    record = read_made(path)
    if output:
        again.check_replay_output(output, record)
        check_free(output, overwrite=overwrite)
    then = again.elsewhere(record, *opened)
    check_harmless(path, asked_of(then), named=(flags["model"],))
    inputs = find_inputs(record, images or [])
    recipe = again.recipe_again(then)
    r.detail_command(["orthus", *words_of(then, inputs)])
    r.detail(dump(recipe))
    # 2. The same request again, if necessary with its whole batch.
    loaded = open_model(r, recipe)
    remake = _draw(r, loaded, recipe, then, inputs)
    same, among = remake.equals(record), 0
    run = again.repeatable(run_of(record))
    if not same and run:
        # Matrix products round differently at different batch sizes.
        r.say(f"drawn alone it differs, so all {run.pictures} of its run are drawn")
        among = run.pictures
        remake = _draw(r, loaded, recipe, then, again.files_of_run(run, inputs), run)
        same = remake.equals(record)
    # 3. The result.
    if output:
        remake.save(output, overwrite=overwrite)
    report_replay(r, record, remake, same, among, again.differences_from(record, loaded), output)
    if not same:
        raise typer.Exit(1)


def _draw(
    r: Reporter,
    loaded: LoadedModel,
    recipe: DrawingRecipe,
    record: Record,
    inputs: Sequence[Path],
    run: Run | None = None,
) -> Remake:
    """Draws it again, alone or with its whole run, and reports as the drawing commands do."""
    from orthus_core.api import replay as again
    from orthus_core.api.inputs import input_images
    from orthus_core.api.requests import run as events_of

    hint_at_unknown_words(r, loaded, run.prompts if run else [record.info.prompt])
    if record.command == "edit":
        say_framing(r, input_images(inputs), loaded.model.model.vqmodel.config.resolution)
    request = again.prepare_again(loaded, recipe, record, inputs, run)
    collector = again.RemakeCollector(request, record, run)
    for event in r.track(events_of(request), images=collector.images_to_draw):
        collector.add(event)
    return collector.remake
