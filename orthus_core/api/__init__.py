"""The one way to draw, edit, tell stories and caption: for the commands, the class `Orthus`, and
Python.

    from orthus_core.api import load_model, prepare_generate, run
    from orthus_core.recipe import GenerateRecipe, load

    recipe = load(GenerateRecipe, flags={"model": "mini", "seeds": [1]})
    request = prepare_generate(load_model(recipe.model), recipe, ["a snowman"])
    for event in run(request): ...  # PatchDone, ImageDone ...

Names are imported when they are first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orthus_core.api.captions import CaptionCollector, prepare_caption
    from orthus_core.api.images import ImageCollector, prepare_edit, prepare_generate
    from orthus_core.api.inputs import edits_of, input_image, input_images
    from orthus_core.api.loaded import load_model
    from orthus_core.api.requests import Request, run
    from orthus_core.api.stories import StoryCollector, open_story, prepare_story

_MODULES = {
    "CaptionCollector": "orthus_core.api.captions",
    "ImageCollector": "orthus_core.api.images",
    "Request": "orthus_core.api.requests",
    "StoryCollector": "orthus_core.api.stories",
    "edits_of": "orthus_core.api.inputs",
    "input_image": "orthus_core.api.inputs",
    "input_images": "orthus_core.api.inputs",
    "load_model": "orthus_core.api.loaded",
    "open_story": "orthus_core.api.stories",
    "prepare_caption": "orthus_core.api.captions",
    "prepare_edit": "orthus_core.api.images",
    "prepare_generate": "orthus_core.api.images",
    "prepare_story": "orthus_core.api.stories",
    "run": "orthus_core.api.requests",
}

__all__ = [
    "CaptionCollector",
    "ImageCollector",
    "Request",
    "StoryCollector",
    "edits_of",
    "input_image",
    "input_images",
    "load_model",
    "open_story",
    "prepare_caption",
    "prepare_edit",
    "prepare_generate",
    "prepare_story",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
