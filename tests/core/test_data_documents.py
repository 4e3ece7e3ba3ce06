"""Documents and pictures: what is valid, and the way to JSON and back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from orthus_core.data import pictures
from orthus_core.data.document import Document, Segment, from_record, to_record, turn
from orthus_core.data.formats.sniff import read
from orthus_core.data.pictures import BytesPicture, FilePicture
from orthus_core.errors import DataError
from orthus_core.world.picture_kinds import register_picture_kinds
from orthus_core.world.scene import Scene, SceneImage, Thing
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import STARTER_STYLES, SpritePack


@pytest.fixture(scope="module")
def pack() -> SpritePack:
    return SpritePack.open()


@pytest.fixture(scope="module")
def flat() -> SpritePack:
    return SpritePack.open(STARTER_STYLES["flat"])


@pytest.fixture(autouse=True)
def known_sprites(pack: SpritePack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records may name sprites of this pack; what a test registers ends with it."""
    monkeypatch.setattr(pictures, "_KINDS", {})
    register_picture_kinds({"3d": pack})


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_a_document_survives_json(pack: SpritePack, png: Path):
    sprite = SpriteImage(pack, "2603", (1, 2, 3), mirror=True, grey=True)
    pictures = FilePicture(png), BytesPicture(png.read_bytes()), sprite
    document = Document(turn("user", "hello", *pictures) + turn("model", "yes"), "7", "test")
    record = json.loads(json.dumps(to_record(document)))
    assert from_record(record) == document


def a_scene(style: str = "3d") -> Scene:
    cat = Thing("1f431", 0, 32, 32, style=style)
    return Scene("beach night", (cat, Thing("1f697", 32, 32, 32, "blue", style, mirror=True)))


def test_a_scene_survives_json_as_what_it_shows(pack: SpritePack, flat: SpritePack):
    styles = {"3d": pack, "flat": flat}
    register_picture_kinds(styles)
    document = Document(
        turn("user", SceneImage(styles, a_scene()))
        + turn("model", SceneImage(styles, a_scene("flat")))
    )
    record = json.loads(json.dumps(to_record(document)))
    read = from_record(record)
    assert read == document
    for before, after in zip(document.segments, read.segments, strict=True):
        assert isinstance(before.value, SceneImage) and isinstance(after.value, SceneImage)
        assert np.array_equal(before.value.load(32), after.value.load(32))


def test_a_sprite_of_a_further_style_reads_back_from_its_own_pack(
    pack: SpritePack, flat: SpritePack
):
    document = Document(turn("model", SpriteImage(flat, "1f431")))
    record = json.loads(json.dumps(to_record(document)))
    register_picture_kinds({"3d": pack, "flat": flat})
    (segment,) = from_record(record).segments
    assert isinstance(segment.value, SpriteImage) and segment.value.pack is flat
    register_picture_kinds({"3d": pack})
    with pytest.raises(DataError, match="not a known sprite"):
        from_record(record)


def test_a_file_of_records_may_hold_scenes(tmp_path: Path, pack: SpritePack, flat: SpritePack):
    document = Document(turn("model", SceneImage({"flat": flat}, a_scene("flat"))))
    path = tmp_path / "scenes.jsonl"
    path.write_text(json.dumps(to_record(document)) + "\n")
    register_picture_kinds({"3d": pack, "flat": flat})
    assert read(path).documents == [document]
    register_picture_kinds({"3d": pack})
    reading = read(path)
    assert reading.documents == [] and reading.fault_count == 1
    assert "'1f431' is not a known sprite in style 'flat'" in reading.faults[0].problem


@pytest.mark.parametrize(
    "scene, complaint",
    [
        ("a cat", "a scene is a str"),
        ({"backdrop": "the moon"}, "no backdrop 'the moon'"),
        ({"things": ["1f431"]}, "cannot read the scene"),
        ({"things": [{"sprite": "1f431", "wings": 2}]}, "cannot read the scene"),
        ({"things": [{"sprite": ["1f431"]}]}, "cannot read the scene"),
        ({"things": [{"sprite": "1f431", "colour": ["red"]}]}, "must be words"),
        ({"things": [{"sprite": "1f431", "x": 40, "side": 32}]}, "not inside"),
        ({"things": [{"sprite": "none"}]}, "'none' is not a known sprite in style '3d'"),
        ({"things": [{"sprite": "1f431", "style": "noto"}]}, "no style 'noto'"),
        ({"things": [{"sprite": "none", "style": "flat"}]}, "in style 'flat'"),
    ],
)
def test_a_bad_scene_is_named(pack: SpritePack, scene, complaint: str):
    segment = {"type": "image", "role": "user", "value": {"scene": scene}}
    with pytest.raises(DataError, match=complaint) as caught:
        from_record({"segments": [segment]})
    assert caught.value.where == "segments[0]"


def test_a_document_of_a_missing_picture_is_made_and_fails_when_it_is_loaded(tmp_path: Path):
    missing = FilePicture(tmp_path / "none.png")
    assert Document(turn("user", missing)).segments[0].value is missing
    with pytest.raises(DataError):
        missing.load(8)


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
        (
            {"type": "image", "role": "user"},
            "needs a 'path', 'bytes' or a 'value' with 'scene' or 'sprite'",
        ),
        ({"type": "image", "role": "user", "bytes": "%%"}, "no base64"),
        ({"type": "image", "role": "user", "value": {"sprite": "none"}}, "not a known sprite"),
        ({"type": "image", "role": "user", "value": {"sprite": [1]}}, "not a known sprite"),
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
        from_record({"segments": [good, segment]})
    assert caught.value.where == "segments[1]"


@pytest.mark.parametrize("record", [{}, {"segments": "x"}, [], "text"])
def test_a_record_without_segments_is_refused(record):
    with pytest.raises(DataError, match="needs a list of 'segments'"):
        from_record(record)


def test_neighbours_of_one_role_are_a_turn_and_turns_come_in_any_order(png: Path):
    asked, answered = turn("user", FilePicture(png), "what is it?"), turn("model", "a square")
    again, drawn = turn("user", "draw it"), turn("model", FilePicture(png))
    chat = Document(asked + answered + again + drawn)
    assert [tuple(each) for each in chat.turns] == [
        *(("user", asked), ("model", answered), ("user", again), ("model", drawn)),
    ]
    assert from_record(json.loads(json.dumps(to_record(chat)))) == chat
    assert [role for role, _ in Document(answered + asked).turns] == ["model", "user"]


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


def test_a_kind_that_nobody_registered_is_refused_by_what_is_known(monkeypatch):
    segment = {"type": "image", "role": "user", "value": {"scene": {}}}
    monkeypatch.setattr(pictures, "_KINDS", {})
    with pytest.raises(DataError, match="needs a 'path' or 'bytes'\n"):
        from_record({"segments": [segment]})


def test_a_kind_of_ones_own_is_read_and_written(monkeypatch):
    class Dot(NamedTuple):
        colour: str

        @property
        def key(self) -> str:
            return f"dot:{self.colour}"

        @property
        def record_value(self) -> dict[str, str]:
            return {"dot": self.colour}

        def load(self, size: int) -> np.ndarray:
            return np.array(Image.new("RGB", (size, size), self.colour))

    monkeypatch.setattr(pictures, "_KINDS", {})
    pictures.register_picture_kind("dot", lambda value: Dot(value["dot"]))
    document = Document(turn("model", Dot("red")))
    assert from_record(json.loads(json.dumps(to_record(document)))) == document
