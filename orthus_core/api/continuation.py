"""The image that a new one continues: the top rows of patches are kept, the rest is drawn.

A model draws patch after patch and sees what it drew as features, which a PNG does not hold. The
features of an image that was drawn here are drawn again, with the same prompt, seed and values, and
so are the original ones. For any other image the autoencoder encodes the pixels, which gives
similar but not identical features.

Legend: N kept patches, C feature channels, M images, P patches.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orthus_core.api.loaded import LoadedModel
from orthus_core.data.pictures import FilePicture
from orthus_core.data.pixels import open_image
from orthus_core.errors import DataError, PromptError
from orthus_core.events import PatchDone
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.recipe import GenerateRecipe, shape
from orthus_core.results.metadata import GenerationInfo, pixel_hash
from orthus_core.results.record import Record, asked_of, read_made
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.user_files import user_path

DRAWN_AGAIN = "drawn again"
ENCODED = "encoded"


class Continuation(NamedTuple):
    """An image to continue.

    Attributes:
        path: File of the image.
        pixels: The hash of its pixels.
        rows: Rows of patches to keep; None keeps half of them.
        record: Record of how the image was made, if it has one.
    """

    path: Path
    pixels: str
    rows: int | None
    record: Record | None

    def check(self, loaded: LoadedModel) -> None:
        """Raises: PromptError when the image has no rows beyond those to keep."""
        rows, kept = loaded.model.config.grid[0], self.rows_kept(loaded)
        if not 0 < kept < rows:
            raise PromptError(
                f"{kept} rows cannot be kept of a picture that has {rows}",
                where="--keep-rows",
                hint=f"keep 1 to {rows - 1} of them",
            )

    def rows_kept(self, loaded: LoadedModel) -> int:
        return self.rows if self.rows is not None else loaded.model.config.grid[0] // 2

    def source(self, loaded: LoadedModel) -> str:
        """Where the features come from. They are drawn again if this model drew the image and it
        was not changed since.
        """
        record = self.record
        if record is None or record.info.begun or record.seen is None or record.is_changed:
            return ENCODED
        own = loaded.about.get("hash")  # a model that was not opened from a folder has none
        same = own is not None and record.info.model.get("hash") == own
        return DRAWN_AGAIN if same and record.command == "generate" else ENCODED

    def message(self, loaded: LoadedModel) -> str:
        """A message on what is kept, and where its features come from."""
        rows, kept = loaded.model.config.grid[0], self.rows_kept(loaded)
        again = self.source(loaded) == DRAWN_AGAIN
        how = "computed from its record" if again else "read from its pixels, a little softer"
        return f"the top {kept} of {rows} rows of {self.path} are kept: {how}"

    def features(self, loaded: LoadedModel) -> Tensor:
        """Features of the rows that are kept: [N, C]."""
        count = self.rows_kept(loaded) * loaded.model.config.grid[1]
        again = self.source(loaded) == DRAWN_AGAIN
        features_NC = self._draw_again(loaded, count) if again else self._encode(loaded)
        return features_NC[:count].to(loaded.model.device)

    def add_to(self, info: GenerationInfo, loaded: LoadedModel) -> GenerationInfo:
        """The generation info of an image that continues this one."""
        begun: dict[str, Any] = {"rows": self.rows_kept(loaded), "features": self.source(loaded)}
        place = str(self.path.absolute())
        return info._replace(begun=begun, inputs=(self.pixels,), files=(place,))

    def _draw_again(self, loaded: LoadedModel, count: int) -> Tensor:
        assert self.record is not None, "only what says how it was made is drawn again"
        info = self.record.info
        recipe = shape(GenerateRecipe, asked_of(self.record))
        params = SamplingParams.from_recipe(loaded.model.config, recipe)
        prompt = loaded.builder.picture(info.prompt, params)._replace(seed=info.seed)
        return first_patches(loaded.model, prompt, params, count)

    def _encode(self, loaded: LoadedModel) -> Tensor:
        features_MPC = loaded.builder.context(FilePicture(self.path)).features_MPC
        assert features_MPC is not None, "a context with a picture has its features"
        return features_MPC[0]


def open_continuation(path: Path, rows: int | None = None) -> Continuation:
    """Opens an image to continue, with its record.

    Args:
        path: File of the image.
        rows: Rows of patches to keep; None keeps half of them.

    Raises:
        DataError: When it cannot be read.
    """
    path = user_path(path)
    pixels = pixel_hash(open_image(path))
    try:
        record = read_made(path)
    except DataError:  # made by another tool, or saved without a record
        record = None
    return Continuation(path, pixels, rows, record)


def first_patches(
    model: InterleavedModel, prompt: Prompt, params: SamplingParams, count: int
) -> Tensor:
    """Features of the first `count` patches of the picture that a prompt draws: [count, C].

    In a causal model they do not depend on later patches, so the rest is not drawn at all.
    """
    drawn: list[Tensor] = []
    with closing(generate(model, [prompt], params)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, PatchDone) and event.feature_C is not None:
                drawn.append(event.feature_C)
            if len(drawn) == count:
                break
    return torch.stack(drawn)
