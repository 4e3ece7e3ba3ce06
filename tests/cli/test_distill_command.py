"""`orthus distill grid`: a model with grids, what draws with them, and what is refused."""

from __future__ import annotations

import json

import pytest

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.data.pixels import open_image
from orthus_core.distill import step_errors
from orthus_core.results.metadata import pixel_hash, read_record
from tests.core.toy_data import interleaved

FEW = ["--contexts", 64, "--device", "cpu"]


@pytest.fixture(autouse=True)
def fewer_times(monkeypatch):
    """Fine paths of 30 steps, so that their errors are there at once."""
    monkeypatch.setattr(step_errors, "FINE_STEPS", 16)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("a snowman\na red fox\n")
    return ["--prompt-file", file]


def test_a_model_gets_grids_that_its_presets_take_and_pictures_tell(
    orthus, tiny_folder, prompts, tmp_path
):
    place = tmp_path / "grid"
    words = ["distill", "grid", tiny_folder, "-o", place, *FEW, *prompts]
    done = orthus("--format", "json", *words, "--steps", 4)
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["folder"] == str(place)
    assert [each["solver"] for each in printed["grids"]] == ["dpm++", "unipc"]
    # 1. It is the model, with grids.
    assert fingerprint(place) == fingerprint(tiny_folder)
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (tiny_folder, place)
    )
    grids = after["sampling"].pop("time_grids")
    assert before == after
    assert grids["unipc"]["times"] == printed["grids"][1]["times"]
    assert {file.name for file in place.iterdir()} == {file.name for file in tiny_folder.iterdir()}
    shown = orthus("--format", "json", "info", place).stdout
    assert json.loads(shown)["sampling"]["time_grids"]["dpm++"] == ["1", "2", "3", "4"]
    # 2. A preset takes them, the picture tells them, and they are replayed.
    drawn = {}
    for preset, given in (("turbo", []), ("turbo", ["--set", "time_grid=[]"]), ("exact", [])):
        out = tmp_path / f"{len(drawn)}.png"
        done = orthus(
            *("generate", "a fox", "--seed", 1, "-m", place, "--device", "cpu", "-o", out),
            *("--preset", preset, *given),
        )
        assert done.exit_code == 0, done.stderr
        assert orthus("replay", out).stdout == "identical\n"
        drawn[out] = read_record(out)["sampling"].get("time_grid")
    times = grids["unipc"]["times"]
    assert [*drawn.values()] == [[*times["2"], *times["3"], *times["4"]], [], None]
    turbo, plain, _ = (pixel_hash(open_image(out)) for out in drawn)
    assert turbo != plain
    # 3. The record's grids are drawn again where the model's are others.
    after["sampling"]["time_grids"] = {"unipc": grids["unipc"] | {"times": {}}}
    (place / "config.json").write_text(json.dumps(after))
    assert orthus("replay", tmp_path / "0.png").stdout == "identical\n"
    assert "time_grid=[999" in orthus("info", tmp_path / "0.png", "--format", "json").stdout


def test_what_cannot_be_is_refused_before_anything_is_drawn(orthus, tiny_folder, prompts, tmp_path):
    for options, message in (
        (["-o", tmp_path / "out", "--scheduler", "heun"], "heun steps over its own timesteps"),
        (["-o", tmp_path / "out", "--scheduler", "oiler"], "no scheduler 'oiler'"),
        (["-o", tiny_folder, "--overwrite"], "replaced while it is read"),
        (["-o", tiny_folder], "--overwrite"),
    ):
        done = orthus("distill", "grid", tiny_folder, *FEW, *prompts, *options)
        assert done.exit_code == 1 and message in done.stderr
    assert not (tmp_path / "out").exists()
    one = ["--scheduler", "ddim", "--steps", 1, "-o", tmp_path / "one"]
    done = orthus("--format", "quiet", "distill", "grid", tiny_folder, *FEW, *prompts, *one)
    assert done.stdout == f"{tmp_path / 'one'}\n", done.stderr
    out = ["-m", tiny_folder, "-o", tmp_path / "out.png"]
    done = orthus("generate", "a fox", *out, "--set", "time_grid=[999, 5]")
    assert done.exit_code == 1 and "a patch takes 4 steps, and the time grid is of 2" in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.gradients
def test_a_model_is_guided_inside_and_by_no_option(orthus, tiny_folder, tmp_path):
    rows, place = interleaved(tmp_path / "rows", count=6), tmp_path / "guided"
    words = ["distill", "guidance", tiny_folder, "-o", place, "--guidance", 3]
    sets = ("optim.steps=1", "optim.batch_size=4", "log.sample_every=1", "data.held_out=0")
    words += [f"--set={each}" for each in (f'data.source="{rows}"', *sets)]
    planned = orthus(*words, "--dry-run")
    assert planned.exit_code == 0 and "guidance = 3.0" in planned.stdout
    done = orthus(*words)
    assert done.exit_code == 0, done.stderr
    assert "guidance to learn: 3 for pictures, 2 and 1.5 for edits, 2 for stories" in done.stderr
    assert (tmp_path / "guided.training" / "samples" / "step-000001.png").is_file()
    printed = json.loads(orthus("--format", "json", "info", place).stdout)
    assert printed["guided_inside"] == "3, in one stream"
    # It draws, and is replayed, with its guidance alone.
    drawing = ("-m", place, "--device", "cpu", "--seed", 1)
    for number, kept in enumerate(([], ["--guidance", 3], ["--guidance", 1])):
        out = tmp_path / f"{number}.png"
        done = orthus("generate", "a fox", *drawing, "-o", out, *kept)
        assert done.exit_code == 0, done.stderr
        assert read_record(out)["sampling"]["guidance"] == 1
        assert orthus("replay", out).stdout == "identical\n"
    pictures = {pixel_hash(open_image(tmp_path / f"{number}.png")) for number in range(3)}
    assert len(pictures) == 1
    no = ("-o", tmp_path / "no")
    for command in (
        ("generate", "a fox", *drawing, *no, "--guidance", 2),
        ("generate", "a fox", *drawing, *no, "--negative-prompt", "a dog"),
        ("edit", tmp_path / "0.png", "a fox", *drawing, *no, "--guidance", 3),
        ("edit", tmp_path / "0.png", "a fox", *drawing, *no, "--image-guidance", 1.5),
        ("story", "a fox", *drawing, *no, "--guidance", 2),
    ):
        done = orthus(*command)
        assert done.exit_code == 1 and "draws guidance 3 by itself, in one" in done.stderr
        assert "distilled" in done.stderr
    assert not (tmp_path / "no").exists()
    assert orthus(*words, "--resume", "auto").exit_code == 0  # it is finished
