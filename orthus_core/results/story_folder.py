"""A story as a folder: numbered pictures, `story.md` and `story.html` to read, and `story.json`
for programs and for continuing from any panel.

Panels are numbered from 1, in the names of the pictures and everywhere else: the pictures that the
story begins with, then the panels that the model tells. An opening in words is the story's title,
and no panel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.results.metadata import GenerationInfo, pixel_hash, png_bytes
from orthus_core.results.output_names import json_text, write_folder
from orthus_core.results.story_page import Figure, story_page
from orthus_core.user_files import read_text
from orthus_core.version import __version__
from orthus_core.wrong_content import true_cause

MARK = "story.json"
PAGE = "story.html"
# Files of an earlier story, which another one in its folder replaces.
STORY_FILES = (MARK, PAGE, "story.md", "[0-9][0-9].png", "[0-9][0-9][0-9].png")
# Characters with a meaning in Markdown.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")
# Maximum number of words in a title; the full text is in the story.
TITLE_WORDS = 8


class Panel(NamedTuple):
    """One step of a story: its words, and its picture if it has one.

    Attributes:
        given: Whether the panel is an input rather than generated: by the user, or in an earlier
            run.
        earlier: Whether it belongs to an earlier run.
        forced: Whether the sampler started the picture rather than the model.
        went_on: Whether the model would have ended the story before this panel.
        kept: Number of panels after the opening in the model's context for this one; None when the
            model did not generate it.
        png: The picture's original file, with its metadata.
    """

    text: str
    image: Image.Image | None
    given: bool = False
    earlier: bool = False
    forced: bool = False
    went_on: bool = False
    kept: int | None = None
    png: bytes | None = None


class Earlier(NamedTuple):
    """A story read from its folder.

    Attributes:
        record: Contents of `story.json`.
        opening: The panels that the user provided.
        panels: The generated panels, in order.
    """

    record: dict[str, Any]
    opening: list[Panel]
    panels: list[Panel]


def write_story(
    folder: Path, panels: Sequence[Panel], info: GenerationInfo, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the folder completely or not at all, and return the contents of `story.json`.

    Raises:
        OutputError: When the folder exists or is not writable; what could not be put in place is
            kept, and the error names where.
    """
    files: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    for number, panel in enumerate(panels, start=first_number(panels)):
        entry: dict[str, Any] = {"text": panel.text, "given": panel.given}
        if panel.image is not None:
            name = f"{number:02}.png"
            made = None if panel.given else info._replace(panel=number)
            files[name] = panel.png or png_bytes(panel.image, made)
            entry |= {"image": name, "pixels": pixel_hash(panel.image), "forced": panel.forced}
        if panel.kept is not None:
            entry |= {"went_on": panel.went_on, "kept": panel.kept}
        if panel.earlier:
            entry["earlier"] = True
        entries.append(entry)
    said = {name: value for name, value in info._asdict().items() if value not in (None, ())}
    title = title_of(info.prompt)
    record = {"version": __version__, **said, "title": title, "panels": entries}
    in_words = info.prompt.strip()
    # It stands above the panels and nowhere else: as the title, or in full if it is longer.
    heading = in_words if len(in_words.split()) > TITLE_WORDS else title
    shown = [
        (_under_picture(panel, in_words), entry.get("image"), panel.image)
        for panel, entry in zip(panels, entries, strict=True)
    ]
    shown = [(text, name, image) for text, name, image in shown if text or name]
    figures = [Figure(text, files.get(name or ""), _size(image)) for text, name, image in shown]
    texts = {
        "story.md": _markdown(
            heading, [(text, name) for text, name, _ in shown], titled=heading == title
        ),
        PAGE: story_page(title, figures, _how(info), heading=heading),
        MARK: json_text(record, indent=2) + "\n",
    }
    # A prompt may contain bytes that are not valid text.
    files |= {name: text.encode(errors="replace") for name, text in texts.items()}
    write_folder(folder, files, mark=MARK, replaces=STORY_FILES, overwrite=overwrite)
    return record


