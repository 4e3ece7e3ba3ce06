"""Rows of the small world with pictures that the model draws before it is trained, in place of the
true ones. They are what it draws already, so learning them beside something new keeps it: the prior
preservation of DreamBooth (2208.12242, 4.2). The data that the model was made from is not needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache as cached
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from orthus_core.atomic import staged_file
from orthus_core.data.document import Document, turn
from orthus_core.data.latent_cache import AddressedPicture, FeatureCache
from orthus_core.data.pictures import FilePicture
from orthus_core.data.sources import MadeRows
from orthus_core.errors import TrainingError
from orthus_core.events import Event, ImageDone, Note, Progress
from orthus_core.image_grid import rounded_image
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.train.batches import RowSources
from orthus_core.train.distributed import current_rank
from orthus_core.train.loop import Before, at_rest

FOLDER = "redrawn"
# Pictures that are drawn at once; a training that is killed draws no more than these again.
TOGETHER = 32


class EarlierDrawings(NamedTuple):
    """What the run that a training goes on from has drawn.

    Attributes:
        folder: Folder of the pictures.
        cache: Their features.
    """

    folder: Path
    cache: FeatureCache


class WantedWords(NamedTuple):
    """A picture to draw before the training.

    Attributes:
        path: File that it is kept in.
        words: What it is drawn for.
        seed: Its seed.
    """

    path: Path
    words: str
    seed: int

    @property
    def picture(self) -> FilePicture:
        return FilePicture(self.path)

    def is_kept(self, cache: FeatureCache) -> bool:
        """Whether it has been drawn, and its features are there."""
        return self.path.is_file() and self.picture in cache


@dataclass(frozen=True)
class RepeatedRows:
    """Rows that come round again; called with a number as `MadeRows.make`."""

    documents: Sequence[Document]

    def __call__(self, number: int) -> Document:
        return self.documents[number % len(self.documents)]


def with_redrawn(
    rows: RowSources, count: int, folder: Path
) -> tuple[RowSources, list[WantedWords]]:
    """The rows of a training with other pictures in the first `count` rows of each source that is
    made, which then come round again, and the pictures that are to be drawn for them.

    Only rows of words and one picture are changed: questions, edits and stories stay.

    Args:
        folder: Folder of the pictures.

    Raises:
        TrainingError: When no row is made, or there are several processes.
    """
    if current_rank().shards > 1:
        raise TrainingError(
            "pictures are redrawn by one process, and there are several",
            where="redrawn",
            hint="start one process, or set redrawn = false",
        )
    wanted: list[WantedWords] = []
    parts = list(rows.train.parts)
    for place, part in enumerate(parts):
        if not isinstance(part, MadeRows):
            continue
        documents = [part.make(number) for number in range(count)]
        for number, document in enumerate(documents):
            kinds = [(segment.role, segment.type) for segment in document.segments]
            if kinds == [("user", "text"), ("model", "image")]:
                words = str(document.segments[0].value)
                wanted.append(WantedWords(folder / f"{place}-{number:05}.png", words, number))
                drawn = turn("user", words) + turn("model", wanted[-1].picture)
                documents[number] = replace(document, segments=drawn)
        parts[place] = part._replace(make=RepeatedRows(documents))
    if not wanted:
        raise TrainingError(
            "no row of the small world is of words and a picture, so none can be redrawn",
            where="redrawn",
            hint='mix such rows in, a source with path = "sprites", or set redrawn = false',
        )
    return replace(rows, train=replace(rows.train, parts=parts)), wanted


def is_drawn(wanted: Sequence[WantedWords]) -> Callable[[str], bool]:
    """Whether a picture is one of these, by its key. Asked first when all of them exist."""

    @cached
    def keys() -> frozenset[str]:
        return frozenset(each.picture.key for each in wanted)

    return lambda key: key in keys()


def drawing(
    wanted: Sequence[WantedWords],
    objective: nn.Module,
    model: OrthusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    cache: FeatureCache,
    as_drawn: Callable[[], AbstractContextManager[None]],
    then: Before,
    earlier: EarlierDrawings,
) -> Before:
    """The work of a training before its first step: the model draws what is not there yet, with its
    own sampling settings. The features that it draws are kept as those of the picture. A training
    that goes on copies what it lacks.

    Args:
        wanted: Pictures to draw.
        objective: What is trained, of which the model is a part.
        cache: Features of the training's pictures.
        as_drawn: Puts the model into a form that can be drawn with, for as long as it lasts.
        then: Work that follows.
        earlier: Drawings of the run that a training goes on from.
    """

    def before(start: int, batches: int) -> Iterator[Event]:
        missing = [each for each in wanted if not each.is_kept(cache)]
        if start == 0:
            with at_rest(objective), as_drawn(), torch.no_grad():
                yield from draw(model, tokenizer, missing, cache)
        else:  # the model is no longer as it was
            yield from copied(missing, cache, earlier)
        yield from then(start, batches)

    return before


def copied(
    missing: Sequence[WantedWords], cache: FeatureCache, earlier: EarlierDrawings
) -> Iterator[Event]:
    """Copy drawings of an earlier run, and their features, which another encoding would blur.

    Raises:
        TrainingError: When one of the pictures is not there.
        OutputError: When one cannot be written.
    """
    blurred = 0
    for each in missing:
        theirs = earlier.folder / each.path.name
        if not theirs.is_file():
            raise TrainingError(
                "the pictures that the model drew before the training are not all there, and it "
                "cannot draw them again, because it has been trained since",
                where=str(theirs),
                hint="put the folder back, or begin anew: --overwrite in place of --resume, or "
                "another folder with -o",
            )
        if not each.path.is_file():
            with staged_file(each.path, parents=True) as staged:
                shutil.copyfile(theirs, staged)
        # By its content the copy has the address of the original.
        found = AddressedPicture(each.picture, cache.address(each.picture))
        if found in earlier.cache:
            cache.keep(found, earlier.cache([found])[0])
        else:
            blurred += 1
    if blurred:
        yield Note(
            f"{blurred} of {len(missing)} redrawn pictures are encoded anew, which blurs them a "
            f"little: the features that they were drawn from are not in {earlier.cache.path}"
        )


def draw(
    model: OrthusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Sequence[WantedWords],
    cache: FeatureCache,
) -> Iterator[Event]:
    """Draw pictures into their files, and their features into the cache."""
    params = SamplingParams.resolve(model.config)
    builder = PromptBuilder(model, tokenizer)
    for first in range(0, len(wanted), TOGETHER):
        part = wanted[first : first + TOGETHER]
        prompts = [builder.picture(each.words, params)._replace(seed=each.seed) for each in part]
        for event in generate(model, prompts, params, "auto"):
            if isinstance(event, ImageDone):
                picture = rounded_image((event.pixels_3HW.float().clamp(-1, 1) + 1) / 2)
                with staged_file(part[event.row].path, parents=True) as staged:
                    picture.save(staged, "PNG")
                cache.keep(part[event.row].picture, event.features_PC)
        yield Progress("drawing what is to be kept", first + len(part), len(wanted), "pictures")
