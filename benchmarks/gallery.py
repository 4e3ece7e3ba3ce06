"""Makes docs/words.md: everything that a small model can draw, as a gallery of sprites with names.

    python benchmarks/gallery.py                      # the bundled mini, docs/words.md
    python benchmarks/gallery.py MODEL --docs DIR

The words are those of the model's `words.json`; the pictures are the sprites of the bundled pack.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from orthus_core.checkpoint.hub import resolve
from orthus_core.data.known_words import ListedThing, WordList
from orthus_core.image_grid import contact_sheet, with_caption
from orthus_core.world.listed_words import emoji_of
from orthus_core.world.sprites import WHITE, Sprite, SpritePack, starter_packs

ROOT = Path(__file__).parents[1]
SIDE = 48  # pixels of a thumbnail
NARROWEST = 64  # pixels of a cell, so that names fit
COLUMNS = 14
LETTERS, LINES = 10, 2
QUALITY = 60  # of WebP
MOST_BYTES = 1_200_000
TITLES = {
    "colours": "Colours of things in scenes",
    "backgrounds": "Plain backgrounds",
    "counts": "Counts",
    "styles": "Styles",
    "edits": "Edits, with `orthus edit`",
    "questions": "Questions, with `orthus caption --question`",
    "phrases": "Requests",
}
TABLES = {"relations": "Relations", "places": "Places", "times": "Times of day and weather"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="mini", help="model whose words are shown")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of words.md")
    chosen = parser.parse_args()
    words = WordList.of(resolve(chosen.model))
    if words is None:
        raise SystemExit(f"{chosen.model} has no words.json, so there is nothing to show")
    size = write_gallery(words, starter_packs()["3d"], chosen.docs, chosen.model)
    print(f"{chosen.docs / 'words.md'}: {len(words.every_thing)} things, {size / 1e3:.0f} kB")


def write_gallery(words: WordList, pack: SpritePack, docs: Path, model: str) -> int:
    """Writes words.md and its sheets, and returns the bytes of the sheets.

    Raises:
        SystemExit: when the sheets are larger than a repository should hold.
    """
    folder = docs / "images" / "words"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.webp"):
        old.unlink()
    by_emoji = {emoji_of(sprite.key): sprite for sprite in pack}
    things = {
        group: sorted(listed, key=lambda each: each.name) for group, listed in words.things.items()
    }
    cast = set(words.lists["cast"])
    shown = {"cast": [each for each in words.every_thing if each.name in cast], **things}
    for group, listed in shown.items():
        sheet = gallery_sheet(pack, [(each, by_emoji.get(each.emoji)) for each in listed])
        sheet.save(folder / f"{file_name(group)}.webp", quality=QUALITY, method=6)
    size = sum(file.stat().st_size for file in folder.glob("*.webp"))
    if size > MOST_BYTES:
        raise SystemExit(f"the sheets have {size / 1e6:.2f} MB; at most {MOST_BYTES / 1e6} MB")
    (docs / "words.md").write_text("\n".join(page(words, shown, model)) + "\n", encoding="utf-8")
    return size


def gallery_sheet(
    pack: SpritePack, things: Sequence[tuple[ListedThing, Sprite | None]]
) -> Image.Image:
    """The sprites of things above their names; a thing without a sprite has its name alone."""
    cells = []
    for thing, sprite in things:
        cell = Image.new("RGB", (NARROWEST, SIDE), WHITE)
        if sprite is not None:
            picture = Image.fromarray(pack.image(sprite, SIDE))
            cell.paste(picture, ((NARROWEST - SIDE) // 2, 0))
        cells.append(with_caption(cell, thing.name, size=LETTERS, lines=LINES))
    return contact_sheet(cells, COLUMNS)


def page(words: WordList, shown: dict[str, list[ListedThing]], model: str) -> Iterator[str]:
    """The lines of words.md."""
    count = len(words.every_thing)
    yield f"# What `{model}` can draw"
    yield ""
    yield f"Everything that `{model}` was trained to draw: {count} things, and what can be said of"
    yield f"them. `orthus info {model} --words` prints the same, and `--format json` gives it to a"
    yield "program. Emoji in a prompt mean the names here. Other words lead to something else."
    yield ""
    yield "This page is made by `python benchmarks/gallery.py`."
    for group, listed in shown.items():
        title = (
            "In scenes: beside other things, several of them, coloured" if group == "cast" else ""
        )
        yield from ("", f"## {title or group.capitalize()} ({len(listed)})", "")
        names = ", ".join(thing.name for thing in listed)
        yield f"![{names if group == 'cast' else group}](images/words/{file_name(group)}.webp)"
        if group != "cast":
            yield from ("", "<details><summary>Names</summary>", "", names, "", "</details>")
    for name, title in TITLES.items():
        if words.lists[name]:
            yield from ("", f"## {title}", "", ", ".join(words.lists[name]))
    for name, title in TABLES.items():
        yield from ("", f"## {title}", "", "| meaning | words |", "|---|---|")
        yield from rows(words.tables[name].items())


def rows(table: Iterable[tuple[str, list[str]]]) -> Iterator[str]:
    """The rows of a table of phrases by meaning."""
    for meaning, phrases in table:
        yield f"| {meaning} | {'; '.join(phrases)} |"


def file_name(group: str) -> str:
    """The name of a group's sheet, without its ending."""
    return re.sub(r"\W+", "-", group.lower())


if __name__ == "__main__":
    main()
