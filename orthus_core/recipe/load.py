"""Reads TOML into a recipe: checks keys, types and ranges, and reports mistakes with their place.

Four layers, of which later ones win: defaults < file < `--set a.b=c` < named flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from orthus_core.errors import RecipeError, RecipeErrors
from orthus_core.recipe.schema import (
    Key,
    Recipe,
    describe,
    exclusive_keys,
    is_map,
    is_table,
    keys,
    members,
    table_of_list,
    union_arms,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

R = TypeVar("R", bound=Recipe)
KeyPath = tuple[str, ...]
Place = Callable[[KeyPath], str]  # where a key of a layer was written, in words
Values = dict[KeyPath, Any]


class _Tables(NamedTuple):
    """The value of a list of tables that a layer states as a whole; the tables' own keys follow."""

    count: int


Mistakes = list[tuple[KeyPath, RecipeError]]

OTHER_WORDS = {
    **dict.fromkeys(("gpu", "nvidia", "cuda", "rocm"), "cuda"),
    **dict.fromkeys(("metal", "apple", "mps"), "mps"),
    **dict.fromkeys(("processor", "cpu"), "cpu"),
    **dict.fromkeys(("half", "float16", "f16", "16"), "fp16"),
    **dict.fromkeys(("bfloat16", "torch.bfloat16"), "bf16"),
    **dict.fromkeys(("full", "float", "float32", "f32", "32"), "fp32"),
}
"""What devices and precisions are called elsewhere, and here; all in small letters."""


class TypedValue(NamedTuple):
    """A value from the command line: as TOML reads it, and as it was typed."""

    value: Any
    typed: str


def load(
    schema: type[R],
    source: str | Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    flags_are: str = "the option for",
) -> R:
    """Loads the recipe of a run.

    Args:
        schema: The recipe class of the command that runs.
        source: A TOML file (or the JSON that `save` wrote), the name of an included recipe, or None
            for defaults.
        overrides: `a.b=c` texts in TOML's value syntax, where a bare word is also read as text.
        flags: Key paths to values from named options; None means that the option was not given.
        flags_are: What the flags are, in the words of an error that names one.

    Raises:
        RecipeError: For a file that cannot be read or belongs to another command, an unknown key, a
            value of the wrong type or outside its range, or values that exclude each other. Several
            mistakes are told at once, in a RecipeErrors.
    """
    values: Values = {}
    where = ""
    mistakes: Mistakes = []
    if source is not None:
        from orthus_core.recipe.shelf import find

        file = find(source)
        where = str(file)
        text, table = _read(file)
        _check_command(schema, table, where)
        layer = _gather(schema, table, lambda path: _place(file, text, path), mistakes)
        _overlay(values, layer)
    for override in overrides:
        table = _parse_override(override)
        layer = _gather(schema, table, lambda _, typed=override: f"--set {typed}", mistakes)
        _overlay(values, layer)
    for name, value in (flags or {}).items():
        if value is not None:
            path = tuple(name.split("."))
            layer = _gather(
                schema,
                _nest(path, value),
                lambda path: f"{flags_are} {'.'.join(path)}",
                mistakes,
            )
            _overlay(values, layer)
    return _checked(schema, values, where, mistakes)


def shape(schema: type[R], table: Mapping[str, Any], where: str = "") -> R:
    """A recipe from a dictionary, such as `as_table` makes or a checkpoint's `recipe.json` holds.

    Raises:
        RecipeError: As `load`.
    """
    table = dict(table)
    _check_command(schema, table, where)
    mistakes: Mistakes = []
    values = _gather(schema, table, lambda _: where, mistakes)
    return _checked(schema, values, where, mistakes)


def command_of(source: str | Path) -> str:
    """The command that a recipe file says it is for.

    Raises:
        RecipeError: When the file cannot be read or names no command.
    """
    from orthus_core.recipe.shelf import find

    file = find(source)
    _, table = _read(file)
    return _command(table, str(file))


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    from orthus_core.user_files import read_text

    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        damaged = RecipeError(f"cannot read the recipe: {reason}", where=str(file))
        raise _true_cause(damaged, file) from error
    try:
        table = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:  # raised by both readers for a mistake in the text
        kind = "JSON" if file.suffix == ".json" else "TOML"
        damaged = RecipeError(f"the recipe is not {kind}: {error}", where=str(file))
        raise _true_cause(damaged, file) from error
    if not isinstance(table, dict):
        raise RecipeError("the recipe holds no keys", where=str(file))
    return text, table


