"""Features are computed once, kept on disk, and never mistaken for another autoencoder's or
picture's: whatever else writes there, is killed, or is damaged.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from orthus_core.data import latent_shards
from orthus_core.data.latent_cache import CHUNK, FeatureCache, fingerprint
from orthus_core.data.latent_shards import (
    KEY,
    RecordShards,
    checksum,
    digest_of,
    disk_bytes,
)
from orthus_core.data.pictures import BytesPicture, FilePicture
from orthus_core.data.pixels import pack_pixels
from orthus_core.errors import OutputError


class Plain:
    """A picture of one grey level."""

    def __init__(self, level: int) -> None:
        self.level = level

    @property
    def key(self) -> str:
        return f"plain:{self.level}"

    def load(self, size: int) -> np.ndarray:
        return np.full((size, size, 3), self.level, dtype=np.uint8)


class Encoder:
    """[M, 2, 3] features that are a picture's mean, counting the pictures it was given."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixels_M3HW: Tensor) -> Tensor:
        self.seen += len(pixels_M3HW)
        return pixels_M3HW.mean((1, 2, 3))[:, None, None].expand(-1, 2, 3)


def cache(encoder: Encoder, folder: Path | None = None, weights: str = "w") -> FeatureCache:
    return FeatureCache(weights, encoder, size=4, folder=folder)


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("features-*/shard-*"))


def records(*numbers: int) -> tuple[list[bytes], np.ndarray]:
    """Digests and records of a few numbers."""
    digests = [digest_of(str(number)) for number in numbers]
    return digests, np.array(numbers, np.int32)[:, None].repeat(1500, 1)


def holds(shards: RecordShards, *numbers: int) -> list[bool]:
    """For each number whether its record is there; it must be right."""
    found = [shards.get(digest_of(str(number))) for number in numbers]
    assert all(f is None or (f == n).all() for f, n in zip(found, numbers, strict=True))
    return [record is not None for record in found]


def test_a_picture_is_encoded_once_however_often_it_comes():
    encoder = Encoder()
    features = cache(encoder)
    first_MPC = features([Plain(7), Plain(7), Plain(9)])
    again_MPC = features([Plain(9), Plain(7)])
    assert encoder.seen == 2 and len(features) == 2 and Plain(9) in features
    assert first_MPC.shape == (3, 2, 3)
    assert torch.equal(again_MPC, first_MPC[[2, 0]])
    assert first_MPC[2, 0, 0] == pack_pixels([Plain(9).load(4)]).mean()
    many = [Plain(level) for level in range(CHUNK + 5)]
    assert torch.equal(features(many)[[7, 9]], again_MPC.flip(0))


def test_a_later_run_finds_the_features_of_these_weights_this_size_and_this_kind(tmp_path: Path):
    first = cache(Encoder(), tmp_path)
    expected = first([Plain(1), Plain(2)])
    first.save()
    encoder = Encoder()
    assert torch.equal(cache(encoder, tmp_path)([Plain(1), Plain(2)]), expected)
    assert encoder.seen == 0
    assert len(cache(Encoder(), tmp_path, weights="others")) == 0
    assert len(FeatureCache("w", Encoder(), size=8, folder=tmp_path)) == 0
    assert len(FeatureCache("w", Encoder(), size=4, folder=tmp_path, kind="codes")) == 0
    rounded = FeatureCache("w", Encoder(), size=4, folder=tmp_path, stored=torch.bfloat16)
    assert len(rounded) == 0


@pytest.mark.parametrize("stored", [torch.int16, torch.int32])
def test_codes_stay_whole_numbers(tmp_path: Path, stored):
    def codes(pixels_M3HW: Tensor) -> Tensor:
        return 300 + torch.arange(len(pixels_M3HW))[:, None].expand(-1, 3)

    made = FeatureCache("w", codes, size=4, folder=tmp_path, stored=stored, kind="codes")
    codes_MP = made([Plain(1), Plain(2)])
    made.save()
    assert codes_MP.tolist() == [[300] * 3, [301] * 3]
    again = FeatureCache("w", codes, size=4, folder=tmp_path, stored=stored, kind="codes")
    found = again([Plain(2)])
    assert found.dtype == torch.long and found.tolist() == [[301] * 3]
    data = next(tmp_path.glob("codes-*/shard-*.bin"))
    assert data.stat().st_size == 256 + 2 * 3 * stored.itemsize


