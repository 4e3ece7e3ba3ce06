"""Images from text or from other images: the request, and the results gathered from its events.

    collector = ImageCollector(request)
    for event in run(request):
        if result := collector.add(event):
            result.image.save(...)

Legend: N kept patches, C feature channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pixels import enlarged, to_image
from orthus_core.events import Event, ImageDone, Note, TextPiece
from orthus_core.recipe import EditRecipe, GenerateRecipe, as_table
from orthus_core.results.metadata import GenerationInfo, save_picture, with_batch
from orthus_core.results.output_names import Named, picture_paths
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.samplers.text import with_words

if TYPE_CHECKING:
    from orthus_core.api.continuation import Continuation
    from orthus_core.api.inputs import Edit


@dataclass(frozen=True)
class ImageRequest:
    """Images to draw.

    Attributes:
        loaded: Open model.
        params: How all of them are sampled.
        prompts: One prompt for each image, with its seed.
        infos: Generation info of each image, in the order of the prompts.
        batch_size: Images drawn at once; "auto" means as many as fit into memory.
        continuation: Image whose top rows are kept; None draws every row.
    """

    loaded: LoadedModel
    params: SamplingParams
    prompts: tuple[Prompt, ...]
    infos: tuple[GenerationInfo, ...]
    batch_size: int | Literal["auto"] = "auto"
    continuation: Continuation | None = None

    def only(self, rows: Sequence[int]) -> ImageRequest:
        """The request for some of its images."""
        infos = with_batch([self.infos[row] for row in rows])
        prompts = tuple(self.prompts[row] for row in rows)
        return dataclasses.replace(self, prompts=prompts, infos=tuple(infos))

    def collector(self) -> ImageCollector:
        """What gathers its images from its events."""
        return ImageCollector(self)

    def events(self) -> Iterator[Event]:
        """Draws. Yields ImageBegun, PatchDone, ImageDone and RowDone, rows numbered as the prompts;
        TextPiece where the model writes first, and Notes.
        """
        loaded, prompts = self.loaded, self.prompts
        if self.continuation:
            yield Note(self.continuation.message(loaded))
            begun_NC = self.continuation.features(loaded)
            prompts = [prompt._replace(begun=begun_NC) for prompt in prompts]
        events = generate(loaded.model, prompts, self.params, self.batch_size)
        yield from with_words(events, loaded.tokenizer)


def prepare_generate(
    loaded: LoadedModel,
    recipe: GenerateRecipe,
    prompts: Sequence[str],
    seeds: Sequence[int] | None = None,
    continuation: Continuation | None = None,
) -> ImageRequest:
    """Images from text: all seeds of the first prompt, then of the next; each the best of several
    where the recipe says so.

    Args:
        loaded: Open model.
        recipe: Recipe of the command `generate`.
        prompts: Texts to draw.
        seeds: Seeds of the images of each prompt; None takes the recipe's.
        continuation: Image whose top rows are kept.

    Raises:
        PromptError: When a prompt is empty, the model does not support a requested value, the
            continued image has too few rows, or the best of several cannot be judged.
        CheckpointError: When one of the model's own values is invalid.
    """
    seeds = choose_seeds(recipe.seeds, recipe.num_images) if seeds is None else seeds
    if recipe.best_of and recipe.best_of > 1:
        from orthus_core.api.best_of import prepare_best_of

        return prepare_best_of(loaded, recipe, prompts, seeds, continuation)
    params = SamplingParams.from_recipe(loaded.model.config, recipe)
    by_text = {text: loaded.builder.picture(text, params) for text in prompts}
    if continuation:
        continuation.check(loaded)
    infos = [_image_info(recipe, params, loaded, text, seed) for text in prompts for seed in seeds]
    if continuation:
        infos = [continuation.add_to(info, loaded) for info in infos]
    return ImageRequest(
        loaded,
        params,
        tuple(by_text[text]._replace(seed=seed) for text in prompts for seed in seeds),
        tuple(with_batch(infos)),
        recipe.batch_size,
        continuation,
    )


def prepare_edit(
    loaded: LoadedModel,
    recipe: EditRecipe,
    edits: Sequence[Edit],
    seeds: Sequence[int] | None = None,
) -> ImageRequest:
    """Images that are changed: all seeds of the first edit, then of the next.

    Args:
        loaded: Open model.
        recipe: Recipe of the command `edit`.
        edits: Edits from `edits_of`.
        seeds: Seeds of the images of each edit; None takes the recipe's.

    Raises:
        PromptError: When there is no image to change, or nothing says how.
        CheckpointError: As `prepare_generate`.
    """
    params = SamplingParams.from_recipe(loaded.model.config, recipe)
    prompts = [edit.prompt(loaded.builder, params) for edit in edits]
    seeds = choose_seeds(recipe.seeds, recipe.num_images) if seeds is None else seeds
    infos = [
        _image_info(recipe, params, loaded, edit.instruction, seed)._replace(
            inputs=edit.inputs, files=edit.files
        )
        for edit in edits
        for seed in seeds
    ]
    return ImageRequest(
        loaded,
        params,
        tuple(prompt._replace(seed=seed) for prompt in prompts for seed in seeds),
        tuple(with_batch(infos)),
        recipe.batch_size,
    )


def _image_info(
    recipe: GenerateRecipe | EditRecipe,
    params: SamplingParams,
    loaded: LoadedModel,
    text: str,
    seed: int,
) -> GenerationInfo:
    """The generation info of one image; its recipe names only that image's seed."""
    own = dataclasses.replace(recipe, seeds=(seed,), num_images=1)
    return GenerationInfo(as_table(own), text, seed, params.to_dict(), loaded.about)