def _true_cause(damaged: RecipeError, file: Path) -> RecipeError:
    from orthus_core.wrong_content import true_cause

    return true_cause(damaged, file)


def _command(table: Mapping[str, Any], where: str) -> str:
    command = table.get("command")
    if not isinstance(command, str):
        raise RecipeError(
            "the recipe does not say which command it is for",
            where=where,
            hint='begin it with a line such as command = "convert"',
        )
    return command


def _check_command(schema: type[Recipe], table: dict[str, Any], where: str) -> None:
    """Removes the command from the table, after checking it."""
    command = _command(table, where)
    if command != schema.command:
        raise RecipeError(
            f"this is a recipe for `orthus {command}`, not for `orthus {schema.command}`",
            where=where,
            hint=f"run it with `orthus {command}`, or name a recipe for {schema.command}",
        )
    del table["command"]


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, typed = override.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not equals or not all(path):
        raise RecipeError(
            "an override needs a key and a value",
            where=f"--set {override}",
            hint="write it as --set table.key=value",
        )
    value = _toml_value(typed.strip())
    return _nest(path, value if isinstance(value, dict) else TypedValue(value, typed.strip()))


def _toml_value(typed: str) -> Any:
    """A value as TOML reads it; a bare word, which is not TOML, stays text."""
    try:
        table = tomllib.loads(f"value = {typed}")
    except tomllib.TOMLDecodeError:
        return typed
    return table["value"] if len(table) == 1 else typed


def _overlay(values: Values, layer: Values) -> None:
    """Put a layer over earlier ones. A list of tables that it states as a whole replaces theirs."""
    whole = [path for path, value in layer.items() if isinstance(value, _Tables)]
    for path in [each for each in values if any(each[: len(one)] == one for one in whole)]:
        del values[path]
    values |= layer


