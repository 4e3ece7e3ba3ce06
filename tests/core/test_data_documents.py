"""Documents and pictures: what is valid, and the way to JSON and back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthus_core.data.document import Document, Segment, from_record, says, to_record
from orthus_core.data.pictures import BytesPicture, FilePicture, SpriteImage
from orthus_core.data.sprites import SpritePack
from orthus_core.errors import DataError


@pytest.fixture(scope="module")
def pack() -> SpritePack:
    return SpritePack.open()


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_a_document_survives_json(pack: SpritePack, png: Path):
    sprite = SpriteImage(pack, "2603", (1, 2, 3), mirror=True, grey=True)
    pictures = FilePicture(png), BytesPicture(png.read_bytes()), sprite
    document = Document(says("user", "hello", *pictures) + says("model", "yes"), "7", "test")
    record = json.loads(json.dumps(to_record(document)))
    assert from_record(record, pack=pack) == document


def test_a_relative_path_is_looked_up_in_the_data_folder_and_never_outside(png: Path):
    def record(path: str) -> dict:
        return {"segments": [{"type": "image", "role": "user", "path": path}]}

    (segment,) = from_record(record("a.png"), root=png.parent).segments
    assert segment.value == FilePicture(png)
    for path in ("../secret.png", "/etc/passwd"):
        with pytest.raises(DataError, match="leads out of the data folder"):
            from_record(record(path), root=png.parent)


@pytest.mark.parametrize(
    "segment, complaint",
    [
        ({"type": "sound", "role": "user", "value": "x"}, "segment type 'sound'"),
        ({"type": "text", "role": "god", "value": "x"}, "segment role 'god'"),
        ({"type": "text", "role": "user", "value": 3}, "holds int"),
        ({"type": "text", "role": "user"}, "holds NoneType"),
        ({"type": "image", "role": "user"}, "needs a 'path'"),
        ({"type": "image", "role": "user", "bytes": "%%"}, "no base64"),
        ({"type": "image", "role": "user", "value": {"sprite": "none"}}, "a known sprite"),
        (
            {
                "type": "image",
                "role": "user",
                "value": {"sprite": "2603", "background": [0, 0, 300]},
            },
            "three levels",
        ),
        ("text", "a segment is a str"),
    ],
)
def test_a_bad_segment_is_named(pack: SpritePack, segment, complaint: str):
    good = {"type": "text", "role": "user", "value": "x"}
    with pytest.raises(DataError, match=complaint) as caught:
        from_record({"segments": [good, segment]}, pack=pack)
    assert caught.value.where == "segments[1]"


@pytest.mark.parametrize("record", [{}, {"segments": "x"}, [], "text"])
def test_a_record_without_segments_is_refused(record):
    with pytest.raises(DataError, match="needs a list of 'segments'"):
        from_record(record)


def test_the_user_comes_before_the_model():
    with pytest.raises(DataError, match="must come before"):
        Document(says("model", "yes") + says("user", "why?"))
    with pytest.raises(DataError, match="at least one segment"):
        Document(())


def test_text_is_no_picture():
    with pytest.raises(DataError, match="holds str, not a picture"):
        Segment("image", "user", "a.png")


def test_two_pictures_share_a_key_only_when_their_pixels_are_the_same(pack: SpritePack, png: Path):
    plain = SpriteImage(pack, "2603")
    others = [
        SpriteImage(pack, "1f431"),
        SpriteImage(pack, "2603", (0, 0, 0)),
        SpriteImage(pack, "2603", mirror=True),
        SpriteImage(pack, "2603", grey=True),
    ]
    assert plain.key == SpriteImage(pack, "2603").key
    assert len({plain.key, *(other.key for other in others)}) == 5

    before = FilePicture(png).key
    Image.new("RGB", (9, 9)).save(png)
    assert FilePicture(png).key != before
    assert BytesPicture(b"a").key != BytesPicture(b"b").key


def test_a_grey_sprite_has_no_colour(pack: SpritePack):
    pixels_HW3 = SpriteImage(pack, "1f34e", grey=True).load(16).astype(int)
    assert np.ptp(pixels_HW3, axis=2).max() == 0
    assert np.ptp(SpriteImage(pack, "1f34e").load(16).astype(int), axis=2).max() > 50


def test_pictures_from_files_and_bytes_are_framed_alike(tmp_path: Path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    loaded = FilePicture(path).load(8)
    assert loaded.shape == (8, 8, 3)
    assert np.array_equal(loaded, BytesPicture(buffer.getvalue()).load(8))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no such picture"):
        _ = FilePicture(tmp_path / "none.png").key
