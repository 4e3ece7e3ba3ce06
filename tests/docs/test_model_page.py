"""docs/model.md names what is there: each function and class where it says, each key and weight."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import orthus_core
from orthus_core.model.config import OrthusConfig
from orthus_core.recipe import BuildBaseRecipe, GenerateRecipe, PosttrainRecipe, keys
from tests.conftest import make_tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "model.md").read_text("utf-8")
PACKAGES = {path.name for path in Path(orthus_core.__path__[0]).iterdir() if path.is_dir()}
QUOTED = re.findall(r"`([^`\n]+)`", PAGE.replace("```", ""))


def names() -> list[str]:
    """The dotted names of the page that begin in a package of ours."""
    dotted = {text for text in QUOTED if re.fullmatch(r"\w+(\.\w+)+", text)}
    return sorted(name for name in dotted if name.split(".")[0] in PACKAGES)


def found(name: str) -> Any:
    """What a dotted name below orthus_core stands for.

    Raises: ImportError or AttributeError when there is no such thing, or it is defined elsewhere.
    """
    module_name, parts = "orthus_core", name.split(".")
    while parts and find_spec(f"{module_name}.{parts[0]}"):
        module_name += f".{parts.pop(0)}"
        if not hasattr(import_module(module_name), "__path__"):
            break
    thing: Any = import_module(module_name)
    for number, part in enumerate(parts):
        thing = getattr(thing, part)
        if number == 0 and thing.__module__ != module_name:
            raise ImportError(f"{part} is imported into {module_name}, not defined there")
    return thing


def test_the_page_names_what_each_step_is_done_by():
    steps = re.findall(r"^\| (?!step|-)([^|]+) \| [^\n]+ \| ([^|\n]*) \|$", PAGE, re.MULTILINE)
    done_by = [(step, by) for step, by in steps[:11]]
    assert done_by[0][0] == "features" and done_by[-1][0] == "pixels"
    assert all(any(name in by for name in names()) for _, by in done_by)


@pytest.mark.parametrize("name", names())
def test_what_the_page_names_is_where_it_says(name):
    assert callable(found(name))


@pytest.mark.parametrize(
    "name", ["model.diffusion_head.DiffusionHead.plan", "model.orthus.InterleavedBackbone"]
)
def test_a_name_that_is_not_there_is_seen(name):
    with pytest.raises((ImportError, AttributeError)):
        found(name)


def test_files_are_not_named_beside_what_is_in_them():
    """Names alone: a path beside one would be checked by nobody."""
    assert not [text for text in QUOTED if text.endswith(".py") and "orthus_core/" not in text]
    for text in (text for text in QUOTED if text.endswith(".py")):
        assert (Path(orthus_core.__path__[0]).parent / text).is_file()


def test_weights_and_keys_that_the_page_names_exist():
    model = make_tiny_model()
    weights = {part for name in model.state_dict() for part in name.split(".")}
    fields = set(vars(OrthusConfig())) | {"scaled_linear"}
    schemas = (BuildBaseRecipe, PosttrainRecipe, GenerateRecipe)
    recipe = {key.name for schema in schemas for key in keys(schema())}
    words = {word for text in QUOTED for word in re.findall(r"(?<![.\w-])[a-z]+(?:_[a-z]+)+", text)}
    formula = {"x_t", "a_t", "x_0", "c_k", "orthus_core"}
    parts = {part for name in names() for part in name.split(".")}
    assert words - weights - fields - recipe - formula - parts == set()
