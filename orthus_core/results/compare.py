"""Two drawings of the same thing: are they identical, and if not, what was different."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from orthus_core.results.record import Record


class Difference(NamedTuple):
    """Something that was not the same in both drawings."""

    what: str
    then: str
    now: str


class Distance(NamedTuple):
    """How far apart two pictures of one size are.

    values: How many of their colour values differ, of `total`.
    largest: The largest difference of two values, of 255.
    """

    values: int
    total: int
    largest: int


def circumstances(then: Record, now: Record) -> list[Difference]:
    """What of version, model, device and precision is another now."""
    pairs = [
        ("version", then.version, now.version),
        *(
            (name, then.making.model.get(key, ""), now.making.model.get(key, ""))
            for name, key in (
                ("model hash", "hash"),
                ("device", "device"),
                ("dtype", "dtype"),
            )
        ),
    ]
    return [Difference(what, str(a), str(b)) for what, a, b in pairs if a and a != b]


def distance(one: Image.Image, other: Image.Image) -> Distance | None:
    """None where the sizes differ."""
    if one.size != other.size:
        return None
    apart = np.abs(
        np.asarray(one.convert("RGB"), np.int16) - np.asarray(other.convert("RGB"), np.int16)
    )
    return Distance(int((apart > 0).sum()), apart.size, int(apart.max(initial=0)))
