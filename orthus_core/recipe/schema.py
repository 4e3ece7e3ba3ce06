"""Building blocks of recipes: frozen dataclasses in which every key has its meaning, unit and
range.

A recipe is one top-level dataclass for each command. Its fields are the keys of a TOML file, and
fields that are dataclasses themselves are the file's tables. Nothing here needs torch, so a
mistyped key is found before torch loads.

    @dataclass(frozen=True)
    class ConvertRecipe:
        command: ClassVar[str] = "convert"
        dtype: Literal["auto", "bf16"] = key("auto", "precision the weights are written in")
        head: HeadTable = key(HeadTable(), "the diffusion head")

A rule between keys goes into `__post_init__`, which raises `ValueError` with a sentence; `load`
turns that into a `RecipeError` with the file's name. An optional key has type `X | None` and
default `None`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple, Protocol


class Recipe(Protocol):
    """What every top-level recipe class has: the command it belongs to, and dataclass fields."""

    command: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def key(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    before: str = "",
    instead_of: str = "",
) -> Any:
    """A recipe key: a dataclass field that says what it means.

    Args:
        default: Default value; a dictionary is copied for each recipe.
        doc: Meaning of the key, printed in docs/recipes.md and in the help of its option: a phrase
            that begins in lower case and has no full stop.
        unit: What the number counts or is measured in ("steps", "pixels", "MB").
        minimum: The smallest number allowed, itself included; holds for each number of a list or
            table.
        maximum: The largest number allowed, itself included.
        before: Inherited key that this key precedes where keys are listed or saved; without it the
            key follows the inherited ones. A key that overrides another names the same.
        instead_of: Key of the same table that must not be stated beside this one.
    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "before": before,
        "instead_of": instead_of,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Key(NamedTuple):
    """One key of a schema, as `keys` finds it."""

    path: tuple[str, ...]
    annotation: Any
    default: Any
    doc: str
    unit: str
    minimum: float | None
    maximum: float | None

    @property
    def name(self) -> str:
        return ".".join(self.path)


def ordered_fields(table: type | Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass in the order its keys are listed and saved in."""
    ordered: list[dataclasses.Field[Any]] = []
    for field in dataclasses.fields(table):
        before = field.metadata.get("before")
        names = [other.name for other in ordered]
        ordered.insert(names.index(before) if before else len(ordered), field)
    return ordered


def members(table: type) -> dict[str, Key]:
    """The keys of one table by name; tables inside it are listed, not entered."""
    hints = typing.get_type_hints(table)
    found = {}
    for field in ordered_fields(table):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        about = field.metadata
        found[field.name] = Key(
            path=(field.name,),
            annotation=hints[field.name],
            default=default,
            doc=about.get("doc", ""),
            unit=about.get("unit", ""),
            minimum=about.get("minimum"),
            maximum=about.get("maximum"),
        )
    return found


def keys(table: type | Any, prefix: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every key of a schema with its full path, tables entered, in the order they are written down.

    Args:
        table: A recipe class, or an instance, whose values are then given as the defaults.
        prefix: The path of `table` itself.
    """
    cls = table if isinstance(table, type) else type(table)
    for name, found in members(cls).items():
        value = found.default if isinstance(table, type) else getattr(table, name)
        path = (*prefix, name)
        if is_table(found.annotation):
            yield from keys(value, path)
        else:
            yield found._replace(path=path, default=value)


def is_table(annotation: Any) -> bool:
    """Whether a key of this type is a table of further keys."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def is_map(annotation: Any) -> bool:
    """Whether a key of this type is a table whose names are the user's own: `dict[str, X]`."""
    return typing.get_origin(annotation) is dict


def table_of_list(annotation: Any) -> type | None:
    """The table that each element of a list of tables is, `tuple[Table, ...]`; None for other
    types.
    """
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and args[1:] == (Ellipsis,) and is_table(args[0]):
        return args[0]
    return None


def exclusive_keys(table: type | Any) -> dict[str, str]:
    """The keys of a table that stand in place of another one, and that one."""
    fields = ((field.name, field.metadata.get("instead_of")) for field in dataclasses.fields(table))
    return {name: other for name, other in fields if other}


def union_arms(annotation: Any) -> tuple[Any, ...]:
    """The types a union allows; a single type is a union of one."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def describe(annotation: Any) -> str:
    """A type in an error's words: `"v" or "epsilon"`, `a list of whole numbers`."""
    arms = [arm for arm in union_arms(annotation) if arm is not type(None)]
    return " or ".join(_describe_one(arm) for arm in arms)


def range_text(key: Key) -> str:
    """The numbers a key allows, such as `1 to 1000` or `at least 0`; empty when all."""
    low, high = key.minimum, key.maximum
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else ""


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Any: "anything",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def _describe_one(arm: Any) -> str:
    origin, args = typing.get_origin(arm), typing.get_args(arm)
    if origin is Literal:
        return " or ".join(f'"{arg}"' if isinstance(arg, str) else str(arg) for arg in args)
    if table_of_list(arm):
        return "a list of tables"
    if origin in (tuple, list):
        count = "" if args[-1] is Ellipsis or origin is list else f"{len(args)} "
        return f"a list of {count}{_PLURALS.get(args[0], describe(args[0]))}"
    if origin is dict:
        return (
            "a table"
            if args[1] is Any
            else f"a table of {_PLURALS.get(args[1], describe(args[1]))}"
        )
    return _NAMES.get(arm, "a table")
