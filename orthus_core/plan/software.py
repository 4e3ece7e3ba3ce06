"""What is installed: required packages against the versions that are asked for, and optional ones
with what they are good for. Nothing is imported to find out.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import NamedTuple

DISTRIBUTION = "orthus-kit"

OPTIONAL = {
    "tensorboard": "curves of a training beside metrics.jsonl",
    "resvg-py": "building sprite packs from their SVG sources",
    "flash-attn": "attention of long sequences on CUDA",
}
"""Each is used when it is there and missed by nobody otherwise."""


class Package(NamedTuple):
    """A package that is needed or useful.

    version: That is installed; None where it is not.
    wanted: What is asked of it, such as ">=2.5"; empty for optional ones.
    use: What it is good for.
    """

    name: str
    version: str | None
    wanted: str
    use: str = ""

    @property
    def fits(self) -> bool:
        """Whether the installed version is at least the one asked for."""
        least = self.wanted.removeprefix(">=")
        return self.version is not None and numbers(self.version) >= numbers(least)


def required() -> list[Package]:
    """The packages that this distribution asks for; empty where it runs without being installed."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        read = re.match(r"([A-Za-z0-9._-]+)\s*(>=[\w.]+)?\s*(;.*)?$", line)
        if read and not read[3]:  # a marker names extras and other Pythons
            found.append(Package(read[1], version_of(read[1]), read[2] or ""))
    return found


def optional() -> list[Package]:
    """The packages that are used when they are there."""
    return [Package(name, version_of(name), "", use) for name, use in OPTIONAL.items()]


def version_of(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare: "2.13.0+cpu" is (2, 13, 0)."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)  # type: ignore[index]
