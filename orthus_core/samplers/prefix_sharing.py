"""What streams have in common at their beginnings, so that it is read once.

The contexts of an edit begin with the same picture, and so do several questions about it. Streams
are compared as texts of plain numbers, in which equal tokens and equal patches are the same number;
`shared_prefix_lengths` says up to where they are worth reading as one.

Legend: N patches, C feature channels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

from orthus_core.samplers.prompt import Branch

Text = tuple[int, ...]

# A stretch of its own is one more pass over all weights, which costs about as much as this many
# tokens do beside others in a pass.
TOKENS_WORTH_A_PASS = 64


def numbered(branches: Sequence[Branch], image_id: int) -> list[Text]:
    """The streams as texts; two texts are equal where their streams have the same to read.

    Args:
        image_id: Token that stands in each patch's slot.
    """
    numbers: dict[Hashable, int] = {}
    return [
        tuple(numbers.setdefault(each, len(numbers)) for each in _read(branch, image_id))
        for branch in branches
    ]


def shared_prefix_lengths(texts: Sequence[Text]) -> list[int]:
    """Lengths, in order, up to which texts that begin alike are worth reading as one.

    Args:
        texts: All different.
    """
    # In order, the texts that have most in common are neighbours.
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
    """Groups of texts whose first `length` numbers are the same, in the order given."""
    groups: dict[Text, list[Text]] = {}
    for text in texts:
        groups.setdefault(text[:length], []).append(text)
    return list(groups.values())


def _alike(one: Text, other: Text) -> int:
    """Length of what both begin with."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _read(branch: Branch, image_id: int) -> Iterator[Hashable]:
    """A stream's tokens, with what a patch holds in place of its slot."""
    features_NC = branch.features_NC
    patches = iter(() if features_NC is None else features_NC.float().cpu().numpy())
    return (next(patches).tobytes() if token == image_id else token for token in branch.ids)
