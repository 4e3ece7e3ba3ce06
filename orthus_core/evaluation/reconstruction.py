"""How well an autoencoder reconstructs images: PSNR and SSIM, through codes and through features
(2412.00127, table 6).

Legend: M images, c colours, H W pixels. `data_range` is the difference between the largest and the
smallest value that a pixel can have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.data.pixels import RESCALE
from orthus_core.errors import CheckpointError, DataError
from orthus_core.events import Note
from orthus_core.model.vision import OrthusVQ

# Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural
# similarity. IEEE Transactions on Image Processing 13 (4), 2004, section III-C.
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(pictures_McHW: Tensor, truth_McHW: Tensor, *, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in decibels, 10 log10(range^2 / MSE) over all pixels and colours:
    fp64 [M], infinite for equal pictures.
    """
    error_McHW = pictures_McHW.double() - truth_McHW.double()
    return 10 * torch.log10(data_range**2 / error_McHW.square().flatten(1).mean(1))


def ssim(pictures_McHW: Tensor, truth_McHW: Tensor, *, data_range: float) -> Tensor:
    """Structural similarity by Wang et al.: fp64 [M], 1 for equal pictures.

    Means, variances and the covariance are weighted by an 11x11 Gaussian of sigma 1.5, at positions
    where the whole window lies inside the picture. The result is averaged over positions and
    colours.
    """
    side = min(pictures_McHW.shape[-2:])
    assert side >= WINDOW, f"a picture of {side} pixels has no place for the window"
    x, y = pictures_McHW.double(), truth_McHW.double()
    mean_x, mean_y = window_mean(x), window_mean(y)
    variance_x = window_mean(x * x) - mean_x**2
    variance_y = window_mean(y * y) - mean_y**2
    covariance = window_mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def window_mean(x_McHW: Tensor) -> Tensor:
    """Gaussian mean around each pixel with a whole window: [M, c, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW, dtype=x_McHW.dtype, device=x_McHW.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights = weights / weights.sum()
    colours = x_McHW.shape[1]
    across = weights.view(1, 1, 1, -1).expand(colours, -1, -1, -1)
    down = weights.view(1, 1, -1, 1).expand(colours, -1, -1, -1)
    return F.conv2d(F.conv2d(x_McHW, across, groups=colours), down, groups=colours)


# Pixels are compared on the scale of bytes, without rounding.
BYTE_RANGE = 255.0
# Number of held-out images that an autoencoder is measured on, and the seed that selects them.
HELD_OUT_IMAGES = 256
HELD_OUT_SEED = 7
CHUNK = 32  # pictures in a batch of the decoder


class Similarity(NamedTuple):
    """Similarity to the originals, as means over pictures.

    Attributes:
        psnr: Peak signal-to-noise ratio in decibels.
        ssim: Structural similarity.
    """

    psnr: float
    ssim: float


class ReconstructionScores(NamedTuple):
    """Scores of two ways to reconstruct the same pictures.

    Attributes:
        codes: Features are replaced by the nearest code before decoding, as in a discrete
            Chameleon.
        features: Features are decoded without change, as in an Orthus.
    """

    codes: Similarity
    features: Similarity


def reconstruct(vq: OrthusVQ, pixels_M3HW: Tensor) -> ReconstructionScores:
    """Measures how well an autoencoder reconstructs pictures.

    Args:
        vq: Autoencoder with a decoder.
        pixels_M3HW: Pictures as the processor makes them, with a side of at least 11 pixels.
    """
    return reconstruct_each(vq, pixels_M3HW.split(CHUNK))[0]


@torch.no_grad()
def reconstruct_each(
    vq: OrthusVQ, parts: Iterable[Tensor | object]
) -> tuple[ReconstructionScores, int]:
    """The scores over pictures that come in parts, and their number.

    Args:
        vq: Autoencoder with a decoder.
        parts: Pictures [M, 3, H, W]; what is no tensor, such as an event, is passed over.

    Raises:
        CheckpointError: If the autoencoder has no decoder.
        DataError: If there is no picture.
    """
    if vq.decoder is None:
        raise CheckpointError(
            "its autoencoder has no pixel decoder, so it cannot reconstruct pictures",
            hint="take a model that draws pictures",
        )
    ways = {
        "codes": lambda pixels: vq.pixels_of_codes(vq.codes(pixels)),
        "features": lambda pixels: vq.pixels(vq.features(pixels)),
    }
    found: dict[str, list[Tensor]] = {way: [] for way in ways}
    for part in parts:
        if not isinstance(part, Tensor):
            continue
        for part_M3HW in part.split(CHUNK):
            truth_M3HW = to_byte_levels(part_M3HW)
            for way, through in ways.items():
                decoded_M3HW = to_byte_levels(through(part_M3HW.to(vq.device)))
                each = (psnr, ssim)
                scores = [f(decoded_M3HW, truth_M3HW, data_range=BYTE_RANGE) for f in each]
                found[way].append(torch.stack(scores))
    if not found["codes"]:
        raise DataError(
            "there is no picture to measure",
            hint="leave out --held-out, or raise its share: none of the pictures is held out",
        )
    means = {way: Similarity(*torch.cat(parts, 1).mean(1).tolist()) for way, parts in found.items()}
    return ReconstructionScores(**means), sum(part.shape[1] for part in found["codes"])


def to_byte_levels(pixels_M3HW: Tensor) -> Tensor:
    """Converts pixels to levels on the CPU, clipped to 0..255."""
    return ((pixels_M3HW.cpu().double() + 1) / RESCALE).clamp(0, BYTE_RANGE)


QUALITY = "quality.json"


def quality_notes(quality: ReconstructionScores, when: str) -> Iterator[Note]:
    """A note with the scores of both paths."""
    yield Note(f"held-out pictures, {when}: {format_scores(quality)}")


def format_scores(quality: ReconstructionScores) -> str:
    """The scores as `21.30 dB, SSIM 0.710 from codes; 28.10 dB, SSIM 0.930 from features`."""

    def words(likeness: Similarity) -> str:
        return f"{likeness.psnr:.2f} dB, SSIM {likeness.ssim:.3f}"

    return f"{words(quality.codes)} from codes; {words(quality.features)} from features"


def quality_json(before: ReconstructionScores, after: ReconstructionScores, pictures: int) -> str:
    """The content of quality.json."""
    table: dict[str, Any] = {
        "what": "means over held-out pictures: PSNR in dB, SSIM by Wang et al. (2004)",
        "pictures": pictures,
        "data_range": BYTE_RANGE,
    }
    for when, quality in (("before", before), ("after", after)):
        table[when] = {path: value._asdict() for path, value in quality._asdict().items()}
    return json.dumps(table, indent=2) + "\n"
