"""The best of several drawings of a prompt, judged by the model itself.

For each picture that is asked for, as many candidates are drawn as the recipe's `best_of` says, in
the same batches. The model is then asked questions about each of them, which are made from the
prompt (`samplers/prompt_questions.py`). A candidate's score is the mean logarithm of the
probability that the model gives to the right answers, and the best one is kept. Each candidate has
a seed of its own, so that the kept one can be drawn again alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from orthus_core.api.captions import SquarePicture
from orthus_core.api.images import (
    ImageCollector,
    ImageRequest,
    ImageResult,
    Images,
    prepare_generate,
)
from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pictures import BytesPicture
from orthus_core.data.pixels import square, to_image
from orthus_core.errors import PromptError
from orthus_core.events import ImageDone
from orthus_core.recipe import GenerateRecipe
from orthus_core.results.metadata import pixel_hash
from orthus_core.samplers.answer_scores import answer_probabilities
from orthus_core.samplers.prompt_questions import PromptQuestion, questions_of
from orthus_core.samplers.seeds import candidate_seeds

if TYPE_CHECKING:
    from orthus_core.api.continuation import Continuation


@dataclass(frozen=True)
class CandidatesJudged:
    """All candidates of picture number `row` are drawn and judged.

    Attributes:
        best: Number of the candidate with the highest score, from 0.
        scores: Score of each candidate.
        answers: Probability of the right answer to each question about the best one.
    """

    row: int
    best: int
    scores: tuple[float, ...]
    answers: tuple[float, ...]


@dataclass(frozen=True)
class BestOfRequest(ImageRequest):
    """Images of which the best of several is kept; `prompts` and `infos` are of all candidates.

    Attributes:
        candidates: Number of candidates of each image.
        questions: Questions about each image.
    """

    candidates: int = 1
    questions: tuple[tuple[PromptQuestion, ...], ...] = ()

    def only(self, rows: Sequence[int]) -> ImageRequest:
        """The request for some of its images, with all candidates of each."""
        chosen = super().only([number for row in rows for number in self.rows_of(row)])
        return dataclasses.replace(chosen, questions=tuple(self.questions[row] for row in rows))

    def rows_of(self, row: int) -> range:
        """Rows of the candidates of an image."""
        return range(row * self.candidates, (row + 1) * self.candidates)

    def events(self) -> Iterator[Any]:
        """Draws and judges. Yields as `ImageRequest.events`, rows numbered through all candidates;
        and a CandidatesJudged for each image.
        """
        drawn: dict[int, Image.Image] = {}
        for event in super().events():
            yield event
            if isinstance(event, ImageDone):
                drawn[event.row] = to_image(event.pixels_3HW)
                row = event.row // self.candidates
                if all(number in drawn for number in self.rows_of(row)):
                    yield self._judged(row, [drawn.pop(number) for number in self.rows_of(row)])

    def collector(self) -> ImageCollector:
        return BestOfCollector(self)

    def _judged(self, row: int, images: Sequence[Image.Image]) -> CandidatesJudged:
        builder = self.loaded.builder
        size = builder.model.model.vqmodel.config.resolution
        pictures = [SquarePicture(pixel_hash(image), square(image, size)) for image in images]
        answers = answer_probabilities(builder, pictures, self.questions[row])
        scores = [math.fsum(each) / len(each) for each in answers]
        best = max(range(len(scores)), key=scores.__getitem__)  # the first of equal ones
        right = tuple(math.exp(each) for each in answers[best])
        return CandidatesJudged(row, best, tuple(scores), right)


class BestOfCollector(ImageCollector):
    """Gathers the kept images of a request from its events."""

    def __init__(self, request: BestOfRequest) -> None:
        super().__init__(request)
        self._request = request
        self._kept: dict[int, ImageResult] = {}

    def add(self, event: Any) -> ImageResult | None:
        """Takes an event and returns the image that is kept, when its candidates are judged."""
        super().add(event)
        if not isinstance(event, CandidatesJudged):
            return None
        request, row = self._request, event.row
        candidates = [self._results.pop(number) for number in request.rows_of(row)]
        best, seeds = candidates[event.best], [each.info.seed for each in candidates]
        asked = zip(request.questions[row], event.answers, strict=True)
        choice = {
            "candidates": request.candidates,
            "seed": seeds[0],
            "scores": [[seed, round(s, 4)] for seed, s in zip(seeds, event.scores, strict=True)],
            "answers": [
                {"question": each.text, "answer": each.answer, "probability": round(right, 4)}
                for each, right in asked
            ],
        }
        self._kept[row] = ImageResult(row, best.image, best.info._replace(best_of=choice))
        return self._kept[row]

    @property
    def images(self) -> Images:
        """All kept images, in the order of the request."""
        kept = [self._kept[row] for row in sorted(self._kept)]
        return Images([each.image for each in kept], [each.info for each in kept])


def prepare_best_of(
    loaded: LoadedModel,
    recipe: GenerateRecipe,
    prompts: Sequence[str],
    seeds: Sequence[int],
    continuation: Continuation | None = None,
) -> BestOfRequest:
    """Images from text, each the best of the recipe's `best_of` candidates.

    Args:
        loaded, recipe, prompts, continuation: As for `prepare_generate`.
        seeds: Seeds of the images of each prompt; a seed is also that of its first candidate.

    Raises:
        PromptError: As `prepare_generate`; and when a question does not fit the model's context.
    """
    candidates = recipe.best_of or 1
    drawn = [seed for first in seeds for seed in candidate_seeds(first, candidates)]
    alone = dataclasses.replace(recipe, best_of=None)
    request = prepare_generate(loaded, alone, prompts, drawn, continuation)
    asked = {text: tuple(questions_of(loaded.builder.read(text))) for text in prompts}
    most = loaded.model.config.max_position_embeddings
    for question in (each for questions in asked.values() for each in questions):
        if loaded.builder.length(BytesPicture(b""), question.text) >= most:
            raise PromptError(
                "the model's context is too short for a picture and a question about it",
                where="--best-of",
                hint="leave out --best-of, or shorten the prompt",
            )
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    of_each = tuple(asked[text] for text in prompts for _ in seeds)
    return BestOfRequest(**values, candidates=candidates, questions=of_each)
