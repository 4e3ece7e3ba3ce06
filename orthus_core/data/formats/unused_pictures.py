"""The pictures of a folder that no row names, so that a user learns of them."""

from __future__ import annotations

from pathlib import Path

from orthus_core.data.listing import FolderListing, PassedOver
from orthus_core.data.pictures import FilePicture
from orthus_core.data.rows import Rows
from orthus_core.errors import DataError

MOST_ROWS = 10_000
"""Rows up to which they are all read to know their pictures."""


def unused_pictures(folder: Path, rows: Rows, kind: str) -> list[PassedOver]:
    """What a folder holds besides the pictures of its rows; nothing for large data sets, whose rows
    are not read before they are needed.

    Args:
        folder: Folder of the data set.
        rows: Its rows.
        kind: What a picture is that no row names, such as "in no usable record".
    """
    if len(rows) > MOST_ROWS:
        return []
    listing, used = FolderListing(folder), set[Path]()
    for number in range(len(rows)):
        try:
            segments = rows.document(number).segments
        except DataError:
            continue
        used |= {each.value.path for each in segments if isinstance(each.value, FilePicture)}
    return listing.passed_over({kind: listing.not_in(used)})
