"""A bundled model that is stored as its differences from another bundled one.

Its folder has the files that the other model does not have, or has otherwise, and in
`differences-N.safetensors` the tensors of which the same is true. The whole is put together once,
into the cache.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from orthus_core.atomic_folder import staged_folder
from orthus_core.cache_folder import cache_folder
from orthus_core.checkpoint.hub import DIFFERENCES
from orthus_core.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_BYTES = 13_000_000
_WEIGHTS = "model.safetensors"

# Where nothing can be kept, the whole lives as long as the process.
_temporary: list[TemporaryDirectory[str]] = []


def whole_of(folder: Path, base: Path) -> Path:
    """The folder of the whole model; it is written where the cache does not have it.

    Args:
        folder: The folder of the differences.
        base: The folder of the model that they are from.

    Raises:
        CheckpointError: If a file of either is damaged.
        OutputError: If neither the cache nor a temporary folder can be written to.
    """
    key = _key_of(folder, base)
    with suppress(OutputError, OSError):
        models = cache_folder() / "models"
        whole = models / f"{folder.name}-{key}"
        if (whole / _WEIGHTS).is_file():
            return whole
        models.mkdir(parents=True, exist_ok=True)
        with suppress(OutputError), staged_folder(whole, mark=_WEIGHTS) as staged:
            _write(staged, folder, base)
        if (whole / _WEIGHTS).is_file():  # by this process, or by one that was faster
            return whole
    try:
        _temporary.append(TemporaryDirectory(prefix="orthus-model-"))
        whole = Path(_temporary[-1].name) / folder.name
        whole.mkdir()
        _write(whole, folder, base)
    except OSError as error:
        raise OutputError(
            f"the model {folder.name} cannot be put together: {error.strerror or error}",
            where=str(error.filename or whole),
            hint="make room, or name a folder that can be written to with ORTHUS_CACHE",
        ) from error
    return whole


def write_differences(whole: Path, base: Path, target: Path, largest: int = LARGEST_BYTES) -> None:
    """Write the differences of a model folder.

    Args:
        whole: The model's folder.
        base: The folder of the model that differences are from.
        target: The folder to write to.
        largest: Most bytes of a file, unless one tensor has more.

    Raises:
        CheckpointError: If a folder cannot be read.
        ValueError: If the base has a tensor that the model has not.
    """
    from safetensors.torch import save_file

    from orthus_core.checkpoint.lazy import safetensors_folder

    theirs, ours = safetensors_folder(base), safetensors_folder(whole)
    if missing := sorted(theirs.keys() - ours.keys()):
        raise ValueError(f"{base.name} has {missing[0]}, and {whole.name} has not")
    files: list[dict[str, Tensor]] = [{}]
    room = largest
    for name, lazy in ours.items():
        tensor = lazy.read()
        if name in theirs and _equal(tensor, theirs[name].read()):
            continue
        if lazy.bytes > room and files[-1]:
            files.append({})
            room = largest
        files[-1][name] = tensor
        room -= lazy.bytes
    texts_of_base = _texts(base)
    for name, file in _texts(whole).items():
        same = name in texts_of_base and file.read_bytes() == texts_of_base[name].read_bytes()
        if not same:
            shutil.copyfile(file, target / name)
    for number, tensors in enumerate(files, start=1):
        save_file(tensors, target / DIFFERENCES.replace("*", str(number)), {"format": "pt"})


def _texts(folder: Path) -> dict[str, Path]:
    """The files of a model folder that are no weights, by name."""
    return {
        file.name: file
        for file in folder.iterdir()
        if file.is_file() and "safetensors" not in file.name
    }


def _equal(one: Tensor, other: Tensor) -> bool:
    import torch

    return one.dtype == other.dtype and torch.equal(one, other)


def _key_of(folder: Path, base: Path) -> str:
    """What changes with either folder's files: a hash of their names, sizes and times."""
    digest = hashlib.sha256()
    for place in (folder, base):
        for file in sorted(place.iterdir()):
            if file.is_file():
                stat = file.stat()
                digest.update(f"{file.absolute()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write(target: Path, folder: Path, base: Path) -> None:
    """Put the whole together."""
    from safetensors.torch import save_file

    from orthus_core.checkpoint.lazy import safetensors_file, safetensors_folder

    tensors = safetensors_folder(base)
    for file in folder.glob(DIFFERENCES):
        tensors |= safetensors_file(file)
    for name, file in {**_texts(base), **_texts(folder)}.items():
        shutil.copyfile(file, target / name)
    read = {name: each.read() for name, each in tensors.items()}
    save_file(read, target / _WEIGHTS, {"format": "pt"})
