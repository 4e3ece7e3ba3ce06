"""A cache of picture features that lies on disk: each picture is encoded once, for every training
with the same autoencoder.

    FOLDER/features-WEIGHTS-64px-v1-bf16/    shards of features (`latent_shards`)
    FOLDER/picture-contents/                 the content's hash of each picture file, by its path,
                                             size and time, so that it is read for it once

The first folder's name says what features depend on beside the picture: the encoder's weights, the
side and version of the preprocessing, and the precision. A record is found by its picture's
content, so a folder of pictures may be moved or copied, and a picture that changed is encoded anew.
60,000 pictures of 64 patches and 96 channels take 740 MB of disk in 16 bits, and 2 MB of memory.

Legend: M images, F of them found, P patches per image, C feature channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from orthus_core.atomic import failure_message, output_error
from orthus_core.data.latent_shards import RecordShards, digest_of, disk_bytes
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import as_input, pack_pixels
from orthus_core.errors import OutputError

if TYPE_CHECKING:
    from orthus_core.data.pictures import StoredPicture

# Parts that features do not depend on; training them leaves a cache valid.
DECODING_PARTS = ("decoder.", "post_quant_conv.")

CHUNK, CHUNK_ON_A_GPU = 64, 256
"""Number of pictures that are given to the encoder at once."""

PREPROCESSING = 1
"""Version of how a picture file becomes pixels (`pixels.square`): one more when they change."""

CONTENTS = "picture-contents"

NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int16: "int16",
    torch.int32: "int32",
}
"""The precisions that features and codes are stored in."""


def fingerprint(autoencoder: nn.Module) -> str:
    """A hash of the weights that features depend on: 16 hex digits."""
    return weights_digest(autoencoder, without=DECODING_PARTS)


def weights_digest(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """A hash of a module's weights but those whose names begin with these: 16 hex digits."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        if not name.startswith(without):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            flat = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class AddressedPicture:
    """A picture that can be read, as was found when it was looked for in a cache.

    Attributes:
        picture: The picture.
        address: By what its features are found.
        pixels_HW3: Its pixels, so that it is not loaded twice; None if its features are stored.
    """

    picture: Picture
    address: bytes
    pixels_HW3: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> str:
        return self.picture.key

    def load(self, size: int) -> np.ndarray:
        if self.pixels_HW3 is None:
            return self.picture.load(size)
        assert len(self.pixels_HW3) == size, "a training has pictures of one size"
        return self.pixels_HW3


class Lookup(NamedTuple):
    """What is stored of some pictures, as a process without an encoder finds it.

    Attributes:
        stored_FPC: The features or codes that were found, as they are stored.
        found_M: Whether each picture's were found.
        addresses: For each of the others, by what it is to be stored.
    """

    stored_FPC: Tensor | None
    found_M: Tensor
    addresses: tuple[bytes, ...]


