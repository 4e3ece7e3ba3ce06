"""`orthus data encode` tells what it will do, does it once, and goes on after whatever ended it."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import read_config
from orthus_core.data import latent_shards
from orthus_core.output_checks import size_text
from orthus_core.train import encode_first
from tests.core.toy_data import begin_orthus, interleaved, pictures_with_words

QUIET = ("--format", "json", "-q")
HEADER, DIGEST = 256, 20  # bytes of a shard's header, and of the hash before each record


def bytes_of_record(model: str) -> int:
    """Bytes of a picture's features of an Orthus, or of its codes of a Chameleon."""
    config = read_config(resolve(model))
    is_discrete = config.model_type == "chameleon"
    return 2 * config.patches * (1 if is_discrete else config.feature_channels)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """20 pictures; the last is as the first."""
    folder = pictures_with_words(tmp_path / "pictures")
    (folder / "019.png").write_bytes((folder / "000.png").read_bytes())
    return folder


def on_disk(cache: Path) -> int:
    """Bytes of features."""
    return sum(path.stat().st_size for path in cache.glob("features-*/shard-*"))


def told(orthus, *words: object) -> dict:
    done = orthus("data", "encode", *words, *QUIET)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_it_tells_count_and_exact_size_and_encodes_each_picture_once(orthus, pictures, tmp_path):
    cache = tmp_path / "cache"
    said = told(orthus, pictures, "-o", cache, "--dry-run")
    assert (said["new"], said["stored"], said["encoded"]) == (19, 0, 0)
    assert said["bytes"] == 19 * (bytes_of_record("mini") + DIGEST) + HEADER
    assert not list(cache.glob("features-*"))
    done = orthus("data", "encode", pictures, "-o", cache)
    size = size_text(said["bytes"])
    assert f"19 pictures to encode, 0 are there already; {size} on disk" in done.stderr
    assert "19 pictures encoded, 0 were there" in done.stdout and "data.cache=" in done.stdout
    assert on_disk(cache) == said["bytes"]

    moved = pictures.rename(tmp_path / "elsewhere")
    Image.new("RGB", (9, 9), "red").save(moved / "020.png")
    (moved / "020.txt").write_text("red")
    said = told(orthus, moved, "--cache", cache, "--workers", 2)
    assert (said["new"], said["stored"], said["encoded"]) == (1, 19, 1), "only what is missing"
    assert told(orthus, moved, "-o", cache)["new"] == 0


def test_a_recipe_names_its_sources_its_folder_and_whether_it_takes_codes(orthus, tmp_path):
    records = interleaved(tmp_path / "rows", 9)
    recipe = tmp_path / "own.toml"
    data = f'[data]\nsource = "{records}"\ncache = "{tmp_path / "cache"}"\n'
    recipe.write_text(f'command = "posttrain"\n{data}')
    assert told(orthus, recipe)["new"] == 9
    recipe.write_text(f'command = "pretrain"\n{data}[autoencoder]\ntaken_from = "chameleon-mini"\n')
    said = told(orthus, recipe)
    assert said["new"] == 9 and said["model"] == "chameleon-mini"
    assert said["bytes"] == 9 * (bytes_of_record("chameleon-mini") + DIGEST) + HEADER
    again = told(orthus, records, "-o", tmp_path / "cache", "-m", "chameleon-mini")
    assert (again["new"], again["stored"]) == (0, 9), "a posttrain of it reads the same codes"
    recipe.write_text(f'command = "build-base"\n{data}rows = 3\n')
    sets = ["source=sprites", "held_out=0", "tasks.caption=0", "tasks.text_to_image=0"]
    sets += ["tasks.edit=1"]
    made = told(orthus, recipe, *(f"--set=data.{each}" for each in sets))
    assert made["new"] + made["stored"] == 3, "the last picture of each row that is made"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PICTURES"], "no folder for the features"),
        (["PICTURES", "-o", "FILE"], "cannot write there"),
        (["nowhere", "-o", "CACHE"], "nowhere"),
        (["EMPTY", "-o", "CACHE"], "EMPTY"),
        (["starter/5-posttrain", "-o", "CACHE", "--set", "data.rows=0"], "have no end"),
        (["starter/3-finetune-vae", "-o", "CACHE"], "keeps no features"),
        (["starter/1-pretrain", "-o", "CACHE"], "its own autoencoder"),
    ],
)
def test_what_cannot_be_encoded_is_said(orthus, pictures, tmp_path, words, said):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("a file")
    places = {"PICTURES": pictures, "CACHE": tmp_path / "c", "FILE": tmp_path / "FILE"}
    places["EMPTY"] = tmp_path / "EMPTY"
    done = orthus("data", "encode", *(places.get(word, word) for word in words))
    assert done.exit_code == 1 and said in done.stderr and "next:" in done.stderr, done.stderr


