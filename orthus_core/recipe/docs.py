"""docs/recipes.md from the schemas: `python -m orthus_core.recipe.docs > docs/recipes.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from orthus_core.recipe import SCHEMAS
from orthus_core.recipe.save import toml_value
from orthus_core.recipe.schema import Key, Recipe, describe, keys, range_text, table_of_list

_HEAD = """\
# Recipes

<!-- Change the schemas, not this page: python -m orthus_core.recipe.docs > docs/recipes.md -->

A recipe is a TOML file that says how a command does its work. Its first key names the command;
every other key has a default, so a recipe states only what it changes.

```toml
# orthus convert SOURCE -o DIR --recipe small-head.toml
command = "convert"

[head]
width = 384
```

Four layers make the recipe a run goes by, the later winning: defaults, the file (`--recipe FILE`,
or the name of one that comes along), `--set table.key=value`, and named flags such as `--steps`. A
list of tables, such as `[[data.sources]]`, is changed by the numbers of its tables:
`--set data.sources.0.weight=2`. With `-v` the result is printed, and it is saved beside what the
run makes. A key that is unknown, of the wrong type or out of its range is an error before anything
is loaded.

`orthus recipes ls` lists the recipes that come along, `cat` prints one, `cp` copies one to change
it, `validate` checks a file, and `keys COMMAND` prints these tables in the terminal. A small
model's values differ from the defaults, which are the paper's for the 7B where it states them.
"""


def document() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for schema in SCHEMAS.values() for line in _section(schema))])


def listed_keys(schema: type[Recipe]) -> Iterator[Key]:
    """The keys of a recipe; after a list of tables, those of each of its tables, numbered N."""
    for found in keys(schema):
        yield found
        if table := table_of_list(found.annotation):
            yield from keys(table, (*found.path, "N"))


def default_text(key: Key) -> str:
    """A key's default as TOML writes it, or "-" for a key that is not set."""
    if key.default is None:
        return "-"
    return toml_value(key.default)


def type_text(key: Key) -> str:
    """The type of a key's values, with range and unit."""
    parts = (describe(key.annotation), range_text(key), key.unit)
    return ", ".join(part for part in parts if part)


def _section(schema: type[Recipe]) -> Iterator[str]:
    meaning = (schema.__doc__ or "").strip().splitlines()[0]
    yield f"## orthus {schema.command}\n"
    yield f"{meaning}\n"
    yield "| key | default | takes | meaning |"
    yield "|---|---|---|---|"
    for key in listed_keys(schema):
        takes = type_text(key).replace("|", "\\|")
        yield f"| `{key.name}` | `{default_text(key)}` | {takes} | {key.doc} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(document())
