"""A short name for the weights in a folder, so that a picture can say which model drew it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from orthus_core.checkpoint.headers import CONFIG, read_folder
from orthus_core.checkpoint.layout import read_json

# Of each tensor: enough that any training shows, little enough that a 7B takes a second.
BYTES_A_TENSOR = 1 << 14

# Keys of config.json that do not change what the weights compute; each tensor tells its own dtype.
ASIDE = ("_name_or_path", "architectures", "dtype", "origin", "sampling", "transformers_version")


def fingerprint(folder: Path) -> str:
    """A SHA-256 over configuration and the beginning of every tensor, however they are sharded.

    Raises:
        CheckpointError: When the folder does not read.
    """
    config = _computing(read_json(folder / CONFIG))
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, header in sorted(read_folder(folder).items()):
        digest.update(f"{name} {header.dtype} {header.shape}".encode())
        with header.file.open("rb") as stream:
            stream.seek(header.start)
            digest.update(stream.read(min(header.bytes, BYTES_A_TENSOR)))
    return digest.hexdigest()


def _computing(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that say how the weights are computed with, tables inside tables too."""
    return {
        name: _computing(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in ASIDE
    }
