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
    """Output paths of a run's images and the files next to them.

    Attributes:
        paths: One path per image.
        grid: Path of a sheet of all images; None writes none.
        metadata: None embeds generation metadata in the image, True also writes a sidecar, False
            omits it.
        overwrite: Whether existing files may be replaced.
    """

    paths: Sequence[Path]
    grid: Path | None = None
    metadata: bool | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Check that sidecars and the sheet can be written.

        Raises:
            OutputError: When one cannot, or the sheet is one of the other files.
        """
        sidecars = [sidecar_of(path) for path in self.paths] if self.metadata else []
        for path in sidecars:
            check_free(path, overwrite=self.overwrite)
        if self.grid:
            check_free(self.grid, overwrite=self.overwrite)
            check_distinct([*self.paths, *sidecars, self.grid])

    def save(self, number: int, image: Image.Image, info: GenerationInfo) -> dict[str, Any]:
        """Write image number `number`, and return its entries for a report.

        Raises:
            OutputError: When a file cannot be written.
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

    def save_grid(
        self, per_prompt: int, prompts: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> None:
        """Write the sheet of all finished images, if requested.

        Args:
            per_prompt: Number of images per prompt.
            prompts, seeds: Prompt and seed of each image, which label it; without, none has a
                label.

        Raises:
            OutputError: When it cannot be written.
        """
        if self.grid:
            from orthus_core.image_grid import labelled_sheet, labels_for

            labels = labels_for(prompts, seeds) if prompts else [""] * len(self.paths)
            pictures = [open_image(path) for path in self.paths]
            sheet = labelled_sheet(pictures, labels, per_prompt=per_prompt)
            save_picture(sheet, self.grid, None, overwrite=self.overwrite)


def save_comparison(
    inputs: Sequence[Image.Image], result: Path, path: Path, *, overwrite: bool = False
) -> None:
    """Write the input images, as the model receives them, and the result side by side.

    Raises:
        OutputError: When it cannot be written.
    """
    from orthus_core.image_grid import contact_sheet

    after = open_image(result)
    before = [Image.fromarray(square(image, after.width)) for image in inputs]
    sheet = contact_sheet([*before, after], columns=len(before) + 1)
    save_picture(sheet, path, None, overwrite=overwrite)
