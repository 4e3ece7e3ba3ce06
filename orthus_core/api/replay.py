"""Makes a finished result again from its record, and compares the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.api.captions import content_hash
from orthus_core.api.continuation import Continuation, open_continuation
from orthus_core.api.images import ImageCollector, ImageRequest, prepare_edit, prepare_generate
from orthus_core.api.inputs import edits_of, input_images
from orthus_core.api.loaded import LoadedModel
from orthus_core.api.stories import StoryCollector, StoryRequest, open_story, prepare_story
from orthus_core.data.pixels import open_image
from orthus_core.device import is_available
from orthus_core.errors import DataError, OutputError
from orthus_core.recipe import (
    SCHEMAS,
    CaptionRecipe,
    GenerateRecipe,
    StoryRecipe,
    shape,
)
from orthus_core.recipe.drawing import DrawingRecipe
from orthus_core.results.answer_file import StoredAnswer
from orthus_core.results.metadata import GenerationInfo, picture_bytes, pixel_hash
from orthus_core.results.output_names import check_format, write_file
from orthus_core.results.record import (
    Difference,
    Distance,
    Record,
    Run,
    adapters_of,
    asked_of,
    circumstances,
    counts_words,
    distance,
)
from orthus_core.results.story_folder import first_number
from orthus_core.version import __version__


class Remake(NamedTuple):
    """A result that was made again, to be compared with its record.

    Attributes:
        images: Images by the number of the record's panel; an image that is not a panel has number
            1.
        info: How the first of them was made.
        png: The first one's own file, where it was kept and not made again.
    """

    images: Mapping[int, Image.Image | None]
    info: GenerationInfo
    png: bytes | None = None

    def equals(self, record: Record) -> bool:
        """Whether all pixels equal those of the record."""
        return all(
            (image := self.images[number]) is not None and pixel_hash(image) == digest
            for number, digest in record.pixels.items()
        )

    def distance(self, record: Record) -> Distance | None:
        """Distance of the image from the one in the record's file; None if that holds none, or not
        the drawn pixels themselves.
        """
        image = next(iter(self.images.values()))
        if record.seen is None or record.stored or image is None:
            return None
        return distance(open_image(record.path), image)

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the first image. Raises: OutputError when the file cannot be written."""
        image = next(iter(self.images.values()))
        assert image is not None, "the first of the record's images was drawn"
        own = self.png if path.suffix.lower() == ".png" else None
        write_file(path, own or picture_bytes(image, self.info, path), overwrite=overwrite)


def recipe_again(record: Record) -> DrawingRecipe:
    """The recipe that makes a result again, on the device and in the precision of its record.

    Raises:
        DataError: When its command draws nothing.
        RecipeError: When its recipe is no longer valid.
    """
    table, about = asked_of(record), record.info.model
    opened = {
        "device": str(about.get("device", table.get("device"))).partition(":")[0],
        "dtype": about.get("dtype", table.get("dtype")),
    }
    recipe = shape(SCHEMAS[record.command], table | opened, where=str(record.path))
    if not isinstance(recipe, DrawingRecipe):
        raise DataError("its record names no command that draws", where=str(record.path))
    return recipe


def elsewhere(
    record: Record,
    model: str | None,
    device: str | None,
    dtype: str | None,
    lora: Sequence[str] | None = None,
) -> Record:
    """The record, with the model's present location and a device of this machine.

    Args:
        model, device, dtype, lora: Replacements for the record's values; None keeps them.
    """
    about = record.info.model
    kind = device or about.get("device", "auto").partition(":")[0]
    about = about | {"device": kind if device or is_available(kind) else "auto"}
    about |= {"dtype": dtype} if dtype else {}
    recipe = record.info.recipe | ({"model": model} if model else {})
    recipe |= {"lora": list(lora)} if lora else {}
    return record._replace(info=record.info._replace(recipe=recipe, model=about))


def check_adapters(record: Record, loaded: LoadedModel) -> None:
    """Raises: DataError when a result was made with other adapters than are loaded."""
    then, now = adapters_of(record.info.model), adapters_of(loaded.about)
    for number in range(max(len(then), len(now))):
        old, new = (each[number] if number < len(each) else {} for each in (then, now))
        if old.get("hash") != new.get("hash"):
            what, there = (
                f"{each['name']} ({each['hash'][:10]})" if each else "none" for each in (old, new)
            )
            raise DataError(
                f"it was made with other adapters: {what} then, {there} now",
                where=str(record.path),
                hint="name those it was made with, as in --lora PATH:SCALE",
            )


def repeatable(run: Run | None) -> Run | None:
    """The run, if all of it can be drawn again in one request: every image it read is available,
    and where they differ, each edit had only one.
    """
    if run is None or len(set(run.files)) == 1:
        return run
    alone = all(len(files) == 1 and Path(files[0]).is_file() for files in run.files)
    return run if alone and len(set(run.prompts)) == 1 else None


def files_of_run(run: Run, inputs: Sequence[Path]) -> list[Path]:
    """The images that a run read: `inputs` if they were the same for all of it."""
    several = len(set(run.files)) > 1
    return [Path(file) for files in run.files for file in files] if several else list(inputs)