def _nest(path: KeyPath, value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def raise_all(errors: Sequence[RecipeError]) -> None:
    """Raises: RecipeError, the only one there is; RecipeErrors, when there are several."""
    found = [one for each in errors for one in getattr(each, "errors", (each,))]
    if found:
        raise found[0] if len(found) == 1 else RecipeErrors(found)


def _checked(schema: type[R], values: Values, where: str, mistakes: Mistakes) -> R:
    """The recipe of these values.

    Raises:
        RecipeError: When there are mistakes in them, or values exclude each other.
    """
    if "optim" in members(schema):  # a training writes its recipe beside its model
        mistakes += _not_writable(values)
    faulty = {path[:-1] for path, _ in mistakes}
    recipe = _build(schema(), values, where, mistakes, faulty)
    raise_all([error for _, error in mistakes])
    return recipe


def _not_writable(values: Values) -> Mistakes:
    """The keys whose values TOML cannot hold: paths with bytes that are no UTF-8."""
    mistakes: Mistakes = []
    for path, value in values.items():
        try:
            json.dumps([path, value], ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            name = ".".join(path).encode(errors="replace").decode()
            error = RecipeError(
                f"{name} holds bytes that are no UTF-8, so the recipe could not be written beside "
                "the model",
                where=name,
                hint="give the file or folder another name, or name a link to it",
            )
            mistakes.append((path, error))
    return mistakes


def _gather(
    schema: type,
    table: Mapping[str, Any],
    place: Place,
    mistakes: Mistakes,
    prefix: KeyPath = (),
) -> Values:
    """The values of one layer, by path, each checked against the schema.

    Args:
        mistakes: Receives the path and the error of each key that is unknown or has no usable
            value.
    """
    known = members(schema)
    values: Values = {}
    for name, value in table.items():
        path = (*prefix, name)
        if name not in known:
            error = _unknown(path, known, schema if not prefix else None, place(path))
            mistakes.append((path, error))
            continue
        key = known[name]
        if is_map(key.annotation) and isinstance(value, Mapping):
            for inner, item in value.items():  # a later layer adds to it rather than replacing it
                at = key._replace(path=(*path, inner))
                item_type = typing.get_args(key.annotation)[1]
                values |= _converted(item_type, item, at, place, mistakes)
        elif element := table_of_list(key.annotation):
            values |= _gather_tables(element, value, key, place, mistakes, path)
        elif not is_table(key.annotation):
            at = key._replace(path=path)
            values |= _converted(key.annotation, value, at, place, mistakes)
        elif isinstance(value, Mapping):
            values |= _gather(key.annotation, value, place, mistakes, path)
        else:
            inside = ", ".join(members(key.annotation))
            error = RecipeError(
                f"{'.'.join(path)} is a table with the keys {inside}; it cannot be {_show(value)}",
                where=place(path),
                hint=f"set a key of it, such as {'.'.join(path)}.{inside.split(',')[0]}",
            )
            mistakes.append((path, error))
    return values


def _gather_tables(
    element: type, value: Any, key: Key, place: Place, mistakes: Mistakes, path: KeyPath
) -> Values:
    """The values of a list of tables: stated as a whole, or some of its tables by number."""
    value = value.value if isinstance(value, TypedValue) else value
    values: Values = {}
    if isinstance(value, (list, tuple)):
        values[path] = _Tables(len(value))
        tables = {str(number): table for number, table in enumerate(value)}
    else:
        tables = value if isinstance(value, Mapping) else {"": value}
    for number, table in tables.items():
        if not number.isdecimal() or not isinstance(table, Mapping):
            name, first = ".".join(path), next(iter(members(element)))
            error = RecipeError(
                f"{name} is a list of tables; it cannot be {_show(value)}",
                where=place(path),
                hint=f"write [[{name}]] in a recipe, or --set {name}.0.{first}=...: the "
                " tables are numbered from 0",
            )
            mistakes.append((path, error))
            return {}
        values |= _gather(element, table, place, mistakes, (*path, str(int(number))))
    return values


def _converted(annotation: Any, value: Any, key: Key, place: Place, mistakes: Mistakes) -> Values:
    """The value of a key by its path; nothing but a mistake if it has no usable one."""
    try:
        return {key.path: _convert(annotation, value, key, place)}
    except RecipeError as error:
        mistakes.append((key.path, error))
        return {}


def _unknown(path: KeyPath, known: Mapping[str, Key], root: type | None, where: str) -> RecipeError:
    *table, name = path
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        meant = ".".join((*table, close[0]))
    else:  # it may be a key of some table, written without the table's name
        inner = [found for found in keys(root) if len(found.path) > 1] if root else []
        closest = difflib.get_close_matches(name, {found.path[-1] for found in inner}, n=1)
        within = [found.name for found in inner if found.path[-1] in closest]
        meant = within[0] if len(within) == 1 else ""
    return RecipeError(
        f"unknown key {'.'.join(path)!r}" + (f", did you mean {meant!r}?" if meant else ""),
        where=where,
        hint=f"the keys here are {', '.join(known)}",
    )


def _convert(annotation: Any, value: Any, key: Key, place: Place) -> Any:
    """The value converted to its type; raises an error that names the expected type."""
    arms = union_arms(annotation)
    if isinstance(value, TypedValue):
        # `--set prompt=2024` means the text if the key takes text.
        value = value.typed if str in arms and not isinstance(value.value, str) else value.value
    for arm in arms:
        try:
            result = _accept(arm, value)
            _check_range(result, key, place)
        except (_Wrong, OverflowError):  # a whole number can be too large for a float
            continue
        return result
    raise RecipeError(
        f"{key.name} must be {describe(annotation)}, not {_show(value)}" + _closest(arms, value),
        where=place(key.path),
        hint=f"{key.name}: {key.doc}",
    )


class _Wrong(Exception):
    """The value is not of the type."""


def _accept(arm: Any, value: Any) -> Any:
    """The value converted to the type: 1.0 for `float` and 1, a tuple for a list.

    Raises:
        _Wrong: When it is of another type.
    """
    value = value.value if isinstance(value, TypedValue) else value
    origin, args = typing.get_origin(arm), typing.get_args(arm)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        each = args if origin is tuple and args[-1] is not Ellipsis else (args[0],) * len(value)
        if len(each) == len(value):
            return origin(_accept(inner, item) for inner, item in zip(each, value, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        return {str(name): _accept(args[1], item) for name, item in value.items()}
    elif origin is Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
    elif arm is Any:
        return _accept(dict[str, Any], value) if isinstance(value, Mapping) else value
    elif isinstance(value, bool) and arm is not bool:
        pass  # Python counts true as 1; a recipe does not
    elif arm is float and isinstance(value, int):
        return float(value)
    elif origin is None and isinstance(arm, type) and isinstance(value, arm):
        return value
    raise _Wrong


def _check_range(value: Any, key: Key, place: Place) -> None:
    if isinstance(value, (tuple, list)):
        for item in value:
            _check_range(item, key, place)
    elif isinstance(value, Mapping):
        for item in value.values():
            _check_range(item, key, place)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = key.minimum, key.maximum
        if not math.isfinite(value):
            problem = "must be a finite number"
        elif low is not None and value < low:
            problem = f"must be at least {low:g}"
        elif high is not None and value > high:
            problem = f"must be at most {high:g}"
        else:
            return
        raise RecipeError(
            f"{key.name} {problem}, not {value}",
            where=place(key.path),
            hint=f"{key.name}: {key.doc}",
        )


def _closest(arms: tuple[Any, ...], value: Any) -> str:
    words = [
        word for arm in arms if typing.get_origin(arm) is Literal for word in typing.get_args(arm)
    ]
    low, texts = str(value).lower(), [word for word in words if isinstance(word, str)]
    # By meaning before spelling, which would lead from gpu to cpu.
    meant = OTHER_WORDS.get(low, "")
    close = [meant] if meant in texts else difflib.get_close_matches(low, texts, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _show(value: Any) -> str:
    if isinstance(value, TypedValue):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _build(
    recipe: Any,
    values: Values,
    where: str,
    mistakes: Mistakes,
    faulty: set[KeyPath],
    prefix: KeyPath = (),
) -> Any:
    """The defaults with the stated values put in, innermost tables first.

    Args:
        mistakes: Receives the rules between keys that do not hold.
        faulty: Tables with mistakes in them, in which such rules say nothing.
    """
    changes: dict[str, Any] = {}
    inner: dict[str, Values] = {}
    for path, value in values.items():
        if len(path) == 1 and not isinstance(value, _Tables):
            changes[path[0]] = value
        else:
            inner.setdefault(path[0], {})[path[1:]] = value
    for name, stated in inner.items():
        table = getattr(recipe, name)
        if element := table_of_list(members(type(recipe))[name].annotation):
            changes[name] = _build_tables(element, stated, where, mistakes, faulty, (*prefix, name))
        elif isinstance(table, Mapping):
            changes[name] = {**table, **{path[0]: value for path, value in stated.items()}}
        else:
            changes[name] = _build(table, stated, where, mistakes, faulty, (*prefix, name))
    for name, other in exclusive_keys(recipe).items():
        if changes.get(name) and other in changes:
            table = "".join(f"{part}." for part in prefix)
            mistakes.append(
                (
                    (*prefix, name),
                    RecipeError(
                        f"{table}{other} and {table}{name} are both set",
                        where=where,
                        hint=f"drop {table}{other}: it is short for {table}{name} with one table "
                        f"of weight 1, so write its path into a table [[{table}{name}]]",
                    ),
                )
            )
            faulty.add(prefix)
            return recipe
    try:
        return dataclasses.replace(recipe, **changes)
    except ValueError as error:  # a rule of the schema between its keys
        if not any(path[: len(prefix)] == prefix for path in faulty):
            table = f"{'.'.join(prefix)}: " if prefix else ""
            mistakes.append((prefix, RecipeError(f"{table}{error}", where=where)))
            faulty.add(prefix)
        return recipe


def _build_tables(
    element: type,
    stated: Values,
    where: str,
    mistakes: Mistakes,
    faulty: set[KeyPath],
    path: KeyPath,
) -> tuple[Any, ...]:
    """The tables of a list, from the values of each by its number."""
    each: dict[int, Values] = {number: {} for number in range(stated.pop((), _Tables(0)).count)}
    for (number, *rest), value in stated.items():
        each.setdefault(int(number), {})[tuple(rest)] = value
    if missing := [number for number in range(max(each, default=0)) if number not in each]:
        name = ".".join(path)
        error = RecipeError(
            f"there is no {name}.{missing[0]}, so there can be no {name}.{max(each)}",
            where=where,
            hint="the tables are numbered from 0, without a gap",
        )
        mistakes.append((path, error))
        faulty.add(path[:-1])
    return tuple(
        _build(element(), each[number], where, mistakes, faulty, (*path, str(number)))
        for number in sorted(each)
    )


def _place(file: Path, text: str, path: KeyPath) -> str:
    """File and line of a key, if its line can be found."""
    header: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if opened := re.match(r"\s*\[\[([^\[\]]+)\]\]", line):
            table = _split(opened[1])
            counts[table] = counts.get(table, -1) + 1
            header = (*table, str(counts[table]))
            if header == path or table == path:
                return f"{file}, line {number}"
        elif opened := re.match(r"\s*\[([^\[\]]+)\]", line):
            header = _split(opened[1])
            if header == path:
                return f"{file}, line {number}"
        elif (stated := re.match(r"\s*([\w\-.\"' ]+?)\s*=", line)) and (
            (*header, *_split(stated[1])) == path
        ):
            return f"{file}, line {number}"
    return str(file)


def _split(dotted: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
