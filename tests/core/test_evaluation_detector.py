"""The detector on pictures whose content is known, and beside an observer's yes and no."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthus_core.world.arrange import arrange
from orthus_core.world.backdrops import BACKDROPS, paint
from orthus_core.world.benchmark.detector import (
    Detection,
    Detector,
    nearest_backdrop,
    overlap,
    suppress_overlaps,
)
from orthus_core.world.benchmark.edit_task import MOST_OFFSET
from orthus_core.world.benchmark.sprite_metric import blur, unit_range_of_bytes
from orthus_core.world.cast import COLOURED
from orthus_core.world.recolour import HUES
from orthus_core.world.scene import Scene, Thing
from orthus_core.world.world import World

CROPS = Path(__file__).parent / "judge_crops.json"
# The threshold was chosen on these; docs/evaluation.md says about which the detector disagrees.
CROPS_SECOND = Path(__file__).parent / "judge_crops_second.json"
# Of the present world and its model; the detector was not changed after it was run on them.
CROPS_THIRD = Path(__file__).parent / "judge_crops_third.json"
ACROSS, TILE = 12, 96
# Crops that leave no doubt: true, decoded, drawn well, drawn as a blob, another thing, blurred.
PLAIN = (5, 17, 21, 23, 24, 26, 33, 46, 54, 62, 65, 70, 72, 92, 108)


@pytest.fixture(scope="module")
def detector(world) -> Detector:
    return Detector(world)


def scenes(world: World, count: int, seed: int = 3) -> list[Scene]:
    rng = random.Random(seed)
    made = []
    while len(made) < count:
        things = []
        for noun in rng.sample(list(world.cast), 1 + len(made) % 4):
            colour = rng.choice(list(HUES)) if noun in COLOURED else ""
            things.append(Thing(world.cast[noun].key, colour=colour))
        scene = arrange(rng, things, rng.choice(BACKDROPS))
        made += [scene] if world.stands_out(scene) else []
    return made


def seen(world: World, scene: Scene, size: int = 128) -> torch.Tensor:
    return unit_range_of_bytes(world.scene_image(scene).load(size))


def nouns(found: list[Detection]) -> list[str]:
    return sorted(detection.noun for detection in found)


def test_every_thing_of_a_true_scene_is_found_where_it_is_and_nothing_else(world, detector):
    for number, scene in enumerate(scenes(world, 8)):
        found = detector.find(seen(world, scene, (96, 128)[number % 2]))
        assert nouns(found) == sorted(world.nouns(scene)), scene
        for true in detector.truth(world, scene):
            same = [each for each in found if each.noun == true.noun]
            off = max(abs(m - n) for m, n in zip(same[0].centre, true.centre, strict=True))
            assert off <= MOST_OFFSET, (scene, true)


def test_a_thing_off_the_raster_of_scenes_is_found_and_named_with_its_colour(world, detector):
    right = 0
    for number, colour in enumerate(HUES):
        thing = Thing(world.cast["car"].key, 5, 3 + number, 27, colour, mirror=bool(number % 2))
        (found,) = detector.find(seen(world, Scene("meadow rain", (thing,))))
        assert found.noun == "car"
        right += found.colour == colour
    assert right >= len(HUES) - 1


def test_what_is_blurred_until_nobody_knows_it_is_nothing(world, detector):
    for scene in scenes(world, 4, seed=4):
        picture = seen(world, scene)
        deviation = 0.12 * scene.things[0].side * 2
        assert len(set(nouns(detector.find(blur(picture, deviation))))) <= 1, scene
        assert nouns(detector.find(blur(picture, deviation))) != sorted(world.nouns(scene))


def test_gradients_noise_and_blobs_are_nothing(detector):
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, 128).expand(3, 128, 128)
    blob = torch.ones(3, 128, 128)
    blob[1:, 40:90, 20:70] = 0.2
    blob[:, 70:100, 60:110] = torch.tensor([0.3, 0.8, 0.4])[:, None, None]
    for picture in (noise, ramp, ramp.transpose(1, 2), blur(blob, 9)):
        assert detector.find(picture) == []


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_an_empty_backdrop_is_known(backdrop):
    assert nearest_backdrop(unit_range_of_bytes(paint(backdrop, 64))) == backdrop


def test_nothing_stands_on_an_empty_backdrop(detector):
    for backdrop in ("white", "black", "green", "meadow night", "beach sunset", "snow rain"):
        assert detector.find(unit_range_of_bytes(paint(backdrop, 128))) == [], backdrop


def test_two_things_that_change_places_are_found_in_each_others_place(world, detector):
    dog, cat = (Thing(world.cast[noun].key, side=32, y=16) for noun in ("dog", "cat"))
    for left, right in ((dog, cat), (cat, dog)):
        scene = Scene("white", (left, right)).with_thing(1, x=32)
        found = sorted(detector.find(seen(world, scene)), key=lambda each: each.x)
        assert [each.noun for each in found] == world.nouns(scene)


@pytest.mark.parametrize(
    ("crops_file", "count", "share"),
    [
        pytest.param(CROPS, 120, 0.84, marks=pytest.mark.slow),
        pytest.param(CROPS_SECOND, 384, 0.80, marks=pytest.mark.slow),
        (CROPS_THIRD, 120, 0.90),
    ],
    ids=["first", "second", "third"],
)
def test_the_detector_agrees_with_observers_about_crops(detector, crops_file, count, share):
    with Image.open(crops_file.with_suffix(".webp")) as image:
        sheet_3HW = unit_range_of_bytes(np.asarray(image.convert("RGB")))
    crops = json.loads(crops_file.read_text())["crops"]
    assert len(crops) == count
    agreed = []
    for number, crop in enumerate(crops):
        top, left = (TILE * place for place in divmod(number, ACROSS))
        found = detector.find(sheet_3HW[:, top : top + TILE, left : left + TILE])
        agreed.append((crop["asked"] in nouns(found)) == crop["yes"])
    assert sum(agreed) >= share * count, sum(agreed)


def test_crops_that_leave_no_doubt_are_judged_as_an_observer_did(detector):
    crops = json.loads(CROPS.read_text())["crops"]
    with Image.open(CROPS.with_suffix(".webp")) as image:
        sheet_3HW = unit_range_of_bytes(np.asarray(image.convert("RGB")))
    for number in PLAIN:
        top, left = (TILE * place for place in divmod(number, ACROSS))
        found = detector.find(sheet_3HW[:, top : top + TILE, left : left + TILE])
        assert (crops[number]["asked"] in nouns(found)) == crops[number]["yes"], number


def test_of_overlapping_detections_the_first_stays():
    first = Detection("dog", "", 0, 0, 32, 0.9)
    over = Detection("cat", "", 8, 8, 32, 0.99)
    beside = Detection("cat", "", 32, 0, 32, 0.8)
    inside = Detection("bell", "", 40, 8, 16, 0.8)
    assert suppress_overlaps([first, over, beside, inside]) == [first, beside]
    assert overlap(beside, inside) == 1.0 and overlap(first, beside) == 0.0
