"""docs/recipes.md from the schemas: `python -m orthus_core.recipe.docs > docs/recipes.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from orthus_core.recipe import SCHEMAS
from orthus_core.recipe.save import toml_value
from orthus_core.recipe.schema import Key, Recipe, describe, keys, range_text

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
or the name of one that comes along), `--set table.key=value`, and named flags such as `--steps`.
With `-v` the result is printed, and it is saved beside what the run makes. A key that is unknown,
of the wrong type or out of its range is an error before anything is loaded.

`orthus recipes ls` lists the recipes that come along, `cat` prints one, `cp` copies one to change
it, `validate` checks a file, and `keys COMMAND` prints these tables in the terminal. A small
model's values differ from the defaults, which are the paper's for the 7B where it states them.
"""


def document() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for schema in SCHEMAS.values() for line in _section(schema))])


def default_text(key: Key) -> str:
    """A key's default as TOML writes it, or "-" for a key that is not set."""
    if key.default is None:
        return "-"
    return toml_value(key.default)


def type_text(key: Key) -> str:
    """What a key takes, its range and unit included."""
    parts = (describe(key.annotation), range_text(key), key.unit)
    return ", ".join(part for part in parts if part)


def _section(schema: type[Recipe]) -> Iterator[str]:
    meaning = (schema.__doc__ or "").strip().splitlines()[0]
    yield f"## orthus {schema.command}\n"
    yield f"{meaning}\n"
    yield "| key | default | takes | meaning |"
    yield "|---|---|---|---|"
    for key in keys(schema):
        takes = type_text(key).replace("|", "\\|")
        yield f"| `{key.name}` | `{default_text(key)}` | {takes} | {key.doc} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(document())
