"""The arguments of `orthus edit`: which of them are pictures, and which is the instruction."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orthus_cli.prompts import add_dash, read_text
from orthus_cli.stored import Stored
from orthus_core.errors import DataError, PromptError
from orthus_core.user_files import user_path

if TYPE_CHECKING:
    from orthus_core.api.inputs import Edit


def read_edits(
    subject: Sequence[str],
    example: tuple[Path, Path] | None,
    before: Stored,
    *,
    by_example: bool,
    each: bool,
    note: Callable[[str], None] | None = None,
) -> list[Edit]:
    """The edits that the arguments request, with their pictures opened.

    Args:
        note: Called with a line about what was passed over in each folder.
    """
    from orthus_core.api.inputs import InputImage, edits_of, input_image
    from orthus_core.data.listing import picture_files

    named, instruction = ([*subject], "") if by_example else _parted(subject, before)
    paths = [user_path(name) for name in named]
    each = each or any(os.path.isdir(path) for path in paths)
    files, shown = picture_files(paths, note), list(example or ())
    if before.record is not None and not (files and (shown or not by_example)):
        stored = before.inputs()
        own = 2 if before.record.info.recipe.get("by_example") else 0
        files, shown = files or stored[own:], shown or stored[:own]
    if not files:
        raise PromptError(
            "there is no picture to change",
            where="edit",
            hint='orthus edit cat.png "add a hat"',
        )
    if by_example and not shown:  # a recipe says so: then the first two are the example
        shown, files = files[:2], files[2:]
    images, errors = list[InputImage](), list[DataError]()
    for file in files:
        try:
            images.append(input_image(file))
        except DataError as error:
            if note is None or file in paths:
                raise
            errors.append(error)  # one of a folder's: it is left out, as by `caption`
            note(f"{file} is left out: {error.message}")
    if not images and errors:
        raise errors[0]
    return edits_of(
        images,
        instruction.strip(),
        [input_image(file) for file in shown] if by_example else [],
        each=each,
    )


def _parted(subject: Sequence[str], before: Stored) -> tuple[list[str], str]:
    """The named pictures, and the instruction: the last argument, or the earlier result's."""
    if not subject:
        return [], before.prompt
    *named, last = subject
    if before.record is not None and (_is_picture(last) or os.path.isdir(user_path(last))):
        return [*subject], before.prompt
    if _is_picture(last):
        raise PromptError(
            "the last argument is a picture, so there is no instruction",
            where=last,
            hint='orthus edit cat.png "add a hat", or --example BEFORE AFTER'
            + add_dash("orthus edit cat.png -"),
        )
    return named, read_text(last) or ""


def _is_picture(word: str) -> bool:
    """Whether this argument looks like a file; the file need not exist."""
    from orthus_core.data.pixels import picture_suffixes

    path = user_path(word)
    return os.path.isfile(path) or path.suffix.lower() in picture_suffixes()


def file_label(edit: Edit, *, among: int) -> str:
    """The label that names a result: the instruction, and its picture where there are several."""
    picture = edit.images[-1].file
    stem = picture.stem if picture else ""
    if not edit.instruction:
        return f"{stem} edited"
    return edit.instruction if among == 1 else f"{stem} {edit.instruction}"
