"""A metric in which a window of a picture is near the sprite that it shows.

1. Windows. The picture is enlarged to several sizes. In each, a window of 96 pixels moves in steps
   of 16 pixels; it is 3 x 3 blocks of EfficientNet-Lite0's map at stride 16, whose vectors have
   length 1.
2. Metric. Sprites are rendered on random backdrops, at random places and sizes, with random
   neighbours and colours, and seen through the nearest window. Vectors are whitened by the pooled
   covariance within classes (linear discriminant analysis: Fisher 1936, Rao 1948). A class is a
   sprite, and its reference is its mean. Only true renderings are used.
3. Nothing. A further reference is the mean of blurred renderings in which nobody recognises a
   thing. A window's score for a thing is the cosine of its vector and the thing's reference, minus
   the cosine of its vector and nothing; so a blob of a thing's colours scores low.

The network has never seen the blur of our autoencoders, and nothing here depends on the raster, the
sizes or the backdrops of scenes, or on the size of the picture.

Legend: M pictures, H W pixels, D values of a window, i j its row and column, K sprites, N samples,
    c h w channels and grid of a map, L windows in reading order, k values of a kernel.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.evaluation import efficientnet as network
from orthus_core.evaluation.efficientnet import efficientnet, weights_file
from orthus_core.world.backdrops import BACKDROPS
from orthus_core.world.benchmark.kept_fit import fit_file, keep_fit, read_fit
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import UNITS, WHOLE, Scene, SceneImage, Thing
from orthus_core.world.sprites import SpritePack
from orthus_core.world.world import World

# Sides in pixels to which a picture is enlarged, and of a window; so windows are 64, 48, 38, 30 and
# 24 units wide. A window may reach over the picture's edge by PADDING pixels, where its edge goes
# on. Cells are pixels of the network's map, and blocks have 2 x 2 of them.
SIZES = (96, 128, 160, 208, 256)
WINDOW, PADDING, CELL, LEVELS = 96, 32, 16, 5
GRID = 3

# Renderings: their sides in pixels, the number of each thing, and the share on white.
RENDERED = (64, 128)
SAMPLES = 8
WHITE_CHANCE = 0.3
# Sides of things relative to their window, and tries to place another one beside them.
LEAST_SCALE, MOST_SCALE = 0.87, 1.15
PLACES_TRIED = 12
# Standard deviations of blurs that leave nothing to recognise, as shares of a thing's side.
LEAST_BLUR, MOST_BLUR = 0.1, 0.15
# Renderings that pass through the network together: their maps fit into a processor's cache.
TOGETHER = 2
# Share of the covariance that is replaced by a multiple of the identity.
SHRINKAGE = 0.3

# Code of which a change may change the metric: that of the small world, this file and the network.
WORLD_FOLDER = Path(__file__).parent.parent
SOURCES = (Path(__file__), Path(network.__file__))

_metrics: dict[tuple[str, ...], SpriteMetric] = {}


class SpriteMetric(NamedTuple):
    """The metric of a world's scenes.

    Attributes:
        centre_D: Mean of the sprites' means.
        whitening_DD: Matrix after which every sprite varies alike in all directions.
        sprites_KD: Reference of each sprite in style 3d, in the order of `sprites_of_cast`.
        nothing_D: Reference of what nobody recognises.
    """

    centre_D: Tensor
    whitening_DD: Tensor
    sprites_KD: Tensor
    nothing_D: Tensor

    @classmethod
    def of(cls, world: World) -> SpriteMetric:
        """The metric of a world's cast. It is fitted once, in about 20 seconds, and then read from
        the user's cache.

        Raises:
            OrthusError: When the optional package with the network's weights is not installed.
        """
        sprites = sprites_of_cast(world)
        key = (world.pack.digest, *(key for _, key in sprites))
        if key not in _metrics:
            _metrics[key] = _kept_metric(world, sprites)
        return _metrics[key]

    def whitened(self, vectors_D: Tensor) -> Tensor:
        """Vectors of windows in the metric, with length 1: [..., D]."""
        return F.normalize((vectors_D - self.centre_D) @ self.whitening_DD, dim=-1)

    def references(self, packs: Mapping[str, SpritePack], things: Sequence[Thing]) -> Tensor:
        """References of further things, from one rendering of each: [K, D]."""
        scenes = [Scene("white", (Thing(t.sprite, style=t.style),)) for t in things]
        loaded = [unit_range_of_bytes(SceneImage(packs, s).load(RENDERED[-1])) for s in scenes]
        return self.whitened(torch.stack([whole_vector(picture) for picture in loaded]))

    def scores(self, picture_3HW: Tensor, references_KD: Tensor, size: int) -> Tensor:
        """Scores of all windows at a size, at most 1: [i, j, K].

        Args:
            picture_3HW: Picture in 0..1.
            references_KD: References of the things.
            size: One of `SIZES`.
        """
        whitened_ijD = self.whitened(window_vectors(picture_3HW[None], size)[0])
        nothing_ij1 = (whitened_ijD @ self.nothing_D).clamp_min(0)[..., None]
        return whitened_ijD @ references_KD.T - nothing_ij1


def sprites_of_cast(world: World) -> list[tuple[str, str]]:
    """Noun and key of all sprites of a world's cast in style 3d."""
    return [(noun, s.key) for noun in world.cast for s in world.variants(noun)]


