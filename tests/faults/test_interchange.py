"""The common `parameters` text is read back as it was meant by the tools that read it.

`parsed` is the algorithm of those tools (AUTOMATIC1111/stable-diffusion-webui, its page of infotext
facts): the last line holds settings if it has three or more, a value in double quotes is JSON, and
a line that begins with "Negative prompt:" ends the prompt.
"""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image

from orthus_core.results.metadata import GenerationInfo, png_bytes
from orthus_core.version import __version__

SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def parsed(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings."""
    *lines, last = text.strip().split("\n")
    found = SETTING.findall(last)
    if len(found) < 3:
        lines, found = [*lines, last], []
    prompt, negative, is_negative = [], [], False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            is_negative, line = True, line[len("Negative prompt:") :].strip()
        (negative if is_negative else prompt).append(line)
    settings = {}
    for name, value in found:
        if value[0] == '"' and value[-1] == '"':  # an empty value is an error there
            value = json.loads(value)
        settings[name] = value
    return "\n".join(prompt), "\n".join(negative), settings


def written(prompt: str, *, negative: str | None = None, model: str = "mini", **more) -> str:
    """The chunk of a picture as Pillow reads it."""
    sampling = {"steps": 20, "guidance": 5.0, "scheduler": "ddim", "negative_prompt": negative}
    info = GenerationInfo(
        {"command": "generate"},
        prompt,
        7,
        sampling | more,
        {"name": model, "hash": more.pop("hash", "0123456789abcdef")},
    )
    content = png_bytes(Image.new("RGB", (64, 32)), info)
    return Image.open(io.BytesIO(content)).info["parameters"]


NASTY = [
    "a, b",
    "runs/my model: the second",
    "C:\\models\\new",
    'the "best", so far',
    '"quoted"',
    " spaces ",
    "two\nlines",
    "tab\tand\rreturn",
    "Seed: 1, Size: 9x9",
    "🦊, ünï",
    "plain",
    "ends in backslash\\",
    "a\\, b",
]


@pytest.mark.parametrize("name", NASTY)
def test_a_value_comes_back_as_it_was(name: str):
    prompt, negative, settings = parsed(written("a fox", negative="blur", model=name))
    assert (prompt, negative) == ("a fox", "blur")
    assert settings["Model"] == name
    assert settings["Seed"] == "7" and settings["Size"] == "64x32"
    assert settings["Version"] == f"orthus {__version__}" and settings["Steps"] == "20"


def test_plain_values_stay_without_quotes():
    assert "Model: plain, Version" in written("a fox", model="plain")


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox\nin the snow",
        "a fox\nSteps: 9, Seed: 1, Size: 2x2",
        'he says: "snow", twice',
        "🦊 ünï \\",
        "Steps: 9, Seed: 1, Size: 2x2, Model: other",
    ],
)
@pytest.mark.parametrize("negative", [None, "blur\nand noise", "Steps: 1, Seed: 2, Size: 3x3"])
def test_a_prompt_is_not_taken_for_settings(prompt: str, negative: str | None):
    back, without, settings = parsed(written(prompt, negative=negative))
    assert (back, without) == (prompt, negative or "")
    assert settings["Seed"] == "7" and settings["Model"] == "mini"


@pytest.mark.parametrize("prompt", ["Negative prompt: dogs", "a fox\n  Negative prompt: dogs\nx"])
def test_a_prompt_about_negative_prompts_stays_a_prompt(prompt: str):
    back, negative, _ = parsed(written(prompt, negative="Negative prompt: blur"))
    assert [line.strip("\u200b ") for line in back.split("\n")] == [
        line.strip() for line in prompt.split("\n")
    ]
    assert negative.strip("\u200b") == "Negative prompt: blur"


def test_an_empty_value_is_left_out():
    _, _, settings = parsed(written("a fox", model="", hash=""))
    assert "Model" not in settings and "Model hash" not in settings and settings["Seed"] == "7"


def test_an_external_schedulers_class_is_one_value():
    _, _, settings = parsed(written("a fox", scheduler="pkg.mod.Euler"))
    assert settings["Sampler"] == "Euler"
