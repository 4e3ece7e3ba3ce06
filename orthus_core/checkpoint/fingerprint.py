"""A short name for the weights in a folder, so that a picture can say which model drew it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from orthus_core.checkpoint.headers import CONFIG, read_folder
from orthus_core.checkpoint.layout import read_json

# Bytes hashed per tensor: enough to reveal any training, few enough that a 7B takes a second.
BYTES_A_TENSOR = 1 << 14

# Keys of config.json that do not affect the computation; each tensor records its own dtype.
ASIDE = (
    *("_name_or_path", "architectures", "auto_map", "dtype", "origin", "sampling"),
    "transformers_version",
)


def fingerprint(folder: Path) -> str:
    """A SHA-256 over the configuration and the start of every tensor, independent of sharding.

    Raises:
        CheckpointError: When the folder cannot be read.
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
    """The keys that affect the computation, including those of nested tables."""
    return {
        name: _computing(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in ASIDE
    }
