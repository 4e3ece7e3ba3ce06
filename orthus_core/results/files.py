"""Results that are there whole or not at all, and replace nothing unless told to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orthus_core.atomic import staged_file, staged_folder
from orthus_core.results.output_names import check_free


def write_file(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Writes a file whole or not at all.

    Raises:
        OutputError: When something is there and is not to be replaced, or the place cannot be
            written to; what was there stays, and nothing half-written is left.
    """
    check_free(path, overwrite=overwrite)
    with staged_file(path, parents=True) as beside:
        beside.write_bytes(content)


def write_folder(
    folder: Path, files: Mapping[str, bytes], *, mark: str, overwrite: bool = False
) -> None:
    """Writes a folder with all its files whole or not at all.

    Args:
        folder: Where to; an empty folder is as good as none.
        files: Content by name.
        mark, overwrite: What may be replaced, see `check_folder`.

    Raises:
        OutputError: As `write_file`.
    """
    with staged_folder(folder, mark=mark, overwrite=overwrite) as beside:
        for name, content in files.items():
            (beside / name).write_bytes(content)
