"""The files of one run: images, JSON sidecars beside them, and all images on one sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from orthus_core.data.pixels import open_image, square
from orthus_core.errors import OutputError
from orthus_core.results.metadata import (
    GenerationInfo,
    pixel_hash,
    read_record,
    save_picture,
    save_sidecar,
    sidecar_of,
)
from orthus_core.results.output_names import check_distinct, check_free

NOT_SEEN = ("command", "seeds", "num_images", "batch_size", "device", "low_memory")
"""Recipe keys that are not seen in a picture, or that tell which one it is."""


class ImageFiles(NamedTuple):
    """Output paths of a run's images and the files next to them.

    Attributes:
        paths: One path per image.
        grid: Path of a sheet of all images; None writes none.
        metadata: None embeds generation metadata in the image, True also writes a sidecar, False
            omits it.
        overwrite: Whether existing files may be replaced.
        kept: Numbers of the images that are there already and stay, see `keep_existing`.
    """

    paths: Sequence[Path]
    grid: Path | None = None
    metadata: bool | None = None
    overwrite: bool = False
    kept: frozenset[int] = frozenset()

    @property
    def missing(self) -> list[int]:
        """Numbers of the images that are to be drawn."""
        return [number for number in range(len(self.paths)) if number not in self.kept]

    @property
    def kept_paths(self) -> list[str]:
        """Paths of the images that stay."""
        return [str(self.paths[number]) for number in sorted(self.kept)]

    def check(self) -> None:
        """Check that sidecars and the sheet can be written.

        Raises:
            OutputError: When one cannot, or the sheet is one of the other files.
        """
        missing = [self.paths[number] for number in self.missing]
        sidecars = [sidecar_of(path) for path in missing] if self.metadata else []
        for path in sidecars:
            check_free(path, overwrite=self.overwrite)
        if self.grid:
            if not self._has_sheet():
                check_free(self.grid, overwrite=self.overwrite)
            check_distinct([*self.paths, *sidecars, self.grid])

    def _has_sheet(self) -> bool:
        """Whether the sheet is there already, with all of these images."""
        return self.grid is not None and not self.missing and self.grid.is_file()

    def save(self, number: int, image: Image.Image, info: GenerationInfo) -> dict[str, Any]:
        """Write image number `number`, and return its entries for a report.

        Raises:
            OutputError: When a file cannot be written.
        """
        path = self.paths[number]
        inside = None if self.metadata is False else info
        try:
            save_picture(image, path, inside, overwrite=self.overwrite)
        except OutputError as error:
            error.hint += f"; --seed {info.seed} draws this picture again, and those before it stay"
            raise
        entry = {
            "path": str(path),
            "prompt": info.prompt,
            "seed": info.seed,
            "pixels": pixel_hash(image),
        }
        if info.text:
            entry["text"] = info.text
        if info.best_of:
            entry["best_of"] = info.best_of
        if info.scale:
            entry["size"] = f"{image.width}x{image.height}"
            entry["enlarged"] = info.enlargement(image.size)
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
        if self.grid and not self._has_sheet():
            from orthus_core.image_grid import labelled_sheet, labels_for

            labels = labels_for(prompts, seeds) if prompts else [""] * len(self.paths)
            pictures = [open_image(path) for path in self.paths]
            sheet = labelled_sheet(pictures, labels, per_prompt=per_prompt)
            save_picture(sheet, self.grid, None, overwrite=self.overwrite)


class Wanted(NamedTuple):
    """What an image file is to show.

    Attributes:
        prompt: Prompt or instruction.
        seed: Its seed; None where any will do.
        inputs: Pixel hashes of the images that it is made from.
        recipe: The recipe it is drawn with, as a table.
    """

    prompt: str
    seed: int | None
    inputs: Sequence[str]
    recipe: Mapping[str, Any]


class Kept(NamedTuple):
    """Images that were there already.

    Attributes:
        numbers: Their numbers.
        unknown: How many of them do not say how they were made.
        otherwise: Recipe keys in which some of them differ from what is wanted.
    """

    numbers: frozenset[int]
    unknown: int
    otherwise: list[str]


def keep_existing(paths: Sequence[Path], wanted: Sequence[Wanted]) -> Kept:
    """Find the images that are there already, and check that they are the wanted ones.

    Raises:
        OutputError: When one was made from another prompt, seed or image.
        DataError: When one is no whole picture.
    """
    kept, unknown, otherwise = set(), 0, dict[str, None]()
    for number, (path, want) in enumerate(zip(paths, wanted, strict=True)):
        if not path.exists():
            continue
        kept.add(number)
        record = read_record(path)
        if record is None:
            unknown += 1
            continue
        # The best of several was asked for by another seed than its own.
        chosen = record.get("best_of")
        chosen = chosen if isinstance(chosen, Mapping) else {}
        record |= {"seed": chosen.get("seed", record.get("seed"))}
        differs = [
            f"{name} {record.get(name)!r} instead of {value!r}"
            for name, value in (("prompt", want.prompt), ("seed", want.seed))
            if value is not None and record.get(name) != value
        ]
        if not differs and list(record.get("inputs") or ()) != list(want.inputs):
            differs = ["other pictures"]
        if differs:
            raise OutputError(
                f"the picture that is there was made from {' and '.join(differs)}",
                where=str(path),
                hint="choose another name with -o, or replace it with --overwrite",
            )
        recipe = record.get("recipe")
        if isinstance(recipe, Mapping):
            recipe = {**recipe, "best_of": chosen.get("candidates", 1)}
        otherwise |= dict.fromkeys(_differences(recipe, want.recipe))
    return Kept(frozenset(kept), unknown, list(otherwise))


def _differences(before: Any, now: Mapping[str, Any]) -> list[str]:
    """Keys of two recipes that change what is drawn, and differ."""
    if not isinstance(before, Mapping):
        return []
    names = [name for name in now if name not in NOT_SEEN]
    plain = json.loads(json.dumps({name: now[name] for name in names}))
    return [name for name in names if name in before and before[name] != plain[name]]


def save_comparisons(
    inputs: Sequence[Sequence[Image.Image]],
    results: Sequence[Path],
    paths: Sequence[Path],
    *,
    overwrite: bool = False,
) -> None:
    """Write a comparison of each result that has none yet; see `save_comparison`."""
    for path, result, before in zip(paths, results, inputs, strict=False):
        if overwrite or not path.exists():
            save_comparison(before, result, path, overwrite=overwrite)


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
