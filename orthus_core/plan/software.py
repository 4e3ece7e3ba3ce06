"""What is installed: required packages against the versions that are asked for, and optional ones
with what they are good for. Nothing is imported to find out.
"""

from __future__ import annotations

import importlib.metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

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
        """Whether the installed version is one of those that are asked for (PEP 440)."""
        try:
            return self.version is not None and SpecifierSet(self.wanted).contains(
                self.version, prereleases=True
            )
        except InvalidVersion:  # a build of someone's own
            return False


def required() -> list[Package]:
    """The packages that this distribution asks for; empty where it runs without being installed."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    return [
        Package(each.name, version_of(each.name), str(each.specifier))
        for each in wanted
        if each.marker is None or each.marker.evaluate()  # which names extras and other Pythons
    ]


def optional() -> list[Package]:
    """The packages that are used when they are there."""
    return [Package(name, version_of(name), "", use) for name, use in OPTIONAL.items()]


def version_of(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
