"""Measures of the quality of a model.

    import orthus_core.evaluation as evaluation

    evaluation.pope.score(["Yes"], ["yes"])["accuracy"]

The scorers of official benchmarks are imported when they are first used (PEP 562), without a model.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orthus_core.evaluation import (
        clip_edit,
        fid,
        geneval,
        gqa,
        hps,
        mme,
        mmmu,
        pictures,
        pope,
        vqav2,
    )

__all__ = [
    "clip_edit",
    "fid",
    "geneval",
    "gqa",
    "hps",
    "mme",
    "mmmu",
    "pictures",
    "pope",
    "vqav2",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