def _kept_metric(world: World, sprites: Sequence[tuple[str, str]]) -> SpriteMetric:
    """The metric from its file, or fitted and kept there."""
    weights = hashlib.sha256(weights_file().read_bytes()).hexdigest()
    versions = [torch.__version__, np.__version__, PIL.__version__]
    about = json.dumps([world.pack.digest, sprites, weights, versions])
    path = fit_file("sprite-metric", [about], [*SOURCES, *sorted(WORLD_FOLDER.glob("*.py"))])
    kept = read_fit(path) if path else None
    if kept is None:
        rng = random.Random(0)
        true_ND, sprite_N = rendered_windows(rng, world, sprites, SAMPLES)
        blurred_ND, _ = rendered_windows(rng, world, sprites, 1, blurred=True)
        # Products round by the layout of a matrix, so all of them have that of the file.
        metric = fitted(true_ND, sprite_N, blurred_ND)
        kept = {name: tensor.contiguous() for name, tensor in metric._asdict().items()}
        if path:
            keep_fit(path, kept)
    return SpriteMetric(**kept)


def fitted(true_ND: Tensor, sprite_N: Tensor, blurred_ND: Tensor) -> SpriteMetric:
    """Fits the metric to windows of true renderings, and nothing to those of blurred ones.

    Args:
        true_ND, sprite_N: Vectors, and the number of the sprite that each shows.
        blurred_ND: Vectors of blurred renderings.
    """
    sprites = int(sprite_N.max()) + 1
    mean_KD = torch.stack([true_ND[sprite_N == number].mean(0) for number in range(sprites)])
    rest_ND = true_ND - mean_KD[sprite_N]
    covariance_DD = rest_ND.T @ rest_ND / max(1, len(rest_ND) - sprites)
    identity_DD = torch.eye(len(covariance_DD)) * covariance_DD.diagonal().mean()
    covariance_DD = torch.lerp(covariance_DD, identity_DD, SHRINKAGE)
    whitening_DD = torch.linalg.inv(torch.linalg.cholesky(covariance_DD)).T
    metric = SpriteMetric(mean_KD.mean(0), whitening_DD, mean_KD, blurred_ND.mean(0))
    return metric._replace(
        sprites_KD=metric.whitened(mean_KD), nothing_D=metric.whitened(metric.nothing_D)
    )


@torch.no_grad()
def rendered_windows(
    rng: random.Random,
    world: World,
    sprites: Sequence[tuple[str, str]],
    samples: int,
    *,
    blurred: bool = False,
) -> tuple[Tensor, Tensor]:
    """Vectors of rendered sprites [N, D], and the number of each [N].

    Args:
        rng: Random numbers.
        world: World whose sprites are rendered.
        sprites: Noun and key of each.
        samples: Renderings of each.
        blurred: Whether to blur them until nothing can be recognised.
    """
    waiting = list(range(len(sprites))) * samples
    rng.shuffle(waiting)
    rendered: dict[int, list[tuple[Tensor, list[tuple[int, Thing]]]]] = {size: [] for size in SIZES}
    while waiting:
        size, pixels = rng.choice(SIZES), rng.choice(RENDERED)
        things = _random_things(rng, world, sprites, waiting, WINDOW * UNITS / size)
        backdrop = "white" if rng.random() < WHITE_CHANCE else rng.choice(BACKDROPS)
        scene = Scene(backdrop, tuple(thing for _, thing in things))
        picture_3HW = unit_range_of_bytes(world.scene_image(scene).load(pixels))
        if blurred:
            share = rng.uniform(LEAST_BLUR, MOST_BLUR)
            picture_3HW = blur(picture_3HW, share * scene.things[0].side * pixels / UNITS)
        rendered[size].append((enlarged(picture_3HW[None], size)[0], things))
    vectors, numbers = [], []
    for size, pictures in rendered.items():
        for start in range(0, len(pictures), TOGETHER):
            together = pictures[start : start + TOGETHER]
            windows_MijD = vectors_of(torch.stack([picture for picture, _ in together]))
            for windows_ijD, (_, things) in zip(windows_MijD, together, strict=True):
                vectors += [windows_ijD[nearest_window(thing, size)] for _, thing in things]
                numbers += [number for number, _ in things]
    return torch.stack(vectors), torch.tensor(numbers)


