"""eval fid, hps, edit-clip, folder and card, run as a user runs them."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    """Six drawn and six true pictures."""
    for name, blue in (("drawn", 0), ("true", 200)):
        (tmp_path / name).mkdir()
        for number in range(6):
            image = Image.new("RGB", (32, 32), (40 * number, 99, blue))
            image.paste((255, 255, 255), (number, 4, number + 9, 20))
            image.save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_folders_are_compared_as_sets_offline(orthus, folders):
    words = ["eval", "fid", "--pictures", folders / "drawn", "--reference", folders / "true"]
    done = orthus(*words, "-o", folders / "report", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "EfficientNet-Lite0; not the published FID" in done.stderr
    result = json.loads((folders / "report/result.json").read_text())
    assert result["variant"] == result["settings"]["features"] == "efficientnet-lite0"
    assert result["metrics"]["fid"] > 0 and len(result["settings"]["weights_hash"]) == 64
    assert result["per_category"]["pictures"] == {"drawn": 6, "reference": 6}
    for name in ("precision", "recall", "coverage", "mean_distance"):
        low, high = result["intervals"][name]
        assert low <= result["metrics"][name] <= high
    lacking = orthus(*words, "--features", "inception-2015")
    assert lacking.exit_code == 1 and "pt_inception-2015-12-05-6726825d.pth" in lacking.stderr
    unknown = orthus(*words, "--features", "vgg")
    assert unknown.exit_code == 1 and "efficientnet-lite0, inception-2015" in unknown.stderr
    few = orthus(*words[:-1], folders / "report")
    assert few.exit_code == 1 and "without pictures" in few.stderr


def test_missing_weights_are_named(orthus, folders):
    words = ["--pictures", folders / "drawn", "--data", folders]
    done = orthus("eval", "hps", *words)
    assert done.exit_code == 1 and "HPS_v2_compressed.pt" in done.stderr
    done = orthus("eval", "hps", *words, "--hps-version", "v3")
    assert done.exit_code == 1 and "v2.0, v2.1" in done.stderr
    done = orthus("eval", "edit-clip", *words)
    assert done.exit_code == 1 and "openai/clip-vit-large-patch14" in done.stderr


def test_ones_own_set_is_scored_compared_and_put_on_a_page(orthus, folders):
    lines = [
        {"id": "a", "image": "0.png", "question": "What | is\n<b>it</b>?", "answer": "a dog"},
        {"id": "b", "image": "1.png", "question": "And this?", "answer": "a cat"},
        {"id": "c", "image": "2.png", "prompt": "a dog"},
    ]
    data = folders / "own.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, word in (("one", "dog"), ("two", "cat")):
        said = [{"id": key, "answer": word} for key in "ab"]
        (folders / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
        words = ["--pictures", folders / "drawn", "--data", data]
        words += ["--predictions", folders / f"{name}.jsonl", "-o", folders / name]
        done = orthus("eval", "folder", *words)
        assert done.exit_code == 0, done.stderr
        assert "accuracy\t0.5000\t" in done.stdout
    compared = orthus("eval", "compare", folders / "one", folders / "two", "--format", "json")
    told = json.loads(compared.stdout)
    accuracy = next(each for each in told["metrics"] if each["metric"] == "accuracy")
    # Each has the other's question wrong.
    assert (accuracy["difference"], accuracy["pairs"], accuracy["p_value"]) == (0, 2, 1)
    assert accuracy["method"] == "Newcombe, paired" and told["notes"] == []

    done = orthus("eval", "card", folders / "two", "--format", "quiet")
    assert done.exit_code == 0, done.stderr
    assert [line.rpartition("/")[2] for line in done.stdout.split()] == [
        "sheet.png",
        "report.md",
        "report.html",
    ]
    with Image.open(folders / "two/sheet.png") as sheet:
        # The wrong picture is the first one, and has a red frame.
        assert sheet.convert("RGB").getpixel((1, 1)) == (0xD9, 0x26, 0x33)
    text = (folders / "two/report.md").read_text()
    assert "| accuracy | 0.5000 |" in text and "1 of 3 are wrong" in text
    assert "What \\| is &lt;b&gt;it&lt;/b&gt;?" in text and "And this?" not in text
    page = (folders / "two/report.html").read_text()
    assert "&lt;b&gt;it" in page and "<b>it" not in page and "default-src 'none'" in page
    assert page.count("data:image/png;base64,") == 1 and not re.search("https?://", page)
    again = orthus("eval", "card", folders / "two")
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    elsewhere = orthus("eval", "card", folders / "two", "--pictures", folders / "one")
    assert elsewhere.exit_code == 1 and "none of the pictures" in elsewhere.stderr
