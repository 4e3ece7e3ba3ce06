"""A model that is asked a benchmark: it answers its questions, or draws its prompts, in pieces.

Both are an `AskedModel` of `orthus_core.evaluation.official.prediction`, which knows no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

from orthus_core.api.captions import SquarePicture
from orthus_core.api.images import (
    ImageCollector,
    ImageRequest,
    ImageResult,
    prepare_edit,
    prepare_generate,
)
from orthus_core.api.inputs import Edit, InputImage, input_image
from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pictures import FilePicture, Picture
from orthus_core.recipe import EditRecipe, GenerateRecipe
from orthus_core.results.metadata import save_picture
from orthus_core.samplers.captioning import AnswerDone, answer_each
from orthus_core.samplers.params import SamplingParams

# Pictures that are opened side by side while the model works.
READERS = 4
BatchSize = int | Literal["auto"]


class Asked(Protocol):
    """One question or picture: `orthus_core.evaluation.official.questions_asked.Ask`."""

    @property
    def key(self) -> str: ...

    @property
    def parts(self) -> tuple[Any, ...]: ...

    @property
    def seed(self) -> int: ...


class AnsweringModel:
    """A model that answers questions about pictures, in the likeliest words.

    Args:
        loaded: Open model.
        longest: Most tokens of an answer.
        batch_size: Questions answered at once; "auto" means as many as fit into memory.
    """

    stage, unit = "answering", "questions"

    def __init__(self, loaded: LoadedModel, longest: int, batch_size: BatchSize = "auto") -> None:
        self.builder, self._batch_size = loaded.builder, batch_size
        self.params = SamplingParams(max_images=0, max_text=longest, temperature=0.0)

    def load(self, asks: Sequence[Asked]) -> dict[Any, SquarePicture]:
        """The pixels of the pictures that are asked about. Raises: DataError for a damaged one."""
        size = self.builder.model.model.vqmodel.config.resolution
        pictures = [
            *dict.fromkeys(part for ask in asks for part in ask.parts if not _is_text(part))
        ]

        def opened(part: Any) -> SquarePicture:
            picture: Picture = FilePicture(part) if isinstance(part, Path) else part
            return SquarePicture(picture.key, picture.load(size))

        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(pictures, pool.map(opened, pictures), strict=True))

    def run(
        self, asks: Sequence[Asked], loaded: Mapping[Any, SquarePicture]
    ) -> Iterator[tuple[int, str | None]]:
        """The answers; None for what has several pictures and does not fit the model's context.

        Raises:
            PromptError: When a question about one picture does not fit.
        """
        questions, numbers = [], []
        for number, ask in enumerate(asks):
            parts = [part if _is_text(part) else loaded[part] for part in ask.parts]
            if sum(not _is_text(part) for part in parts) > 1 and not self._fits(parts):
                yield number, None
            else:
                questions.append(parts)
                numbers.append(number)
        if not questions:
            return
        for event in answer_each(self.builder, questions, self.params, self._batch_size):
            if isinstance(event, AnswerDone):
                yield numbers[event.row], event.text

    def keep(self, ask: Asked, answer: str | None) -> str | None:
        return answer

    def _fits(self, parts: Sequence[str | Picture]) -> bool:
        return self.builder.length(*parts) < self.builder.model.config.max_position_embeddings


class DrawingModel:
    """A model that draws prompts; each picture is written as soon as it is finished.

    Args:
        loaded: Open model.
        recipe: How pictures are sampled.
        folder: Where they are written, by the keys of what is asked.
    """

    stage, unit = "drawing", "pictures"

    def __init__(self, loaded: LoadedModel, recipe: GenerateRecipe, folder: Path) -> None:
        self._loaded, self._recipe, self._folder = loaded, recipe, folder
        self.params = SamplingParams.from_recipe(loaded.model.config, recipe)

    def load(self, asks: Sequence[Asked]) -> Any:
        return None

    def run(self, asks: Sequence[Asked], loaded: Any) -> Iterator[tuple[int, ImageResult]]:
        """The pictures.

        Raises:
            PromptError: When a prompt does not fit the model.
            CheckpointError: When the model cannot draw.
        """
        request = self._request(asks, loaded)
        collector = ImageCollector(request)
        for event in request.events():
            if result := collector.add(event):
                yield result.row, result

    def keep(self, ask: Asked, answer: ImageResult) -> str:
        save_picture(answer.image, self._folder / ask.key, answer.info, overwrite=True)
        return ask.key

    def _request(self, asks: Sequence[Asked], loaded: Any) -> ImageRequest:
        """The pictures of a piece. Their record does not name those drawn beside them, so that it
        is the same however the work was shared."""
        texts = [*dict.fromkeys(str(ask.parts[0]) for ask in asks)]
        seeds = [*dict.fromkeys(ask.seed for ask in asks)]
        whole = prepare_generate(self._loaded, self._recipe, texts, seeds)
        rows = [texts.index(str(ask.parts[0])) * len(seeds) + seeds.index(ask.seed) for ask in asks]
        return dataclasses.replace(
            whole,
            prompts=tuple(whole.prompts[row] for row in rows),
            infos=tuple(whole.infos[row]._replace(among=None) for row in rows),
        )


class EditingModel(DrawingModel):
    """A model that changes pictures by instructions; each is written as soon as it is finished.

    Args:
        loaded: Open model.
        recipe: How pictures are sampled.
        folder: Where they are written, by the keys of what is asked.
    """

    stage, unit = "editing", "pictures"

    def __init__(self, loaded: LoadedModel, recipe: EditRecipe, folder: Path) -> None:
        self._loaded, self._edit, self._folder = loaded, recipe, folder
        self.params = SamplingParams.from_recipe(loaded.model.config, recipe)

    def load(self, asks: Sequence[Asked]) -> list[InputImage]:
        """The pictures to change. Raises: DataError for a damaged one."""

        def opened(ask: Asked) -> InputImage:
            source = ask.parts[0]
            return input_image(source if isinstance(source, Path) else source.content)

        with ThreadPoolExecutor(READERS) as pool:
            return [*pool.map(opened, asks)]

    def _request(self, asks: Sequence[Asked], loaded: list[InputImage]) -> ImageRequest:
        edits = [Edit([image], str(ask.parts[1])) for ask, image in zip(asks, loaded, strict=True)]
        seeds = {ask.seed for ask in asks}
        assert len(seeds) == 1, "each edit has one picture"
        whole = prepare_edit(self._loaded, self._edit, edits, [*seeds])
        return dataclasses.replace(
            whole, infos=tuple(info._replace(among=None) for info in whole.infos)
        )


def _is_text(part: Any) -> bool:
    return isinstance(part, str)
