"""Installed software: required packages with their requested versions, and optional packages with
their use. No package is imported.
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

    Attributes:
        version: Installed version; None when missing.
        wanted: Required version, such as ">=2.5"; empty for optional packages.
        use: Purpose of the package.
    """

    name: str
    version: str | None
    wanted: str
    use: str = ""

    @property
    def fits(self) -> bool:
        """Whether the installed version satisfies the requirement (PEP 440)."""
        try:
            return self.version is not None and SpecifierSet(self.wanted).contains(
                self.version, prereleases=True
            )
        except InvalidVersion:  # a custom build
            return False


def required() -> list[Package]:
    """The packages that this distribution requires; empty when it is not installed."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    return [
        Package(each.name, version_of(each.name), str(each.specifier))
        for each in wanted
        if each.marker is None or each.marker.evaluate()  # markers name extras and Python versions
    ]


def optional() -> list[Package]:
    """Optional packages that are used when installed."""
    return [Package(name, version_of(name), "", use) for name, use in OPTIONAL.items()]


def version_of(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