class ImageResult(NamedTuple):
    """A finished image.

    Attributes:
        row: Index of its prompt in the request.
        image: RGB image.
        info: How it was made, with the text that the model wrote before it.
    """

    row: int
    image: Image.Image
    info: GenerationInfo


class ImageCollector:
    """Gathers the images of a request from its events."""

    def __init__(self, request: ImageRequest) -> None:
        self._infos = request.infos
        self._texts = [""] * len(request.infos)
        self._results: dict[int, ImageResult] = {}

    def add(self, event: Any) -> ImageResult | None:
        """Takes an event and returns the image that it completes, if any."""
        if isinstance(event, TextPiece):
            self._texts[event.row] += event.text
        if not isinstance(event, ImageDone):
            return None
        row = event.row
        info = self._infos[row]._replace(text=self._texts[row].strip() or None)
        image = enlarged(to_image(event.pixels_3HW), info.scale)
        self._results[row] = ImageResult(row, image, info)
        return self._results[row]

    @property
    def images(self) -> Images:
        """All finished images, in the order of the prompts."""
        results = [self._results[row] for row in sorted(self._results)]
        return Images([result.image for result in results], [result.info for result in results])


class Images(NamedTuple):
    """Pictures in the order of the request: all seeds of the first prompt, then of the next.

    Attributes:
        images: RGB images.
        infos: How each was made, including its prompt and its seed.
    """

    images: list[Image.Image]
    infos: list[GenerationInfo]

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [info.seed for info in self.infos]

    @property
    def prompts(self) -> list[str]:
        """The words of each picture."""
        return [info.prompt for info in self.infos]

    @property
    def texts(self) -> list[str]:
        """The text that the model wrote before each picture, as it may in an edit; else empty."""
        return [info.text or "" for info in self.infos]

    def _repr_png_(self) -> bytes | None:
        from orthus_core.api.notebook import sheet_png

        return sheet_png(self.images)

    def _repr_html_(self) -> str:
        from orthus_core.api.notebook import figures_html

        words = [f"{info.prompt}, seed {info.seed}" for info in self.infos]
        return figures_html([*zip(self.images, words, strict=True)])

    def save(self, output: str | Path | None = None, *, overwrite: bool = False) -> list[Path]:
        """Writes files that record how they were made, and returns their paths.

        Args:
            output: File, folder or template, as for `picture_paths`.
            overwrite: Whether existing files may be replaced.

        Raises:
            OutputError: When a name is taken or the place cannot be written to.
        """
        named = [Named(info.prompt, info.seed) for info in self.infos]
        paths = picture_paths(output, named, overwrite=overwrite)
        for image, path, info in zip(self.images, paths, self.infos, strict=True):
            save_picture(image, path, info, overwrite=overwrite)
        return paths
