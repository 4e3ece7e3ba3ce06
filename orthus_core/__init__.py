"""Orthus: text and pictures in one autoregressive transformer.

    from orthus_core import Orthus

    Orthus.open("mini").generate("a snowman").images[0]

Public names are imported when they are first used (PEP 562), so that `import orthus_core` costs
nothing. In the same way transformers' Auto classes know a saved folder once this is imported, and
our classes are imported when one of them opens such a folder.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from orthus_core.version import __version__

if TYPE_CHECKING:
    from orthus_core.api.diffusers_pipeline import OrthusPipeline
    from orthus_core.api.pipeline import Orthus
    from orthus_core.checkpoint.chat_processor import OrthusProcessor
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
    "OrthusPipeline": "orthus_core.api.diffusers_pipeline",
    "OrthusProcessor": "orthus_core.checkpoint.chat_processor",
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
    "OrthusPipeline",
    "OrthusProcessor",
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


class _Later:
    """Stands for a class of ours in a registry of transformers until it is asked for something."""

    model_type = "orthus"

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        import_module(_HOMES["OrthusForConditionalGeneration"])  # registers the real classes
        return __getattr__("OrthusConfig").from_dict(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return __getattr__("OrthusProcessor").from_pretrained(*args, **kwargs)


def _register(registry: ModuleType) -> None:
    """Add our classes to a module of transformers' Auto classes, if it does not have them yet."""
    config = type("OrthusConfig", (_Later,), {})
    if "orthus" not in sys.modules[_REGISTRIES[0]].CONFIG_MAPPING:
        sys.modules[_REGISTRIES[0]].AutoConfig.register("orthus", config)
    if registry.__name__ == _REGISTRIES[1]:
        registry.AutoProcessor.register(config, type("OrthusProcessor", (_Later,), {}))


_REGISTRIES = tuple(
    f"transformers.models.auto.{name}_auto" for name in ("configuration", "processing")
)


class _Registration:
    """Finds transformers' registries as Python does, and adds our classes when one was loaded."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _REGISTRIES or (spec := PathFinder.find_spec(name, path)) is None:
            return None
        load = spec.loader.exec_module  # type: ignore[union-attr]

        def exec_module(module: ModuleType) -> None:
            load(module)
            _register(module)

        spec.loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]
        return spec


sys.meta_path.insert(0, _Registration)  # type: ignore[arg-type]
for _name in _REGISTRIES:
    if _name in sys.modules:
        _register(sys.modules[_name])
