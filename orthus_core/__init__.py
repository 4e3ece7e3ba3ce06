"""Orthus: text and pictures in one autoregressive transformer.

    from orthus_core import Orthus

    Orthus.open("mini").generate("a snowman").images[0]

Public names are imported when they are first used (PEP 562), so that `import orthus_core` costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orthus_core.version import __version__

if TYPE_CHECKING:
    from orthus_core.api.pipeline import Orthus
    from orthus_core.checkpoint.model_folder import open_model, save_model
    from orthus_core.errors import OrthusError
    from orthus_core.model.config import OrthusConfig
    from orthus_core.model.diffusion_head import DiffusionHead
    from orthus_core.model.orthus import OrthusForConditionalGeneration
    from orthus_core.model.soft_embedding import soft_embed
    from orthus_core.recipe import load

_HOMES = {
    "DiffusionHead": "orthus_core.model.diffusion_head",
    "Orthus": "orthus_core.api.pipeline",
    "OrthusConfig": "orthus_core.model.config",
    "OrthusError": "orthus_core.errors",
    "OrthusForConditionalGeneration": "orthus_core.model.orthus",
    "load": "orthus_core.recipe",
    "open_model": "orthus_core.checkpoint.model_folder",
    "save_model": "orthus_core.checkpoint.model_folder",
    "soft_embed": "orthus_core.model.soft_embedding",
}

__all__ = [
    "DiffusionHead",
    "Orthus",
    "OrthusConfig",
    "OrthusError",
    "OrthusForConditionalGeneration",
    "__version__",
    "load",
    "open_model",
    "save_model",
    "soft_embed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
