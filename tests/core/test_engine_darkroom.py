"""Pictures become pixels beside the drawing: each row's events keep their order, and none is lost
when the drawing stops; very large ones are decoded in tiles."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orthus_core.events import Event, ImageBegun, ImageDone, PatchDone, RowDone, TextPiece
from orthus_core.samplers import decode as decoding
from orthus_core.samplers import generate as loop
from orthus_core.samplers.decode import ImageDecoder, PendingImage, ordered_events
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Prompt
from tests.conftest import make_tiny_model

BOS, SEP, WORD, PATCHES, CHANNELS = 0, 38, 40, 4, 8
STORY = SamplingParams(max_images=2, min_images=2, max_text=6, text_before_image=2, steps=2)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(Context((BOS, WORD + n, SEP)), n) for n in range(count)]


def told(events) -> list:
    """Events without their tensors."""
    return [
        (event.row, "picture", event.image) if isinstance(event, ImageDone) else event
        for event in events
    ]


def of_row(events: list[Event], row: int) -> list[Event]:
    return [event for event in events if getattr(event, "row", None) == row]


def test_a_worker_beside_the_drawing_changes_nothing(tiny_model, monkeypatch):
    plain = list(generate(tiny_model, prompts(3), STORY))
    monkeypatch.setattr(loop, "ImageDecoder", lambda model: ImageDecoder(model, beside=True))
    beside = list(generate(tiny_model, prompts(3), STORY))
    for row in range(3):
        assert told(of_row(beside, row)) == told(of_row(plain, row))
    pairs = (
        [e for r in range(3) for e in of_row(events, r) if isinstance(e, ImageDone)]
        for events in (plain, beside)
    )
    for one, other in zip(*pairs, strict=True):
        assert torch.equal(one.pixels_3HW, other.pixels_3HW)


def test_the_drawing_goes_on_while_a_picture_is_developed(tiny_model, monkeypatch):
    """The worker waits for the next picture to have begun, which would never be were it awaited."""
    goes_on = threading.Event()
    decode = decoding.decode

    def slow(model, features_MPC: Tensor) -> Tensor:
        assert goes_on.wait(timeout=60)
        return decode(model, features_MPC)

    monkeypatch.setattr(decoding, "decode", slow)
    monkeypatch.setattr(loop, "ImageDecoder", lambda model: ImageDecoder(model, beside=True))
    draw, drawn = loop._draw, []

    def watched(job, branches, rows) -> Iterator[Event]:
        drawn.extend(row.number for row in rows)
        if len(drawn) > PATCHES:
            goes_on.set()
        yield from draw(job, branches, rows)

    monkeypatch.setattr(loop, "_draw", watched)
    events = list(generate(tiny_model, prompts(1), SamplingParams(max_images=2, steps=2)))
    # Told in order all the same: the second picture's patches wait for the first one's pixels.
    kinds = [type(event) for event in events]
    picture = [ImageBegun, *[PatchDone] * PATCHES, ImageDone]
    assert kinds == [*picture, *picture, RowDone]


def full(row: int, pixels: Future) -> PendingImage:
    return PendingImage(row, 0, torch.zeros(PATCHES, CHANNELS), pixels, 0)


def ready() -> Future:
    done: Future = Future()
    done.set_result([torch.zeros(3, 16, 16)])
    return done


def test_other_rows_do_not_wait_for_a_picture():
    later: Future = Future()
    said = [TextPiece(0, "", (1,)), TextPiece(1, "", (2,))]

    def events() -> Iterator[Event | PendingImage]:
        yield full(0, later)
        yield from said
        later.set_result([torch.zeros(3, 16, 16)])
        yield TextPiece(1, "", (3,))

    assert told(ordered_events(events())) == [
        said[1],
        TextPiece(1, "", (3,)),
        (0, "picture", 0),
        said[0],
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_full_picture_outlives_what_stops_the_drawing(error):
    later: Future = Future()

    def events() -> Iterator[Event | PendingImage]:
        yield full(0, later)
        threading.Timer(0.05, later.set_result, [[torch.zeros(3, 16, 16)]]).start()
        raise error

    seen: list[Event] = []
    with pytest.raises(error):
        for event in ordered_events(events()):
            seen.append(event)
    assert told(seen) == [(0, "picture", 0)]


@pytest.mark.parametrize("beside", [False, True])
def test_a_generator_closed_in_the_middle_keeps_what_it_told_and_stops_its_worker(
    tiny_model, monkeypatch, beside
):
    monkeypatch.setattr(loop, "ImageDecoder", lambda model: ImageDecoder(model, beside=beside))
    threads = set(threading.enumerate())
    kept: list[ImageDone] = []
    # The first row ends long before the others.
    asked = [*prompts(3)[:1], *(p._replace(context=Context((BOS, SEP))) for p in prompts(3)[1:])]
    events = generate(tiny_model, asked, STORY)
    for event in events:
        if isinstance(event, ImageDone):
            kept.append(event)
            break
    events.close()  # type: ignore[attr-defined]
    assert kept[0].pixels_3HW.isfinite().all()
    assert set(threading.enumerate()) == threads
    # And the model is as it was.
    assert [e for e in generate(tiny_model, asked, STORY) if isinstance(e, RowDone)]


def test_no_more_than_a_few_batches_wait_for_the_worker(tiny_model, monkeypatch):
    begun, finish = [], threading.Semaphore(0)

    def slow(model, features_MPC: Tensor) -> Tensor:
        begun.append(len(features_MPC))
        assert finish.acquire(timeout=60)
        return torch.zeros(len(features_MPC), 3, 16, 16)

    monkeypatch.setattr(decoding, "decode", slow)
    features = torch.zeros(1, PATCHES, CHANNELS)
    with ImageDecoder(tiny_model, beside=True) as capacity:
        taken = [capacity.submit([n], [0], features)[0] for n in range(decoding.MAX_PENDING)]
        assert not any(picture.pixels.done() for picture in taken)
        threading.Timer(0.05, finish.release).start()
        taken += capacity.submit([9], [0], features)
        assert taken[0].pixels.done()
        finish.release(5)
        assert [picture.done().row for picture in taken] == [0, 1, 9]


# Tiles


def patterned(rows: int, columns: int) -> Tensor:
    return torch.randn(2, rows, columns, 3, generator=torch.Generator().manual_seed(0))


def enlarged(tile_MhwC: Tensor) -> Tensor:
    """A decoder that looks at nothing beside a patch."""
    return F.interpolate(tile_MhwC.permute(0, 3, 1, 2), scale_factor=4.0, mode="nearest")


@pytest.mark.parametrize("grid", [(6, 6), (8, 8), (9, 23), (20, 5), (17, 16)])
def test_tiles_of_a_decoder_that_looks_at_its_patch_alone_are_the_whole(grid):
    grid_MhwC = patterned(*grid)
    pixels = decoding.in_tiles(enlarged, grid_MhwC, tile=8, overlap=3)
    torch.testing.assert_close(pixels, enlarged(grid_MhwC))


def test_no_tile_is_larger_than_asked_for():
    sizes: list[tuple[int, ...]] = []

    def watched(tile_MhwC: Tensor) -> Tensor:
        sizes.append(tuple(tile_MhwC.shape[1:3]))
        return enlarged(tile_MhwC)

    decoding.in_tiles(watched, patterned(20, 11), tile=8, overlap=2)
    assert set(sizes) == {(8, 8)}


def test_tiles_that_disagree_are_blended_without_a_seam():
    """Each tile paints a shade of its own; across the overlap one passes into the next."""
    shades = iter(range(100))

    def shaded(tile_MhwC: Tensor) -> Tensor:
        return torch.full((1, 3, 4 * tile_MhwC.shape[1], 4 * tile_MhwC.shape[2]), next(shades))

    pixels = decoding.in_tiles(shaded, patterned(8, 20), tile=8, overlap=4)
    steps = pixels[0, 0, 0].diff()
    assert steps.abs().max() < 0.13
    assert pixels.max().item() == pytest.approx(next(shades) - 1)


def test_a_small_picture_is_never_tiled_and_a_large_one_is(monkeypatch):
    model = make_tiny_model()
    model.config.vq_config.resolution = 48  # a grid of 6 x 6 patches
    features = torch.randn(1, 36, CHANNELS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = decoding.decode(model, features)
        assert torch.equal(whole, model.decode_images(features))
        monkeypatch.setattr(decoding, "LARGEST_WHOLE", 5)
        torch.testing.assert_close(decoding.decode(model, features), whole)  # a single tile
        monkeypatch.setattr(decoding, "TILE", 4)
        monkeypatch.setattr(decoding, "OVERLAP", 2)
        tiled = decoding.decode(model, features)
    assert tiled.shape == whole.shape and not torch.allclose(tiled, whole, atol=1e-4)


@torch.no_grad()
def test_an_unfinished_picture_is_white_where_no_patch_is_drawn():
    model = make_tiny_model()
    model.config.vq_config.resolution = 32  # a grid of 4 x 4 patches
    features = torch.randn(16, CHANNELS, generator=torch.Generator().manual_seed(1))
    drawn = [features[:count] for count in (1, 8, 6, 8, 15)]
    pixels = decoding.decode_unfinished(model, drawn)
    assert pixels.shape == (5, 3, 32, 32)
    for own, each in zip(pixels, drawn, strict=True):
        patches = own.unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).permute(1, 2, 0, 3).reshape(16, -1)
        white = (patches == 1).all(1).tolist()
        assert white == [number >= len(each) for number in range(16)]
    rows = model.model.vqmodel.pixels(features[None, :8], (2, 4))
    for row in (1, 3):
        torch.testing.assert_close(pixels[row, :, :16], rows[0])
