"""The judge's fit is kept in the cache, and never read where it would be another or is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core.errors import OrthusError
from orthus_core.evaluation import efficientnet
from orthus_core.world.benchmark import kept_fit, sprite_metric
from orthus_core.world.benchmark.sprite_metric import SpriteMetric
from orthus_core.world.sprites import STARTER_PACK, SpritePack
from orthus_core.world.world import World

SIZE = 12


class Judge:
    """Opens the metric as a fresh process does, with renderings of a moment; counts the fits."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder, self.fits = patch, folder, 0
        patch.setenv("ORTHUS_CACHE", str(folder))
        patch.setattr(sprite_metric, "rendered_windows", self._rendered)

    def _rendered(self, rng, world, sprites, samples, *, blurred=False):
        self.fits += not blurred
        number_N = torch.arange(len(sprites)).repeat(samples)
        random = torch.Generator().manual_seed(rng.randrange(1000) + self.fits)
        return torch.randn(len(number_N), SIZE, generator=random), number_N

    def open(self, world: World) -> SpriteMetric:
        self.patch.setattr(sprite_metric, "_metrics", {})
        return SpriteMetric.of(world)

    @property
    def file(self) -> Path:
        (file,) = self.folder.rglob("*.safetensors")
        return file


@pytest.fixture
def judge(monkeypatch, tmp_path) -> Judge:
    return Judge(monkeypatch, tmp_path / "not there yet" / "cache")


def same(one: SpriteMetric, other: SpriteMetric) -> bool:
    """Whether two metrics are equal to the bit, and so are the layouts by which products round."""
    return all(
        torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()
        for a, b in zip(one, other, strict=True)
    )


def test_a_second_process_reads_what_the_first_has_fitted(judge, world, testing_world):
    first = judge.open(world)
    assert judge.fits == 1 and first.whitening_DD.shape == (SIZE, SIZE)
    assert same(judge.open(world), first) and same(judge.open(testing_world), first)
    assert judge.fits == 1
    assert [path.name for path in judge.file.parent.iterdir()] == [judge.file.name]


@pytest.mark.parametrize("change", ["pack", "cast", "weights", "code", "world's code", "version"])
def test_whatever_the_fit_depends_on_fits_anew(judge, world, change, tmp_path, monkeypatch):
    first = judge.open(world)
    if change == "pack":
        shutil.copy(STARTER_PACK, tmp_path / "pack.tar")
        with (tmp_path / "pack.tar").open("ab") as file:
            file.write(bytes(512))
        world = World(SpritePack.open(tmp_path / "pack.tar"))
    elif change == "cast":
        world = World(world.pack)
        del world.cast["dog"]
    elif change == "weights":
        other = tmp_path / "weights.pth"
        other.write_bytes(efficientnet.weights_file().read_bytes() + b"\0")
        monkeypatch.setattr(sprite_metric, "weights_file", lambda: other)
    elif change == "code":
        other = tmp_path / "sprite_metric.py"
        other.write_text(sprite_metric.SOURCES[0].read_text().replace("SAMPLES = 8", "SAMPLES = 9"))
        monkeypatch.setattr(sprite_metric, "SOURCES", (other, sprite_metric.SOURCES[1]))
    elif change == "world's code":
        code = shutil.copytree(sprite_metric.WORLD_FOLDER, tmp_path / "world")
        (code / "backdrops.py").write_text("GREEN = (0, 99, 0)\n")
        monkeypatch.setattr(sprite_metric, "WORLD_FOLDER", code)
    else:
        monkeypatch.setattr(sprite_metric.PIL, "__version__", "99.0")
    assert not same(judge.open(world), first) and judge.fits == 2
    judge.open(world)
    assert judge.fits == 2
    assert len([*judge.folder.rglob("*.safetensors")]) == 2


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "header", "type", "value", "other tensors", "without a hash"]
)
def test_a_damaged_file_is_fitted_anew(judge, world, damage):
    first = judge.open(world)
    content = bytearray(judge.file.read_bytes())
    if damage == "cut":
        del content[-5:]
    elif damage == "empty":
        content.clear()
    elif damage == "header":
        content[:200] = bytes(200)
    elif damage == "type":
        content = content.replace(b'"dtype":"F32"', b'"dtype":"I32"')
    elif damage == "value":
        content[-1] ^= 1
    if damage in ("other tensors", "without a hash"):
        tensors = load_file(judge.file)
        del tensors["centre_D" if damage == "other tensors" else kept_fit.DIGEST]
        save_file(tensors, judge.file)
    else:
        assert content != judge.file.read_bytes()
        judge.file.write_bytes(content)
    anew = judge.open(world)
    assert judge.fits == 2 and not same(anew, first)
    assert same(judge.open(world), anew) and judge.fits == 2, "and kept"


def test_no_byte_of_the_file_may_differ(judge, world):
    judge.open(world)
    content = judge.file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in (*range(header), *range(header, len(content), 997)):
        damaged = bytearray(content)
        damaged[place] ^= 4
        judge.file.write_bytes(damaged)
        assert kept_fit.read_fit(judge.file) is None, place


@pytest.mark.parametrize("place", ["a file", "read-only", "no home", "no source"])
def test_without_a_place_to_keep_it_each_process_fits(judge, world, place, tmp_path, monkeypatch):
    if place == "a file":
        (tmp_path / "taken").write_text("")
        monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path / "taken"))
    elif place == "read-only":  # root may write everywhere
        monkeypatch.setenv("ORTHUS_CACHE", "/proc/orthus")
    elif place == "no home":
        monkeypatch.delenv("ORTHUS_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "expanduser", lambda path: exec('raise RuntimeError("no home")'))
    else:
        monkeypatch.setattr(sprite_metric, "SOURCES", (tmp_path / "nothing.py",))
    judge.open(world)
    judge.open(world)
    assert judge.fits == 2


def test_a_kept_fit_does_not_hide_that_the_weights_are_missing(judge, world, monkeypatch):
    judge.open(world)
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(OrthusError, match="not installed"):
        judge.open(world)
