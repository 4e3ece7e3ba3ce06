"""Where prompts come from, what lies beside a picture, and going on from the top of one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.data.pixels import open_image
from orthus_core.events import PatchDone
from orthus_core.results.metadata import pixel_hash, read_record


@pytest.fixture
def model(tiny_folder) -> list[str]:
    return ["--model", str(tiny_folder), "--device", "cpu"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def values(path: Path) -> np.ndarray:
    return np.asarray(open_image(path)).astype(int)


def test_prompts_come_from_the_line_a_file_and_standard_input_in_that_order(model, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red fox\r\n\r\n  # a hedge\n".encode())
    words = ["generate", "a snowman", "-", "--prompt-file", file, "-o", tmp_path / "{number}.png"]
    done = CliRunner().invoke(
        app,
        [str(word) for word in [*words, "--seed", 1, "--format", "json", *model]],
        input="a 🦊 in the sun\n\nblue\n",
    )
    assert done.exit_code == 0, done.stderr
    told = [one["prompt"] for one in json.loads(done.stdout)["pictures"]]
    assert told == ["a snowman", "a 🦊 in the sun", "blue", "a red fox", "# a hedge"]
    record = read_record(tmp_path / "2.png")
    assert record is not None and record["prompt"] == "a 🦊 in the sun"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "not UTF-8 text, from byte 0"), (b"\n \n", "no prompt")],
)
def test_a_file_without_prompts_is_refused(orthus, model, tmp_path, content, message):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    done = orthus("generate", "--prompt-file", file, *model)
    assert done.exit_code == 1 and message in done.stderr


def test_a_sheet_shows_each_prompt_in_a_row_of_its_seeds(orthus, model, tmp_path):
    sheet = tmp_path / "sheet.png"
    words = ["generate", "a snowman", "a red fox", "-n", 3, "--seed", 1, "--grid", sheet]
    done = orthus(*words, "-o", tmp_path / "many", *model)
    assert done.exit_code == 0, done.stderr
    image = open_image(sheet)
    assert image.size == (3 * 16 + 2 * 4, 2 * 16 + 4)
    cell = image.crop((20, 20, 36, 36))
    assert pixel_hash(cell) == pixel_hash(open_image(tmp_path / "many" / "a_red_fox_2.png"))


def test_what_is_known_of_a_picture_lies_beside_it_or_nowhere(orthus, model, tmp_path):
    beside, nowhere = tmp_path / "beside.png", tmp_path / "nowhere.png"
    orthus("generate", "a fox ☃", "--seed", 1, "-o", beside, "--metadata", *model)
    orthus("generate", "a fox ☃", "--seed", 1, "-o", nowhere, "--no-metadata", *model)
    assert names(tmp_path) == ["beside.json", "beside.png", "nowhere.png"]
    told = json.loads((tmp_path / "beside.json").read_text(encoding="utf-8"))
    record = read_record(beside)
    assert record is not None and told == {"file": "beside.png", **record}
    assert read_record(nowhere) is None
    with Image.open(nowhere) as image:
        assert not image.info.get("parameters")


def test_a_sidecar_that_is_there_stops_the_run_before_it_draws(orthus, model, tmp_path):
    (tmp_path / "out.json").write_text("precious")
    done = orthus("generate", "a fox", "-o", tmp_path / "out.png", "--metadata", *model)
    assert done.exit_code == 1 and "--overwrite" in done.stderr
    assert names(tmp_path) == ["out.json"]
    assert (tmp_path / "out.json").read_text() == "precious"


@pytest.mark.parametrize("source", ["first.png", "first.json"])
def test_values_come_from_a_picture_and_options_that_are_given_win(orthus, model, tmp_path, source):
    first = tmp_path / "first.png"
    asked = ["--seed", 4, "--steps", 2, "--guidance", 1.5, "--metadata"]
    orthus("generate", "a snowman", "-o", first, *asked, *model)
    again = orthus("generate", "-C", tmp_path / source, "-o", tmp_path / "a.png")
    assert again.exit_code == 0, again.stderr
    assert pixel_hash(open_image(tmp_path / "a.png")) == pixel_hash(open_image(first))
    words = ["-C", tmp_path / source, "--steps", 3, "--set", "guidance=2", "--seed", 9]
    done = orthus("generate", "a red fox", *words, "-o", tmp_path / "b.png", "--format", "json")
    told = json.loads(done.stdout)
    assert told["sampling"]["steps"] == 3 and told["sampling"]["guidance"] == 2
    assert told["pictures"][0]["prompt"] == "a red fox" and told["pictures"][0]["seed"] == 9


def test_the_rest_of_a_picture_is_drawn_anew_under_its_kept_rows(orthus, model, tmp_path):
    first = tmp_path / "first.png"
    orthus("generate", "a snowman", "--seed", 3, "-o", first, *model)
    kept = ["generate", "--continue", first, "--keep-rows", 1]
    done = orthus(*kept, "--seed", 3, "-o", tmp_path / "same.png")
    assert done.exit_code == 0 and "top 1 of 2 rows" in done.stderr
    assert "computed from its record" in done.stderr
    # The same seed goes on as the first did, but for the rounding of reading instead of drawing.
    assert np.abs(values(tmp_path / "same.png") - values(first)).max() <= 8
    orthus(*kept, "--seed", 5, "-o", tmp_path / "other.png")
    assert np.abs(values(tmp_path / "other.png") - values(first))[8:].max() > 8
    record = read_record(tmp_path / "other.png")
    assert record is not None and record["begun"] == {"rows": 1, "features": "drawn again"}


def test_the_top_of_any_picture_can_be_gone_on_from(orthus, model, tmp_path):
    start = tmp_path / "start.png"
    Image.linear_gradient("L").resize((40, 32)).save(start)
    words = ["generate", "a fox", "--continue", start, "-o", tmp_path / "on.png", "--seed", 1]
    done = orthus(*words, *model)
    assert done.exit_code == 0 and "read from its pixels" in done.stderr
    record = read_record(tmp_path / "on.png")
    assert record is not None and record["inputs"] == [pixel_hash(open_image(start))]


@pytest.mark.parametrize("rows", [0, 2, 99])
def test_rows_that_cannot_be_kept_are_refused(orthus, model, tmp_path, rows):
    start = tmp_path / "start.png"
    Image.new("RGB", (16, 16)).save(start)
    words = ["generate", "a fox", "--continue", start, "--keep-rows", rows]
    done = orthus(*words, "-o", tmp_path / "on.png", *model)
    assert done.exit_code == 1 and "keep 1 to 1 of them" in done.stderr
    assert names(tmp_path) == ["start.png"]


def test_emoji_go_into_names_that_every_system_takes(orthus, model, tmp_path):
    done = orthus("generate", "雪" * 70, "--seed", 1, "-o", tmp_path / "pictures", *model)
    assert done.exit_code == 0, done.stderr
    (name,) = names(tmp_path / "pictures")
    assert len(name.encode()) < 255 and name.endswith("雪_1.png")


def test_a_console_that_knows_no_emoji_still_gets_its_lines(model, tmp_path, monkeypatch):
    from orthus_cli import console

    old = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", old)
    console.Reporter(console.Settings()).result({}, text="a 🦊")
    console.Reporter(console.Settings("json")).result({"prompt": "a 🦊 \udcff"})
    old.flush()
    lines = old.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert lines.startswith("a ?\n")
    assert json.loads(lines.partition("\n")[2])["prompt"] == "a 🦊 \udcff"


def test_ctrl_c_keeps_the_pictures_that_are_finished(orthus, model, tmp_path, monkeypatch):
    from orthus_core.api import images

    whole = images.generate

    def interrupted(*args, **kwargs):
        for event in whole(*args, **kwargs):
            yield event
            if isinstance(event, PatchDone) and event.row == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(images, "generate", interrupted)
    words = ["generate", "a fox", "-n", 3, "--seed", 1, "--batch-size", 1]
    done = orthus(*words, "-o", tmp_path / "{seed}.png", *model)
    assert done.exit_code == 130, done.output
    # Two are whole, the third leaves nothing.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "2.png"]
    monkeypatch.undo()
    orthus("generate", "a fox", "--seed", 2, "-o", tmp_path / "again.png", *model)
    again, kept = (pixel_hash(open_image(tmp_path / n)) for n in ("again.png", "2.png"))
    assert again == kept


def test_layers_that_stay_in_their_files_draw_the_same_picture(orthus, model, tmp_path):
    words = ["generate", "a fox", "--seed", 1, *model]
    assert orthus(*words, "-o", tmp_path / "held.png").exit_code == 0
    done = orthus(*words, "--low-memory", "-o", tmp_path / "fetched.png")
    assert done.exit_code == 0, done.stderr
    assert "layers fetched when they are used" in done.stderr and "meta" not in done.stderr
    held, fetched = (pixel_hash(open_image(tmp_path / f"{n}.png")) for n in ("held", "fetched"))
    assert held == fetched
    refused = orthus(*words, "--low-memory", "--quantize", 8, "-o", tmp_path / "both.png")
    assert refused.exit_code == 1 and "leave out --quantize, or --low-memory" in refused.stderr


def test_a_preview_is_for_terminals_only(orthus, model, tmp_path):
    done = orthus("generate", "a fox", "-o", tmp_path / "a.png", "--preview", *model)
    assert done.exit_code == 0 and "needs a terminal" in done.stderr
    assert "\x1b" not in done.output


def test_a_backbone_in_fewer_bits_draws_and_says_so(orthus, model, tmp_path):
    words = ["generate", "a fox", "--seed", 1, *model]
    assert orthus(*words, "-o", tmp_path / "whole.png").exit_code == 0
    for bits in (8, 4):
        done = orthus(*words, "--quantize", bits, "-o", tmp_path / f"{bits}.png")
        assert done.exit_code == 0 and f"backbone in {bits} bits" in done.stderr
    assert pixel_hash(open_image(tmp_path / "4.png")) != pixel_hash(
        open_image(tmp_path / "whole.png")
    )
    refused = orthus(*words, "--quantize", 3, "-o", tmp_path / "3.png")
    assert refused.exit_code != 0 and "quantize" in refused.stderr
