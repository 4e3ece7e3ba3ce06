"""Prefix sharing: what several branches begin with is read once.

The contexts of an edit begin with the same image, and so do several questions about one image.
Branches are compared as tuples of integers, called texts here, in which equal tokens and equal
patches are equal integers. `shared_prefix_lengths` says up to which lengths sharing is worthwhile.

Legend: N patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

from orthus_core.samplers.prompt import Branch

Text = tuple[int, ...]

# Reading a shared prefix separately costs one extra pass over all weights, about as much as this
# many extra tokens in an existing pass.
TOKENS_WORTH_A_PASS = 64


def numbered(branches: Sequence[Branch], image_id: int) -> list[Text]:
    """The branches as texts; two texts are equal as far as their branches are.

    Args:
        branches: Branches to compare.
        image_id: Id of the token in the slot of each patch.
    """
    numbers: dict[Hashable, int] = {}
    return [
        tuple(numbers.setdefault(each, len(numbers)) for each in _read(branch, image_id))
        for branch in branches
    ]


def shared_prefix_lengths(texts: Sequence[Text]) -> list[int]:
    """Lengths, in ascending order, up to which texts with a common prefix are read together.

    Args:
        texts: Texts, no two of them equal.
    """
    # When texts are sorted, those with the longest common prefixes are neighbours.
    shared = {_alike(one, other) for one, other in pairwise(sorted(texts))}
    found, last = [], 0
    for length in sorted(shared):
        reaching = [text for text in texts if len(text) >= length]
        spared = len(reaching) - len(group_by_prefix(reaching, length))
        if spared * (length - last) >= TOKENS_WORTH_A_PASS:
            found.append(length)
            last = length
    return found


def group_by_prefix(texts: Sequence[Text], length: int) -> list[list[Text]]:
    """Groups of texts with the same first `length` integers, in the given order."""
    groups: dict[Text, list[Text]] = {}
    for text in texts:
        groups.setdefault(text[:length], []).append(text)
    return list(groups.values())


def _alike(one: Text, other: Text) -> int:
    """Length of the common prefix."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _read(branch: Branch, image_id: int) -> Iterator[Hashable]:
    """The tokens of a branch, with the bytes of a patch's feature in place of its slot."""
    features_NC = branch.features_NC
    patches = iter(() if features_NC is None else features_NC.float().cpu().numpy())
    return (next(patches).tobytes() if token == image_id else token for token in branch.ids)
