"""What a small model can be asked for: the things that it draws by group, colours, places, edits.

A model's folder may contain `words.json`. Training on the small world writes it; `orthus info MODEL
--words` shows it, and emoji and suggestions are looked up in it. Folders without it are complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.errors import DataError

WORDS = "words.json"

NEXT = ",\n"
# Lists of words or phrases; the tables hold such lists by meaning.
LISTS = ("cast", "colours", "backgrounds", "counts", "styles", "edits", "questions", "phrases")
TABLES = ("relations", "places", "times")


class ListedThing(NamedTuple):
    """A thing that a model draws.

    Attributes:
        name: Name, without an article.
        emoji: Emoji of the thing, without variation selectors; "" if there is none.
        also: Other names.
        plural: Plural of the name; "" for things that are drawn alone.
        tags: Words that lead to it, though they are no name of it.
    """

    name: str
    emoji: str = ""
    also: tuple[str, ...] = ()
    plural: str = ""
    tags: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, and the plural."""
        return (self.name, *self.also, *([self.plural] if self.plural else []))


class WordList:
    """The content of `words.json`.

    Args:
        content: JSON object of the file.

    Attributes:
        things: Things by group.
        lists: Words and phrases by the names of `LISTS`.
        tables: Phrases by the names of `TABLES`, then by meaning; the first one is the usual one.
        place_emoji: Phrases for places and times of day, by emoji.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.things = {
            group: [_thing(each) for each in things] for group, things in content["things"].items()
        }
        self.lists = {name: list(map(str, content.get(name, ()))) for name in LISTS}
        self.tables: dict[str, dict[str, list[str]]] = {
            name: {key: list(map(str, words)) for key, words in content.get(name, {}).items()}
            for name in TABLES
        }
        self.place_emoji = {str(e): str(word) for e, word in content.get("place_emoji", {}).items()}

    @classmethod
    def of(cls, folder: Path) -> WordList | None:
        """The words of a model's folder; None if it lists none.

        Raises:
            DataError: When the file is damaged.
        """
        file = folder / WORDS
        if not file.is_file():
            return None
        try:
            return cls(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"this list of a model's words cannot be read: {error!r}",
                where=str(file),
                hint="fetch the model's folder again, or remove this file: the model draws "
                "without it",
            ) from error

    @cached_property
    def every_thing(self) -> list[ListedThing]:
        """The things of all groups."""
        return [thing for things in self.things.values() for thing in things]

    @cached_property
    def by_emoji(self) -> dict[str, ListedThing]:
        """Things by emoji."""
        return {thing.emoji: thing for thing in self.every_thing if thing.emoji}

    @cached_property
    def by_tag(self) -> dict[str, list[str]]:
        """Names of things by tag; those of the cast first."""
        cast, found = set(self.lists["cast"]), dict[str, list[str]]()
        for thing in sorted(self.every_thing, key=lambda each: each.name not in cast):
            for tag in thing.tags:
                found.setdefault(tag, []).append(thing.name)
        return found

    @cached_property
    def phrases(self) -> list[str]:
        """Everything that can be asked for, as phrases, without tags."""
        named = [name for thing in self.every_thing for name in thing.names]
        listed = [phrase for phrases in self.lists.values() for phrase in phrases]
        tabled = [p for table in self.tables.values() for words in table.values() for p in words]
        return [*named, *listed, *tabled]

    def record(self) -> dict[str, Any]:
        """The content as JSON can hold it."""
        things = {
            group: [
                {k: v for k, v in each._asdict().items() if v or k == "name"} for each in listed
            ]
            for group, listed in self.things.items()
        }
        return {"things": things, **self.lists, **self.tables, "place_emoji": self.place_emoji}

    def text(self) -> str:
        """The content of `words.json`: a line for each thing and each list."""
        groups = ",\n".join(
            f"{_json(group)}: [\n{NEXT.join(map(_json, things))}\n]"
            for group, things in self.record()["things"].items()
        )
        rest = {name: value for name, value in self.record().items() if name != "things"}
        lines = [f"{_json(name)}: {_json(value)}" for name, value in rest.items()]
        return f'{{\n"things": {{\n{groups}\n}},\n{NEXT.join(lines)}\n}}\n'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _thing(entry: Mapping[str, Any]) -> ListedThing:
    return ListedThing(
        str(entry["name"]),
        str(entry.get("emoji", "")),
        tuple(map(str, entry.get("also", ()))),
        str(entry.get("plural", "")),
        tuple(map(str, entry.get("tags", ()))),
    )
