"""`--best-of`, `--scale` and files that are no PNG, as a user meets them, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthus_core.data.pixels import open_image
from orthus_core.results.metadata import pixel_hash, read_record, read_text
from orthus_core.samplers.seeds import candidate_seeds

PROMPT = "a red fox and a snowman"


def hash_of(path: Path) -> str:
    return pixel_hash(open_image(path))


@pytest.fixture
def best(orthus, model, tmp_path) -> dict:
    """The report of two pictures, each the best of three."""
    words = ["generate", PROMPT, "--best-of", 3, "-n", 2, "--seed", 5, "--batch-size", 2]
    done = orthus(*words, "-o", tmp_path / "{seed}.png", "--format", "json", *model)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_the_best_of_several_says_what_it_was_chosen_from(orthus, model, best, tmp_path):
    assert [Path(one["path"]).name for one in best["pictures"]] == ["5.png", "6.png"]
    for asked, one in zip((5, 6), best["pictures"], strict=True):
        record = read_record(Path(one["path"]))
        assert record is not None and record["best_of"] == one["best_of"]
        scores = dict(map(tuple, record["best_of"]["scores"]))
        assert list(scores) == candidate_seeds(asked, 3)
        assert len({*scores.values()}) == 3 and max(scores.values()) < 0
        assert scores[record["seed"]] == max(scores.values())
        answers = record["best_of"]["answers"]
        assert [each["question"] for each in answers] == [
            "Is there a fox in the picture?",
            "What colour is the fox?",
            "Is there a snowman in the picture?",
        ]
        mean = np.log([each["probability"] for each in answers]).mean()
        assert scores[record["seed"]] == pytest.approx(mean, abs=2e-3)
        # Its own seed draws it alone, by hand and by replay.
        alone = tmp_path / "alone.png"
        words = ["generate", PROMPT, "--seed", record["seed"], "-o", alone, "--overwrite"]
        assert orthus(*words, *model).exit_code == 0
        assert hash_of(alone) == record["pixels"] == hash_of(Path(one["path"]))
        done = orthus("replay", one["path"])
        assert done.exit_code == 0 and "identical" in done.stdout, done.output
    shown = orthus("info", tmp_path / "5.png")
    assert "3 from seed 5" in shown.output and "--best-of" not in shown.stdout


def test_what_is_there_of_the_best_of_several_is_known_by_the_seed_asked_for(
    orthus, model, best, tmp_path
):
    (tmp_path / "6.png").unlink()
    words = ["generate", PROMPT, "-n", 2, "--seed", 5, "-o", tmp_path / "{seed}.png"]
    words += ["--skip-existing", "--format", "json", *model]
    done = orthus(*words, "--best-of", 3)
    assert done.exit_code == 0 and "other values" not in done.stderr, done.stderr
    (again,) = json.loads(done.stdout)["pictures"]
    assert again["pixels"] == best["pictures"][1]["pixels"]
    assert again["best_of"] == best["pictures"][1]["best_of"]
    done = orthus(*words, "--best-of", 2)
    assert done.exit_code == 0 and "other values of best_of" in done.stderr


def test_python_keeps_the_best_of_several_too(tiny_folder, best):
    from orthus_core import Orthus

    orthus = Orthus.open(tiny_folder, device="cpu")
    found = orthus.generate(PROMPT, n=2, seed=5, best_of=3, scale=2)
    assert found.seeds == [one["seed"] for one in best["pictures"]]
    assert [image.size for image in found.images] == [(32, 32)] * 2


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_an_enlarged_picture_says_so_in_each_kind_of_file(orthus, model, tmp_path, suffix):
    plain, out = tmp_path / "plain.png", tmp_path / f"out{suffix}"
    words = ["generate", "a fox", "--seed", 1, *model]
    assert orthus(*words, "-o", plain).exit_code == 0
    done = orthus(*words, "--scale", 2, "-o", out)
    assert done.stdout == f"{out}: a fox, seed 1; 32x32, enlarged 2 times from 16x16\n"
    larger = open_image(plain).resize((32, 32), Image.Resampling.LANCZOS)
    record = read_record(out)
    assert record is not None and record["pixels"] == pixel_hash(larger)
    assert record["enlarged"] == {"times": 2, "from": "16x16", "filter": "Lanczos"}
    assert open_image(out).size == (32, 32)
    common = read_text(out, "parameters") or ""
    assert "Size: 16x16" in common and "Postprocess upscale by: 2" in common
    info = orthus("info", out)
    assert "--scale 2" in info.stdout and "2 times after it was drawn" in info.output
    loss = "as drawn, but for what JPEG loses" if suffix == ".jpg" else "as drawn\n"
    assert loss in info.output
    done = orthus("replay", out, "-o", tmp_path / f"again{suffix}")
    assert done.exit_code == 0 and "identical" in done.stdout, done.output
    assert hash_of(tmp_path / f"again{suffix}") == hash_of(out)
    again = orthus("generate", "-C", out, "-o", tmp_path / "same.png")
    assert again.exit_code == 0 and hash_of(tmp_path / "same.png") == record["pixels"]


def test_edits_and_stories_are_enlarged_and_keep_no_metadata_where_that_is_asked(
    orthus, model, start, tmp_path
):
    words = ["edit", start, "red", "--seed", 1, "--scale", 4, *model]
    done = orthus(*words, "-o", tmp_path / "out.webp", "--no-metadata", "--compare")
    assert done.exit_code == 0 and "64x64, enlarged 4 times from 16x16" in done.stdout
    assert open_image(tmp_path / "out.webp").size == (64, 64)
    assert read_record(tmp_path / "out.webp") is None
    folder = tmp_path / "story"
    done = orthus("story", "a fox", "--panels", 1, "--scale", 2, "-o", folder, *model)
    assert done.exit_code == 0 and "32x32, enlarged 2 times from 16x16" in done.stdout
    assert open_image(folder / "01.png").size == (32, 32)
    assert orthus("replay", folder).exit_code == 0
    assert orthus("replay", folder / "01.png", "-o", tmp_path / "panel.jpg").exit_code == 0
    assert (read_record(tmp_path / "panel.jpg") or {})["panel"] == 1


def test_a_changed_jpeg_is_named_and_an_unchanged_one_goes_on_from_its_record(
    orthus, model, tmp_path
):
    out = tmp_path / "out.jpg"
    assert orthus("generate", "a fox", "--seed", 1, "-o", out, *model).exit_code == 0
    done = orthus("generate", "--continue", out, "--seed", 2, "-o", tmp_path / "on.png")
    assert done.exit_code == 0 and "computed from its record" in done.stderr
    with Image.open(out) as image:
        exif, turned = image.info["exif"], image.transpose(Image.Transpose.ROTATE_180)
    turned.save(out, exif=exif)
    assert "changed since they were drawn" in orthus("info", out).output
    assert "was changed after it was drawn" in orthus("replay", out).output


@pytest.mark.parametrize(("option", "value"), [("--scale", 3), ("--best-of", 0), ("--best-of", 99)])
def test_a_factor_and_a_number_out_of_range_are_refused(orthus, model, tmp_path, option, value):
    done = orthus("generate", "a fox", option, value, "-o", tmp_path / "a.png", *model)
    assert done.exit_code != 0 and not [*tmp_path.iterdir()]
