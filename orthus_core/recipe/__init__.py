"""Recipes: TOML in, frozen and checked settings out. No torch.

from orthus_core.recipe import ConvertRecipe, load
recipe = load(ConvertRecipe, "my.toml", ("head.width=384",), {"dtype": "bf16"})
"""

from orthus_core.recipe.conversion import ConvertRecipe
from orthus_core.recipe.drawing import CaptionRecipe, EditRecipe, GenerateRecipe, StoryRecipe
from orthus_core.recipe.load import load, shape
from orthus_core.recipe.save import as_table, dump, save
from orthus_core.recipe.schema import Recipe, key, keys
from orthus_core.recipe.training import (
    BuildBaseRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
)

SCHEMAS: dict[str, type[Recipe]] = {
    schema.command: schema
    for schema in (
        PretrainRecipe,
        FinetuneVaeRecipe,
        ConvertRecipe,
        BuildBaseRecipe,
        PosttrainRecipe,
        GenerateRecipe,
        EditRecipe,
        StoryRecipe,
        CaptionRecipe,
    )
}
"""The recipe class of each command that has one, in the order a model is made and used."""

__all__ = [
    "SCHEMAS",
    "BuildBaseRecipe",
    "CaptionRecipe",
    "ConvertRecipe",
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
