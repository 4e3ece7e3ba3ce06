"""Keys of records, and what tells one data set from another, made of the keys of its records."""

from __future__ import annotations

import hashlib

import numpy as np


def content_key(content: bytes) -> int:
    """The key of a record with this content: 64 bits of BLAKE2."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def identity_of_keys(keys: np.ndarray) -> str:
    """The identity of a data set whose records have these keys, in this order."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(keys, "<u8").tobytes())
    return f"{len(keys)} rows, {digest.hexdigest()[:10]}"