class FeatureCache:
    """Maps pictures to features (or codes), each computed once.

        cache = FeatureCache(fingerprint(model.model.vqmodel), model.encode_images, size=64)
        features_MPC = cache(pictures)

    Args:
        weights: Fingerprint of the weights that `encode` uses.
        encode: Function from pixels [M, 3, H, W] to features [M, P, C] or codes [M, P].
        size: Side of the pictures in pixels.
        folder: Folder of the cache; None keeps features in memory only.
        device: Device of the encoder. Features are returned on the CPU in fp32.
        stored: Precision that features are rounded to at once, so that it does not matter whether
            they were computed now or earlier; for codes an integer one.
        kind: What they are, for the folder's name: features or codes.
    """

    def __init__(
        self,
        weights: str,
        encode: Callable[[Tensor], Tensor],
        size: int,
        *,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        stored: torch.dtype = torch.float32,
        kind: str = "features",
    ) -> None:
        self.weights = weights
        self.size = size
        name = f"{kind}-{weights}-{size}px-v{PREPROCESSING}-{NAMES[stored]}"
        self.path = folder / name if folder else None
        self._encode = encode
        self._device = torch.device(device)
        self._chunk = CHUNK_ON_A_GPU if self._device.type == "cuda" else CHUNK
        self._stored = stored
        self._shards = RecordShards(self.path)
        self._contents = RecordShards(folder / CONTENTS if folder else None)

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, picture: Picture) -> bool:
        return self.address(picture) in self._shards

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """The features [M, P, C] or codes [M, P] of pictures, on the CPU.

        Raises:
            DataError: if a picture cannot be read.
        """
        addresses = [self.address(picture) for picture in pictures]
        rows, missing = self._found(addresses)
        pictures_of = dict(zip(addresses, pictures, strict=True))
        for start in range(0, len(missing), self._chunk):
            chunk = missing[start : start + self._chunk]
            pixels_M3HW = pack_pixels([pictures_of[each].load(self.size) for each in chunk])
            rows |= self._computed(chunk, pixels_M3HW.to(self._device))
        return self._read(np.stack([rows[address] for address in addresses]))

    def address(self, picture: Picture) -> bytes:
        """By what a picture's features are found: a hash of its content.

        Raises:
            DataError: if the picture cannot be read.
        """
        if isinstance(picture, AddressedPicture):
            return picture.address
        if not hasattr(type(picture), "content_key"):  # of the picture itself it reads the file
            return digest_of(picture.key)
        place = digest_of(picture.key)
        known = self._contents.get(place)
        if known is None:
            self._contents.look()
            known = self._contents.get(place)
        if known is not None:
            return known.tobytes()
        address = digest_of(cast("StoredPicture", picture).content_key)
        self._contents.append([place], np.frombuffer(address, np.uint8)[None])
        return address

    def addressed(self, picture: Picture) -> AddressedPicture:
        """A picture with its address, and its pixels unless its features are stored.

        Raises:
            DataError: if the picture cannot be read.
        """
        address = self.address(picture)
        known = address in self._shards
        return AddressedPicture(picture, address, None if known else picture.load(self.size))

    def look_up(self, pictures: Sequence[Picture]) -> tuple[Lookup, Tensor | None]:
        """What is stored of pictures, and the uint8 pixels [M - F, H, W, 3] of the others.

        Raises:
            DataError: if a picture cannot be read.
        """
        addresses = [self.address(picture) for picture in pictures]
        rows, _ = self._found(addresses)
        stored = [rows[address] for address in addresses if address in rows]
        others = [p for p, address in zip(pictures, addresses, strict=True) if address not in rows]
        pixels = [picture.load(self.size) for picture in others]
        lookup = Lookup(
            torch.from_numpy(np.stack(stored)) if stored else None,
            torch.tensor([address in rows for address in addresses]),
            tuple(address for address in addresses if address not in rows),
        )
        return lookup, torch.from_numpy(np.stack(pixels)) if pixels else None

    def complete(self, lookup: Lookup, pixels_MHW3: Tensor | None) -> Tensor:
        """The features or codes, on the CPU, of pictures that another process has looked up.

        Args:
            lookup: What it found.
            pixels_MHW3: uint8 pixels of the others, which are encoded and stored.
        """
        rows, _ = self._found(lookup.addresses)
        missing = {a: n for n, a in enumerate(lookup.addresses) if a not in rows}
        if missing:
            assert pixels_MHW3 is not None, "what is not found comes as pixels"
            places = torch.tensor(list(missing.values()))
            rows |= self.store(list(missing), pixels_MHW3[places])
        stored = iter(() if lookup.stored_FPC is None else lookup.stored_FPC.numpy())
        computed = (rows[address] for address in lookup.addresses)
        every = [next(stored) if found else next(computed) for found in lookup.found_M.tolist()]
        return self._read(np.stack(every))

    def store(self, addresses: Sequence[bytes], pixels_MHW3: Tensor) -> dict[bytes, np.ndarray]:
        """Encode pixels and store their features; returns them by address, as they are stored."""
        rows: dict[bytes, np.ndarray] = {}
        for start in range(0, len(addresses), self._chunk):
            chunk = slice(start, start + self._chunk)
            pixels = pixels_MHW3[chunk].to(self._device, non_blocking=True)
            rows |= self._computed(addresses[chunk], as_input(pixels))
        return rows

    def keep(self, picture: Picture, features_PC: Tensor) -> None:
        """Store features of a picture that were not computed from its pixels: those that it was
        decoded from, which another encoding would blur.
        """
        self._stored_as([self.address(picture)], features_PC[None])

    def encode_pixels(self, pixels_MHW3: Tensor) -> Tensor:
        """The features [M, P, C] or codes [M, P] of uint8 pixels on the device, without storing."""
        with torch.no_grad():
            encoded = self._encode(as_input(pixels_MHW3.to(self._device, non_blocking=True)))
        return encoded.to(self._stored).float() if encoded.is_floating_point() else encoded

    @property
    def chunk(self) -> int:
        """Number of pictures that are given to the encoder at once."""
        return self._chunk

    @property
    def addresses(self) -> Container[bytes]:
        """The addresses whose features are stored."""
        return self._shards

    @property
    def failure(self) -> OSError | None:
        """Why features are no longer stored; None while they are."""
        return self._shards.failure

    def disk_bytes(self, pictures: int) -> int:
        """Bytes on disk of so many more pictures."""
        if self._record_bytes is None:
            grey_M3HW = torch.zeros(1, 3, self.size, self.size, device=self._device)
            with torch.no_grad():
                self._record_bytes = self._encode(grey_M3HW).numel() * self._stored.itemsize
        return disk_bytes(pictures, self._record_bytes)

    _record_bytes: int | None = None

    def look(self) -> None:
        """Find what other processes have stored meanwhile."""
        self._shards.look()

    def notes(self) -> Iterator[str]:
        """What happened to the cache that a user should know, each once."""
        for shards in (self._shards, self._contents):
            damage, shards.damage = shards.damage, []
            yield from (f"features on disk: {each}; it is encoded anew" for each in damage)
        if self._shards.failure is not None and not self._failure_is_reported:
            self._failure_is_reported = True
            yield (
                f"{failure_message(self._shards.failure, 'features are no longer stored')}: "
                f"{self.path}; what is there stays, and the others are encoded as they come"
            )

    _failure_is_reported = False

    def save(self) -> None:
        """Wait until the disk has all features, and let other processes append to the shards.

        Raises:
            OutputError: if some could not be written.
        """
        failed: OSError | None = None
        for shards in (self._contents, self._shards):
            try:
                shards.release()
            except OSError as error:
                failed = error
        if failed is not None:
            raise OutputError(
                f"the features were not saved: {output_error(failed).message}",
                where=str(self.path),
                hint="make room there, or choose another folder: what was written stays, and only "
                "what is missing is encoded again",
            ) from failed

    def _found(self, addresses: Sequence[bytes]) -> tuple[dict[bytes, np.ndarray], list[bytes]]:
        """The records that are there, and the addresses of the others, each once."""
        rows: dict[bytes, np.ndarray] = {}
        missing = list(dict.fromkeys(addresses))
        for attempt in range(2):
            for address in missing:
                row = self._shards.get(address)
                if row is not None:
                    rows[address] = row
            missing = [address for address in missing if address not in rows]
            if not missing or attempt:
                break
            self._shards.look()  # another process may have stored them
        return rows, missing

    def _computed(self, addresses: Sequence[bytes], pixels_M3HW: Tensor) -> dict[bytes, np.ndarray]:
        with torch.no_grad():
            return self._stored_as(addresses, self._encode(pixels_M3HW))

    def _stored_as(self, addresses: Sequence[bytes], rows_M: Tensor) -> dict[bytes, np.ndarray]:
        encoded = rows_M.to(self._stored).cpu()
        # numpy has no bf16; its bits are kept as whole numbers.
        bits = encoded.view(torch.int16) if encoded.dtype == torch.bfloat16 else encoded
        rows = bits.contiguous().numpy()
        self._shards.append(addresses, rows)
        return dict(zip(addresses, rows, strict=True))

    def _read(self, rows: np.ndarray) -> Tensor:
        stored = torch.from_numpy(rows)
        if self._stored == torch.bfloat16:
            stored = stored.view(torch.bfloat16)
        return stored.float() if stored.is_floating_point() else stored.long()
