"""bench, run as a user runs it, at its smallest size."""

from __future__ import annotations

import json

import pytest

SMALL = ["--shape", "mini", "--batch", "1,2", "--patches", 1, "--steps", 1, "--repeats", 1]


@pytest.fixture
def race(orthus):
    def run(*options):
        return orthus("bench", "--only", "race", *SMALL, "--device", "cpu", *options)

    return run


def test_figures_go_to_the_terminal_a_file_and_the_page(race, tmp_path):
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text("before\n<!-- bench: race mini cpu -->\n<!-- /bench -->\nafter\n")
    done = race("--json", figures, "--write", "--page", page)
    assert done.exit_code == 0, done.stderr
    assert "release" in done.stdout and "engine" in done.stdout
    told = json.loads(figures.read_text())
    found = told["race mini cpu"]
    assert [lap["batch"] for lap in found["laps"]] == [1, 1, 2]
    assert found["course"]["steps"] == 1 and found["bandwidth"] > 0
    assert found["difference"] < 1e-3 * max(1, found["feature_size"])
    assert told["machine"]["dtype"] == "float32"
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n")
    assert "| engine | 2 |" in text and "Measured on: device cpu" in text


def test_json_is_one_object(race):
    done = race("--format", "json")
    assert done.exit_code == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"machine", "race mini cpu"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "1,x"], "no list of batch sizes"),
        (["--batch", "0"], "no list of batch sizes"),
        (["--only", "rase"], "nothing to measure called 'rase'"),
        (["--shape", "huge"], "no shape 'huge'"),
        (["--write", "--page", "no-such-page.md"], "no page to write to"),
        (["--patches", 100000], "100000 patches of a picture"),
    ],
)
def test_what_cannot_be_measured_says_so(race, options, message):
    done = race(*options)
    assert done.exit_code == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout, "nothing was measured before"


def test_a_later_shape_with_fewer_patches_is_refused_before_the_first_is_measured(orthus):
    shapes = ["--shape", "mid", "--shape", "mini", "--patches", 200, "--batch", "1"]
    done = orthus("bench", "--only", "race", *shapes, "--steps", 1, "--repeats", 1)
    assert done.exit_code == 1 and "200 patches of a picture of 64" in done.stderr
    assert not done.stdout and "racing" not in done.stderr
