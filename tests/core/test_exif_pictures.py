"""JPEG and WebP files that tell how they were made, and EXIF data that nobody can trust."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.data.exif_texts import exif_block, text_of
from orthus_core.errors import DataError, OutputError
from orthus_core.results.metadata import (
    GenerationInfo,
    common_text,
    pixel_hash,
    read_record,
    read_text,
    save_picture,
)
from orthus_core.results.output_names import Named, picture_paths
from orthus_core.results.record import read_made

MAKING = GenerationInfo(
    recipe={"command": "generate", "model": "mini", "seeds": [7]},
    prompt="a snowman ☃\nat night",
    seed=7,
    sampling={"steps": 10, "guidance": 1.5, "image_guidance": 1.5, "negative_prompt": "Nothing."},
    model={"name": "mini", "hash": "00", "device": "cpu", "dtype": "fp32"},
)
TEXTS = {"parameters": "a snowman ☃\nSteps: 3", "orthus": '{"prompt": "☃"}'}
KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((16, 16), 80).convert("RGB")


def encoded(kind: str, exif: bytes = b"", **more) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((16, 16)).save(file, kind, exif=exif, **more)
    return file.getvalue()


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_of_each_kind_carries_the_same_metadata_as_a_png(tmp_path, image, suffix):
    path = tmp_path / f"out{suffix}"
    save_picture(image, path, MAKING)
    with Image.open(path) as saved:
        assert saved.format == KINDS[suffix]
        fields = saved.getexif().get_ifd(0x8769)
    # Where other tools look for it.
    comment = fields[0x9286]
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be") == common_text(image, MAKING)
    assert read_text(path, "parameters") == common_text(image, MAKING)
    save_picture(image, tmp_path / "out.png", MAKING)
    record, of_png = read_record(path), read_record(tmp_path / "out.png")
    assert record is not None and of_png is not None
    record.pop("stored", None)
    assert record == of_png and record["pixels"] == pixel_hash(image)
    save_picture(image, path, None, overwrite=True)
    assert read_record(path) is None and read_text(path, "parameters") is None
    assert b"snowman" not in path.read_bytes()


def test_a_webp_file_keeps_every_pixel_and_a_jpeg_says_that_it_does_not(tmp_path, image):
    for name in ("out.webp", "out.jpg"):
        save_picture(image, tmp_path / name, MAKING)
    exact, lossy = read_made(tmp_path / "out.webp"), read_made(tmp_path / "out.jpg")
    assert exact.as_drawn and not exact.is_changed and exact.stored is None
    assert lossy.as_drawn is False and not lossy.is_changed
    assert lossy.pixels == exact.pixels and lossy.stored == lossy.seen
    # The same record on other pixels.
    exif = Image.open(tmp_path / "out.jpg").info["exif"]
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif)
    assert read_made(tmp_path / "turned.jpg").is_changed


def test_a_jpeg_holds_what_fits_into_its_segment(tmp_path, image):
    many = {"prompts": ["a fox " * 400] * 30, "seeds": [7]}
    save_picture(image, tmp_path / "run.jpg", MAKING._replace(among=many))
    record = read_record(tmp_path / "run.jpg")
    assert record is not None and "among" not in record and record["seed"] == 7
    assert read_text(tmp_path / "run.jpg", "parameters")
    long = MAKING._replace(prompt="a fox " * 5500)
    save_picture(image, tmp_path / "long.jpg", long)
    record = read_record(tmp_path / "long.jpg")
    assert record is not None and record["prompt"] == long.prompt
    assert read_text(tmp_path / "long.jpg", "parameters") is None
    with pytest.raises(OutputError, match="too long for a JPEG"):
        save_picture(image, tmp_path / "no.jpg", MAKING._replace(prompt="a fox " * 12000))
    assert not (tmp_path / "no.jpg").exists()
    save_picture(image, tmp_path / "any.webp", MAKING._replace(prompt="a fox " * 12000))
    assert read_record(tmp_path / "any.webp")


def test_several_pictures_keep_the_kind_that_was_asked_for(tmp_path):
    seeds = [Named("a fox", 3), Named("a fox", 4)]
    for suffix in (*KINDS, ".PNG"):
        found = picture_paths(tmp_path / f"o{suffix}", seeds)
        assert [path.name for path in found] == [f"o_3{suffix}", f"o_4{suffix}"]
    template = picture_paths(tmp_path / "{prompt}-{number}.webp", seeds)
    assert [path.name for path in template] == ["a_fox-1.webp", "a_fox-2.webp"]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_damaged_exif_is_a_value_error_and_nothing_else(kind):
    content = encoded(kind, exif_block(TEXTS, "orthus"))
    assert {name: text_of(content, name) for name in TEXTS} == TEXTS
    place = content.index(b"MM\0*")
    rng = random.Random(1)
    damaged = [content[:end] for end in range(0, len(content), 3)]
    for _ in range(3000):
        bytes_ = bytearray(content)
        for _ in range(rng.randint(1, 5)):
            bytes_[place + rng.randrange(-8, 110)] = rng.choice((0, 255, rng.randrange(256)))
        damaged.append(bytes(bytes_))
    outcomes = set()
    for each in damaged:
        for name in TEXTS:
            try:
                outcomes.add(type(text_of(each, name)))
            except ValueError:
                outcomes.add(ValueError)
    assert outcomes == {str, type(None), ValueError}


def test_exif_that_claims_more_than_there_is_takes_neither_time_nor_memory():
    field = struct.pack(">HHII", 0x9286, 7, 2**32 - 1, 8)
    loop = struct.pack(">HHII", 0x8769, 4, 1, 8)
    for count, fields in ((65535, loop * 5000), (2, loop + field), (1, field)):
        exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + struct.pack(">H", count) + fields
        assert text_of(encoded("JPEG", exif), "parameters") is None
    webp = encoded("WEBP", exif_block({"orthus": "x" * (17 * 2**20)}, "orthus"))
    with pytest.raises(ValueError, match="larger than 16 MB"):
        text_of(webp, "orthus")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_record_is_named_and_the_picture_stays_usable(tmp_path: Path, image):
    path = tmp_path / "out.jpg"
    save_picture(image, path, MAKING)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'{"version"', b'["version"'))
    with pytest.raises(DataError, match="'orthus' does not read"):
        read_record(path)
    path.write_bytes(content.replace(b"MM\0*\0\0\0\x08", b"MM\0*\0\0\xff\x08"))
    with pytest.raises(DataError, match="EXIF data is cut short"):
        read_record(path)
    path.write_bytes(content.replace("☃".encode(), b"\xff\xff\xff"))
    with pytest.raises(DataError, match="no valid text"):
        read_record(path)
    # Of another tool's damaged data nothing is said.
    strange = content.replace(b"MM\0*\0\0\0\x08", b"MM\0*\0\0\xff\x08")
    path.write_bytes(strange.replace(b"orthus\0{", b"camera\0{"))
    assert read_record(path) is None


def test_a_comment_of_other_tools_is_read_in_its_own_encoding():
    def with_comment(comment: bytes, order: str) -> bytes:
        first = struct.pack(f"{order}HHHIII", 1, 0x8769, 4, 1, 26, 0)
        inner = struct.pack(f"{order}HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
        head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
        return encoded("JPEG", b"Exif\0\0" + head + first + inner + comment)

    for comment, order in (
        (b"UNICODE\0" + "Steps: 3 ☃".encode("utf-16-le"), "<"),
        (b"UNICODE\0" + "Steps: 3 ☃".encode("utf-16-be"), ">"),
        (b"\0" * 8 + "Steps: 3 ☃".encode(), "<"),
    ):
        assert text_of(with_comment(comment, order), "parameters") == "Steps: 3 ☃"
    with pytest.raises(ValueError, match="encoding"):
        text_of(with_comment(b"JIS\0\0\0\0\0abc", ">"), "parameters")
