"""What the four drawing commands share: a model that is open and introduced, and pictures saved as
they are finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_cli.console import Reporter
from orthus_core.events import Event, ImageDone
from orthus_core.recipe import CaptionRecipe, EditRecipe, GenerateRecipe, StoryRecipe, as_table
from orthus_core.results.names import Named, check_distinct, check_free

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orthus_core.data.known_words import KnownWords
    from orthus_core.model.interleaved import InterleavedModel
    from orthus_core.results.picture import Making
    from orthus_core.samplers.requests import Asking, Sampling

DrawingRecipe = GenerateRecipe | EditRecipe | StoryRecipe | CaptionRecipe


# A picture names so many others that it was drawn with; beyond, its file would be mostly names.
MOST_TOLD = 64


class Studio(NamedTuple):
    """An open model and what it takes to ask it.

    about: Name, hash, device and precision, as results tell them.
    known: The words it was trained on, where its folder tells them.
    """

    model: InterleavedModel
    tokenizer: PreTrainedTokenizerBase
    asking: Asking
    about: dict[str, str]
    known: KnownWords | None


def open_studio(r: Reporter, recipe: DrawingRecipe) -> Studio:
    """Opens the recipe's model and says which, where and how precisely.

    Raises:
        CheckpointError, HubError: When it cannot be had, or knows no words.
    """
    from orthus_core.checkpoint.fingerprint import fingerprint
    from orthus_core.checkpoint.folder import DTYPES, open_model
    from orthus_core.data.known_words import KnownWords
    from orthus_core.samplers.requests import Asking
    from orthus_core.samplers.threads import use_allowed_threads

    use_allowed_threads()
    opened = open_model(
        recipe.model,
        device=recipe.device,
        dtype=recipe.dtype,
        low_memory=recipe.low_memory,
        quantize=recipe.quantize,
    )
    model = opened.model
    about = {
        "name": recipe.model,
        "hash": fingerprint(opened.path),
        "device": str(model.device),
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == model.dtype),
    }
    held = f", backbone in {recipe.quantize} bits" if recipe.quantize else ""
    held += ", layers fetched when they are used" if recipe.low_memory else ""
    r.say(f"{about['name']} on {about['device']}, {about['dtype']}{held}")
    tokenizer = opened.processor.tokenizer if opened.processor else None
    asking = Asking(model, tokenizer)
    return Studio(model, asking.tokenizer, asking, about, KnownWords.of(opened.path))


def hint_at_unknown_words(r: Reporter, studio: Studio, texts: Iterable[str]) -> None:
    """Warns of each word that the model never saw, and says which of its own is nearest."""
    if studio.known is not None:
        for unknown in studio.known.unknown(" ".join(texts)):
            r.warn(str(unknown))


def making(
    studio: Studio,
    recipe: DrawingRecipe,
    sampling: Sampling,
    prompt: str,
    seed: int,
    inputs: tuple[str, ...] = (),
    files: Sequence[Path] = (),
) -> Making:
    """How one picture is made; its recipe names that one picture's seed only.

    Args:
        inputs, files: Hashes and places of the pictures it is made from, in the order given.
    """
    from orthus_core.results.picture import Making

    if isinstance(recipe, (GenerateRecipe, EditRecipe)):
        recipe = dataclasses.replace(recipe, seeds=(seed,), num_images=1)
    else:
        recipe = dataclasses.replace(recipe, seed=seed)
    places = tuple(str(file.expanduser().absolute()) for file in files)
    return Making(as_table(recipe), prompt, seed, sampling.told(), studio.about, inputs, places)


def hashes(pictures: Sequence[Path]) -> tuple[str, ...]:
    """Hashes of the pixels of picture files, by which a result says what it was made from."""
    from orthus_core.data.pixels import open_image
    from orthus_core.results.picture import pixel_hash

    return tuple(pixel_hash(open_image(path)) for path in pictures)


def save_each(
    r: Reporter,
    events: Iterable[Event],
    wanted: Sequence[Named],
    paths: Sequence[Path],
    makings: Sequence[Making],
    *,
    overwrite: bool,
    metadata: bool | None = None,
) -> list[dict[str, Any]]:
    """Saves each picture as it is finished, and returns what there is to say of each.

    Args:
        metadata: None keeps how it was made in the picture, True also beside it, False nowhere.

    Raises:
        OutputError: When a file cannot be written; the pictures before it are kept.
    """
    from orthus_core.data.pixels import to_image
    from orthus_core.results.picture import pixel_hash, save_picture, save_sidecar, sidecar_of

    saved: dict[int, dict[str, Any]] = {}
    run = _run_of(makings)
    for event in r.track(events, images=len(wanted)):
        if isinstance(event, ImageDone):
            row = event.row
            image, path = to_image(event.pixels_3HW), paths[row]
            made = makings[row]._replace(among=run)
            save_picture(image, path, None if metadata is False else made, overwrite=overwrite)
            saved[row] = {
                "path": str(path),
                **wanted[row]._asdict(),
                "pixels": pixel_hash(image),
            }
            if metadata:
                save_sidecar(image, path, made, overwrite=overwrite)
                saved[row]["metadata"] = str(sidecar_of(path))
            r.detail(f"{path}, seed {wanted[row].seed}")
    return [saved[row] for row in sorted(saved)]


def _run_of(makings: Sequence[Making]) -> dict[str, Any] | None:
    """What each picture says of those it was drawn with; nothing when it is alone or they are many,
    or are not each subject with each seed."""
    subjects = list(dict.fromkeys((made.prompt, made.files) for made in makings))
    seeds = list(dict.fromkeys(made.seed for made in makings))
    pairs = [(*subject, seed) for subject in subjects for seed in seeds]
    if not 1 < len(makings) <= MOST_TOLD:
        return None
    if pairs != [(made.prompt, made.files, made.seed) for made in makings]:
        return None
    files = [list(files) for _, files in subjects]
    return {
        "prompts": [prompt for prompt, _ in subjects],
        "seeds": seeds,
        **({"files": files} if any(files) else {}),
    }


def check_sidecars(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raises: OutputError when the JSON file beside one of these pictures cannot be written."""
    from orthus_core.results.picture import sidecar_of

    for path in paths:
        check_free(sidecar_of(path), overwrite=overwrite)


def check_grid(
    grid: Path, pictures: Sequence[Path], *, metadata: bool | None, overwrite: bool
) -> None:
    """Whether a sheet can be written there. Raises: OutputError, also when it is another result."""
    from orthus_core.results.picture import sidecar_of

    check_free(grid, overwrite=overwrite)
    beside = [sidecar_of(path) for path in pictures] if metadata else []
    check_distinct([*pictures, *beside, grid])


def save_grid(
    path: Path, pictures: Sequence[Path], *, per_prompt: int, overwrite: bool = False
) -> None:
    """Saves a contact sheet of finished pictures. Raises: OutputError as `write_file`."""
    from orthus_core.data.pixels import open_image
    from orthus_core.results.picture import save_picture
    from orthus_core.results.sheet import columns_for, contact_sheet

    columns = columns_for(len(pictures), per_prompt=per_prompt)
    sheet = contact_sheet([open_image(picture) for picture in pictures], columns)
    save_picture(sheet, path, None, overwrite=overwrite)
