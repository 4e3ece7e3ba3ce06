"""A request: what to make, with its inputs read and its values resolved, ready to run.

    request = prepare_generate(loaded, recipe, ["a snowman"], seeds=[1, 2])
    for event in run(request): ...

`prepare_generate` and `prepare_edit` are in images.py, `prepare_story` in stories.py and
`prepare_caption` in captions.py, each beside the collector that gathers results from the events.
The commands, the class `Orthus` and `orthus replay` all prepare and run these requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from orthus_core.api.loaded import LoadedModel
from orthus_core.samplers.params import SamplingParams


class Request(Protocol):
    """What to make, with which model and which parameters."""

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        ...

    @property
    def params(self) -> SamplingParams:
        """How text and images are sampled."""
        ...

    def events(self) -> Iterator[Any]:
        """Does the work; see `run`."""
        ...


def run(request: Request) -> Iterator[Any]:
    """Runs a request, and yields events as they happen.

    Yields: Events of `orthus_core.events`, rows numbered through the request; for a story also a
        PanelDone after each panel, for captions a CaptionDone or CaptionFailed for each image.

    Raises:
        PromptError: When a prompt does not fit the model, or memory does not suffice.
        CheckpointError: When the model cannot draw.
        DataError: When an image cannot be read.
    """
    return request.events()