def test_features_carry_no_gradient():
    weight = nn.Parameter(torch.ones(()))
    made = FeatureCache("w", lambda x: weight * x.mean((2, 3))[:, None], size=4)
    assert not made([Plain(3)]).requires_grad


def test_what_another_process_looked_up_is_completed_as_if_it_had_been_done_here(tmp_path: Path):
    encoder = Encoder()
    made = FeatureCache("w", encoder, size=4, folder=tmp_path, stored=torch.bfloat16)
    made([Plain(1), Plain(4)])
    pictures = [Plain(level) for level in (3, 1, 200, 3, 4)]
    lookup, pixels_MHW3 = made.look_up(pictures)
    assert lookup.found_M.tolist() == [False, True, False, False, True] and encoder.seen == 2
    assert pixels_MHW3 is not None and len(pixels_MHW3) == 3
    features_MPC = made.complete(lookup, pixels_MHW3)
    assert encoder.seen == 4, "each of the others once"
    assert torch.equal(features_MPC, made(pictures)) and encoder.seen == 4
    alone = FeatureCache("w", Encoder(), size=4, stored=torch.bfloat16)
    assert torch.equal(features_MPC, alone(pictures))
    assert torch.equal(alone.encode_pixels(pixels_MHW3), features_MPC[[0, 2, 3]])
    lookup, none = made.look_up(pictures[:2])
    assert none is None and torch.equal(made.complete(lookup, none), features_MPC[:2])


def test_features_in_sixteen_bits_are_the_same_now_and_later(tmp_path: Path):
    def encode(pixels_M3HW: Tensor) -> Tensor:
        return pixels_M3HW.mean((1, 2, 3))[:, None, None] / 3 + 1e-5

    exact = FeatureCache("w", encode, size=4, folder=tmp_path)
    rounded = FeatureCache("w", encode, size=4, folder=tmp_path, stored=torch.bfloat16)
    pictures = [Plain(1), Plain(2)]
    now = rounded(pictures)
    assert now.dtype == torch.float32 and torch.equal(now, now.bfloat16().float())
    assert not torch.equal(now, exact(pictures))
    again = FeatureCache("w", encode, size=4, folder=tmp_path, stored=torch.bfloat16)
    assert len(again) == 2 and torch.equal(again(pictures), now)
    sizes = {path.parent.name[-4:]: path.stat().st_size for path in tmp_path.glob("f*/*.bin")}
    assert sizes == {"fp32": 256 + 2 * 4, "bf16": 256 + 2 * 2}


def test_moved_and_copied_pictures_keep_their_features_and_changed_ones_do_not(tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(folder / f"{number}.bmp")
    files = [FilePicture(path) for path in sorted(folder.iterdir())]
    first = cache(Encoder(), tmp_path)
    expected = first(files)
    first.save()

    moved = folder.rename(tmp_path / "elsewhere")
    files = [FilePicture(path) for path in sorted(moved.iterdir())]
    encoder = Encoder()
    later = cache(encoder, tmp_path)
    assert torch.equal(later(files), expected) and encoder.seen == 0
    copied = [BytesPicture(file.path.read_bytes()) for file in files]
    assert torch.equal(later(copied), expected) and encoder.seen == 0

    # Two that change places have the same sizes, and new times.
    before = files[0].path.read_bytes()
    files[0].path.write_bytes(files[1].path.read_bytes())
    files[1].path.write_bytes(before)
    assert torch.equal(later(files), expected[[1, 0, 2]]) and encoder.seen == 0
    Image.new("RGB", (8, 8), (0, 255, 0)).save(files[2].path)
    assert not torch.equal(later(files[2:]), expected[2:]) and encoder.seen == 1


def test_a_content_is_read_once_for_its_hash(tmp_path: Path, monkeypatch):
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "a.png")
    picture = FilePicture(tmp_path / "a.png")
    first = cache(Encoder(), tmp_path)
    address = first.address(picture)
    first.save()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it is read again"))
    assert cache(Encoder(), tmp_path).address(picture) == address == first.address(picture)


