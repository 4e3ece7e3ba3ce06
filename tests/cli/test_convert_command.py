"""`orthus convert` and `orthus info`, as a person or a script runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

SMALL = ("--head-width", "32", "--set", "check.codes=8")


@pytest.fixture
def golden_discrete(golden_folder: Path, tmp_path: Path) -> Path:
    """The golden model as the discrete Chameleon it could have been made from, without decoder."""
    folder = tmp_path / "chameleon"
    folder.mkdir()
    added = ("mlp_head.", "model.codebook_in.", "model.vqmodel.decoder.")
    weights = load_file(golden_folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(added)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((golden_folder / "config.json").read_bytes())
    return folder


def test_convert_makes_a_folder_and_says_what_is_missing(orthus, golden_discrete, tmp_path: Path):
    ended = orthus("convert", golden_discrete, "-o", tmp_path / "out", *SMALL)
    assert ended.exit_code == 0, ended.stderr
    assert "hidden states" in ended.stdout and "diffusion head" in ended.stdout
    assert "no pixel decoder" in ended.stdout and "--vqgan vqgan.ckpt" in ended.stdout
    assert "no tokenizer" in ended.stdout and "build-base" in ended.stdout
    assert (tmp_path / "out" / "config.json").is_file()


def test_convert_answers_a_script_in_json_alone(orthus, golden_discrete, tmp_path: Path):
    ended = orthus("convert", golden_discrete, "-o", tmp_path / "out", *SMALL, "--format", "json")
    made = json.loads(ended.stdout)
    assert made["folder"] == str(tmp_path / "out")
    assert made["proof"]["relative"] < 1e-5 and made["proof"]["copied"] > 0
    assert sum(part["parameters"] for part in made["parts"]) == made["parameters"]


def test_a_dry_run_writes_nothing(orthus, golden_discrete, tmp_path: Path):
    ended = orthus("convert", golden_discrete, "-o", tmp_path / "out", *SMALL, "--dry-run")
    assert ended.exit_code == 0 and "would become" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_mistake_ends_with_what_where_and_next(orthus, golden_discrete, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    ended = orthus("convert", golden_discrete, "-o", tmp_path / "out", *SMALL)
    assert ended.exit_code == 1 and "Traceback" not in ended.stderr
    assert "where: " in ended.stderr and "next: " in ended.stderr


def test_a_slip_in_a_setting_is_found_before_anything_is_read(orthus, tmp_path: Path):
    ended = orthus("convert", "nowhere", "-o", tmp_path / "out", "--set", "head.widht=3")
    assert ended.exit_code == 1 and "head.widht" in ended.stderr


def test_info_describes_the_model_and_its_settings(orthus, golden_folder: Path):
    ended = orthus("info", golden_folder)
    assert ended.exit_code == 0, ended.stderr
    assert "Orthus, as released" in ended.stdout and "diffusion head" in ended.stdout
    assert "scaled_linear" in ended.stdout and "missing: tokenizer" in ended.stdout


def test_info_answers_a_script_in_json_alone(orthus, golden_folder: Path):
    found = json.loads(orthus("info", golden_folder, "--format", "json").stdout)
    assert found["kind"] == "Orthus, as released"
    assert (found["head_width"], found["prediction"], found["temperature"]) == (64, "v", 1.0)


def test_info_of_nothing_is_an_error(orthus, tmp_path: Path):
    ended = orthus("info", tmp_path)
    assert ended.exit_code == 1 and "no checkpoint here" in ended.stderr
