"""Picture files of all sorts become the release's pixels, and back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from orthus_core.data import pixels
from orthus_core.data.pixels import open_image, pack_pixels, square, to_image
from orthus_core.errors import DataError


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["landscape", "portrait"])
def test_pixels_equal_the_releases(preproc: dict[str, Tensor], name: str):
    image = Image.fromarray(preproc[f"{name}_uint8"].numpy())
    assert torch.equal(pack_pixels([square(image, 64)])[0], preproc[f"{name}_pixel_values"][0])


def test_decoded_pictures_equal_the_releases(preproc: dict[str, Tensor]):
    decoded, expected = preproc["postprocess_in"], preproc["postprocess_uint8"]
    for pixels_3HW, levels_3HW in zip(decoded, expected, strict=True):
        levels = torch.from_numpy(np.array(to_image(pixels_3HW))).permute(2, 0, 1)
        assert torch.equal(levels, levels_3HW)


@pytest.mark.parametrize("height, width", [(33, 101), (64, 64), (65, 64), (31, 31), (700, 20)])
def test_pixels_equal_the_image_processor_of_transformers(height: int, width: int):
    image = Image.fromarray(noise(height, width))
    processor = ChameleonImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    expected = processor(image, return_tensors="pt").pixel_values[0]
    assert torch.equal(pack_pixels([square(image, 32)])[0], expected)


def test_a_picture_comes_back_at_most_one_level_darker():
    levels_HW3 = noise(16, 16)
    back_HW3 = np.array(to_image(pack_pixels([levels_HW3])[0]))
    assert set(np.unique(levels_HW3.astype(int) - back_HW3)) == {0, 1}


def test_a_batch_is_its_pictures_stacked():
    pictures = [square(Image.fromarray(noise(40, 50)), 16), square(Image.new("RGB", (9, 9)), 16)]
    batch_M3HW = pack_pixels(pictures)
    assert batch_M3HW.shape == (2, 3, 16, 16) and batch_M3HW.is_contiguous()
    assert torch.equal(batch_M3HW[1], torch.full((3, 16, 16), -1.0))


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert open_image(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert open_image(encoded(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_the_cameras_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    assert open_image(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


def test_sixteen_bit_grey_keeps_its_brightness():
    levels = np.full((4, 4), 0x8000, dtype=np.uint16)
    assert open_image(encoded(Image.fromarray(levels), "PNG")).getpixel((0, 0)) == (128, 128, 128)


def test_print_colours_become_screen_colours():
    assert open_image(encoded(Image.new("CMYK", (4, 4)), "JPEG")).getpixel((0, 0)) == (255,) * 3


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    film = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(film).getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_opens_by_path_by_bytes_and_by_file(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(noise(5, 6)), "PNG"))
    with path.open("rb") as file:
        opened = [open_image(path), open_image(path.read_bytes()), open_image(file)]
    assert all(np.array_equal(np.array(image), noise(5, 6)) for image in opened)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_says_so(tmp_path: Path, content: bytes):
    path = tmp_path / "text.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="this is no picture") as caught:
        open_image(path)
    assert caught.value.where == str(path)


def test_a_truncated_picture_says_so():
    with pytest.raises(DataError, match="cannot read the picture"):
        open_image(encoded(Image.fromarray(noise(64, 64)), "PNG")[:2000])


def test_a_missing_picture_names_its_path():
    with pytest.raises(DataError, match="no such picture") as caught:
        open_image("nowhere.png")
    assert caught.value.where == "nowhere.png"


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch):
    bomb = encoded(Image.new("L", (200, 200)), "PNG")
    monkeypatch.setattr(pixels, "MAX_PIXELS", 100 * 100)
    with pytest.raises(DataError, match="200 x 200 pixels"):
        open_image(bomb)


def test_a_thread_of_a_picture_is_refused_rather_than_scaled_up():
    with pytest.raises(DataError, match="too thin"):
        square(Image.new("L", (1_000_000, 1)).convert("RGB"), 64)
