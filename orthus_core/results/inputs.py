"""The pictures a result was made from, found again: by where they lay, known by their pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError
from orthus_core.results.picture import pixel_hash
from orthus_core.results.record import Record


def find_inputs(record: Record, given: Sequence[Path] = ()) -> list[Path]:
    """A file for each picture that a result was made from, in order.

    Each is looked for among those that are given, where it lay, and beside the result; a file
    counts only when its pixels are the same.

    Raises:
        DataError: When one is missing, or all that could be it are other pictures.
    """
    making = record.making
    found = []
    for place, digest in enumerate(making.inputs):
        lay = [Path(making.files[place])] if place < len(making.files) else []
        beside = [record.path.parent / path.name for path in lay]
        fitting = [path for path in (*given, *lay, *beside) if _shows(path, digest)]
        if not fitting:
            name = f"{lay[0]} " if lay else ""
            changed = any(os.path.isfile(path) for path in (*lay, *beside))
            raise DataError(
                f"picture {place + 1} that it was made from is missing: {name}"
                + (f"is there with other pixels than {digest[:10]}" if changed else "is gone"),
                where=str(record.path),
                hint="name the file with --image; it is known by its pixels",
            )
        found.append(fitting[0])
    return found


def _shows(path: Path, digest: str) -> bool:
    try:
        return os.path.isfile(path) and pixel_hash(open_image(path)) == digest
    except DataError:
        return False
