"""Tensors that take long to fit are kept on disk, and fitted anew where their file is not good.

A file is named by a hash of all that the fit depends on, so another fit never finds it. It holds a
hash of its tensors too, since safetensors cannot tell that values have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from orthus_core.atomic import staged_file
from orthus_core.cache_folder import cache_folder
from orthus_core.errors import OutputError

DIGEST = "digest"


def fit_file(kind: str, depends_on: Sequence[str], sources: Sequence[Path]) -> Path | None:
    """The file of a fit in the user's cache; None where there is no place for one.

    Args:
        kind: What is fitted; the file's name begins with it.
        depends_on: Texts that name the data, the weights and the versions of packages.
        sources: Python modules with the code and the constants of the fit.
    """
    digest = hashlib.sha256()
    try:
        for content in (*(text.encode() for text in depends_on), *map(Path.read_bytes, sources)):
            digest.update(hashlib.sha256(content).digest())
        return cache_folder() / "fits" / f"{kind}-{digest.hexdigest()[:32]}.safetensors"
    except (OSError, OutputError):  # modules without source files; a user without a home folder
        return None


def read_fit(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a fit by name; None where the file is missing, unreadable or damaged."""
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    digest = tensors.pop(DIGEST, None)
    return tensors if digest is not None and torch.equal(digest, _digest(tensors)) else None


def keep_fit(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the file of a fit, completely or not at all; a full or read-only disk is no error."""
    with suppress(OutputError), staged_file(path, parents=True) as partial:
        partial.write_bytes(save({**tensors, DIGEST: _digest(tensors)}))


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    """A hash of names, shapes, types and values: uint8 [32]."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