def _random_things(
    rng: random.Random,
    world: World,
    sprites: Sequence[tuple[str, str]],
    waiting: list[int],
    window: float,
) -> list[tuple[int, Thing]]:
    """The last waiting sprites, as many as find room, with about a window's side; they are removed
    from those that wait.
    """
    side = min(WHOLE, round(window * rng.uniform(LEAST_SCALE, MOST_SCALE)))
    things: list[tuple[int, Thing]] = []
    for _ in range(PLACES_TRIED):
        place = (rng.randint(0, UNITS - side), rng.randint(0, UNITS - side))
        if not waiting or any(Thing("", *place, side).overlaps(thing) for _, thing in things):
            continue
        number = waiting.pop()
        noun, key = sprites[number]
        mirror = world.mirrors(key) and rng.random() < 0.5
        colour = rng.choice(["", *HUES]) if noun in COLOURED else ""
        things.append((number, Thing(key, *place, side, colour, mirror=mirror)))
    return things


def window_vectors(pictures_M3HW: Tensor, size: int) -> Tensor:
    """The vectors of all windows of pictures enlarged to one of `SIZES`: [M, i, j, D].

    Args:
        pictures_M3HW: Pictures in 0..1.
        size: Side in pixels to which they are enlarged.
    """
    return vectors_of(enlarged(pictures_M3HW, size))


def enlarged(pictures_M3HW: Tensor, size: int) -> Tensor:
    """Pictures in 0..1 as the network reads them: in -1..1, with a side of `size` pixels."""
    return F.interpolate(
        pictures_M3HW.float() * 2 - 1, (size, size), mode="bicubic", antialias=True
    )


def vectors_of(enlarged_M3HW: Tensor) -> Tensor:
    """The vectors of all windows of enlarged pictures: [M, i, j, D]."""
    across = (enlarged_M3HW.shape[-1] + 2 * PADDING - WINDOW) // CELL + 1
    padded_M3HW = F.pad(enlarged_M3HW, (PADDING,) * 4, mode="replicate")
    map_Mchw = F.normalize(efficientnet().maps(padded_M3HW, LEVELS)[-1], dim=1)
    blocks_Mchw = F.avg_pool2d(map_Mchw, 2, stride=1)
    windows_MLD = F.unfold(blocks_Mchw, GRID, dilation=2).transpose(1, 2)
    return windows_MLD.unflatten(1, (across, across))


def whole_vector(picture_3HW: Tensor) -> Tensor:
    """The vector of the window that is the whole picture, in 0..1: [D]."""
    first = PADDING // CELL
    return window_vectors(picture_3HW[None], WINDOW)[0, first, first]


def window_box(i: int, j: int, size: int) -> tuple[float, float, float]:
    """Left and upper edge of a window and its side, in 64ths of the picture's side."""
    unit = size / UNITS
    return (j * CELL - PADDING) / unit, (i * CELL - PADDING) / unit, WINDOW / unit


def nearest_window(thing: Thing, size: int) -> tuple[int, int]:
    """Row and column of the window whose centre is nearest to a thing's."""
    last = (size + 2 * PADDING - WINDOW) // CELL
    x, y = ((c * size / UNITS + PADDING - WINDOW / 2) / CELL for c in thing.centre)
    return min(max(round(y), 0), last), min(max(round(x), 0), last)


def blur(picture_3HW: Tensor, deviation: float) -> Tensor:
    """A picture blurred by a Gaussian with this standard deviation in pixels."""
    radius = int(3 * deviation) + 1
    offsets_k = torch.arange(-radius, radius + 1)
    kernel_k = torch.softmax(-0.5 * (offsets_k / deviation) ** 2, 0)
    padded_31HW = F.pad(picture_3HW[:, None], (radius,) * 4, mode="replicate")
    across_31HW = F.conv2d(padded_31HW, kernel_k.view(1, 1, 1, -1))
    return F.conv2d(across_31HW, kernel_k.view(1, 1, -1, 1))[:, 0]


def unit_range_of_bytes(pixels_HWc: np.ndarray) -> Tensor:
    """Converts values in 0..255 [H, W, c] to values in 0..1, [c, H, W]."""
    return torch.from_numpy(pixels_HWc.astype(np.float32) / 255).permute(2, 0, 1)
