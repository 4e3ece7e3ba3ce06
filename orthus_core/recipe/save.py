"""A resolved recipe back into TOML or a dictionary, so that a result can say how it was made."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orthus_core.atomic import write_text
from orthus_core.recipe.schema import Recipe, exclusive_keys, ordered_fields

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def as_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON can hold it, its command first; keys that are not set are left out.

    `load` and `shape` read it back into the same recipe.
    """
    return {"command": recipe.command, **_plain(recipe)}


def dump(recipe: Recipe) -> str:
    """The recipe as TOML that `load` reads back into the same recipe."""
    head = f"# A recipe for orthus {recipe.command}\n"
    return head + "\n".join(_lines(as_table(recipe))) + "\n"


def save(recipe: Recipe, path: str | Path) -> Path:
    """Writes the recipe whole or not at all, as JSON when the name ends in .json and as TOML
    otherwise.

    Raises:
        OutputError: When the file cannot be written.
    """
    path = Path(path)
    as_json = path.suffix == ".json"
    text = (
        json.dumps(as_table(recipe), indent=2, ensure_ascii=False) + "\n"
        if as_json
        else dump(recipe)
    )
    write_text(path, text, failure="cannot write the file")
    return path


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        pairs = {field.name: getattr(value, field.name) for field in ordered_fields(value)}
        for name, other in exclusive_keys(value).items():
            del pairs[other if pairs[name] else name]
        return {name: _plain(item) for name, item in pairs.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _lines(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """TOML lines of a table: its own keys first, because a header ends the table before it."""
    tables = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    lists = {name: value for name, value in table.items() if _holds_tables(value)}
    for name, value in table.items():
        if name not in tables and name not in lists:
            yield f"{_name(name)} = {toml_value(value)}"
    for name, value in lists.items():
        for element in value:
            yield ""
            yield f"[[{'.'.join(map(_name, (*path, name)))}]]"
            for inner, item in element.items():  # a table of it on its line, so that it stays short
                yield f"{_name(inner)} = {toml_value(item)}"
    for name, value in tables.items():
        yield ""
        yield f"[{'.'.join(map(_name, (*path, name)))}]"
        yield from _lines(value, (*path, name))


def _holds_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _name(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def toml_value(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):  # inside a list, where TOML wants it on one line
        return (
            "{"
            + ", ".join(f"{_name(name)} = {toml_value(item)}" for name, item in value.items())
            + "}"
        )
    assert isinstance(value, Sequence), f"a recipe cannot hold {value!r}"
    return "[" + ", ".join(map(toml_value, value)) + "]"


def _text(text: str) -> str:
    # JSON's escapes are TOML's too, but TOML also wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
