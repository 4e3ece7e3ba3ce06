"""Recipes: TOML in, frozen and checked settings out. No torch.

from orthus_core.recipe import ConvertRecipe, load
recipe = load(ConvertRecipe, "my.toml", ("head.width=384",), {"dtype": "bf16"})

Recipes of trainings and of conversions are imported when they are first used (PEP 562), so that
drawing loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orthus_core.recipe.drawing import CaptionRecipe, EditRecipe, GenerateRecipe, StoryRecipe
from orthus_core.recipe.load import load, shape
from orthus_core.recipe.save import as_table, dump, save
from orthus_core.recipe.schema import Recipe, key, keys

if TYPE_CHECKING:
    from orthus_core.recipe.conversion import ConvertRecipe
    from orthus_core.recipe.distill_guidance import DistillGuidanceRecipe
    from orthus_core.recipe.distill_head import DistillHeadRecipe
    from orthus_core.recipe.paper_arm import ArmRecipe
    from orthus_core.recipe.training import (
        BuildBaseRecipe,
        FinetuneVaeRecipe,
        PosttrainRecipe,
        PretrainRecipe,
    )

    SCHEMAS: dict[str, type[Recipe]]

__all__ = [
    "SCHEMAS",
    "ArmRecipe",
    "BuildBaseRecipe",
    "CaptionRecipe",
    "ConvertRecipe",
    "DistillHeadRecipe",
    "DistillGuidanceRecipe",
    "EditRecipe",
    "FinetuneVaeRecipe",
    "GenerateRecipe",
    "PosttrainRecipe",
    "PretrainRecipe",
    "Recipe",
    "StoryRecipe",
    "as_table",
    "dump",
    "key",
    "keys",
    "load",
    "save",
    "shape",
]

_MODULES = {
    "ArmRecipe": "orthus_core.recipe.paper_arm",
    "BuildBaseRecipe": "orthus_core.recipe.training",
    "ConvertRecipe": "orthus_core.recipe.conversion",
    "DistillHeadRecipe": "orthus_core.recipe.distill_head",
    "DistillGuidanceRecipe": "orthus_core.recipe.distill_guidance",
    "FinetuneVaeRecipe": "orthus_core.recipe.training",
    "PosttrainRecipe": "orthus_core.recipe.training",
    "PretrainRecipe": "orthus_core.recipe.training",
}


def __getattr__(name: str) -> Any:
    if name == "SCHEMAS":
        value = _schemas()
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _schemas() -> dict[str, type[Recipe]]:
    """The recipe class of each command that has one, in the order a model is made and used."""
    from orthus_core.recipe.conversion import ConvertRecipe
    from orthus_core.recipe.distill_guidance import DistillGuidanceRecipe
    from orthus_core.recipe.distill_head import DistillHeadRecipe
    from orthus_core.recipe.paper_arm import ArmRecipe
    from orthus_core.recipe.training import (
        BuildBaseRecipe,
        FinetuneVaeRecipe,
        PosttrainRecipe,
        PretrainRecipe,
    )

    schemas = (
        PretrainRecipe,
        FinetuneVaeRecipe,
        ConvertRecipe,
        BuildBaseRecipe,
        PosttrainRecipe,
        DistillHeadRecipe,
        DistillGuidanceRecipe,
        ArmRecipe,
        GenerateRecipe,
        EditRecipe,
        StoryRecipe,
        CaptionRecipe,
    )
    return {schema.command: schema for schema in schemas}