def read_story(folder: Path) -> Earlier:
    """Read a story from its folder, to continue it.

    Raises:
        DataError: When the folder holds no story, its `story.json` cannot be read, or a picture is
            missing or was changed.
    """
    path = folder / MARK
    try:
        record = json.loads(read_text(path))
        entries = [dict(entry) for entry in record["panels"]]
        recipe, words = record["recipe"], [entry["text"] for entry in entries]
        if not (isinstance(recipe, dict) and all(isinstance(text, str) for text in words)):
            raise ValueError("its recipe or its texts are missing")
    except (FileNotFoundError, NotADirectoryError) as error:
        is_file = isinstance(error, NotADirectoryError)
        raise DataError(
            "this is a file, and not a story" if is_file else f"there is no {MARK} in this folder",
            where=str(folder),
            hint="give a folder that `orthus story` wrote",
        ) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        damaged = DataError(f"the story does not read: {error}", where=str(path))
        raise true_cause(damaged, path) from error
    panels = [_read_panel(folder, entry) for entry in entries]
    is_opening = [panel.given and not panel.earlier for panel in panels]
    return Earlier(
        record,
        [panel for panel, opens in zip(panels, is_opening, strict=True) if opens],
        [panel for panel, opens in zip(panels, is_opening, strict=True) if not opens],
    )


def first_number(panels: Sequence[Panel]) -> int:
    """The number of the first of a story's panels: 0 for an opening in words, which is none."""
    return 0 if panels and panels[0].given and panels[0].image is None else 1


def title_of(prompt: str) -> str:
    """A story's title, from its prompt."""
    words = prompt.split()
    title = " ".join(words[:TITLE_WORDS]).rstrip(".,;:")
    return f"{title} …" if len(words) > TITLE_WORDS else title or "A story"


def _read_panel(folder: Path, entry: dict[str, Any]) -> Panel:
    panel = Panel(
        entry["text"],
        None,
        given=bool(entry.get("given")),
        earlier=bool(entry.get("earlier")),
        forced=bool(entry.get("forced")),
        went_on=bool(entry.get("went_on")),
        kept=entry.get("kept"),
    )
    if "image" not in entry:
        return panel
    path = folder / Path(str(entry["image"])).name  # never outside the folder
    image = open_image(path)
    if pixel_hash(image) != entry.get("pixels"):
        raise DataError(
            "this is not the picture that the story was told with",
            where=str(path),
            hint="put the story's own picture back, or tell it anew",
        )
    return panel._replace(image=image, png=path.read_bytes())


def _size(image: Image.Image | None) -> tuple[int, int]:
    return (0, 0) if image is None else image.size


def _how(info: GenerationInfo) -> dict[str, str]:
    """The page's entries on how the story was made."""
    entries = {
        "model": info.model.get("name"),
        "seed": info.seed,
        "steps": info.sampling.get("steps"),
        "guidance": info.sampling.get("guidance"),
    }
    return {name: str(value) for name, value in entries.items() if value is not None}


def _under_picture(panel: Panel, opening: str) -> str:
    """The words below a panel's picture; those of the opening stand above all panels."""
    return "" if panel.given and not panel.earlier and panel.text == opening else panel.text


def _markdown(heading: str, shown: Sequence[tuple[str, str | None]], *, titled: bool) -> str:
    """The story in Markdown.

    Args:
        heading: Title, or the words that the story begins with.
        shown: Words and picture file of each panel.
        titled: Whether the heading is a title rather than a paragraph.
    """
    lines = [f"# {_plain(heading)}" if titled else _plain(heading)]
    for number, (text, name) in enumerate(shown, start=1):
        lines += [f"![Picture {number}]({name})"] * bool(name)
        lines += [_plain(text)] * bool(text)
    return "\n\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """The text with Markdown characters escaped."""
    return _MARKUP.sub(r"\\\1", text)
