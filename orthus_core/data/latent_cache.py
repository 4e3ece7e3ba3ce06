"""A cache of picture features, in memory and on disk between runs.

The key of an entry is its picture's key. The name of the file depends on the autoencoder's weights
and on the picture size, so that features of another autoencoder are never used by mistake.

Legend: M images, P patches per image, C feature channels.
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

# Parts that features do not depend on; training them leaves a cache valid.
DECODING_PARTS = ("decoder.", "post_quant_conv.")

CHUNK = 64
"""Number of pictures in a batch of the encoder."""


def fingerprint(autoencoder: nn.Module) -> str:
    """A hash of the weights that features depend on: 16 hex digits."""
    digest = hashlib.sha256()
    for name, weight in sorted(autoencoder.state_dict().items()):
        if not name.startswith(DECODING_PARTS):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            flat = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Maps pictures to features (or codes), each computed once.

        cache = FeatureCache(fingerprint(model.model.vqmodel), model.encode_images, size=64)
        features_MPC = cache(pictures)

    Args:
        weights: Fingerprint of the weights that `encode` uses.
        encode: Function from pixels [M, 3, H, W] to features [M, P, C] or codes [M, P].
        size: Side of the pictures in pixels.
        folder: Folder of the cache file; None keeps features in memory only.
        device: Device of the encoder. Features are returned on the CPU in fp32.

    Raises:
        DataError: if the file of an earlier run cannot be read.
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
        """The features [M, P, C] or codes [M, P] of pictures, on the CPU.

        Raises:
            DataError: if a picture cannot be read.
        """
        for _ in self.fill(pictures):
            pass
        return torch.stack([self._features[picture.key] for picture in pictures])

    def encode_pixels(self, pixels_MHW3: Tensor) -> Tensor:
        """The features [M, P, C] or codes [M, P] of uint8 pixels on the device, without caching."""
        with torch.no_grad():
            encoded = self._encode(as_input(pixels_MHW3.to(self._device, non_blocking=True)))
        return encoded.float() if encoded.is_floating_point() else encoded

    def fill(self, pictures: Iterable[Picture]) -> Iterator[Progress]:
        """Computes missing features, `CHUNK` pictures at a time."""
        missing = {p.key: p for p in pictures if p.key not in self._features}
        keys = list(missing)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            pixels_M3HW = pack_pixels([missing[key].load(self.size) for key in chunk])
            with torch.no_grad():
                encoded = self._encode(pixels_M3HW.to(self._device)).cpu()
            features = encoded.float() if encoded.is_floating_point() else encoded
            # Copies, because a view would keep the whole chunk in memory.
            self._features |= {key: row.clone() for key, row in zip(chunk, features, strict=True)}
            yield Progress("features", start + len(chunk), len(keys), unit="pictures")

    def save(self) -> None:
        """Writes all features to a temporary file and renames it. Without a folder, does nothing.

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