def test_records_are_found_however_many_shards_and_looks_there_were(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(latent_shards, "SHARD_BYTES", 256 + 3 * 6000)
    monkeypatch.setattr(latent_shards, "MOST_RECENT", 4)
    monkeypatch.setattr(latent_shards, "MOST_MAPS", 2)
    monkeypatch.setattr(latent_shards, "MOST_READ", 20_000)
    shards = RecordShards(tmp_path)
    for number in range(20):
        shards.append(*records(number))
    shards.append(*records(3, 20))
    assert holds(shards, *range(22)) == [True] * 21 + [False] and len(shards) == 21
    shards.release()
    assert len(list(tmp_path.glob("*.bin"))) == 8, "22 records, three a shard"
    again = RecordShards(tmp_path)
    assert holds(again, *range(22)) == [True] * 21 + [False] and len(again) == 21
    again.append(*records(21, 22))
    again.release()
    assert len(list(tmp_path.glob("*.bin"))) == 8, "the last one had room for two"
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size == disk_bytes(24, 6000)


def test_digests_that_begin_alike_are_told_apart():
    shards = RecordShards(None)
    one, other = b"8 bytes." + b"one one ", b"8 bytes." + b"other..."
    keys = np.zeros(2, KEY)
    keys["first"] = np.frombuffer(one, "<u8")[0]
    keys["second"] = [np.frombuffer(digest, "<u8")[1] for digest in (one, other)]
    shards._index._sort_in([(0, 0, keys)])
    assert [place.number for place in shards._index.places(one)] == [0]
    assert [place.number for place in shards._index.places(other)] == [1]
    assert list(shards._index.places(b"8 bytes." + b"a third ")) == []


def test_two_processes_write_at_once_and_find_what_the_other_wrote(tmp_path: Path, monkeypatch):
    first, second = RecordShards(tmp_path), RecordShards(tmp_path)
    first.append(*records(1))
    second.append(*records(2))
    assert len(list(tmp_path.glob("*.bin"))) == 2
    assert holds(first, 2) == [False]
    first.look()
    assert holds(first, 2) == [False], "it looks once a second"
    monkeypatch.setattr(latent_shards, "BETWEEN_LOOKS", 0)
    first.look()
    assert holds(first, 1, 2) == [True, True]
    first.release()
    third = RecordShards(tmp_path)
    third.append(*records(3))
    second.look()
    assert holds(second, 1, 2, 3) == [True] * 3 and not second.damage
    assert len(list(tmp_path.glob("*.bin"))) == 2, "it goes on with the first one's shard"


def test_a_forked_process_begins_a_shard_of_its_own(tmp_path: Path):
    shards = RecordShards(tmp_path)
    shards.append(*records(1))

    def append() -> None:
        shards.append(*records(*range(2, 40)))

    child = multiprocessing.get_context("fork").Process(target=append)
    child.start()
    shards.append(*records(*range(40, 80)))
    child.join(20)
    shards.append(*records(80))
    found = RecordShards(tmp_path)
    assert holds(found, *range(1, 81)) == [True] * 80 and not found.damage
    assert len(list(tmp_path.glob("*.bin"))) == 2


def test_a_killed_process_loses_at_most_its_last_record(tmp_path: Path):
    def write() -> None:
        shards = RecordShards(tmp_path)
        for number in range(1_000_000):
            shards.append(*records(number))

    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=write)
        child.start()
        until = time.monotonic() + 20
        before = len(RecordShards(tmp_path))
        while len(RecordShards(tmp_path)) < before + 20:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(20)
        (data,) = tmp_path.glob("*.bin")
        written = (data.stat().st_size - 256) // 6000
        found = RecordShards(tmp_path)
        assert len(found) >= before + 20
        assert sum(holds(found, *range(written))) >= min(written, len(found))
    with (data.with_suffix(".keys")).open("ab") as file:
        file.write(b"torn")
    found = RecordShards(tmp_path)
    (told,) = found.damage
    assert "cut short" in told and data.name in told
    found.append(*records(2_000_000))
    found.release()
    assert RecordShards(tmp_path).damage == [], "what was torn is cut off"
    assert holds(RecordShards(tmp_path), 0, 5, 2_000_000) == [True] * 3


@pytest.mark.parametrize("room", [0, 100, 256, 5_000, 14_000, 18_280, 18_290])
def test_a_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch, room):
    """It takes `room` bytes, and then no more."""
    left = room
    write = os.write

    def limited(file: int, content) -> int:
        nonlocal left
        taken = min(left, len(content))
        left -= taken
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:taken])

    made = RecordShards(tmp_path / "cache")
    monkeypatch.setattr(latent_shards.os, "write", limited)
    for number in range(6):
        made.append(*records(number))
    assert made.failure is not None and made.failure.errno == errno.ENOSPC
    assert holds(made, *range(6)) == [True] * 6, "the others are in memory"
    with pytest.raises(OSError):
        made.release()
    monkeypatch.setattr(latent_shards.os, "write", write)
    later = RecordShards(tmp_path / "cache")
    whole = max(0, room - 256) // 6020
    assert holds(later, *range(6)) == [number < whole for number in range(6)]
    assert not later.damage
    later.append(*records(*range(whole, 6)))
    later.release()
    assert holds(RecordShards(tmp_path / "cache"), *range(6)) == [True] * 6


