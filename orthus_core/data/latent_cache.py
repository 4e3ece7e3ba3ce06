"""A cache of picture features that lies in a file: each picture is encoded once, for every training
with the same autoencoder.

The file is only ever appended to, so a training that is killed loses nothing but its last record,
and it is mapped into memory, so 60,000 pictures of 64 patches and 96 channels take 740 MB of disk
in 16 bits and as little memory as there is. Its name depends on the autoencoder's weights, on the
picture size and on the precision, so that other features are never used by mistake.

    header: 256 bytes, JSON: version, shape and dtype of a picture's features
    record: 16 bytes, BLAKE2 of the picture's key; then its features

Legend: M images, P patches per image, C feature channels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from orthus_core.atomic import output_error
from orthus_core.data.pictures import Picture
from orthus_core.data.pixels import as_input, pack_pixels
from orthus_core.errors import DataError, OutputError
from orthus_core.events import Progress

try:
    import fcntl
except ImportError:  # Windows has none; there two trainings are not kept from writing at once
    fcntl = None

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


HEADER_BYTES, DIGEST_BYTES, VERSION = 256, 16, 1


class FeatureFile:
    """Records in a file, or in memory where there is no file or another process writes to it.

    Args:
        path: The file, created with the first record; None keeps all records in memory.

    Raises:
        DataError: When the file is of something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.failure: OSError | None = None
        self._places: dict[bytes, int] = {}
        self._mapped: np.ndarray | None = None
        self._in_memory: list[np.ndarray] = []
        self._out: BinaryIO | None = None
        if path is not None and path.exists():
            self._map(path)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return digest_of(key) in self._places

    def rows(self, keys: Iterable[str]) -> np.ndarray:
        """The features of these keys, which must be there: [M, ...]."""
        found = [self._row(self._places[digest_of(key)]) for key in keys]
        return np.stack(found)

    def append(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Add records; where they cannot be written they stay in memory, and `failure` says why."""
        digests = [digest_of(key) for key in keys]
        if self.path is not None and self.failure is None:
            try:
                if self._write(self.path, digests, rows):
                    return
            except OSError as error:
                self.failure = error
        for digest, row in zip(digests, rows, strict=True):
            self._in_memory.append(row.copy())  # a view would keep the whole chunk
            self._places[digest] = -len(self._in_memory)

    def release(self) -> None:
        """Wait until the disk has all records, and let others write.

        Raises:
            OSError: When some were not written.
        """
        out, self._out = self._out, None
        if out is not None:
            with out:
                os.fsync(out.fileno())
        if self.failure is not None:
            raise self.failure

    def _row(self, place: int) -> np.ndarray:
        if place < 0:
            return self._in_memory[-place - 1]
        assert self._mapped is not None, "a place in the file is known from its map"
        return self._mapped[place]["features"]

    def _write(self, path: Path, digests: Sequence[bytes], rows: np.ndarray) -> bool:
        """Append to the file; False where another process does."""
        kind = record_type(rows.shape[1:], rows.dtype)
        if self._out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            out = path.open("ab")
            if not _lock(out):
                out.close()
                return False
            self._out = out
            if not out.tell():
                out.write(header_of(rows.shape[1:], rows.dtype))
            # What a killed process left incomplete is cut off.
            whole = (out.tell() - HEADER_BYTES) // kind.itemsize
            out.truncate(HEADER_BYTES + whole * kind.itemsize)
            out.seek(0, os.SEEK_END)
        records = np.empty(len(rows), kind)
        records["digest"] = [np.void(digest) for digest in digests]
        records["features"] = rows
        self._out.write(records.tobytes())
        self._out.flush()
        self._map(path)
        return True

    def _map(self, path: Path) -> None:
        """Map the file's whole records, those of other processes too."""
        try:
            with path.open("rb") as file:
                about = json.loads(file.read(HEADER_BYTES))
            if about["version"] != VERSION:
                raise ValueError(f"version {about['version']}")
            kind = record_type(about["shape"], np.dtype(about["dtype"]))
            count = (path.stat().st_size - HEADER_BYTES) // kind.itemsize
            if not count:
                return
            self._mapped = np.memmap(path, kind, "r", HEADER_BYTES, shape=(count,))
        except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the saved features: {error}",
                where=str(path),
                hint="delete the file; it is computed anew",
            ) from error
        known = sum(place >= 0 for place in self._places.values())
        for place in range(known, count):
            self._places[self._mapped[place]["digest"].tobytes()] = place


def digest_of(key: str) -> bytes:
    """What a record knows its picture by."""
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()


def record_type(shape: Sequence[int], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The layout of one record."""
    features = (dtype.newbyteorder("<"), tuple(shape))
    return np.dtype([("digest", f"V{DIGEST_BYTES}"), ("features", *features)])


def header_of(shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    about = {"version": VERSION, "shape": list(shape), "dtype": dtype.str}
    return json.dumps(about).ljust(HEADER_BYTES - 1).encode() + b"\n"


def _lock(file: BinaryIO) -> bool:
    """Whether this process may append; the lock ends with it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


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
        stored: Precision that features are rounded to at once, so that it does not matter whether
            they were computed now or earlier.
        kind: What they are, for the file's name: features or codes.

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
        stored: torch.dtype = torch.float32,
        kind: str = "features",
    ) -> None:
        self.weights = weights
        self.size = size
        bits = "-fp16" if stored == torch.float16 else ""
        self.path = folder / f"{kind}-{weights}-{size}{bits}.bin" if folder else None
        self._encode = encode
        self._device = device
        self._stored = stored
        self._file = FeatureFile(self.path)

    def __len__(self) -> int:
        return len(self._file)

    def __contains__(self, picture: Picture) -> bool:
        return picture.key in self._file

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """The features [M, P, C] or codes [M, P] of pictures, on the CPU.

        Raises:
            DataError: if a picture cannot be read.
        """
        for _ in self.fill(pictures):
            pass
        rows = torch.from_numpy(self._file.rows(picture.key for picture in pictures))
        return rows.float() if rows.is_floating_point() else rows.long()

    def encode_pixels(self, pixels_MHW3: Tensor) -> Tensor:
        """The features [M, P, C] or codes [M, P] of uint8 pixels on the device, without caching."""
        with torch.no_grad():
            encoded = self._encode(as_input(pixels_MHW3.to(self._device, non_blocking=True)))
        return encoded.to(self._stored).float() if encoded.is_floating_point() else encoded

    def fill(self, pictures: Iterable[Picture]) -> Iterator[Progress]:
        """Computes missing features, `CHUNK` pictures at a time, and writes them down."""
        missing = {p.key: p for p in pictures if p.key not in self._file}
        keys = list(missing)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            pixels_M3HW = pack_pixels([missing[key].load(self.size) for key in chunk])
            with torch.no_grad():
                encoded = self._encode(pixels_M3HW.to(self._device)).cpu()
            dtype = self._stored if encoded.is_floating_point() else torch.int32
            self._file.append(chunk, encoded.to(dtype).numpy())
            yield Progress("features", start + len(chunk), len(keys), unit="pictures")

    def save(self) -> None:
        """Waits until the disk has all features, and lets other trainings write theirs.

        Raises:
            OutputError: if some could not be written.
        """
        try:
            self._file.release()
        except OSError as error:
            failed = output_error(error)
            raise OutputError(
                f"the features were not saved: {failed.message}",
                where=str(self.path),
                hint=failed.hint,
            ) from error
