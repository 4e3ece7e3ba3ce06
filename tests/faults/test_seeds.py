"""A seed that is given does something, or it is said that it does not; the streams of a seed are
separate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.api.pipeline import Orthus
from orthus_core.recipe import StoryRecipe
from orthus_core.samplers.code_sampler import seeded_gumbel
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import seeded_noise
from orthus_core.samplers.story import panel_seed
from orthus_core.samplers.text import text_generator

QUICK = ("--steps", "1", "--max-new-tokens", "12")


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


def texts(folder: Path) -> list[str]:
    panels = json.loads((folder / "story.json").read_text())["panels"]
    return [panel["text"] for panel in panels if not panel["given"] or panel.get("earlier")]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    """A story of the bundled model."""
    folder = tmp_path_factory.mktemp("seeds") / "story"
    done = run("story", "a story about a robot", "--panels", 2, "--seed", 1, "-o", folder, *QUICK)
    assert done.exit_code == 0, done.output
    return folder


def test_another_seed_tells_the_panels_from_a_panel_on_in_other_words(told, tmp_path):
    for seed in (7, 7, 8, 9):
        folder = tmp_path / f"{seed}"
        again = ["story", "--from-story", told, "--from-panel", 1, "--seed", seed, "--overwrite"]
        before = texts(folder) if folder.exists() else None
        assert run(*again, "-o", folder).exit_code == 0
        assert before in (None, texts(folder)), "the same seed tells the same"
    assert len({tuple(texts(tmp_path / seed)) for seed in "789"}) == 3


def test_at_temperature_0_every_seed_tells_the_same_and_says_so(tmp_path):
    said = []
    for seed in (1, 2):
        words = ["story", "a story about a robot", "--panels", 1, "--seed", seed, *QUICK]
        said.append(run(*words, "--temperature", 0, "-o", tmp_path / f"{seed}"))
    assert texts(tmp_path / "1") == texts(tmp_path / "2")
    assert all("whatever the seed; --temperature" in done.stderr for done in said)


def test_a_story_is_replayed_and_taken_over_with_the_temperature_that_it_had(
    told, tmp_path, monkeypatch
):
    record = json.loads((told / "story.json").read_text())
    assert record["sampling"]["temperature"] == 0.8 and record["sampling"]["top_p"] == 0.9
    # The model's own values may be others by then.
    whole = SamplingParams.resolve.__func__

    def others(cls, config, task="picture", **asked):
        config.sampling = {**(config.sampling or {}), "story_temperature": 0.0}
        return whole(cls, config, task, **asked)

    monkeypatch.setattr(SamplingParams, "resolve", classmethod(others))
    assert run("replay", told / "01.png").stdout.strip() == "identical"
    assert run("replay", told).stdout.strip() == "identical"
    assert run("story", "-C", told, "-o", tmp_path / "again").exit_code == 0
    assert texts(tmp_path / "again") == texts(told)


def as_an_earlier_version(folder: Path) -> None:
    """The story as it was written once: greedy, and its opening in words counted as panel 1."""
    record = json.loads((folder / "story.json").read_text())
    for name in ("temperature", "top_p"):
        record["sampling"].pop(name)
    record["recipe"]["text"] |= {"temperature": 0.0, "top_p": 1.0}
    for number in (2, 1):
        (folder / f"0{number}.png").rename(folder / f"0{number + 1}.png")
        record["panels"][number]["image"] = f"0{number + 1}.png"
    (folder / "story.json").write_text(json.dumps(record))


def test_a_story_of_an_earlier_version_replays_and_has_another_turn(tmp_path):
    old = tmp_path / "old"
    words = ["story", "a story about a robot", "--panels", 2, "--seed", 1, *QUICK]
    assert run(*words, "--temperature", 0, "--top-p", 1, "-o", old).exit_code == 0
    as_an_earlier_version(old)
    assert run("replay", old).stdout.strip() == "identical"
    for seed in (7, 8, 9):
        again = ["story", "--from-story", old, "--from-panel", 2, "--seed", seed]
        assert run(*again, "-o", tmp_path / f"{seed}").exit_code == 0
    turns = [texts(tmp_path / seed) for seed in "789"]
    assert {turn[0] for turn in turns} == {texts(old)[0]}, "panel 1 is kept"
    assert len({turn[1] for turn in turns}) > 1


def test_a_models_own_temperature_comes_before_the_general_one_and_an_asked_one_first(tiny_config):
    assert SamplingParams.resolve(tiny_config, "story").temperature == 0.8
    tiny_config.sampling = {"story_temperature": 0.3, "story_top_p": 0.5}
    own = SamplingParams.from_recipe(tiny_config, StoryRecipe())
    assert (own.temperature, own.top_p) == (0.3, 0.5)
    assert SamplingParams.resolve(tiny_config, "story", temperature=0.0).temperature == 0
    for task in ("picture", "edit"):
        assert SamplingParams.resolve(tiny_config, task).temperature == 0


def test_every_bit_of_a_seed_counts():
    for stream in (seeded_noise, seeded_gumbel):
        low, high = (next(stream(seed, 8)) for seed in (5, 5 + 2**32))
        assert not torch.equal(low, high)
    words = [text_generator(seed).initial_seed() for seed in (5, 5 + 2**32, 5 + 2**62)]
    assert len(set(words)) == 3 and all(0 <= each < 2**32 for each in words)


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 + 3, 2**32 - 1])
def test_usual_seeds_draw_what_they_always_drew(seed):
    always = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))[0]
    assert torch.equal(next(seeded_noise(seed, 8)), always)


def test_text_and_noise_of_a_seed_have_separate_random_numbers():
    for seed in range(50):
        noise = torch.randn(1, 8, generator=text_generator(seed))[0]
        assert not torch.equal(noise, next(seeded_noise(seed, 8)))


def test_panels_draw_what_they_always_drew():
    import random

    seed = panel_seed(3, 2)
    before = random.Random("3/2").getrandbits(63)
    always = torch.randn(1, 8, generator=torch.Generator().manual_seed(before))[0]
    assert torch.equal(next(seeded_noise(seed, 8)), always)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caption", "{start}", "--seed", 5], "the likeliest words are taken, whatever the seed"),
        (["generate", "a fox", "-n", 2, "--noise-scale", 0, *QUICK[:2]], "start from no noise"),
        (["generate", "a fox", "--seed", 2, "--noise-scale", 0, *QUICK[:2]], "start from no noise"),
        (["edit", "{start}", "x", "-n", 2, "--noise-scale", 0, *QUICK[:2]], "start from no noise"),
    ],
)
def test_a_seed_that_changes_nothing_is_said(
    tiny_folder, tmp_path, monkeypatch, told, words, message
):
    monkeypatch.chdir(tmp_path)
    words = [str(word).format(start=told / "01.png") for word in words]
    done = run(*words, "-m", tiny_folder, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert len(re.findall(message, done.stderr)) == 1
    useful = [word for word in words if word not in ("--noise-scale", "0")]
    asks = "caption" in words
    useful += ["--temperature", "0.8"] if asks else ["-o", tmp_path / "new"]
    done = run(*useful, "-m", tiny_folder, "--device", "cpu")
    assert done.exit_code == 0 and message not in done.stderr, done.output


def test_seeds_by_another_name_are_seeds(tiny_folder):
    tiny = Orthus.open(tiny_folder, device="cpu")
    drawn = tiny.generate("a fox", seeds=[5, 9], steps=1)
    assert drawn.seeds == [5, 9]
    assert drawn.images[0].tobytes() == tiny.generate("a fox", seed=5, steps=1).images[0].tobytes()
    assert tiny.edit(drawn.images[0], "a fox", seeds=4, steps=1).seeds == [4]
