"""What a result says of itself, read back; sheets of pictures; places that cannot be written to."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from orthus_core.errors import DataError, OutputError
from orthus_core.image_grid import GAP, columns_for, contact_sheet
from orthus_core.results.metadata import GenerationInfo, pixel_hash, save_picture, save_sidecar
from orthus_core.results.output_names import check_distinct, check_free, slug
from orthus_core.results.record import (
    asked_of,
    circumstances,
    distance,
    find_inputs,
    read_made,
    run_of,
)

MAKING = GenerationInfo(
    recipe={"command": "generate", "model": "mini", "seeds": [7]},
    prompt="a snowman ☃",
    seed=7,
    sampling={"steps": 10, "guidance": 1.5, "image_guidance": 1.5, "negative_prompt": "Nothing."},
    model={"name": "mini", "hash": "00", "device": "cpu", "dtype": "fp32"},
)


@pytest.fixture
def image() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((16, 16))


def test_a_picture_and_its_sidecar_say_the_same(tmp_path, image):
    path = tmp_path / "out.png"
    save_picture(image, path, MAKING)
    save_sidecar(image, path, MAKING)
    inside, beside = read_made(path), read_made(tmp_path / "out.json")
    assert inside.info == beside.info == MAKING
    assert inside.pixels == beside.pixels == {1: pixel_hash(image)}
    assert inside.seen == pixel_hash(image) and beside.seen is None


def test_what_was_asked_holds_the_models_defaults_of_that_day(tmp_path, image):
    path = tmp_path / "out.png"
    save_picture(image, path, MAKING)
    asked = asked_of(read_made(path))
    assert asked["steps"] == 10 and asked["negative_prompt"] == "Nothing."
    assert "image_guidance" not in asked, "generate has no such key"


def test_a_run_is_found_by_its_subjects_and_seeds(tmp_path, image):
    path = tmp_path / "out.png"
    among = {"prompts": ["a fox", MAKING.prompt], "seeds": [6, 7]}
    save_picture(image, path, MAKING._replace(among=among))
    run = run_of(read_made(path))
    assert run is not None and run.pictures == 4 and run.place == 3
    save_picture(
        image, path, MAKING._replace(among={"prompts": ["other"], "seeds": [7]}), overwrite=True
    )
    assert run_of(read_made(path)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "lacks 'prompt'"),
        ({"seed": "7"}, "no usable 'seed'"),
        ({"seed": True}, "no usable 'seed'"),
        ({"inputs": [1]}, "no usable 'inputs'"),
        ({"recipe": {"command": "rm"}}, "no command that draws"),
        ({"pixels": 3}, "no hash of its pixels"),
        ({"prompt": "\ud800"}, "broken text"),
    ],
)
def test_a_record_that_cannot_be_is_named(tmp_path, image, change, message):
    save_sidecar(image, tmp_path / "out.png", MAKING)
    path = tmp_path / "out.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(DataError, match=message):
        read_made(path)


def test_inputs_are_known_by_their_pixels_wherever_they_lie(tmp_path, image):
    lay = tmp_path / "before" / "cat.png"
    info = MAKING._replace(inputs=(pixel_hash(image),), files=(str(lay),))
    out = tmp_path / "out.png"
    save_picture(image, out, info)
    record = read_made(out)
    with pytest.raises(DataError, match=r"cat\.png is gone"):
        find_inputs(record)
    image.save(tmp_path / "cat.png")  # beside the result
    assert find_inputs(record) == [tmp_path / "cat.png"]
    Image.new("RGB", (3, 3)).save(tmp_path / "cat.png")
    with pytest.raises(DataError, match="with other pixels"):
        find_inputs(record)
    image.save(tmp_path / "given.bmp")
    assert find_inputs(record, [tmp_path / "given.bmp"]) == [tmp_path / "given.bmp"]


def test_what_differs_between_two_drawings_is_measured(tmp_path, image):
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    save_picture(image, one, MAKING)
    save_picture(image, other, MAKING._replace(model=MAKING.model | {"dtype": "bf16"}))
    (difference,) = circumstances(read_made(one), read_made(other))
    assert difference == ("dtype", "fp32", "bf16")
    black, changed = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16))
    changed.putpixel((0, 0), (9, 0, 0))
    assert distance(black, changed) == (1, 16 * 16 * 3, 9)
    assert distance(image, image.resize((4, 4))) is None


def test_a_sheet_holds_every_picture_where_it_belongs():
    shades = [Image.new("RGB", (8, 6), (shade, 0, 0)) for shade in (10, 20, 30, 40, 50)]
    sheet = contact_sheet(shades, columns=2)
    assert sheet.size == (2 * 8 + GAP, 3 * 6 + 2 * GAP)
    assert sheet.getpixel((0, 6 + GAP)) == (30, 0, 0)
    assert sheet.getpixel((8 + GAP, 2 * (6 + GAP))) == (255, 255, 255)
    assert [columns_for(n, per_prompt=p) for n, p in ((6, 3), (9, 9), (5, 1), (1, 1))] == [
        3,
        3,
        3,
        1,
    ]


def test_long_letters_are_cut_between_letters():
    assert len(slug("🦊雪" * 100).encode()) <= 180 and slug("雪" * 100) == "雪" * 60
    assert len((slug("𝒳" * 100) + "_9223372036854775807.png").encode()) < 255


def test_two_results_are_never_one_file(tmp_path):
    with pytest.raises(OutputError, match="same file"):
        check_distinct([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"])


def test_a_place_that_is_closed_is_told_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(OutputError, match="may not be written"):
        check_free(tmp_path / "new" / "folder" / "out.png")
