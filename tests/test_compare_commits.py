"""benchmarks/compare_commits.py notices what changed, names it, and overlooks only timings."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from benchmarks.compare_commits import (
    Desk,
    Difference,
    Item,
    Snapshot,
    compare,
    describe,
    items_of,
    patterns,
    report,
    text_item,
)


def written(folder: Path) -> Path:
    """A file of each kind."""
    folder.mkdir()
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("orthus", '{"seed": 1}')
    Image.new("RGB", (4, 3), (10, 20, 30)).save(folder / "out.png", pnginfo=chunks)
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(2).bfloat16()}, folder / "m.safetensors")
    torch.save({"objective": {"w": torch.zeros(2)}, "steps": [1, 2]}, folder / "state.pt")
    (folder / "story.json").write_text('{\n  "version": "0.1.0",\n  "prompt": "an owl"\n}\n')
    (folder / "metrics.jsonl").write_text('{"step": 1, "total": 0.5}\n{"step": 2, "total": 0.25}\n')
    return folder


def taken(folder: Path) -> Snapshot:
    snapshot = Snapshot(folder.name, "this machine")
    snapshot.keep("pin", 1.0, dict(items_of(folder)), [])
    return snapshot


def change_pixel(folder: Path) -> None:
    with Image.open(folder / "out.png") as picture:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("orthus", picture.info["orthus"])
        pixels_HW3 = np.array(picture)
    pixels_HW3[2, 1, 0] += 1
    Image.fromarray(pixels_HW3).save(folder / "out.png", pnginfo=chunks)


def change_chunk(folder: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("orthus", '{"seed": 2}')
    with Image.open(folder / "out.png") as picture:
        picture.load()
        picture.save(folder / "out.png", pnginfo=chunks)


def change_tensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "m.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "m.safetensors")


def change_text(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


CHANGES: dict[str, Callable[[Path], object]] = {
    "out.png pixels": change_pixel,
    "out.png chunk orthus": change_chunk,
    "m.safetensors a": lambda at: change_tensor(at, lambda t: t["a"][1, 2].add_(1e-7)),
    "m.safetensors b": lambda at: change_tensor(at, lambda t: t.update(b=t["b"].float())),
    "state.pt objective w": lambda at: torch.save(
        {"objective": {"w": torch.tensor([0.0, 1e-9])}, "steps": [1, 2]}, at / "state.pt"
    ),
    "state.pt steps": lambda at: torch.save(
        {"objective": {"w": torch.zeros(2)}, "steps": [1, 3]}, at / "state.pt"
    ),
    "story.json": lambda at: change_text(at, "story.json", "an owl", "a owl"),
    "metrics.jsonl": lambda at: change_text(at, "metrics.jsonl", "0.25", "0.26"),
}


@pytest.mark.parametrize("item", CHANGES)
def test_a_change_is_noticed_where_it_is(tmp_path, item):
    old, folder = taken(written(tmp_path / "old")), written(tmp_path / "new")
    assert compare(old, taken(folder), ["pin"]) == []
    CHANGES[item](folder)
    (found,) = compare(old, taken(folder), ["pin"])
    assert found.item == item and None not in (found.old, found.new)


@pytest.mark.parametrize("gone_from", ["old", "new"])
def test_what_only_one_tree_writes_is_noticed(tmp_path, gone_from):
    folders = {name: written(tmp_path / name) for name in ("old", "new")}
    change_tensor(folders[gone_from] / ".", lambda tensors: tensors.pop("b"))
    (folders[gone_from] / "story.json").unlink()
    old, new = (taken(folder) for folder in folders.values())
    found = compare(old, new, ["pin"])
    assert [each.item for each in found] == ["m.safetensors b", "story.json"]
    other = "new" if gone_from == "old" else "old"
    assert all((each.old is None) == (gone_from == "old") for each in found)
    assert f"only in the {other} tree" in describe(found[1], old, new)[0]


def test_a_changed_text_is_shown_by_its_lines(tmp_path):
    old, folder = taken(written(tmp_path / "old")), written(tmp_path / "new")
    CHANGES["story.json"](folder)
    new = taken(folder)
    lines = describe(compare(old, new, ["pin"])[0], old, new)
    assert lines[0] == "DIFFERS: pin/story.json"
    assert [line.strip() for line in lines[2:]] == ['-  "prompt": "an owl"', '+  "prompt": "a owl"']


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (
            "wrote 209 MB in 0.8 s (263 MB/s), checked in 0.2 s",
            "wrote 209 MB in 1.9 s (99 MB/s), checked in 0.3 s",
            True,
        ),
        ("wrote 209 MB in 0.8 s (263 MB/s)", "wrote 210 MB in 0.8 s (263 MB/s)", False),
        ("mini\ndrawing: 3/16 patches\ndrawing: 16/16 patches\n", "mini\n", False),
        ("mini\ndrawing: 3/16 patches\n", "mini\n", True),
        ("drawing: 1/16 patches\n", "", True),
        ('{"version": "0.1.0"}', '{"version": "0.2.0"}', True),
        ("made by orthus convert 0.1.0", "made by orthus convert 0.2.0", True),
        ('{"steps": 25, "seconds": 1.5}', '{"steps": 25, "seconds": 2.5}', True),
        ('{"steps": 25, "seconds": 1.5}', '{"steps": 24, "seconds": 1.5}', False),
    ],
)
def test_only_what_is_volatile_is_overlooked(one, other, alike):
    assert (text_item(one) == text_item(other)) == alike


def test_a_picture_inside_a_page_is_compared_by_pixels_and_chunks(tmp_path):
    folders = [written(tmp_path / name) for name in ("a", "b", "c")]
    change_pixel(folders[1])

    def digest(folder: Path, place: str) -> str:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("orthus", f"{place}/in.png")
        with Image.open(folder / "out.png") as picture:
            picture.load()
            picture.save(folder / "page.png", pnginfo=chunks)
        code = base64.b64encode((folder / "page.png").read_bytes()).decode()
        snapshot = Snapshot("tree", "")
        page = text_item(f'<img src="data:image/png;base64,{code}">')
        snapshot.keep("pin", 1.0, {"page": page}, [], {Path(place): "<desk>"})
        return snapshot.pins["pin"].items["page"]

    same = digest(folders[0], "/tmp/one")
    assert digest(folders[2], "/tmp/the-other") == same
    assert digest(folders[1], "/tmp/one") != same


def test_a_meant_difference_is_told_and_is_no_failure(tmp_path, capsys):
    old, folder = taken(written(tmp_path / "old")), written(tmp_path / "new")
    CHANGES["story.json"](folder)
    new = taken(folder)
    expected = tmp_path / "meant.txt"
    expected.write_text("# worded better\npin/*.json  # the story\n\n")
    assert patterns(expected) == ["pin/*.json"]
    assert report(old, new, ["pin"], [], False) == 1
    assert report(old, new, ["pin"], patterns(expected), False) == 0
    assert "meant: pin/story.json" in capsys.readouterr().out
    change_pixel(folder)
    assert report(old, taken(folder), ["pin"], patterns(expected), False) == 1


def test_a_command_that_ends_otherwise_has_failed(tmp_path, capsys):
    desk = Desk(tmp_path, tmp_path, {})
    desk.python("good", "-c", "print('hello')")
    desk.python("bad", "-c", "raise SystemExit('no such thing')")
    assert desk.items["good stdout"].text == "hello\n"
    assert desk.failures == ["bad: exit code 1: no such thing"]
    snapshot = Snapshot("tree", "this machine")
    snapshot.keep("pin", 1.0, desk.items, desk.failures)
    assert report(snapshot, snapshot, ["pin"], ["*"], False) == 1
    assert "FAILED: pin: tree: bad" in capsys.readouterr().out


def test_what_is_kept_is_read_again(tmp_path):
    snapshot = taken(written(tmp_path / "old"))
    snapshot.save(tmp_path / "kept.json")
    assert Snapshot.read(tmp_path / "kept.json") == snapshot


def test_a_pin_that_was_not_kept_has_failed(capsys):
    kept, new = Snapshot("kept", ""), Snapshot("new", "")
    new.keep("pin", 1.0, {"a": Item("1")}, [])
    assert compare(kept, new, ["pin"]) == [Difference("pin", "a", None, "1", False)]
    assert report(kept, new, ["pin"], ["*"], False) == 1
    assert "kept has no such pin" in capsys.readouterr().out