def test_a_disk_without_room_is_found_before_and_one_that_fills_up_keeps_what_it_has(
    orthus, pictures, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    words = ("data", "encode", pictures, "-o", cache)
    with monkeypatch.context() as small:
        small.setattr("orthus_core.output_checks.free_disk", lambda folder: 30_000)
        done = orthus(*words)
    assert done.exit_code == 1 and "not enough room" in done.stderr and not on_disk(cache)

    record = bytes_of_record("mini")
    left, write = HEADER + 5 * (record + DIGEST) + 100, os.write

    def limited(file: int, content) -> int:
        nonlocal left
        if len(content) in (DIGEST, record, HEADER):  # features, and not the hashes of contents
            if left < len(content):
                write(file, content[:left])
                left = 0
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= len(content)
        return write(file, content)

    with monkeypatch.context() as full:
        full.setattr(latent_shards.os, "write", limited)
        done = orthus(*words)
    assert done.exit_code == 1 and "the disk is full" in done.stderr, done.stderr
    assert str(cache) in done.stderr and "what was written stays" in done.stderr
    said = told(orthus, *words[2:])
    assert said["stored"] > 0 and said["new"] == 19 - said["stored"] == said["encoded"]


def test_ctrl_c_keeps_what_is_done(orthus, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("orthus_core.data.latent_cache.CHUNK", 4)
    monkeypatch.setattr(encode_first, "TOGETHER", 4)
    asked = iter([False, False, True, True, True, True])
    monkeypatch.setattr(
        "orthus_cli.commands.data_encode.stop_after_step", lambda said: stopping(asked)
    )
    done = orthus("data", "encode", pictures, "-o", tmp_path / "cache")
    assert done.exit_code == 130 and "of 19 pictures are encoded; the same command" in done.stderr
    monkeypatch.undo()
    said = told(orthus, pictures, "-o", tmp_path / "cache")
    assert 4 <= said["stored"] < 19 and said["new"] == 19 - said["stored"]


class stopping:
    """As `stop_after_step`, told by an iterator."""

    def __init__(self, asked) -> None:
        self.asked = asked

    def __enter__(self):
        return lambda: next(self.asked, True)

    def __exit__(self, *_) -> None:
        return None


def test_a_killed_one_is_gone_on_with(orthus, tmp_path):
    pictures, cache = pictures_with_words(tmp_path / "pictures", 120), tmp_path / "cache"
    words = ["data", "encode", str(pictures), "-o", str(cache)]
    process = begin_orthus(words, tmp_path / "log")
    until = time.monotonic() + 60
    while on_disk(cache) < 4096:  # the shard's header comes before the first record
        assert time.monotonic() < until and process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.005)
    process.kill()
    process.join(20)
    said = told(orthus, pictures, "-o", cache)
    assert said["stored"] >= 1 and said["new"] == 120 - said["stored"] == said["encoded"]
    assert len(list(cache.glob("features-*/shard-*.bin"))) == 1, "its shard is gone on with"


def test_rows_that_cannot_be_read_are_counted_and_named(orthus, pictures, tmp_path, monkeypatch):
    (pictures / "003.png").write_bytes(b"no picture")
    said = told(orthus, pictures, "-o", tmp_path / "cache")
    assert said["bad"] == 1 and said["encoded"] == 18 and "003.png" in str(said["first_bad"])
    monkeypatch.setattr("orthus_core.train.batches.WHOLE", 5)  # rows are not checked before
    (pictures / "004.png").write_bytes(b"no picture either")
    done = orthus("data", "encode", pictures, "-o", tmp_path / "cache")
    assert done.exit_code == 0 and "003.png" in done.stderr and "004.png" in done.stderr
    done = orthus("data", "encode", pictures, "-o", tmp_path / "cache", "--set", "data.strict=true")
    assert done.exit_code == 1 and "003.png" in done.stderr
