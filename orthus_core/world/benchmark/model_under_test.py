"""The model under test: asked for pictures, answers and stories, many at a time.

Every method is a generator of progress that returns what was made, so that a benchmark reads

    pictures_M = yield from subject.draw(captions, "mini-geneval")

Pictures here are [3, H, W] in 0..1, as the judges see them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import RESCALE, pack_pixels
from orthus_core.events import Event, ImageDone, Progress, TextPiece
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams, Task
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.text import with_words

LONGEST_ANSWER = 32
# Text tokens of a story's sentence: the longest that is told has about a dozen.
LONGEST_SENTENCE = 24
CHUNK = 32

T = TypeVar("T")
R = TypeVar("R")
Work = Generator[Event, None, R]


class GeneratedStory(NamedTuple):
    """A story as it was told: the words before each picture, and the picture."""

    texts: list[str]
    pictures: list[Tensor]


@dataclass
class ModelUnderTest:
    """A model that is asked.

    Attributes:
        model, tokenizer: Kept in evaluation mode.
        batch_size: Prompts at once.
        seed: Of the first picture of every request; the next ones count on from it.
        steps: Of each patch; None is the model's own.
    """

    model: InterleavedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 32
    seed: int = 1
    steps: int | None = None
    builder: PromptBuilder = field(init=False)

    def __post_init__(self) -> None:
        self.builder = PromptBuilder(self.model, self.tokenizer)

    def sampling(self, task: Task = "picture") -> SamplingParams:
        """What pictures are sampled with: the model's own defaults."""
        return SamplingParams.resolve(self.model.config, task, steps=self.steps)

    def draw(self, captions: Sequence[str], stage: str) -> Work[list[Tensor]]:
        """A picture for each caption."""
        params = self.sampling()
        prompts = [self._ask_for(caption, params) for caption in captions]
        drawn = yield from self._pictures(prompts, params, stage)
        return [each.pictures[0] for each in drawn]

    def edit(self, asked: Sequence[tuple[Picture, str]], stage: str) -> Work[list[GeneratedStory]]:
        """Each picture changed as its instruction says, and what the model wrote before it."""
        params = self.sampling("edit")
        prompts = [self.builder.edit([picture], words, params) for picture, words in asked]
        return self._pictures(prompts, params, stage)

    def answer(self, asked: Sequence[tuple[Picture, str]], stage: str) -> Work[list[str]]:
        """Each question about a picture answered, greedily."""
        prompts = [self.builder.question(picture, words) for picture, words in asked]
        params = SamplingParams(max_images=0, max_text=LONGEST_ANSWER)
        answers = [""] * len(prompts)
        for first, part in chunked(prompts, self.batch_size):
            for event in with_words(generate(self.model, part, params, "auto"), self.tokenizer):
                if isinstance(event, TextPiece):
                    answers[first + event.row] += event.text
            yield Progress(stage, first + len(part), len(prompts), "answers")
        return [answer.strip() for answer in answers]

    def tell(
        self, openings: Sequence[Sequence[str | Picture]], panels: int, stage: str
    ) -> Work[list[GeneratedStory]]:
        """A story going on from each opening: so many sentences with their pictures, if the model
        draws them.
        """
        params = replace(
            self.sampling("story"), max_images=panels, max_text=panels * LONGEST_SENTENCE
        )
        prompts = self._seeded([self.builder.story(opening, params) for opening in openings])
        told = [GeneratedStory([""], []) for _ in prompts]
        for first, part in chunked(prompts, self.batch_size):
            for event in with_words(generate(self.model, part, params, "auto"), self.tokenizer):
                if isinstance(event, TextPiece):
                    told[first + event.row].texts[-1] += event.text
                elif isinstance(event, ImageDone):
                    told[first + event.row].pictures.append(in_unit_range(event.pixels_3HW))
                    told[first + event.row].texts.append("")
            yield Progress(stage, first + len(part), len(prompts), "stories")
        return [story._replace(texts=[text.strip() for text in story.texts]) for story in told]

    @torch.no_grad()
    def decoded(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """True pictures as this model would draw them at best: encoded and decoded again."""
        vq = self.model.model.vqmodel
        discrete = isinstance(self.model, DiscreteChameleon)
        seen: list[Tensor] = []
        for _, part in chunked(pictures, CHUNK):
            pixels_M3HW = self.pixels(part).to(vq.device, vq.dtype)
            codes_or_features = vq.codes(pixels_M3HW) if discrete else vq.features(pixels_M3HW)
            decode: Callable[[Tensor], Tensor] = vq.pixels_of_codes if discrete else vq.pixels
            seen += [in_unit_range(each) for each in decode(codes_or_features)]
        return seen

    def pixels(self, pictures: Iterable[Picture]) -> Tensor:
        """Pictures as the autoencoder reads them: [M, 3, H, W]."""
        size = self.model.model.vqmodel.config.resolution
        return pack_pixels([picture.load(size) for picture in pictures])

    def seen(self, pictures: Iterable[Picture]) -> list[Tensor]:
        """True pictures as the judges see them."""
        return [in_unit_range(each) for each in self.pixels(pictures)]

    def _ask_for(self, caption: str, params: SamplingParams) -> Prompt:
        return self.builder.picture(caption, params)

    def _seeded(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [p._replace(seed=self.seed + number) for number, p in enumerate(prompts)]

    def _pictures(
        self, prompts: Sequence[Prompt], params: SamplingParams, stage: str
    ) -> Work[list[GeneratedStory]]:
        """A picture for each prompt, and what the model wrote before it."""
        events = generate(self.model, self._seeded(prompts), params, self.batch_size)
        texts, drawn = [""] * len(prompts), dict[int, Tensor]()
        for event in with_words(events, self.tokenizer):
            if isinstance(event, TextPiece):
                texts[event.row] += event.text
            elif isinstance(event, ImageDone):
                drawn[event.row] = in_unit_range(event.pixels_3HW)
                yield Progress(stage, len(drawn), len(prompts), "pictures")
        return [GeneratedStory([text.strip()], [drawn[row]]) for row, text in enumerate(texts)]


def in_unit_range(pixels_3HW: Tensor) -> Tensor:
    """A decoded picture as a judge sees it: fp32 in 0..1 on the CPU."""
    return ((pixels_3HW.detach().float().cpu() + 1) / (255 * RESCALE)).clamp(0, 1)


def chunked(items: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    """Items so many at a time, each part with the number of its first."""
    for first in range(0, len(items), size):
        yield first, items[first : first + size]
