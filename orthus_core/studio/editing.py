"""An edit as it is asked for: pictures with an instruction, or pictures after an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orthus_core.errors import PromptError
from orthus_core.samplers.example import by_example
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.requests import Asking, Sampling
from orthus_core.studio.given import Given, files_of, hashes_of


class Edit(NamedTuple):
    """One picture to be drawn.

    given: What it is made from, in the order the model reads it: the example before and after,
        where there is one, then the pictures that are changed.
    instruction: In words; empty where an example says it.
    has_example: Whether the first two are an example.
    """

    given: list[Given]
    instruction: str
    has_example: bool = False

    def prompt(self, asking: Asking, sampling: Sampling) -> Prompt:
        """The prompt that asks for it, without a seed.

        Raises:
            PromptError: When there is no picture to change, or nothing says how.
        """
        pictures = [each.picture for each in self.given]
        if not self.has_example:
            return asking.edit(pictures, self.instruction, sampling)
        if self.instruction:
            raise PromptError(
                "an example says what to do without words",
                where="edit",
                hint="leave out the instruction, or the example",
            )
        if len(pictures) < 3:
            raise PromptError(
                "an example is two pictures, and there must be one more to change",
                where="edit",
                hint="orthus edit PICTURE --example BEFORE AFTER",
            )
        before, after, *rest = pictures
        return by_example(asking, before, after, rest, sampling)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Hashes of the pixels of all it is made from."""
        return hashes_of(self.given)

    @property
    def files(self) -> tuple[str, ...]:
        """Where all it is made from lies."""
        return files_of(self.given)


def edits_of(
    pictures: Sequence[Given], instruction: str, example: Sequence[Given] = (), *, each: bool
) -> list[Edit]:
    """One edit of all the pictures together, or one of each."""
    groups = [[picture] for picture in pictures] if each else [list(pictures)]
    return [Edit([*example, *group], instruction, bool(example)) for group in groups]
