"""A story as a folder: numbered pictures, `story.md` to read, `story.json` for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.results.files import write_folder
from orthus_core.results.picture import Making, pixel_hash, png_bytes

MARK = "story.json"


class Panel(NamedTuple):
    """One step of a story: its words, and its picture if it has one.

    given: Whether the user brought it.
    forced: Whether the picture was begun for the model rather than by it.
    """

    text: str
    image: Image.Image | None
    given: bool = False
    forced: bool = False


def write_story(
    folder: Path, panels: Sequence[Panel], making: Making, *, overwrite: bool = False
) -> dict[str, Any]:
    """Writes the folder, whole or not at all, and returns what `story.json` says.

    Raises:
        OutputError: When the folder is taken or cannot be written to.
    """
    files: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    for number, panel in enumerate(panels, start=1):
        entry: dict[str, Any] = {"text": panel.text, "given": panel.given}
        if panel.image is not None:
            name = f"{number:02}.png"
            made = None if panel.given else making._replace(panel=number)
            files[name] = png_bytes(panel.image, made)
            entry |= {"image": name, "pixels": pixel_hash(panel.image), "forced": panel.forced}
        entries.append(entry)
    record = {**making._asdict(), "panels": entries}
    files["story.md"] = _markdown(entries).encode()
    files[MARK] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    write_folder(folder, files, mark=MARK, overwrite=overwrite)
    return record


def _markdown(entries: Sequence[dict[str, Any]]) -> str:
    lines = ["# A story"]
    for number, entry in enumerate(entries, start=1):
        if "image" in entry:
            lines.append(f"![Picture {number}]({entry['image']})")
        if entry["text"]:
            lines.append(entry["text"])
    return "\n\n".join(lines) + "\n"
