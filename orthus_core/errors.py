"""The errors a user meets: each says what went wrong, where, and what to do next."""

from __future__ import annotations

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


class RecipeError(OrthusError):
    """A recipe that does not read, or asks for something that cannot be."""


class CheckpointError(OrthusError):
    """A model folder that is missing, broken, unsafe or of the wrong kind."""


class HubError(OrthusError):
    """A model that has to come from a hub which is out of reach or says no."""


class DataError(OrthusError):
    """A picture, record or data set that cannot be used."""


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
