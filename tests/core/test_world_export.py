"""Rows of the small world on disk: written, read back, the same again from the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.data.formats.sniff import read
from orthus_core.data.pictures import Picture
from orthus_core.world.export import export
from orthus_core.world.records import MAKERS, record
from orthus_core.world.scene import Scene
from orthus_core.world.world import World

ROWS = 12


@pytest.fixture(scope="module")
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "rows"
    list(export(world, dict.fromkeys(MAKERS, 1.0), folder, rows=ROWS, size=128, seed=3))
    return folder


def test_what_is_written_is_read_back_whole(world: World, written: Path):
    reading = read(written, strict=True)
    assert len(reading.documents) == ROWS
    for number, document in enumerate(reading.documents):
        made = record(world, dict.fromkeys(MAKERS, 1.0), 3, number)
        for mine, theirs in zip(document.segments, made.segments, strict=True):
            assert mine.role == theirs.role
            if isinstance(theirs.value, Picture):
                assert isinstance(mine.value, Picture)
                assert np.array_equal(mine.value.load(128), theirs.value.load(128))
            else:
                assert mine.value == theirs.value


def test_a_scene_keeps_its_truth(world: World, written: Path):
    lines = (written / "records.jsonl").read_text().splitlines()
    segments = [segment for line in lines for segment in json.loads(line)["segments"]]
    truths = [segment for segment in segments if "scene" in segment]
    assert truths
    for segment in truths:
        shown = world.scene_image(Scene.of(segment["scene"])).load(128)
        assert np.array_equal(np.asarray(Image.open(written / segment["path"])), shown)


def test_the_command_writes_the_same_rows_and_check_finds_them_good(written: Path, tmp_path: Path):
    out = tmp_path / "rows"
    arguments = ["data", "prepare", "world", "-o", str(out), "--rows", str(ROWS), "--seed", "3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for path in written.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (out / path.relative_to(written)).read_bytes()
    checked = CliRunner().invoke(app, ["data", "check", str(out)])
    assert checked.exit_code == 0 and f"{ROWS} usable, 0 bad" in checked.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "not empty" in again.output
