"""Orthus as a model of lmms-eval, where that is installed; nothing here imports this package.

    python -m lmms_eval --model orthus --model_args pretrained=runs/mine --tasks pope

lmms-eval (0.7) finds `manifest` by the entry point `orthus` of its group `lmms_eval.models`.
"""

from __future__ import annotations

from typing import Any

NAME = "orthus"
MODEL_CLASS = "orthus_core.lmms_eval_plugin.asked_by_lmms_eval.LmmsEvalModel"


def manifest() -> Any:
    """What lmms-eval registers: a name, and where the class is that it opens."""
    from lmms_eval.models.registry_v2 import (  # pyright: ignore[reportMissingImports]
        ModelManifest,
    )

    return ModelManifest(model_id=NAME, simple_class_path=MODEL_CLASS)
