"""The detector on pictures whose content is known."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from orthus_core.world.arrange import arrange
from orthus_core.world.backdrops import BACKDROPS, paint
from orthus_core.world.benchmark.detector import (
    Detection,
    Detector,
    nearest_backdrop,
    overlap,
    suppress_overlaps,
    unit_range_of_bytes,
)
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.world import World


@pytest.fixture(scope="module")
def detector(world) -> Detector:
    return Detector(world)


def scenes(world: World, count: int) -> list[Scene]:
    rng = random.Random(3)
    made = []
    while len(made) < count:
        things = []
        for noun in rng.sample(list(world.cast), rng.randint(1, 4)):
            colour = rng.choice(list(HUES)) if noun in COLOURED else ""
            things.append(Thing(world.cast[noun].key, colour=colour))
        scene = arrange(rng, things, rng.choice(BACKDROPS))
        made += [scene] if world.stands_out(scene) else []
    return made


def seen(world: World, scene: Scene, size: int = 64) -> torch.Tensor:
    return unit_range_of_bytes(world.scene_image(scene).load(size))


def placed(found: list[Detection]) -> set[tuple]:
    return {(d.noun, d.colour, d.x, d.y, d.side) for d in found}


def true_of(world: World, detector: Detector, scene: Scene) -> set[tuple]:
    named = zip(world.nouns(scene), scene.things, strict=True)
    return {(n, detector.apparent_colour(n, t.colour), t.x, t.y, t.side) for n, t in named}


def test_every_thing_of_a_true_scene_is_found_and_nothing_else(world, detector):
    for scene in scenes(world, 24):
        found = detector.find(seen(world, scene))
        assert placed(found) == true_of(world, detector, scene), scene
        assert all(detection.score > 0.97 for detection in found)


def test_blur_and_noise_of_an_autoencoder_change_nothing(world, detector):
    offsets = torch.arange(-3.0, 4.0)
    gauss = torch.exp(-0.5 * (offsets / 1.2) ** 2)
    kernel = (gauss[:, None] * gauss / gauss.sum() ** 2).expand(3, 1, 7, 7)
    random_numbers = torch.Generator().manual_seed(0)
    for scene in scenes(world, 12):
        picture = seen(world, scene, 128)
        blurred = F.conv2d(F.pad(picture[None], (3,) * 4, mode="replicate"), kernel, groups=3)[0]
        blurred += 0.02 * torch.randn(blurred.shape, generator=random_numbers)
        assert placed(detector.find(blurred.clamp(0, 1))) == true_of(world, detector, scene), scene


def test_a_larger_picture_is_found_in_all_the_same(world, detector):
    (scene,) = scenes(world, 1)
    found = detector.find(seen(world, scene, 128))
    nouns = {noun for noun, *_ in true_of(world, detector, scene)}
    assert {detection.noun for detection in found} == nouns


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_nothing_stands_on_an_empty_backdrop_which_is_known(detector, backdrop):
    picture = unit_range_of_bytes(paint(backdrop, 64))
    assert detector.find(picture) == []
    assert nearest_backdrop(picture) == backdrop


def test_noise_is_no_sprite(detector):
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert detector.find(noise) == []


def test_a_detection_tells_the_colour_that_was_laid_on(world, detector):
    for colour in HUES:
        scene = Scene("white", (Thing(world.cast["car"].key, colour=colour),))
        (found,) = detector.find(seen(world, scene))
        assert (found.noun, found.colour) == ("car", colour)


def test_of_overlapping_detections_the_first_stays():
    first = Detection("dog", "", 0, 0, 32, 0.9)
    over = Detection("cat", "", 8, 8, 32, 0.99)
    beside = Detection("cat", "", 32, 0, 32, 0.8)
    inside = Detection("bell", "", 40, 8, 16, 0.8)
    assert suppress_overlaps([first, over, beside, inside]) == [first, beside]
    assert overlap(beside, inside) == 1.0 and overlap(first, beside) == 0.0
