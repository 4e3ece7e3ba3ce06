"""Captions for many images, in parts: known ones are skipped, broken ones reported.

A folder may hold more pictures than memory: each part is opened, encoded and answered before the
next one is opened, so an interrupted run loses one part at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from orthus_core.api.inputs import InputImage
from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import open_image, square
from orthus_core.errors import DataError, PromptError
from orthus_core.events import Event, Progress, RowDone, TextPiece
from orthus_core.recipe import CaptionRecipe
from orthus_core.samplers.captioning import AnswerDone, answer
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.seeds import choose_seeds

# Files opened and encoded at once.
AT_ONCE = 32
_BLOCK = 1 << 20


@dataclass(frozen=True)
class CaptionDone(AnswerDone):
    """The caption or answer for an image; `row` is its number among all images.

    Attributes:
        file: File of the image; None for one in memory.
        content: A hash of the file; empty for one in memory.
        seed: Seed of the sampled text.
        known: Whether the answer comes from an earlier run.
    """

    file: Path | None
    content: str
    seed: int
    known: bool = False


@dataclass(frozen=True)
class CaptionFailed:
    """File number `row` is not an image, or cannot be read."""

    row: int
    file: Path
    error: DataError


@dataclass(frozen=True)
class SquarePicture:
    """A picture in memory, at the size that the model reads.

    Attributes:
        content: A hash of the picture's file.
    """

    content: str
    pixels_HW3: np.ndarray = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        return f"square:{len(self.pixels_HW3)}:{self.content}"

    def load(self, size: int) -> np.ndarray:
        assert len(self.pixels_HW3) == size, "it was scaled for another model"
        return self.pixels_HW3


class _Part(NamedTuple):
    """An open image, and its number among all images."""

    row: int
    file: Path | None
    content: str
    picture: Picture


def caption_images(
    builder: PromptBuilder,
    images: Sequence[Path | InputImage],
    question: str,
    params: SamplingParams,
    *,
    seeds: Sequence[int],
    batch_size: Any = None,
    answers: Mapping[str, str] | None = None,
) -> Iterator[Event | CaptionDone | CaptionFailed]:
    """Answers a question about each image.

    Args:
        builder: Prompt builder of the model.
        images: Files, which are opened in parts, or open images.
        question: The question.
        params: How the text is sampled.
        seeds: One seed for each image.
        batch_size: Images read at once, as for `generate`.
        answers: Earlier answers, by the hash of the file.

    Yields: Text as it is written, rows numbered through all images; a CaptionDone or a
        CaptionFailed for each image; a Progress after each part.

    Raises:
        PromptError: When the question is empty.
    """
    if not question.strip():
        raise PromptError("the question is empty", where="prompt", hint="leave out --question")
    found = dict(answers or {})
    size = builder.model.model.vqmodel.config.resolution
    for first in range(0, len(images), AT_ONCE):
        parts: list[_Part] = []
        for row, image in enumerate(images[first : first + AT_ONCE], start=first):
            if isinstance(image, InputImage):
                parts.append(_Part(row, image.file, "", image.picture))
                continue
            try:
                content = content_hash(image)
                if content in found:
                    yield CaptionDone(row, found[content], image, content, seeds[row], known=True)
                else:
                    picture = SquarePicture(content, square(open_image(image), size))
                    parts.append(_Part(row, image, content, picture))
            except DataError as error:
                yield CaptionFailed(row, image, error)
        if parts:
            pictures = [part.picture for part in parts]
            own_seeds = [seeds[part.row] for part in parts]
            for event in answer(builder, pictures, question, params, own_seeds, batch_size):
                if isinstance(event, AnswerDone):
                    row, file, content, _ = parts[event.row]
                    if content:
                        found[content] = event.text
                    yield CaptionDone(row, event.text, file, content, seeds[row])
                elif isinstance(event, (TextPiece, RowDone)):
                    yield replace(event, row=parts[event.row].row)
                else:
                    yield event
        yield Progress("reading", min(first + AT_ONCE, len(images)), len(images), "pictures")


@dataclass(frozen=True)
class CaptionRequest:
    """Images to answer one question about.

    Attributes:
        loaded: Open model.
        params: How the text is sampled.
        question: Question about each image.
        images: Files, which are opened in parts, or open images.
        seeds: One seed for each image.
        batch_size: Images read at once; "auto" means as many as fit into memory.
        answers: Earlier answers, by the hash of the file; these images are not read again.
    """

    loaded: LoadedModel
    params: SamplingParams
    question: str
    images: tuple[Path | InputImage, ...]
    seeds: tuple[int, ...]
    batch_size: int | Literal["auto"] = "auto"
    answers: Mapping[str, str] | None = None

    def events(self) -> Iterator[Event | CaptionDone | CaptionFailed]:
        """Answers. Yields as `caption_images`."""
        return caption_images(
            self.loaded.builder,
            self.images,
            self.question,
            self.params,
            seeds=self.seeds,
            batch_size=self.batch_size,
            answers=self.answers,
        )


def prepare_caption(
    loaded: LoadedModel,
    recipe: CaptionRecipe,
    images: Sequence[Path | InputImage],
    seeds: Sequence[int] | None = None,
    answers: Mapping[str, str] | None = None,
) -> CaptionRequest:
    """Answers to one question about each image.

    Args:
        loaded: Open model.
        recipe: The question, and how the text is sampled.
        images: Files, which are opened in parts, or open images.
        seeds: One seed for each image, for sampled text; None counts up from the recipe's seed.
        answers: Earlier answers, by the hash of the file.
    """
    if seeds is None:
        seeds = choose_seeds(() if recipe.seed is None else (recipe.seed,), len(images))
    return CaptionRequest(
        loaded,
        SamplingParams.from_recipe(loaded.model.config, recipe),
        recipe.question,
        tuple(images),
        tuple(seeds),
        recipe.batch_size,
        answers,
    )


class CaptionCollector:
    """Gathers the answers of a request from its events.

    Attributes:
        answers: Answers in the order of their arrival.
        failures: The images that do not read.
    """

    def __init__(self, request: CaptionRequest) -> None:
        self._request = request
        self.answers: list[CaptionDone] = []
        self.failures: list[CaptionFailed] = []

    def add(self, event: Any) -> CaptionDone | CaptionFailed | None:
        """Takes an event and returns it if it is an answer or a failure."""
        if isinstance(event, CaptionDone):
            self.answers.append(event)
            return event
        if isinstance(event, CaptionFailed):
            self.failures.append(event)
            return event
        return None

    @property
    def captions(self) -> Answers:
        """The answers in the order of the images."""
        done = sorted(self.answers, key=lambda answer: answer.row)
        texts, seeds = [answer.text for answer in done], [answer.seed for answer in done]
        return Answers(texts, self._request.question, seeds)


class Answers(NamedTuple):
    """Answers about pictures, in the order of the pictures."""

    texts: list[str]
    question: str
    seeds: list[int]

    def _repr_html_(self) -> str:
        from orthus_core.api.notebook import figures_html

        return figures_html([(None, text) for text in self.texts])


def content_hash(file: Path) -> str:
    """SHA-256 of a file. Raises: DataError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError as error:
        raise DataError("there is no such picture", where=str(file)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the picture: {reason}", where=str(file)) from error
    return digest.hexdigest()
