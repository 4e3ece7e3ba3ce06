"""The errors a user meets: each says what went wrong, where, and what to do next; and how a command
that a message names is written, so that it works when it is pasted into a shell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class OrthusError(Exception):
    """A mistake or a missing thing that the person at the keyboard can do something about.

    Args:
        message: What is wrong, in one line.
        where: The file, key or argument it was found in.
        hint: What to do next, in one line.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.hint:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)


# More hints than this under one message are no longer read.
MOST_HINTS = 3
ALL_KEYS = "`orthus recipes keys COMMAND` lists the keys"


class RecipeError(OrthusError):
    """A recipe that does not read, or asks for something that cannot be."""


class RecipeErrors(RecipeError):
    """Several mistakes in recipes, all told at once.

    Attributes:
        errors: Each mistake.
    """

    def __init__(self, errors: Sequence[RecipeError]) -> None:
        lines = [
            f"{each.message} ({each.where})" if each.where else each.message for each in errors
        ]
        hints = dict.fromkeys(each.hint for each in errors if each.hint)
        super().__init__(
            f"{len(errors)} mistakes:\n" + "\n".join(f"- {line}" for line in lines),
            hint="; ".join(hints) if len(hints) <= MOST_HINTS else ALL_KEYS,
        )
        self.errors = tuple(errors)


class ArgumentError(RecipeError, TypeError, ValueError):
    """An argument of a Python call that is unknown, or has a value that cannot be."""


class CheckpointError(OrthusError):
    """A model folder that is missing, broken, unsafe or of the wrong kind."""


class HubError(OrthusError):
    """A model that has to come from a hub which is out of reach or says no."""


class DataError(OrthusError):
    """A picture, record or data set that cannot be used."""


class ChangedDataError(DataError):
    """Data that was changed while it is in use. No other row of it can be relied on, so this is no
    fault of one row that could be passed over.
    """


class PromptError(OrthusError):
    """A request that the model cannot draw or answer as it stands."""


class OutputError(OrthusError):
    """A place to write to that is taken, closed or full."""


class UnplacedError(OutputError):
    """A finished folder that could not be put in its place.

    Args:
        kept: Where it is kept instead.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "", kept: Path) -> None:
        super().__init__(message, where=where, hint=hint)
        self.kept = kept


class TrainingError(OrthusError):
    """A training that must stop: a loss that is not finite, a stage out of order."""
