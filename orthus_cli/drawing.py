"""Helpers of the drawing commands: open a model and report it, warn of words that it does not know,
and save each image when it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from orthus_cli.console import Reporter
from orthus_core.recipe.solver_registry import check_name

if TYPE_CHECKING:
    from orthus_core.api.images import ImageRequest
    from orthus_core.api.inputs import InputImage
    from orthus_core.api.loaded import LoadedModel
    from orthus_core.api.stories import Story
    from orthus_core.recipe import EditRecipe, GenerateRecipe
    from orthus_core.recipe.drawing import DrawingRecipe
    from orthus_core.results.image_files import ImageFiles
    from orthus_core.samplers.params import SamplingParams

# More images than this are not reported one by one.
REPORTED_ONE_BY_ONE = 8


def open_model(r: Reporter, recipe: DrawingRecipe) -> LoadedModel:
    """Opens the recipe's model and reports its name, device and precision.

    Raises: As `load_quietly`.
    """
    loaded = load_quietly(recipe)
    r.say(model_line(loaded, recipe))
    return loaded


def load_quietly(recipe: DrawingRecipe) -> LoadedModel:
    """Opens the recipe's model.

    Raises:
        CheckpointError, HubError: When the model is not available, or has no tokenizer.
        PromptError: When there is no scheduler of the recipe's name.
    """
    check_name(getattr(recipe, "scheduler", None))
    from orthus_core.api.loaded import load_model

    return load_model(
        recipe.model,
        device=recipe.device,
        dtype=recipe.dtype,
        low_memory=recipe.low_memory,
        quantize=recipe.quantize,
        lora=recipe.lora,
    )


def model_line(loaded: LoadedModel, recipe: DrawingRecipe) -> str:
    """Name, device and precision of a model, and how else it is held."""
    about = loaded.about
    held = "".join(f", with {each['name']} at {each['scale']:g}" for each in about.get("lora", ()))
    held += f", backbone in {recipe.quantize} bits" if recipe.quantize else ""
    held += ", layers fetched when they are used" if recipe.low_memory else ""
    return f"{about['name']} on {about['device']}, {about['dtype']}{held}"


def hint_at_unknown_words(r: Reporter, loaded: LoadedModel, texts: Iterable[str]) -> None:
    """Tells what emoji are read as, and warns of each word that the model never saw in training,
    with the word that it probably means; where there is none, or more is asked for than the model
    draws, says once where its words are listed.
    """
    known, texts = loaded.known, list(texts)
    if known is None:
        return
    read = [known.read(text) for text in texts]
    for words in dict.fromkeys(read):
        if words not in texts:
            r.say(f'read as "{words}"')
    unknown = known.unknown(" ".join(read))
    for each in unknown:
        r.warn(str(each))
    lost = any(each.nearest is None for each in unknown) or any(map(known.exceeds, read))
    if known.listed and lost:
        name = loaded.about["name"]
        r.warn(f"this small model draws only what `orthus info {name} --words` lists")


def hint_at_idle_seed(
    r: Reporter, params: SamplingParams, *, given: bool, tells: bool = False
) -> None:
    """Says what a given seed does not change, and what would let it.

    Args:
        given: Whether the user named a seed, or asked for several pictures that differ by it.
        tells: Whether words are what the user asks for, beside the pictures.
    """
    if not given:
        return
    if params.temperature == 0 and (tells or not params.max_images):
        r.say("the likeliest words are taken, whatever the seed; --temperature 0.8 samples them")
    if params.noise_scale == 0 and params.max_images:
        r.say("pictures start from no noise, whatever the seed; --noise-scale 1 gives them some")


def say_framing(r: Reporter, images: Sequence[InputImage], size: int) -> None:
    """Reports each image that is scaled or cropped to the model's size, or how many there are."""
    from orthus_core.data.framing import framing

    changed = {
        f"{image.file}: {width} x {height}, {said}": None
        for image in images
        for width, height in [image.image.size]
        if (said := framing(width, height, size))
    }
    if len(changed) > REPORTED_ONE_BY_ONE:
        changed = {f"{len(changed)} pictures are scaled or cropped to {size} x {size}": None}
    for line in changed:
        r.say(line)


def save_images(
    r: Reporter,
    request: ImageRequest,
    files: ImageFiles,
    recipe: GenerateRecipe | EditRecipe,
    *,
    preview: bool = False,
) -> list[dict[str, Any]]:
    """Draws the missing images of a request, saves each when it is done, and returns a report of
    each. When it is stopped, says how to go on.

    Raises:
        OutputError: When a file cannot be written; the images before it are kept.
    """
    from orthus_core.api.requests import run

    rows, seed = files.missing, request.infos[0].seed
    request = request.only(rows)
    events = run(request)
    if preview:
        from orthus_cli.preview import with_preview

        events = with_preview(r, events, request.loaded.model)
    collector, entries = request.collector(), dict[int, dict[str, Any]]()
    try:
        for event in r.track(events, images=len(request.prompts)):
            if result := collector.add(event):
                number = rows[result.row]
                entries[number] = files.save(number, result.image, result.info)
                r.detail(f"{files.paths[number]}, seed {result.info.seed}")
    except KeyboardInterrupt:
        if len(files.paths) > 1:
            kept, chosen = len(files.kept) + len(entries), "" if recipe.seeds else f"--seed {seed} "
            r.say(
                f"{kept} of {len(files.paths)} pictures are kept; the same command with "
                f"{chosen}--skip-existing draws the others"
            )
        raise
    return [entries[number] for number in sorted(entries)]


def check_one(overwrite: bool, skip_existing: bool) -> None:
    """Raises: typer.BadParameter when files are to be replaced and to be kept."""
    if overwrite and skip_existing:
        raise typer.BadParameter(
            "--overwrite replaces what --skip-existing keeps: give one of them"
        )


def picture_line(entry: Mapping[str, Any]) -> str:
    """The line of a report on a picture that was drawn."""
    line = f"{entry['path']}: {entry['prompt'] or 'as the example'}, seed {entry['seed']}"
    if "best_of" in entry:
        said = entry["best_of"]
        line += f", best of {said['candidates']} from seed {said['seed']}"
    if "enlarged" in entry:
        line += f"; {entry['size']}, {enlarged_from(entry['enlarged'])}"
    return line + (f"; drawn as: {entry['text']}" if "text" in entry else "")


def enlarged_from(enlarged: Mapping[str, Any]) -> str:
    """What is said of a picture that was enlarged after it was drawn."""
    return f"enlarged {enlarged['times']} times from {enlarged['from']}"


def story_enlarged(story: Story) -> str:
    """What a report adds on a story whose pictures were enlarged; empty otherwise."""
    if not (story.info.scale and story.images):
        return ""
    image = story.images[0]
    said = enlarged_from(story.info.enlargement(image.size))
    return f"; {image.width}x{image.height}, {said}"


def kept_line(files: ImageFiles) -> str:
    """The line of a report that counts the pictures that were there already; empty for none."""
    return f"\n{pictures(len(files.kept))} there already, skipped" if files.kept else ""


def pictures(count: int) -> str:
    """A number of pictures, as the subject of a sentence."""
    return "1 picture is" if count == 1 else f"{count} pictures are"
