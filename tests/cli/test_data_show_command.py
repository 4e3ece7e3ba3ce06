"""`orthus data show`: rows as a training sees them, in words and on a sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import read_config
from orthus_core.data.pictures import FilePicture
from orthus_core.data.row_sheet import FAULT, LEARNT, MARK, READ, SMALLEST_SHOWN, row_sheet
from orthus_core.data.shown_row import RowPart, ShownRow


def text(value: str, role: str = "user") -> dict[str, str]:
    return {"type": "text", "role": role, "value": value}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Four rows: a chat, one longer than mini's context, one without an answer, one drawn."""
    random = np.random.default_rng(0)
    pixels_HW3 = random.integers(0, 256, (48, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels_HW3).save(tmp_path / "wide.png")
    picture = {"type": "image", "role": "user", "path": "wide.png"}
    rows = {
        "chat": [
            picture,
            *(text("What is it?"), text("a red cup", "model")),
            *(text("and now?"), text("a dog", "model")),
        ],
        "long": [
            *(text("who?"), text("me", "model")),
            *(text("word " * 900), text("the end", "model")),
        ],
        "blank": [text("a cat"), text(" ", "model")],
        "drawn": [text("noise"), {**picture, "role": "model"}],
    }
    lines = [json.dumps({"segments": row, "id": name}) for name, row in rows.items()]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "records.jsonl"


def shown(orthus, chats: Path, *options: object) -> dict[str, dict]:
    done = orthus("--format", "json", "data", "show", chats, *options)
    assert done.exit_code == 0, done.stderr
    lines = {f"{chats}:{at}": name for at, name in enumerate(("chat", "long", "blank", "drawn"), 1)}
    return {lines[row["name"]]: row for row in json.loads(done.stdout)["rows"]}


def test_a_row_is_shown_as_the_model_reads_it_with_what_is_learnt(orthus, chats):
    rows = shown(orthus, chats)
    wide = str(chats.parent / "wide.png")
    parts = [(p["role"], p["text"], p["learnt"]) for p in rows["chat"]["segments"]]
    assert parts == [
        *(("user", "<s>", False), ("user", "[BOI]", False)),
        *(("user", wide, True), ("user", "[EOI]", False)),
        *(("user", "what is it?", False), ("user", "SEP", False)),
        *(("model", "a red cup", True), ("model", "</s>", True)),
        *(("user", "and now?", False), ("user", "SEP", False)),
        *(("model", "a dog", True), ("model", "</s>", True)),
    ]
    assert not rows["chat"]["cut"] and rows["chat"]["problem"] is None
    assert "nothing to learn" in rows["blank"]["problem"]

    long = rows["long"]
    assert long["cut"] and long["positions"] < 20
    assert [(p["role"], p["text"].strip()[:7], p["cut"]) for p in long["segments"][-3:]] == [
        *(("model", "</s>", False), ("user", "word wo", True), ("model", "the end", True)),
    ]


def test_a_source_is_shown_as_it_is_checked(orthus, tmp_path):
    import pyarrow
    import pyarrow.parquet

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = pyarrow.table({"words": ["a cat"], "pix": ["a.png"]})
    (tmp_path / "elsewhere").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "elsewhere" / "sub.parquet")
    options = ["--images", tmp_path, "--column", "caption=words", "--column", "image=pix"]
    source = tmp_path / "elsewhere" / "sub.parquet"
    done = orthus("--format", "json", "data", "show", source, *options, "--as", "table")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert [part["text"] for part in row["segments"] if part["kind"] == "text"] == ["a cat"]
    assert "no split 'test'" in orthus("data", "show", source, *options, "--split", "test").stderr
    assert orthus("data", "show", "--images", tmp_path).exit_code == 2


def test_what_is_learnt_follows_from_the_recipe(orthus, chats):
    options = "--set", "data.own_pictures=true", "--set", "text_weight=0"
    rows = shown(orthus, chats, *options)
    learnt = {
        name: [p["text"] for p in row["segments"] if p["learnt"]] for name, row in rows.items()
    }
    assert learnt["chat"] == []
    assert learnt["drawn"] == [str(chats.parent / "wide.png")]


def test_the_order_is_the_trainings_and_another_seed_gives_another(orthus, chats):
    orders = {seed: [*shown(orthus, chats, "--seed", seed)] for seed in range(4)}
    assert len({tuple(order) for order in orders.values()}) > 1
    assert [*shown(orthus, chats, "-n", 2, "--seed", 3)] == orders[3][:2]


def test_the_sheet_has_the_pictures_at_the_models_size_and_replaces_nothing(orthus, chats):
    sheet = chats.parent / "sheet.png"
    done = orthus("data", "show", chats, "-o", sheet)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(sheet)
    # In a pipe, stars stand for what is bold.
    assert "  model **a red cup </s>**" in done.stdout and "<s> noise SEP" in done.stdout
    assert "longer than the context: the rest is left out" in done.stdout

    with Image.open(sheet) as image:
        pixels_HW3 = np.asarray(image.convert("RGB"))
    colours = {tuple(colour) for colour in np.unique(pixels_HW3.reshape(-1, 3), axis=0).tolist()}
    assert {LEARNT, READ, MARK, FAULT} <= colours
    side = read_config(resolve("mini")).vq_config.resolution
    times = -(-SMALLEST_SHOWN // side)
    square_HW3 = FilePicture(chats.parent / "wide.png").load(side)
    enlarged_HW3 = square_HW3.repeat(times, 0).repeat(times, 1)
    first = (pixels_HW3 == enlarged_HW3[0, 0]).all(2)
    places = [
        (y, x)
        for y, x in zip(*first.nonzero(), strict=True)
        if np.array_equal(pixels_HW3[y : y + times * side, x : x + times * side], enlarged_HW3)
    ]
    assert len(places) == 2, "one row reads it, one draws it"

    before = sheet.read_bytes()
    again = orthus("data", "show", chats, "-n", 1, "-o", sheet)
    assert again.exit_code == 1 and "already" in again.stderr
    assert sheet.read_bytes() == before
    assert orthus("data", "show", chats, "-n", 1, "-o", sheet, "--overwrite").exit_code == 0
    assert sheet.read_bytes() != before
    assert orthus("data", "show", chats, "-o", chats.parent / "sheet.jpg").exit_code == 2


def test_what_is_beyond_the_context_is_red_on_a_sheet():
    for cut in (False, True):
        part = RowPart("text", "model", "word " * 900, cut=cut)
        sheet = row_sheet([ShownRow("chat", "", (part,))], side=64)
        # A text is as long as the context; of what is not read, the first lines are enough.
        assert sheet.height < (150 if cut else 600)
        below = sheet.crop((0, 50, sheet.width, sheet.height))
        colours = {colour for _, colour in below.getcolors(sheet.width * sheet.height) or ()}
        assert (FAULT in colours, READ in colours) == (cut, not cut)


def test_rows_of_the_small_world_and_faults_are_shown(orthus, tmp_path):
    done = orthus("data", "show", "sprites", "-n", 2, "--set", "data.tasks.story=0")
    assert done.exit_code == 0 and done.stdout.startswith("1  "), done.stderr
    missing = orthus("data", "show", tmp_path / "none")
    assert missing.exit_code == 1 and "no such file" in missing.stderr
