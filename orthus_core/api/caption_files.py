"""Many picture files read one part after another: known ones skipped, broken ones named.

A folder may hold more pictures than memory: each part is opened, encoded and answered before the
next one is looked at, so that whoever writes answers down loses one part at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from orthus_core.data.pixels import open_image, square
from orthus_core.errors import DataError, PromptError
from orthus_core.events import Event, Progress, RowDone, TextPiece
from orthus_core.samplers.captioning import AnswerDone, answer
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt_builder import PromptBuilder

# Files opened and encoded at once.
AT_ONCE = 32
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Answered:
    """What a picture shows, or what was asked about it.

    number: Of the file, from 0, among all that were to be read.
    file: The picture.
    content: A hash of the file.
    text: The answer.
    seed: Of its sampled text.
    known: Whether it was known before.
    """

    number: int
    file: Path
    content: str
    text: str
    seed: int
    known: bool = False


@dataclass(frozen=True)
class Broken:
    """A file that is no picture, or does not read."""

    number: int
    file: Path
    error: DataError


@dataclass(frozen=True)
class Loaded:
    """A picture in memory, at the size that the model reads.

    content: A hash of its file.
    """

    content: str
    pixels_HW3: np.ndarray = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        return f"loaded:{len(self.pixels_HW3)}:{self.content}"

    def load(self, size: int) -> np.ndarray:
        assert len(self.pixels_HW3) == size, "it was loaded for another model"
        return self.pixels_HW3


def read_files(
    builder: PromptBuilder,
    files: Sequence[Path],
    question: str,
    params: SamplingParams,
    *,
    seeds: Sequence[int],
    batch_size: Any = None,
    known: Mapping[str, str] | None = None,
) -> Iterator[Event | Answered | Broken]:
    """Answers a question about each file.

    Args:
        builder: Makes prompts for the model that answers.
        files: Pictures.
        question: What is asked.
        params: How the text is sampled.
        seeds: One a file.
        batch_size: Pictures read at once, as `generate` takes it.
        known: Answers by the hash of a file, from before.

    Yields: Words as they come, rows numbered through all files; an `Answered` or a `Broken` for
        each file; a Progress after each part.

    Raises:
        PromptError: When nothing is asked.
    """
    if not question.strip():
        raise PromptError("the question is empty", where="prompt", hint="leave out --question")
    found = dict(known or {})
    size = builder.model.model.vqmodel.config.resolution
    for first in range(0, len(files), AT_ONCE):
        part: list[tuple[int, Loaded]] = []
        for number, file in enumerate(files[first : first + AT_ONCE], start=first):
            try:
                content = content_hash(file)
                if content in found:
                    text = found[content]
                    yield Answered(number, file, content, text, seeds[number], known=True)
                else:
                    part.append((number, Loaded(content, square(open_image(file), size))))
            except DataError as error:
                yield Broken(number, file, error)
        if part:
            numbers, pictures = zip(*part, strict=True)
            own_seeds = [seeds[number] for number in numbers]
            for event in answer(builder, pictures, question, params, own_seeds, batch_size):
                if isinstance(event, AnswerDone):
                    number, content = numbers[event.row], pictures[event.row].content
                    found[content] = event.text
                    yield Answered(number, files[number], content, event.text, seeds[number])
                elif isinstance(event, (TextPiece, RowDone)):
                    yield replace(event, row=numbers[event.row])
                else:
                    yield event
        yield Progress("reading", min(first + AT_ONCE, len(files)), len(files), "pictures")


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
