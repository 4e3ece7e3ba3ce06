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
from orthus_core.results.names import Named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orthus_core.data.known_words import KnownWords
    from orthus_core.model.interleaved import InterleavedModel
    from orthus_core.results.picture import Making
    from orthus_core.samplers.requests import Asking, Sampling

DrawingRecipe = GenerateRecipe | EditRecipe | StoryRecipe | CaptionRecipe


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

    opened = open_model(recipe.model, device=recipe.device, dtype=recipe.dtype)
    model = opened.model
    about = {
        "name": recipe.model,
        "hash": fingerprint(opened.path),
        "device": str(model.device),
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == model.dtype),
    }
    r.say(f"{about['name']} on {about['device']}, {about['dtype']}")
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
) -> Making:
    """How one picture is made; its recipe names that one picture's seed only."""
    from orthus_core.results.picture import Making

    if isinstance(recipe, (GenerateRecipe, EditRecipe)):
        recipe = dataclasses.replace(recipe, seeds=(seed,), num_images=1, batch_size=None)
    else:
        recipe = dataclasses.replace(recipe, seed=seed)
    return Making(as_table(recipe), prompt, seed, sampling.told(), studio.about, inputs)


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
) -> list[dict[str, Any]]:
    """Saves each picture as it is finished, and returns what there is to say of each.

    Raises:
        OutputError: When a file cannot be written; the pictures before it are kept.
    """
    from orthus_core.data.pixels import to_image
    from orthus_core.results.picture import pixel_hash, save_picture

    saved: dict[int, dict[str, Any]] = {}
    for event in r.track(events, images=len(wanted)):
        if isinstance(event, ImageDone):
            row = event.row
            image = to_image(event.pixels_3HW)
            save_picture(image, paths[row], makings[row], overwrite=overwrite)
            saved[row] = {
                "path": str(paths[row]),
                **wanted[row]._asdict(),
                "pixels": pixel_hash(image),
            }
            r.detail(f"{paths[row]}, seed {wanted[row].seed}")
    return [saved[row] for row in sorted(saved)]
