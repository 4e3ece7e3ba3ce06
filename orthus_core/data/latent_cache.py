"""Features of pictures, computed once: in memory, and on disk between runs.

An entry is addressed by its picture's key, the file by the autoencoder's weights and the picture
size. Features of another autoencoder are thus never found, rather than found and wrong.

Legend: M images, P patches an image, C feature channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from orthus_core.atomic import staged_file
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import as_input, pack_pixels
from orthus_core.errors import DataError
from orthus_core.events import Progress

# What a feature does not depend on: training these leaves a cache valid.
DECODING_PARTS = ("decoder.", "post_quant_conv.")

CHUNK = 64
"""Pictures encoded at once."""


def fingerprint(autoencoder: nn.Module) -> str:
    """A short name of the weights that features depend on: 16 hex digits."""
    digest = hashlib.sha256()
    for name, weight in sorted(autoencoder.state_dict().items()):
        if not name.startswith(DECODING_PARTS):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            flat = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Pictures to features (or codes), each computed once.

        cache = FeatureCache(fingerprint(model.model.vqmodel), model.encode_images, size=64)
        features_MPC = cache(pictures)

    Args:
        weights: The fingerprint of what `encode` computes with.
        encode: Pixels [M, 3, H, W] to features [M, P, C] or codes [M, P].
        size: Side of the pictures in pixels.
        folder: Where `save` writes and earlier features are found; None keeps them in memory.
        device: Where pixels go to be encoded. Features come back to the CPU in fp32.

    Raises:
        DataError: if the file of an earlier run does not read.
    """

    def __init__(
        self,
        weights: str,
        encode: Callable[[Tensor], Tensor],
        size: int,
        *,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.weights = weights
        self.size = size
        self.path = folder / f"features-{weights}-{size}.safetensors" if folder else None
        self._encode = encode
        self._device = device
        self._features: dict[str, Tensor] = {}
        if self.path is not None and self.path.exists():
            self._features = _read(self.path)

    def __len__(self) -> int:
        return len(self._features)

    def __contains__(self, picture: Picture) -> bool:
        return picture.key in self._features

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """What stands for these pictures, [M, P, C] or [M, P] on the CPU.

        Raises:
            DataError: if a picture does not read.
        """
        for _ in self.fill(pictures):
            pass
        return torch.stack([self._features[picture.key] for picture in pictures])

    def encoded(self, pixels_MHW3: Tensor) -> Tensor:
        """What stands for pictures that are loaded already, uint8: [M, P, C] or [M, P], on the
        device. Nothing is looked up or kept.
        """
        with torch.no_grad():
            encoded = self._encode(as_input(pixels_MHW3.to(self._device, non_blocking=True)))
        return encoded.float() if encoded.is_floating_point() else encoded

    def fill(self, pictures: Iterable[Picture]) -> Iterator[Progress]:
        """Compute what is missing, `CHUNK` pictures at a time."""
        missing = {p.key: p for p in pictures if p.key not in self._features}
        keys = list(missing)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            pixels_M3HW = pack_pixels([missing[key].load(self.size) for key in chunk])
            with torch.no_grad():
                encoded = self._encode(pixels_M3HW.to(self._device)).cpu()
            features = encoded.float() if encoded.is_floating_point() else encoded
            # Each its own memory: a view would keep the whole chunk alive, and be saved with it.
            self._features |= {key: row.clone() for key, row in zip(chunk, features, strict=True)}
            yield Progress("features", start + len(chunk), len(keys), unit="pictures")

    def save(self) -> None:
        """Write all features beside their place, then rename. Nothing is done without a folder.

        Raises:
            OutputError: if the folder cannot be written.
        """
        if self.path is None or not self._features:
            return
        stacked = torch.stack(list(self._features.values()))
        keys = json.dumps(list(self._features))
        with staged_file(self.path, parents=True, failure="the features were not saved") as beside:
            try:
                save_file({"features": stacked}, beside, metadata={"keys": keys})
            except SafetensorError as error:  # the library's own word for the system's errors
                raise OSError(str(error)) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            keys = json.loads(file.metadata()["keys"])
            features = file.get_tensor("features")
        if len(keys) != len(features):
            raise ValueError(f"{len(keys)} keys for {len(features)} pictures")
        return dict(zip(keys, features, strict=True))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"cannot read the saved features: {error}",
            where=str(path),
            hint="delete the file; it is computed anew",
        ) from error