def prepare_again(
    loaded: LoadedModel,
    recipe: DrawingRecipe,
    record: Record,
    inputs: Sequence[Path],
    run: Run | None = None,
) -> ImageRequest | StoryRequest:
    """The request that draws a result again.

    Args:
        loaded: Open model.
        recipe: Recipe from `recipe_again`.
        record: Record of the result.
        inputs: Images that it, or its whole run, was made from.
        run: Run that the result was part of, to draw all of it again.

    Raises:
        As the other `prepare_*`; DataError when nothing was drawn, or with other adapters.
    """
    check_adapters(record, loaded)
    prompts = list(dict.fromkeys(run.prompts)) if run else [record.info.prompt]
    if isinstance(recipe, StoryRecipe):
        return prepare_story(loaded, recipe, open_story(recipe, record.info.prompt, inputs))
    if isinstance(recipe, CaptionRecipe):
        raise DataError("its record is of an answer, and no picture", where=str(record.path))
    if run:
        recipe = dataclasses.replace(recipe, seeds=run.seeds)
    if isinstance(recipe, GenerateRecipe):
        # A record's seed is that of the picture that was kept.
        recipe = dataclasses.replace(recipe, best_of=None)
        return prepare_generate(loaded, recipe, prompts, continuation=_continuation(record, inputs))
    own = 2 if recipe.by_example else 0
    opened = input_images(inputs)
    instruction = "" if recipe.by_example else prompts[0].strip()
    each = run is not None and len(set(run.files)) > 1
    edits = edits_of(opened[own:], instruction, opened[:own], each=each)
    return prepare_edit(loaded, recipe, edits)


def _continuation(record: Record, inputs: Sequence[Path]) -> Continuation | None:
    """The image that the record's image continues, if any."""
    if not record.info.begun:
        return None
    rows = record.info.begun.get("rows")
    if not inputs or not isinstance(rows, int):
        raise DataError("its record has no usable 'begun'", where=str(record.path))
    return open_continuation(inputs[0], rows)


class RemakeCollector:
    """Gathers the remade result from the events of its request."""

    def __init__(
        self, request: ImageRequest | StoryRequest, record: Record, run: Run | None = None
    ) -> None:
        self._record, self._place = record, run.place if run else 0
        self._request = request
        is_story = isinstance(request, StoryRequest)
        self._collector = StoryCollector(request) if is_story else ImageCollector(request)

    @property
    def images_to_draw(self) -> int:
        """The largest number of images to be drawn."""
        request = self._request
        return len(request.prompts) if isinstance(request, ImageRequest) else request.images_to_draw

    def add(self, event: Any) -> None:
        """Takes an event."""
        self._collector.add(event)

    @property
    def remake(self) -> Remake:
        """The remade result.

        Raises:
            DataError: When the first of the record's panels was not drawn.
        """
        numbers = list(self._record.pixels)
        if not numbers:
            raise DataError("its record has no hash of its pixels", where=str(self._record.path))
        if isinstance(self._collector, ImageCollector):
            made = self._collector.images
            image, info = made.images[self._place], made.infos[self._place]
            return Remake(dict.fromkeys(numbers, image), info)
        story = self._collector.story
        first_panel = first_number(story.panels)
        if self._record.info.panel is not None and counts_words(self._record):
            first_panel = 1
        panels = dict(enumerate(story.panels, start=first_panel))
        images = {number: panels[number].image if number in panels else None for number in numbers}
        first, image = numbers[0], images[numbers[0]]
        if image is None:
            raise DataError(
                f"the story has no picture {first} any more", where=str(self._record.path)
            )
        return Remake(images, story.info._replace(panel=first), panels[first].png)


def differences_from(record: Record, loaded: LoadedModel) -> list[Difference]:
    """Changes in version, model, device and precision since the result was made."""
    now = record._replace(version=__version__, info=record.info._replace(model=loaded.about))
    return circumstances(record, now)


def check_replay_output(output: Path, record: Record) -> None:
    """Raises: OutputError when a result cannot be kept there as one image."""
    if len(record.pixels) != 1:
        raise OutputError(
            "a whole story is replayed, and that is many pictures",
            where=str(output),
            hint="replay one of its panels, such as story/02.png, to keep it",
        )
    check_format(output)


def answers_alike(answers: Sequence[StoredAnswer]) -> Iterable[list[int]]:
    """The indices of the answers, grouped by question and model."""
    groups: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        key = repr((answer.question, sorted(answer.made.items())))
        groups.setdefault(key, []).append(number)
    return groups.values()


def find_image(path: Path, answer: StoredAnswer, images: Sequence[Path]) -> Path:
    """The image of an answer: among `images`, at its recorded path, or beside the answers.

    Raises:
        DataError: When it is in none of these places.
    """
    lay = Path(answer.image)
    for place in (*images, lay, path.parent / lay.name):
        try:
            if content_hash(place) == answer.content:
                return place
        except DataError:
            continue
    raise DataError(
        f"the picture is gone or is another now: {answer.image}",
        where=str(path),
        hint="name the file with --image; it is known by its content",
    )
