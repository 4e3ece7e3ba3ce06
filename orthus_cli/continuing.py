"""The kept top of a picture that is gone on from: `orthus generate --continue out.png`.

A model draws patch after patch and sees what it drew as features, which a PNG does not hold. For a
picture that was drawn here they are drawn again, by the same prompt, seed and values, and are then
the ones it had. Of any other picture they are what the autoencoder encodes, which is near what the
pixels show but not the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orthus_cli.console import Reporter
from orthus_cli.stored import Stored, stored
from orthus_core.errors import DataError, PromptError

if TYPE_CHECKING:
    from torch import Tensor

    from orthus_core.api.loaded import LoadedModel
    from orthus_core.results.metadata import GenerationInfo
    from orthus_core.results.record import Record

DRAWN_AGAIN = "drawn again"
ENCODED = "encoded"


class Beginning(NamedTuple):
    """The picture that is gone on from.

    path: Its file.
    pixels: Hash of what is seen.
    rows: Of its patches that are kept; None is half of them.
    record: How it was made, where it says so.
    stored: What is taken over from it: all but its seed.
    """

    path: Path
    pixels: str
    rows: int | None
    record: Record | None
    stored: Stored = Stored()

    def features(self, r: Reporter, loaded: LoadedModel) -> Tensor:
        """Features of the rows that are kept, [k, C]; says where they came from.

        Raises:
            PromptError: When the picture has not so many rows.
        """
        rows, columns = loaded.model.config.grid
        kept = self.kept(loaded)
        if not 0 < kept < rows:
            raise PromptError(
                f"{kept} rows cannot be kept of a picture that has {rows}",
                where="--keep-rows",
                hint=f"keep 1 to {rows - 1} of them",
            )
        how = self.how(loaded)
        r.say(f"the top {kept} of {rows} rows of {self.path} are kept, {how}")
        found_NC = self._again(loaded) if how == DRAWN_AGAIN else self._encoded(loaded)
        return found_NC[: kept * columns].to(loaded.model.device)

    def kept(self, loaded: LoadedModel) -> int:
        return self.rows if self.rows is not None else loaded.model.config.grid[0] // 2

    def how(self, loaded: LoadedModel) -> str:
        """Whether the same model drew it and it is as it was drawn."""
        record = self.record
        if record is None or record.info.begun or record.seen not in record.pixels.values():
            return ENCODED
        same = record.info.model.get("hash") == loaded.about["hash"]
        return DRAWN_AGAIN if same and record.command == "generate" else ENCODED

    def told(self, made: GenerationInfo, loaded: LoadedModel) -> GenerationInfo:
        """How a picture was made that goes on from it."""
        begun: dict[str, Any] = {"rows": self.kept(loaded), "features": self.how(loaded)}
        place = str(self.path.expanduser().absolute())
        return made._replace(begun=begun, inputs=(self.pixels,), files=(place,))

    def _again(self, loaded: LoadedModel) -> Tensor:
        from orthus_core.recipe import GenerateRecipe, shape
        from orthus_core.results.record import asked_of
        from orthus_core.samplers.continuation import first_patches
        from orthus_core.samplers.params import SamplingParams

        assert self.record is not None, "only what says how it was made is drawn again"
        info = self.record.info
        recipe = shape(GenerateRecipe, asked_of(self.record))
        params = SamplingParams.from_recipe(loaded.model.config, recipe)
        prompt = loaded.builder.picture(info.prompt, params)._replace(seed=info.seed)
        count = self.kept(loaded) * loaded.model.config.grid[1]
        return first_patches(loaded.model, prompt, params, count)

    def _encoded(self, loaded: LoadedModel) -> Tensor:
        from orthus_core.data.pictures import FilePicture

        features_MPC = loaded.builder.context(FilePicture(self.path)).features_MPC
        assert features_MPC is not None, "a context with a picture has its features"
        return features_MPC[0]


def beginning_of(path: Path | None, rows: int | None) -> Beginning:
    """The picture to go on from, and what it says of itself.

    Raises:
        PromptError: When rows are to be kept of no picture.
        DataError: When it does not read.
    """
    from orthus_core.data.pixels import open_image
    from orthus_core.results.metadata import pixel_hash
    from orthus_core.results.record import read_made

    if path is None:
        raise PromptError(
            "--keep-rows keeps rows of a picture, and none is named",
            where="--keep-rows",
            hint="name it with --continue out.png",
        )
    pixels = pixel_hash(open_image(path))
    try:
        record = read_made(path)
    except DataError:  # a picture of another tool, or one that keeps it to itself
        record = None
    if record is None or record.command != "generate":
        return Beginning(path, pixels, rows, record)
    found = stored(path, "generate")
    others = [each for each in found.sets if not each.startswith("seeds=")]
    return Beginning(path, pixels, rows, record, found._replace(sets=others))
