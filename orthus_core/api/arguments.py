"""Arguments of the Python calls: the names that other libraries use, and mistakes in the words of
the commands.

Values are checked against the same recipes as the commands' options, so both say the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from orthus_core.device import DTYPES, TORCH_NAMES
from orthus_core.errors import ArgumentError, RecipeError
from orthus_core.recipe import Recipe, load
from orthus_core.recipe.drawing import ModelKeys, PanelText, TextSampling
from orthus_core.recipe.schema import members
from orthus_core.samplers.seeds import MOST_SEED

R = TypeVar("R", bound=Recipe)

ALIASES = {
    "n": "num_images",
    "num_images_per_prompt": "num_images",
    "seeds": "seed",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "image_guidance_scale": "image_guidance",
}
"""Other names of arguments, as the commands and diffusers know them."""

SIZES = {"width", "height", "size", "image_size", "resolution"}
"""Arguments of other libraries for the size of a picture, which a model has once."""

TEXT_KEYS = {*members(TextSampling), *members(PanelText)}
MODEL_KEYS = [*members(ModelKeys)]


@dataclass(frozen=True)
class OpenArguments(ModelKeys):
    """Arguments of `Orthus.open`; `model` is its source."""

    command: ClassVar[str] = "open"


def named(
    schema: type[Recipe], usual: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments of a call under their usual names.

    Args:
        schema: Recipe class of the call's command.
        usual: Arguments with usual names, and the values that they were given or default to.
        asked: Further arguments, some of which may have other names.

    Raises:
        ArgumentError: When an argument is given by two names, belongs to `Orthus.open`, or asks for
            a size.
    """
    values, known = dict(usual), members(schema)
    given = {name for name, value in usual.items() if value is not None}
    for name, value in asked.items():
        key = ALIASES.get(name, name)
        if key not in usual and key not in known:
            key = name
        if key in SIZES - known.keys():
            raise ArgumentError(
                f"a model draws pictures of one size, so that there is no {name}",
                where=f"the argument {name}",
                hint="scale=2 or scale=4 enlarges a picture after it is drawn",
            )
        if key in given:
            raise ArgumentError(
                f"{name} is another name of {key}, and both are given",
                where=f"the argument {name}",
                hint=f"give {key} alone",
            )
        if key in MODEL_KEYS:
            raise ArgumentError(
                f"{name} is chosen when the model is opened",
                where=f"the argument {name}",
                hint=f"Orthus.open(..., {name}=...)" if name != "model" else "Orthus.open(model)",
            )
        given.add(key)
        values[key] = value
    return values


def recipe_of(schema: type[R], values: Mapping[str, Any], opened: Mapping[str, Any]) -> R:
    """The recipe of a call, as its command would resolve it.

    Args:
        schema: Recipe class of the command.
        values: Arguments from `named`; None is not given.
        opened: How the model was opened.

    Raises:
        ArgumentError: When an argument is unknown, or has a value of the wrong type or out of
            range.
    """
    known = set(members(schema))
    flags: dict[str, Any] = {}  # without the seed of a recipe that has one, not several
    for name, value in values.items():
        if name == "seed" and "seeds" in known:
            flags["seeds"] = seeds_of(value) or None
        elif name in TEXT_KEYS and "text" in known:
            flags[f"text.{name}"] = plain(value)
        elif name != "seed":
            flags[name] = str(value) if isinstance(value, Path) else plain(value)
    try:
        return load(schema, flags={**flags, **opened}, flags_are="the argument")
    except RecipeError as error:
        # The text's keys have no table here.
        message, where = (each.replace("text.", "") for each in (error.message, error.where))
        raise ArgumentError(message, where=where, hint=error.hint) from error


def seeds_of(seed: Any) -> tuple[int, ...]:
    """The given seeds: none, one or several. Raises: ArgumentError for what is no seed."""
    if seed is None:
        return ()
    seed = plain(seed)
    several = isinstance(seed, Iterable) and not isinstance(seed, (str, bytes))
    try:
        return tuple(_index(each) for each in (seed if several else [seed]))
    except (TypeError, ValueError):
        raise ArgumentError(
            f"seed must be a whole number of at least 0, or a list of them, not {seed!r}"[:200],
            where="the argument seed",
            hint=f"give a whole number from 0 to {MOST_SEED}",
        ) from None


def check_seeds(seed: Any, most: int, why: str) -> None:
    """Raises: ArgumentError when more seeds are given than are used."""
    if len(seeds_of(seed)) > most:
        raise ArgumentError(why, where="the argument seed", hint="give one seed for each")


def check_example(pictures: Sequence[Any]) -> None:
    """Raises: ArgumentError when an example is not a picture before and one after the change."""
    if len(pictures) not in (0, 2):
        raise ArgumentError(
            f"an example is two pictures, before and after the change, not {len(pictures)}",
            where="the argument example",
            hint="example=(before, after); what is to be changed is the first argument",
        )


def check_call(work: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Checks how a method is called, before its values are looked at.

    Raises:
        ArgumentError: When an argument is missing, or there are more than it takes without a name.
    """
    signature = inspect.signature(work)
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        first = [each.name for each in signature.parameters.values() if each.kind in kinds]
        raise ArgumentError(
            f"{work.__name__}: {error}",
            where=f"the arguments of {work.__name__}",
            hint=f"it takes {' and '.join(first)} first, and all else by name, such as seed=1",
        ) from None


def text_of(name: str, value: Any) -> str:
    """The value, which must be text. Raises: ArgumentError when it is not."""
    if not isinstance(value, str):
        raise ArgumentError(
            f"{name} must be text, not {value!r}"[:200],
            where=f"the argument {name}",
            hint='write it in quotes, such as "a snowman"',
        )
    return value


def texts_of(name: str, values: Any) -> list[str]:
    """One text or several. Raises: ArgumentError for what is neither."""
    is_array = getattr(values, "ndim", 0) == 1  # numpy's, or a column of pandas
    several = is_array or (isinstance(values, Sequence) and not isinstance(values, (str, bytes)))
    return [text_of(name, each) for each in (values if several else [values])]


def check_open(source: Any, more: Mapping[str, Any], **values: Any) -> None:
    """Checks the arguments of `Orthus.open`.

    Args:
        source: Where the model is.
        more: Arguments that `open` does not know.
        values: Device, precision and the like; torch's own objects stand for themselves.

    Raises:
        ArgumentError: When one is unknown, or of the wrong type.
    """
    device = values.get("device")
    if isinstance(device, torch.device):
        device = str(device)
    if isinstance(device, str):  # one of several accelerators, such as cuda:1
        values["device"] = device.partition(":")[0]
    if values.get("dtype") in (*DTYPES.values(), *TORCH_NAMES):
        del values["dtype"]
    text_of("source", str(source) if isinstance(source, Path) else source)
    recipe_of(OpenArguments, {**values, **more}, {"model": str(source)})


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("true and false are no numbers")
    if not 0 <= (number := operator.index(value)) <= MOST_SEED:
        raise ValueError("a seed has no sign, and 63 bits")
    return number


def plain(value: Any) -> Any:
    """numpy's and torch's single numbers as Python's own."""
    is_single = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if is_single else value
