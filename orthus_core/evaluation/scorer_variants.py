"""Variants of a scorer: programs that measure the same benchmark in different ways."""

from __future__ import annotations

from collections.abc import Mapping

from orthus_core.errors import ArgumentError


def check_variant(variant: str, variants: Mapping[str, str]) -> None:
    """Check that a scorer has a variant.

    Raises:
        ArgumentError: When it has not.
    """
    if variant not in variants:
        raise ArgumentError(
            f"there is no variant {variant!r}", hint=f"the variants are {', '.join(variants)}"
        )
