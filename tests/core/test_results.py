"""What drawing leaves: names that fit everywhere, whole files, pictures that know themselves."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.model_folder import open_model, save_model
from orthus_core.errors import DataError, OutputError, PromptError
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.results.metadata import (
    GenerationInfo,
    common_text,
    pixel_hash,
    read_record,
    save_picture,
)
from orthus_core.results.output_names import Named, picture_paths, slug, write_file, write_folder
from orthus_core.results.story_folder import Panel, write_story
from orthus_core.samplers.seeds import choose_seeds

MAKING = GenerationInfo(
    recipe={"command": "generate", "seeds": [7]},
    prompt="a snowman ☃",
    seed=7,
    sampling={
        "steps": 10,
        "guidance": 1.5,
        "image_guidance": 1.5,
        "negative_prompt": "Nothing.",
        "scheduler": "dpm++",
    },
    model={"name": "mini", "hash": "0123456789abcdef"},
)


@pytest.fixture
def image() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((16, 16))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a snowman", "a_snowman"),
        ("A red fox, at night!", "a_red_fox_at_night"),
        ("../../etc/passwd", "etc_passwd"),
        ("☃ ☃", "picture"),
        ("", "picture"),
        ("CON", "_con"),
        ("un château", "un_château"),
        ("x" * 500, "x" * 60),
        ("line\nbreak\ttab: star*", "line_break_tab_star"),
    ],
)
def test_a_prompt_becomes_a_name_that_every_system_takes(text, name):
    assert slug(text) == name


def test_a_file_a_folder_and_a_template_are_told_apart(tmp_path):
    one = [Named("a fox", 3)]
    (tmp_path / "there.is").mkdir()
    assert picture_paths(tmp_path / "out.png", one) == [tmp_path / "out.png"]
    assert picture_paths(tmp_path / "there.is", one) == [tmp_path / "there.is" / "a_fox_3.png"]
    assert picture_paths(tmp_path / "new", one) == [tmp_path / "new" / "a_fox_3.png"]
    assert picture_paths(f"{tmp_path}/new.d/", one) == [tmp_path / "new.d" / "a_fox_3.png"]
    assert picture_paths(tmp_path / "{seed:04}-{number}.png", one) == [tmp_path / "0003-1.png"]
    assert picture_paths(None, one) == [Path("a_fox_3.png")]


def test_several_pictures_never_share_a_name(tmp_path):
    seeds = [Named("a fox", 3), Named("a fox", 4)]
    assert [p.name for p in picture_paths(tmp_path / "o.png", seeds)] == ["o_3.png", "o_4.png"]
    prompts = [Named("a fox", 3), Named("a cat", 3)]
    assert [p.name for p in picture_paths(tmp_path / "o.png", prompts)] == ["o_1.png", "o_2.png"]
    alike = [Named("a fox", 3), Named("A fox!", 3)]
    assert [p.name for p in picture_paths(tmp_path / "{prompt}.png", alike)] == [
        "a_fox_1.png",
        "a_fox_2.png",
    ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.gif", "written as PNG, JPEG or WebP, not as .gif"),
        ("{sed}.png", r"field \{sed\} is unknown"),
        ("{0}.png", r"field \{0\} is unknown"),
        ("{prompt.__class__}.png", "is unknown"),
        ("{.png", "does not read"),
    ],
)
def test_an_output_that_cannot_be_is_explained(output, message):
    with pytest.raises(OutputError, match=message):
        picture_paths(output, [Named("a fox", 3)])


def test_a_name_that_is_taken_is_refused_before_anything_is_drawn(tmp_path):
    taken = tmp_path / "out.png"
    taken.write_text("precious")
    with pytest.raises(OutputError, match="already"):
        picture_paths(taken, [Named("a fox", 3)])
    assert picture_paths(taken, [Named("a fox", 3)], overwrite=True) == [taken]


def test_a_file_is_written_whole_and_never_over_another(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    write_file(path, b"one")
    with pytest.raises(OutputError, match="already"):
        write_file(path, b"two")
    assert path.read_bytes() == b"one"
    write_file(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two" and names(path.parent) == ["file.bin"]


def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    write_file(path, b"one")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_file(path, b"two", overwrite=True)
    assert path.read_bytes() == b"one" and names(tmp_path) == ["file.bin"]
    with pytest.raises(OutputError, match="the disk is full"):
        write_folder(tmp_path / "story", {"a": b"aa"}, mark="a")
    assert names(tmp_path) == ["file.bin"]


def test_a_place_that_is_no_folder_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_file(tmp_path / "file" / "inside.png", b"")


def test_a_picture_carries_how_it_was_made(tmp_path, image):
    path = tmp_path / "out.png"
    save_picture(image, path, MAKING)
    record = read_record(path)
    assert record is not None
    assert record["prompt"] == "a snowman ☃" and record["seed"] == 7
    assert record["recipe"] == MAKING.recipe and record["model"] == MAKING.model
    with Image.open(path) as saved:
        assert record["pixels"] == pixel_hash(saved)
        text = saved.info["parameters"]
    assert text.splitlines() == [
        "a snowman ☃",
        "Negative prompt: Nothing.",
        text.splitlines()[2],
    ]
    assert "Steps: 10, Sampler: DPM++ 2M, CFG scale: 1.5, Seed: 7, Size: 16x16, " in text
    assert "Model hash: 0123456789, Model: mini" in text


COMMON_NAMES = {
    "ddim": "DDIM",
    "dpm++": "DPM++ 2M",
    "unipc": "UniPC",
    "flow-map": "Flow map",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpm++2s": "DPM++ 2S",
    "dpm++2m_sde": "DPM++ 2M SDE",
    "deis": "DEIS",
    "pndm": "PLMS",
    "ddpm": "DDPM",
    "sa_solver": "SA-Solver",
    "diffusers.HeunDiscreteScheduler": "HeunDiscreteScheduler",
}


@pytest.mark.parametrize("scheduler", [*SOLVERS, "diffusers.HeunDiscreteScheduler"])
def test_other_tools_read_the_sampler_by_the_name_they_know(image, scheduler):
    info = MAKING._replace(sampling={**MAKING.sampling, "scheduler": scheduler})
    assert f"Sampler: {COMMON_NAMES[scheduler]}, CFG scale" in common_text(image, info)


def test_other_tools_read_no_sampler_of_a_model_that_denoises_nothing(image):
    info = MAKING._replace(sampling={"steps": 1, "guidance": 1.5, "image_guidance": 1.0})
    assert "Steps: 1, CFG scale: 1.5, Seed: 7" in common_text(image, info)


def test_other_tools_read_an_image_guidance_of_edits_alone(image):
    edit = MAKING._replace(recipe={"command": "edit", "seeds": [7]})
    assert "CFG scale: 1.5, Image CFG scale: 1.5, Seed: 7" in common_text(image, edit)
    for command in ("generate", "story"):
        info = MAKING._replace(recipe={"command": command})
        assert "Image CFG" not in common_text(image, info)


def test_pictures_of_others_have_no_record_and_damaged_ones_are_named(tmp_path, image):
    image.save(tmp_path / "plain.png")
    assert read_record(tmp_path / "plain.png") is None
    save_picture(image, tmp_path / "ours.png", MAKING)
    whole = (tmp_path / "ours.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        read_record(tmp_path / "cut.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match="no picture"):
        read_record(tmp_path / "text.png")


def test_the_pixel_hash_sees_pixels_and_size_only(tmp_path, image):
    save_picture(image, tmp_path / "a.png", MAKING)
    image.save(tmp_path / "b.png", compress_level=0)
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert pixel_hash(first) == pixel_hash(second) == pixel_hash(image)
    changed = image.copy()
    changed.putpixel((3, 3), (255, 0, 0))
    assert pixel_hash(changed) != pixel_hash(image)
    flat = Image.new("RGB", (4, 9)), Image.new("RGB", (9, 4))
    assert pixel_hash(flat[0]) != pixel_hash(flat[1])


def test_a_story_is_a_folder_to_read(tmp_path, image):
    panels = [
        Panel("Once upon a time.", image, given=True),
        Panel("Snow fell.", image, forced=True),
        Panel("The end.", None),
    ]
    write_story(tmp_path / "story", panels, MAKING)
    assert names(tmp_path / "story") == ["01.png", "02.png", "story.html", "story.json", "story.md"]
    record = json.loads((tmp_path / "story" / "story.json").read_text())
    assert [panel["text"] for panel in record["panels"]] == [panel.text for panel in panels]
    assert record["panels"][1]["forced"] and record["panels"][1]["image"] == "02.png"
    told = (tmp_path / "story" / "story.md").read_text()
    assert told.index("01.png") < told.index("Once") < told.index("02.png") < told.index("The end")
    assert read_record(tmp_path / "story" / "01.png") is None, "the user's own picture"
    assert read_record(tmp_path / "story" / "02.png")["panel"] == 2


def test_a_story_replaces_a_story_when_told_and_nothing_else_ever(tmp_path, image):
    folder = tmp_path / "story"
    write_story(folder, [Panel("a", image), Panel("b", image)], MAKING)
    with pytest.raises(OutputError, match="not empty"):
        write_story(folder, [Panel("c", image)], MAKING)
    write_story(folder, [Panel("c", image)], MAKING, overwrite=True)
    assert names(folder) == ["01.png", "story.html", "story.json", "story.md"]
    assert names(tmp_path) == ["story"]
    (folder / "story.json").unlink()
    with pytest.raises(OutputError, match="holds no story.json"):
        write_story(folder, [Panel("c", image)], MAKING, overwrite=True)


def test_a_fingerprint_names_weights_however_they_are_sharded(tiny_folder, tmp_path):
    opened = open_model(tiny_folder, device="cpu")
    sharded = save_model(
        opened.model, opened.processor, tmp_path / "sharded", max_shard_size="50KB"
    )
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert fingerprint(sharded) == fingerprint(tiny_folder)

    opened.model.mlp_head.cond_embed.bias.data[0] += 1
    changed = save_model(opened.model, opened.processor, tmp_path / "changed")
    assert fingerprint(changed) != fingerprint(tiny_folder)

    hotter = shutil.copytree(tiny_folder, tmp_path / "hotter")
    config = json.loads((hotter / "config.json").read_text())
    (hotter / "config.json").write_text(json.dumps(config | {"embedding_temperature": 2.0}))
    assert fingerprint(hotter) != fingerprint(tiny_folder)


def test_seeds_are_given_counted_on_or_drawn():
    assert choose_seeds([5], 3) == [5, 6, 7]
    assert choose_seeds([5, 9], 1) == choose_seeds([5, 9], 2) == [5, 9]
    assert len(set(choose_seeds([], 20))) == 20
    with pytest.raises(PromptError, match="2 seeds for 3 pictures"):
        choose_seeds([5, 9], 3)
    with pytest.raises(PromptError, match="cannot be used"):
        choose_seeds([-1], 1)
