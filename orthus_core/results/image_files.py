"""The files of one run: images, JSON sidecars beside them, and all images on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.data.pixels import open_image, square
from orthus_core.results.metadata import (
    GenerationInfo,
    pixel_hash,
    save_picture,
    save_sidecar,
    sidecar_of,
)
from orthus_core.results.output_names import check_distinct, check_free


class ImageFiles(NamedTuple):
    """Where the images of a run are written, and what beside them.

    paths: One an image.
    grid: A sheet of all images; None writes none.
    metadata: None keeps how an image was made in it, True also beside it, False nowhere.
    overwrite: Whether files that are there may be replaced.
    """

    paths: Sequence[Path]
    grid: Path | None = None
    metadata: bool | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Whether sidecars and the sheet can be written.

        Raises: OutputError, also when the sheet is one of the other files.
        """
        sidecars = [sidecar_of(path) for path in self.paths] if self.metadata else []
        for path in sidecars:
            check_free(path, overwrite=self.overwrite)
        if self.grid:
            check_free(self.grid, overwrite=self.overwrite)
            check_distinct([*self.paths, *sidecars, self.grid])

    def save(self, number: int, image: Image.Image, info: GenerationInfo) -> dict[str, Any]:
        """Writes image number `number`, and returns what there is to report of it.

        Raises: OutputError when a file cannot be written.
        """
        path = self.paths[number]
        inside = None if self.metadata is False else info
        save_picture(image, path, inside, overwrite=self.overwrite)
        entry = {
            "path": str(path),
            "prompt": info.prompt,
            "seed": info.seed,
            "pixels": pixel_hash(image),
        }
        if info.text:
            entry["text"] = info.text
        if self.metadata:
            save_sidecar(image, path, info, overwrite=self.overwrite)
            entry["metadata"] = str(sidecar_of(path))
        return entry

    def save_grid(self, per_prompt: int) -> None:
        """Writes the sheet of all images, which are finished, if one is wanted.

        Args:
            per_prompt: Images of each prompt.

        Raises: OutputError when it cannot be written.
        """
        if self.grid:
            from orthus_core.image_grid import columns_for, contact_sheet

            columns = columns_for(len(self.paths), per_prompt=per_prompt)
            sheet = contact_sheet([open_image(path) for path in self.paths], columns)
            save_picture(sheet, self.grid, None, overwrite=self.overwrite)


def save_comparison(
    inputs: Sequence[Image.Image], result: Path, path: Path, *, overwrite: bool = False
) -> None:
    """Writes what an image was made from, as the model saw it, and what it became, side by side.

    Raises: OutputError when it cannot be written.
    """
    from orthus_core.image_grid import contact_sheet

    after = open_image(result)
    before = [Image.fromarray(square(image, after.width)) for image in inputs]
    sheet = contact_sheet([*before, after], columns=len(before) + 1)
    save_picture(sheet, path, None, overwrite=overwrite)
