"""The model under test: generates pictures, answers and stories in batches.

The generating methods yield progress and return their result, so that a benchmark can write

    pictures_M = yield from subject.draw(captions, "mini-geneval")

Pictures are [3, H, W] in 0..1, as judges expect them.
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
# Maximum of text tokens in each sentence of a story; those in training have at most about a dozen.
LONGEST_SENTENCE = 24
CHUNK = 32

T = TypeVar("T")
R = TypeVar("R")
Work = Generator[Event, None, R]


class GeneratedStory(NamedTuple):
    """A generated story.

    Attributes:
        texts: Text before each picture, and after the last one.
        pictures: Pictures in order.
    """

    texts: list[str]
    pictures: list[Tensor]


@dataclass
class ModelUnderTest:
    """A model with the settings of its evaluation.

    Attributes:
        model: Model, in evaluation mode.
        tokenizer: Tokenizer of the model.
        batch_size: Number of prompts in a batch.
        seed: Seed of the first picture of every request; the next ones have seed + 1, seed + 2, ...
        steps: Sampling steps for each patch; None uses the model's default.
        preset: Preset that pictures are drawn with; None is `exact`.
        builder: Builder of the prompts.
    """

    model: InterleavedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 32
    seed: int = 1
    steps: int | None = None
    preset: str | None = None
    builder: PromptBuilder = field(init=False)

    def __post_init__(self) -> None:
        self.builder = PromptBuilder(self.model, self.tokenizer)

    def sampling(self, task: Task = "picture") -> SamplingParams:
        """The model's default sampling parameters for a task."""
        return SamplingParams.resolve(self.model.config, task, steps=self.steps, preset=self.preset)

    def draw(self, captions: Sequence[str], stage: str) -> Work[list[Tensor]]:
        """Draws a picture for each caption."""
        params = self.sampling()
        prompts = [self._picture_prompt(caption, params) for caption in captions]
        drawn = yield from self._pictures(prompts, params, stage)
        return [each.pictures[0] for each in drawn]

    def edit(
        self, requests: Sequence[tuple[Picture, str]], stage: str
    ) -> Work[list[GeneratedStory]]:
        """Edits each picture by its instruction; the results hold what the model wrote first."""
        params = self.sampling("edit")
        prompts = [self.builder.edit([picture], words, params) for picture, words in requests]
        return self._pictures(prompts, params, stage)

    def answer(self, requests: Sequence[tuple[Picture, str]], stage: str) -> Work[list[str]]:
        """Answers each question about a picture by greedy decoding."""
        prompts = [self.builder.question(picture, words) for picture, words in requests]
        params = SamplingParams(max_images=0, max_text=LONGEST_ANSWER)
        answers = [""] * len(prompts)
        for first, part in chunks(prompts, self.batch_size):
            for event in with_words(generate(self.model, part, params, "auto"), self.tokenizer):
                if isinstance(event, TextPiece):
                    answers[first + event.row] += event.text
            yield Progress(stage, first + len(part), len(prompts), "answers")
        return [answer.strip() for answer in answers]

    def continue_stories(
        self, openings: Sequence[Sequence[str | Picture]], panels: int, stage: str
    ) -> Work[list[GeneratedStory]]:
        """Continues a story from each opening by greedy decoding, by at most `panels` sentences
        with pictures.
        """
        params = replace(
            self.sampling("story"),
            max_images=panels,
            max_text=panels * LONGEST_SENTENCE,
            temperature=0.0,
            top_p=1.0,
        )
        prompts = self._with_seeds([self.builder.story(opening, params) for opening in openings])
        stories = [GeneratedStory([""], []) for _ in prompts]
        for first, part in chunks(prompts, self.batch_size):
            for event in with_words(generate(self.model, part, params, "auto"), self.tokenizer):
                if isinstance(event, TextPiece):
                    stories[first + event.row].texts[-1] += event.text
                elif isinstance(event, ImageDone):
                    stories[first + event.row].pictures.append(to_unit_range(event.pixels_3HW))
                    stories[first + event.row].texts.append("")
            yield Progress(stage, first + len(part), len(prompts), "stories")
        return [story._replace(texts=[text.strip() for text in story.texts]) for story in stories]

    @torch.no_grad()
    def reconstruct(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Encodes and decodes pictures: the best that this model can draw."""
        vq = self.model.model.vqmodel
        discrete = isinstance(self.model, DiscreteChameleon)
        tensors: list[Tensor] = []
        for _, part in chunks(pictures, CHUNK):
            pixels_M3HW = self.pixels(part).to(vq.device, vq.dtype)
            codes_or_features = vq.codes(pixels_M3HW) if discrete else vq.features(pixels_M3HW)
            decode: Callable[[Tensor], Tensor] = vq.pixels_of_codes if discrete else vq.pixels
            tensors += [to_unit_range(each) for each in decode(codes_or_features)]
        return tensors

    def pixels(self, pictures: Iterable[Picture]) -> Tensor:
        """Loads pictures as input of the autoencoder: [M, 3, H, W]."""
        size = self.model.model.vqmodel.config.resolution
        return pack_pixels([picture.load(size) for picture in pictures])

    def load_pictures(self, pictures: Iterable[Picture]) -> list[Tensor]:
        """Loads pictures as judges expect them."""
        return [to_unit_range(each) for each in self.pixels(pictures)]

    def _picture_prompt(self, caption: str, params: SamplingParams) -> Prompt:
        return self.builder.picture(caption, params)

    def _with_seeds(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [p._replace(seed=self.seed + number) for number, p in enumerate(prompts)]

    def _pictures(
        self, prompts: Sequence[Prompt], params: SamplingParams, stage: str
    ) -> Work[list[GeneratedStory]]:
        """Draws a picture for each prompt; the results hold what the model wrote first."""
        events = generate(self.model, self._with_seeds(prompts), params, self.batch_size)
        texts, drawn = [""] * len(prompts), dict[int, Tensor]()
        for event in with_words(events, self.tokenizer):
            if isinstance(event, TextPiece):
                texts[event.row] += event.text
            elif isinstance(event, ImageDone):
                drawn[event.row] = to_unit_range(event.pixels_3HW)
                yield Progress(stage, len(drawn), len(prompts), "pictures")
        return [GeneratedStory([text.strip()], [drawn[row]]) for row, text in enumerate(texts)]


def to_unit_range(pixels_3HW: Tensor) -> Tensor:
    """Converts a decoded picture to fp32 in 0..1 on the CPU."""
    return ((pixels_3HW.detach().float().cpu() + 1) / (255 * RESCALE)).clamp(0, 1)


def chunks(items: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    """Chunks of at most `size` items, each with the index of its first item."""
    for first in range(0, len(items), size):
        yield first, items[first : first + size]
