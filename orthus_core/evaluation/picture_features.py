"""Features of pictures: of EfficientNet-Lite0, which works offline, or of Inception-2015.

Numbers of different features, or of different resizing, cannot be compared.

Legend: M pictures of a batch, N of a folder, D features, c classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.errors import ArgumentError
from orthus_core.evaluation.fid import EFFICIENTNET, INCEPTION, INCEPTION_WEIGHTS, NETWORKS
from orthus_core.evaluation.picture_folders import stretched
from orthus_core.events import Progress

EFFICIENTNET_SIZE = 224
BATCH = 32


class FeatureNetwork(NamedTuple):
    """A network that makes features of pictures.

    Attributes:
        name: One of `fid.NETWORKS`.
        size: Side that pictures are resized to, by Pillow's bicubic filter.
        weights_hash: SHA-256 of the file of weights.
        run: From pictures in -1..1, [M, 3, size, size], to features [M, D] and logits [M, c].
    """

    name: str
    size: int
    weights_hash: str
    run: Callable[[Tensor], tuple[Tensor, Tensor]]


class FolderFeatures(NamedTuple):
    """Features [N, D] and logits [N, c] of pictures."""

    features_ND: Tensor
    logits_Nc: Tensor


def feature_network(
    name: str, inception_weights: Path | None = None, device: str = "cpu"
) -> FeatureNetwork:
    """Opens a network.

    Raises:
        ArgumentError: When there is no such network.
        OrthusError: When its weights are missing; the message names the file.
    """
    from orthus_core.evaluation import efficientnet, inception

    if name == EFFICIENTNET:
        network = efficientnet.efficientnet(device)
        weights = efficientnet.weights_file()

        def run(pixels_M3HW: Tensor) -> tuple[Tensor, Tensor]:
            pooled = network.maps(pixels_M3HW)[-1].mean((2, 3))
            return pooled, network.classifier(pooled)

        return FeatureNetwork(name, EFFICIENTNET_SIZE, _hash(weights), run)
    if name == INCEPTION:
        weights = inception_weights or Path(INCEPTION_WEIGHTS)
        return FeatureNetwork(
            name, inception.SIZE, _hash(weights), inception.inception(weights).to(device)
        )
    raise ArgumentError(
        f"there are no features {name!r}", hint=f"--features is one of {', '.join(NETWORKS)}"
    )


@torch.no_grad()
def folder_features(
    paths: Sequence[Path], network: FeatureNetwork, device: str = "cpu"
) -> Generator[Progress, None, FolderFeatures]:
    """The features of pictures, in their order; yields progress.

    Raises:
        DataError: When a picture cannot be read.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(paths), BATCH):
        pixels_M3HW = stretched(paths[first : first + BATCH], network.size).to(device)
        found.append(tuple(each.cpu() for each in network.run(2 * pixels_M3HW - 1)))  # type: ignore
        yield Progress("features", min(first + BATCH, len(paths)), len(paths), "pictures")
    features, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return FolderFeatures(features, logits)


def _hash(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