def test_memory_takes_no_more_than_its_share_of_what_the_disk_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(latent_shards, "MOST_IN_MEMORY", 12)
    encoder = Encoder()
    (tmp_path / "taken").write_text("a file")
    made = FeatureCache("w", encoder, 4, folder=tmp_path / "taken", stored=torch.int16)
    pictures = [Plain(n) for n in (1, 2, 3)]
    expected = FeatureCache("w", Encoder(), 4, stored=torch.int16)(pictures)
    assert torch.equal(made(pictures), expected) and torch.equal(made(pictures), expected)
    assert encoder.seen == 3 + 2
    (told,) = made.notes()
    assert "taken" in told and "encoded as they come" in told and not list(made.notes())
    with pytest.raises(OutputError, match="were not saved") as caught:
        made.save()
    assert "only what is missing" in caught.value.hint


def test_a_kept_record_holds_no_memory_of_its_neighbours():
    made = cache(Encoder())
    made([Plain(level) for level in range(9)])
    kept = made._shards._in_memory.values()
    assert all(row.base is None and row.size == 2 * 3 for row in kept)


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "left"),
    [
        (lambda data: damage(data, 256 + 6000 + 17), [0, 2]),
        (lambda data: damage(data.with_suffix(".keys"), 20 + 17), [0, 2]),
        (lambda data: damage(data.with_suffix(".keys"), 20 + 3), [0, 2]),
        (lambda data: os.truncate(data, 256 + 6000 + 17), [0]),
        (lambda data: os.truncate(data.with_suffix(".keys"), 41), [0, 1]),
        (lambda data: data.with_suffix(".keys").unlink(), []),
        (lambda data: damage(data, 3), []),
        (lambda data: data.write_bytes(b""), []),
        (lambda data: data.write_bytes(b"{}" * 200), []),
        (lambda data: data.unlink(), []),
    ],
    ids="record check digest data-cut keys-cut no-keys header empty other no-data".split(),
)
def test_of_a_damaged_shard_the_good_records_are_kept(tmp_path: Path, harm, left):
    shards = RecordShards(tmp_path)
    shards.append(*records(0, 1, 2))
    shards.release()
    (data,) = tmp_path.glob("*.bin")
    harm(data)
    found = RecordShards(tmp_path)
    assert [number for number in range(3) if holds(found, number)[0]] == left
    told = " ".join(found.damage)
    gone_or_strange = not data.exists() or "digest" in str(harm)
    assert data.name in told or gone_or_strange or len(left) == 2
    found.append(*records(0, 1, 2))
    assert holds(found, 0, 1, 2) == [True] * 3
    found.release()
    again = RecordShards(tmp_path)
    assert holds(again, 0, 1, 2) == [True] * 3, "written anew, and found in spite of the damaged"


def test_damage_is_told_and_encoded_anew(tmp_path: Path):
    first = cache(Encoder(), tmp_path)
    expected = first([Plain(1), Plain(2)])
    first.save()
    damage(next(path for path in shard_files(tmp_path) if path.suffix == ".bin"), 256)
    encoder = Encoder()
    later = cache(encoder, tmp_path)
    assert torch.equal(later([Plain(1), Plain(2)]), expected) and encoder.seen == 1
    (told,) = later.notes()
    assert "record 0 is damaged" in told and "encoded anew" in told
    lookup, _ = later.look_up([Plain(1), Plain(2)])
    assert lookup.found_M.all() and not list(later.notes())


def test_the_checksum_is_of_the_record_and_its_digest():
    assert len({checksum(*each) for each in ((b"a", b"x"), (b"b", b"x"), (b"a", b"y"))}) == 3


def test_the_fingerprint_follows_the_encoder_and_not_the_decoder():
    torch.manual_seed(0)
    vq = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    before = fingerprint(vq)
    with torch.no_grad():
        vq["decoder"].weight += 1
    assert fingerprint(vq) == before
    with torch.no_grad():
        vq["encoder"].weight[0, 0] += 1e-3
    assert fingerprint(vq) != before
    assert fingerprint(vq.bfloat16()) != before
