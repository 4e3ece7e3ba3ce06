"""Read tensors from pickled `.pth`, `.ckpt` and `.bin` files without running any code in them.

torch's `weights_only` loader builds tensors and plain containers and refuses every other
instruction.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orthus_core.checkpoint.headers import PICKLED_INDEX, PICKLED_WEIGHTS, gather_shards, with_tied
from orthus_core.checkpoint.lazy import LazyTensor, finite
from orthus_core.errors import CheckpointError
from orthus_core.wrong_content import true_cause

# Pages of a mapped file count as memory from their first use until the map is closed, so it is
# reopened after this many bytes.
_REOPEN_AFTER_BYTES = 256 * 2**20


class PickledFile:
    """A pickle of tensors, mapped into memory and reopened from time to time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._tensors: dict[str, Tensor] = {}
        self._bytes_read = 0

    def tensors(self) -> dict[str, LazyTensor]:
        """Every tensor in the file, including those under a "state_dict" or "model" key; other
        values are ignored.

        Raises:
            CheckpointError: When the file is not a checkpoint, is truncated, or would run code.
        """
        self._open()
        found = {
            name: LazyTensor(
                tuple(tensor.shape),
                tensor.dtype,
                lambda name=name: self._read(name),
                str(self.file),
            )
            for name, tensor in self._tensors.items()
        }
        self._tensors = {}
        return found

    def _read(self, name: str) -> Tensor:
        if not self._tensors or self._bytes_read > _REOPEN_AFTER_BYTES:
            self._open()
        tensor = self._tensors[name].clone()
        self._bytes_read += tensor.nbytes
        return finite(tensor, name, str(self.file))

    def _open(self) -> None:
        self._tensors = {}  # closes the current map before the next one opens
        self._tensors = _state_dict(_load(self.file))
        self._bytes_read = 0
        if not self._tensors:
            raise CheckpointError(
                "there are no tensors in this file",
                where=str(self.file),
                hint="give a checkpoint's own weights, a dictionary of named tensors",
            )


def pickled_file(file: Path) -> dict[str, LazyTensor]:
    """The tensors of one pickle.

    Raises:
        CheckpointError: As for `PickledFile.tensors`.
    """
    return PickledFile(file).tensors()


def pickled_folder(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of a folder with `pytorch_model.bin`, or with its index and shards.

    Raises:
        CheckpointError: As for `PickledFile.tensors`, or when a shard is missing or lacks a tensor.
    """
    if (folder / PICKLED_WEIGHTS).is_file():
        return with_tied(pickled_file(folder / PICKLED_WEIGHTS), folder)
    return gather_shards(folder / PICKLED_INDEX, pickled_file)


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise _damaged(file, error) from error
        raise CheckpointError(
            f"refused: loading this pickle would call {wanted[1]}; a checkpoint is only tensors",
            where=str(file),
            hint="do not load it elsewhere either; get the weights as safetensors from its maker",
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, MemoryError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> CheckpointError:
    damaged = CheckpointError(
        "a weight file is damaged or cut short, or is no checkpoint of torch",
        where=str(file),
        hint="copy or download it again",
    )
    if isinstance(error, RuntimeError) and _is_zip(file) and not zipfile.is_zipfile(file):
        return damaged  # torch.save writes a zip, and its end is missing
    return true_cause(damaged, file, error)


def _is_zip(file: Path) -> bool:
    """Whether torch wrote it in its present format (1.6 and later), the only one that can be
    mapped.
    """
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _state_dict(loaded: Any) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        return {}
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
