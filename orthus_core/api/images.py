"""Pictures that were drawn, and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from orthus_core.api.inputs import Edit
from orthus_core.recipe import EditRecipe, GenerateRecipe, as_table
from orthus_core.results.metadata import GenerationInfo, save_picture
from orthus_core.results.output_names import Named, picture_paths
from orthus_core.samplers.params import SamplingParams


def info_of(
    recipe: GenerateRecipe | EditRecipe,
    params: SamplingParams,
    about: dict[str, str],
    edit: Edit,
    seed: int,
) -> GenerationInfo:
    """How one picture is made; its recipe names that one picture's seed only.

    Args:
        params: How it is sampled.
        about: The model, as results tell it.
        edit: Its words, and the pictures it is made from.
    """
    own = dataclasses.replace(recipe, seeds=(seed,), num_images=1)
    return GenerationInfo(
        as_table(own),
        edit.instruction,
        seed,
        params.to_dict(),
        about,
        inputs=edit.inputs,
        files=edit.files,
    )


class Images(NamedTuple):
    """Pictures in the order they were asked for: all seeds of the first prompt, then of the next.

    images: RGB.
    makings: How each was made, its prompt and its seed among it.
    """

    images: list[Image.Image]
    infos: list[GenerationInfo]

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [info.seed for info in self.infos]

    @property
    def prompts(self) -> list[str]:
        """The words of each picture."""
        return [info.prompt for info in self.infos]

    @property
    def texts(self) -> list[str]:
        """What the model wrote before each picture, as it may in an edit; else empty."""
        return [info.text or "" for info in self.infos]

    def save(self, output: str | Path | None = None, *, overwrite: bool = False) -> list[Path]:
        """Writes PNG files that know how they were made, and returns where they are.

        Args:
            output: File, folder or template, as `picture_paths` takes it.
            overwrite: Whether files that are there may be replaced.

        Raises:
            OutputError: When a name is taken or the place cannot be written to.
        """
        named = [Named(info.prompt, info.seed) for info in self.infos]
        paths = picture_paths(output, named, overwrite=overwrite)
        for image, path, info in zip(self.images, paths, self.infos, strict=True):
            save_picture(image, path, info, overwrite=overwrite)
        return paths


class Answers(NamedTuple):
    """What was said about pictures, in their order."""

    texts: list[str]
    question: str
    seeds: list[int]
