"""What the four drawing commands share: a model that is open and introduced, and pictures saved as
they are finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthus_cli.console import Reporter
from orthus_core.events import Event, ImageDone, TextPiece
from orthus_core.recipe import CaptionRecipe, EditRecipe, GenerateRecipe, StoryRecipe
from orthus_core.results.output_names import Named, check_distinct, check_free

if TYPE_CHECKING:
    from orthus_core.api.loaded import LoadedModel
    from orthus_core.results.metadata import GenerationInfo

DrawingRecipe = GenerateRecipe | EditRecipe | StoryRecipe | CaptionRecipe


def open_model(r: Reporter, recipe: DrawingRecipe) -> LoadedModel:
    """Opens the recipe's model and says which, where and how precisely.

    Raises:
        CheckpointError, HubError: When it cannot be had, or knows no words.
    """
    from orthus_core.api.loaded import load_model
    from orthus_core.device import limit_threads

    limit_threads()
    loaded = load_model(
        recipe.model,
        device=recipe.device,
        dtype=recipe.dtype,
        low_memory=recipe.low_memory,
        quantize=recipe.quantize,
    )
    about = loaded.about
    held = f", backbone in {recipe.quantize} bits" if recipe.quantize else ""
    held += ", layers fetched when they are used" if recipe.low_memory else ""
    r.say(f"{about['name']} on {about['device']}, {about['dtype']}{held}")
    return loaded


def hint_at_unknown_words(r: Reporter, loaded: LoadedModel, texts: Iterable[str]) -> None:
    """Warns of each word that the model never saw, and says which of its own is nearest."""
    if loaded.known is not None:
        for unknown in loaded.known.unknown(" ".join(texts)):
            r.warn(str(unknown))


def save_each(
    r: Reporter,
    events: Iterable[Event],
    wanted: Sequence[Named],
    paths: Sequence[Path],
    infos: Sequence[GenerationInfo],
    *,
    overwrite: bool,
    metadata: bool | None = None,
) -> list[dict[str, Any]]:
    """Saves each picture as it is finished, and returns what there is to say of each: with `text`
    where the model wrote something before it.

    Args:
        metadata: None keeps how it was made in the picture, True also beside it, False nowhere.

    Raises:
        OutputError: When a file cannot be written; the pictures before it are kept.
    """
    from orthus_core.data.pixels import to_image
    from orthus_core.results.metadata import (
        pixel_hash,
        save_picture,
        save_sidecar,
        sidecar_of,
        with_batch,
    )

    told = with_batch(infos)
    saved: dict[int, dict[str, Any]] = {}
    written: dict[int, str] = {}
    for event in r.track(events, images=len(wanted)):
        if isinstance(event, TextPiece):
            written[event.row] = written.get(event.row, "") + event.text
        elif isinstance(event, ImageDone):
            row = event.row
            image, path = to_image(event.pixels_3HW), paths[row]
            made = told[row]._replace(text=written.get(row, "").strip() or None)
            save_picture(image, path, None if metadata is False else made, overwrite=overwrite)
            saved[row] = {
                "path": str(path),
                **wanted[row]._asdict(),
                "pixels": pixel_hash(image),
            }
            if made.text:
                saved[row]["text"] = made.text
            if metadata:
                save_sidecar(image, path, made, overwrite=overwrite)
                saved[row]["metadata"] = str(sidecar_of(path))
            r.detail(f"{path}, seed {wanted[row].seed}")
    return [saved[row] for row in sorted(saved)]


def check_sidecars(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Raises: OutputError when the JSON file beside one of these pictures cannot be written."""
    from orthus_core.results.metadata import sidecar_of

    for path in paths:
        check_free(sidecar_of(path), overwrite=overwrite)


def check_grid(
    grid: Path, pictures: Sequence[Path], *, metadata: bool | None, overwrite: bool
) -> None:
    """Whether a sheet can be written there. Raises: OutputError, also when it is another result."""
    from orthus_core.results.metadata import sidecar_of

    check_free(grid, overwrite=overwrite)
    beside = [sidecar_of(path) for path in pictures] if metadata else []
    check_distinct([*pictures, *beside, grid])


def save_grid(
    path: Path, pictures: Sequence[Path], *, per_prompt: int, overwrite: bool = False
) -> None:
    """Saves a contact sheet of finished pictures. Raises: OutputError as `write_file`."""
    from orthus_core.data.pixels import open_image
    from orthus_core.image_grid import columns_for, contact_sheet
    from orthus_core.results.metadata import save_picture

    columns = columns_for(len(pictures), per_prompt=per_prompt)
    sheet = contact_sheet([open_image(picture) for picture in pictures], columns)
    save_picture(sheet, path, None, overwrite=overwrite)
