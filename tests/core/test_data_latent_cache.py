"""Features are computed once, kept on disk, and never mistaken for another autoencoder's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orthus_core.data.latent_cache import CHUNK, FeatureCache, fingerprint
from orthus_core.data.pixels import pack_pixels
from orthus_core.errors import DataError, OutputError


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


def test_a_picture_is_encoded_once_however_often_it_comes():
    encoder = Encoder()
    features = cache(encoder)
    first_MPC = features([Plain(7), Plain(7), Plain(9)])
    again_MPC = features([Plain(9), Plain(7)])
    assert encoder.seen == 2 and len(features) == 2 and Plain(9) in features
    assert first_MPC.shape == (3, 2, 3)
    assert torch.equal(again_MPC, first_MPC[[2, 0]])
    assert first_MPC[2, 0, 0] == pack_pixels([Plain(9).load(4)]).mean()


def test_filling_tells_how_far_it_is():
    pictures = [Plain(level) for level in range(CHUNK + 5)]
    done = [(event.done, event.total) for event in cache(Encoder()).fill(pictures)]
    assert done == [(CHUNK, CHUNK + 5), (CHUNK + 5, CHUNK + 5)]


def test_a_later_run_finds_the_features_on_disk(tmp_path: Path):
    first = cache(Encoder(), tmp_path)
    expected = first([Plain(1), Plain(2)])
    first.save()
    encoder = Encoder()
    assert torch.equal(cache(encoder, tmp_path)([Plain(1), Plain(2)]), expected)
    assert encoder.seen == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".bin"]


def test_other_weights_or_another_size_find_nothing(tmp_path: Path):
    first = cache(Encoder(), tmp_path)
    first([Plain(1)])
    first.save()
    assert len(cache(Encoder(), tmp_path, weights="others")) == 0
    assert len(FeatureCache("w", Encoder(), size=8, folder=tmp_path)) == 0


def test_codes_stay_whole_numbers(tmp_path: Path):
    def codes(pixels_M3HW: Tensor) -> Tensor:
        return torch.arange(len(pixels_M3HW))[:, None].expand(-1, 3)

    made = FeatureCache("w", codes, size=4, folder=tmp_path)
    codes_MP = made([Plain(1), Plain(2)])
    made.save()
    assert codes_MP.tolist() == [[0, 0, 0], [1, 1, 1]]
    found = FeatureCache("w", codes, size=4, folder=tmp_path)([Plain(2)])
    assert found.dtype == torch.long and found.tolist() == [[1, 1, 1]]


def test_features_carry_no_gradient():
    weight = nn.Parameter(torch.ones(()))
    made = FeatureCache("w", lambda x: weight * x.mean((2, 3))[:, None], size=4)
    assert not made([Plain(3)]).requires_grad


def test_loaded_pictures_are_encoded_as_others_are_and_nothing_is_kept():
    weight = nn.Parameter(torch.ones(()))
    made = FeatureCache("w", lambda x: (weight * x.mean((2, 3))[:, None]).bfloat16(), size=4)
    encoded_MPC = made.encode_pixels(
        torch.from_numpy(np.stack([Plain(n).load(4) for n in (3, 200)]))
    )
    assert encoded_MPC.dtype == torch.float32 and not encoded_MPC.requires_grad
    assert len(made) == 0
    assert torch.equal(encoded_MPC, made([Plain(3), Plain(200)]))


def test_a_kept_feature_holds_no_memory_of_its_neighbours():
    made = cache(Encoder())
    made([Plain(level) for level in range(9)])
    assert all(row.base is None and row.size == 2 * 3 for row in made._file._in_memory)


def test_what_a_killed_training_computed_is_there_but_for_its_last_record(tmp_path: Path):
    killed = cache(Encoder(), tmp_path)
    expected = killed([Plain(1), Plain(2), Plain(3)])
    assert killed.path is not None
    del killed  # nothing was saved at its end
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    encoder = Encoder()
    found = cache(encoder, tmp_path)
    assert len(found) == 2
    assert torch.equal(found([Plain(3), Plain(2), Plain(1)]), expected.flip(0)), "in their places"
    assert encoder.seen == 1
    assert len(cache(Encoder(), tmp_path)) == 3, "the torn record was cut off"


def test_features_in_sixteen_bits_are_the_same_now_and_later(tmp_path: Path):
    def encode(pixels_M3HW: Tensor) -> Tensor:
        return pixels_M3HW.mean((1, 2, 3))[:, None, None] / 3 + 1e-5

    exact = FeatureCache("w", encode, size=4, folder=tmp_path)
    rounded = FeatureCache("w", encode, size=4, folder=tmp_path, stored=torch.float16)
    pictures = [Plain(1), Plain(2)]
    now = rounded(pictures)
    assert now.dtype == torch.float32 and torch.equal(now, now.half().float())
    assert not torch.equal(now, exact(pictures)) and len(list(tmp_path.iterdir())) == 2
    again = FeatureCache("w", encode, size=4, folder=tmp_path, stored=torch.float16)
    assert len(again) == 2 and torch.equal(again(pictures), now)
    loaded = torch.from_numpy(np.stack([picture.load(4) for picture in pictures]))
    assert torch.equal(rounded.encode_pixels(loaded), now), "workers' pictures too"


def test_two_trainings_share_what_is_there_and_one_writes(tmp_path: Path):
    first = cache(Encoder(), tmp_path)
    first([Plain(1)])
    encoder = Encoder()
    second = cache(encoder, tmp_path)
    second([Plain(1), Plain(2)])
    assert encoder.seen == 1 and len(second) == 2
    second.save()  # it has nothing to complain about
    first([Plain(3)])
    assert torch.equal(second([Plain(2)]), cache(Encoder())([Plain(2)]))
    assert len(cache(Encoder(), tmp_path)) == 2, "what the second had alone is not in the file"
    first.save()  # it is done
    second([Plain(4)])
    assert encoder.seen == 2 and len(cache(Encoder(), tmp_path)) == 3


def test_codes_and_features_of_one_autoencoder_lie_apart(tmp_path: Path):
    features = cache(Encoder(), tmp_path)
    features([Plain(1)])
    codes = FeatureCache("w", Encoder(), size=4, folder=tmp_path, kind="codes")
    assert len(codes) == 0


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: bytes):
    made = cache(Encoder(), tmp_path)
    assert made.path is not None
    made.path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read the saved features") as caught:
        cache(Encoder(), tmp_path)
    assert "delete" in caught.value.hint


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    made = cache(Encoder(), tmp_path / "taken")
    made([Plain(1)])
    with pytest.raises(OutputError, match="were not saved"):
        made.save()


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
