"""`Orthus` from Python: the commands' engine, results that can be saved, events as they happen."""

from __future__ import annotations

import inspect
import io
import pydoc
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import orthus_core
from orthus_core import Orthus
from orthus_core.api.inputs import input_image, input_images
from orthus_core.api.streamed import EventStream
from orthus_core.errors import ArgumentError, DataError, PromptError, RecipeError
from orthus_core.events import ImageBegun, ImageDone, Note, PatchDone
from orthus_core.results.metadata import pixel_hash, read_record
from orthus_core.samplers.story import PanelDone


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    code = (
        "import sys, orthus_core; dir(orthus_core); "
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert "Orthus" in orthus_core.__all__


def test_a_picture_from_words(orthus, tiny_folder, tmp_path):
    drawn = orthus.generate("a snowman", seed=7)
    assert drawn.images[0].size == (16, 16) and drawn.seeds == [7]
    assert drawn.prompts == ["a snowman"]
    (path,) = drawn.save(tmp_path / "out.png")
    record = read_record(path)
    assert record is not None and record["pixels"] == pixel_hash(drawn.images[0])
    assert record["recipe"]["command"] == "generate" and record["recipe"]["seeds"] == [7]
    assert record["model"]["name"] == str(tiny_folder)


def test_seeds_count_on_for_each_prompt(orthus, tmp_path):
    drawn = orthus.generate(["a snowman", "a red fox"], num_images=2, seed=5, steps=1)
    assert drawn.seeds == [5, 6, 5, 6] and drawn.prompts[1:3] == ["a snowman", "a red fox"]
    saved = drawn.save(tmp_path)
    assert sorted(path.name for path in saved) == [
        f"{name}_{seed}.png" for name in ("a_red_fox", "a_snowman") for seed in (5, 6)
    ]
    assert orthus.generate("a snowman", seed=[3, 9], steps=1).seeds == [3, 9]


def test_events_are_streamed_and_the_result_comes_with_them(orthus):
    stream = orthus.generate.stream("a snowman", seed=7)
    assert next(stream) == ImageBegun(0, 0, forced=False)
    first = next(stream)
    assert isinstance(first, PatchDone) and first.done == 1
    assert isinstance(list(stream)[-2], ImageDone)
    whole = orthus.generate("a snowman", seed=7)
    assert pixel_hash(stream.result.images[0]) == pixel_hash(whole.images[0])


def test_the_result_of_a_stream_does_what_is_left(orthus):
    stream = orthus.generate.stream("a snowman", seed=7)
    next(stream)
    assert len(stream.result.images) == 1 and list(stream) == []


def test_a_stream_that_was_broken_off_has_no_result(orthus):
    stream = orthus.generate.stream("a snowman")
    next(stream)
    stream.close()
    with pytest.raises(RuntimeError, match="broken off"):
        _ = stream.result

    def failing():
        yield 1
        raise PromptError("no")

    broken = EventStream(failing())
    with pytest.raises(PromptError):
        list(broken)
    with pytest.raises(RuntimeError, match="broken off"):
        _ = broken.result


def test_help_shows_every_argument(orthus):
    for name in ("generate", "edit", "story", "caption"):
        unbound, bound = getattr(Orthus, name), getattr(orthus, name)
        assert "Raises:" in unbound.__doc__ and unbound.__doc__ == bound.__doc__
        own = [*inspect.signature(bound).parameters]
        assert [*inspect.signature(unbound).parameters] == ["self", *own]
        assert own == [*inspect.signature(bound.stream).parameters] and "asked" not in own
        shown = pydoc.plain(pydoc.render_doc(bound))
        assert f"{name}({own[0]}" in shown and "EventStream" not in shown.splitlines()[0]
    signature = inspect.signature(orthus.generate)
    assert {"steps", "guidance", "negative_prompt", "scheduler"} <= signature.parameters.keys()
    assert not {"model", "lora", "device"} & signature.parameters.keys()
    assert signature.parameters["steps"].annotation == int | None
    assert "max_new_tokens" in inspect.signature(orthus.caption).parameters
    assert "image_guidance" in inspect.signature(orthus.edit).parameters


def test_a_notebook_shows_results(orthus, start):
    drawn = orthus.generate(["a <b>snow</b>man", "a red fox"], seed=7, steps=1)
    with Image.open(io.BytesIO(drawn._repr_png_())) as sheet:
        assert sheet.width > 32, "side by side"
    html = drawn._repr_html_()
    assert html.count('<img src="data:image/png;base64,') == 2 and "seed 7" in html
    assert "<b>" not in html and "a &lt;b&gt;snow" in html
    one = orthus.generate("a snowman", seed=7, steps=1)
    with Image.open(io.BytesIO(one._repr_png_())) as image:
        assert pixel_hash(image) == pixel_hash(one.images[0])
    told = orthus.story("a fox", panels=1, seed=1, steps=1, max_new_tokens=4)
    assert told._repr_html_().count("<img") == 1
    said = orthus.caption(start, max_new_tokens=4)
    assert said._repr_html_().count("<figcaption>") == 1


def test_numpy_values_are_pictures(orthus):
    levels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    expected = orthus.caption(Image.fromarray(levels), max_new_tokens=6).texts
    assert orthus.caption(levels, max_new_tokens=6).texts == expected
    assert orthus.caption(levels / 255, max_new_tokens=6).texts == expected
    assert orthus.caption(np.stack([levels] * 2), max_new_tokens=6).texts == expected * 2
    assert input_image(levels[..., :1]).image.size == input_image(levels[..., 0]).image.size
    for wrong in (
        levels.astype(int),
        levels / 1.0,
        levels[0, 0],
        np.zeros((0, 4, 3)),
        levels[..., :2],
    ):
        with pytest.raises(DataError, match="is no picture"):
            input_image(wrong)


def test_an_open_file_and_bytes_of_any_kind_are_pictures(tmp_path):
    Image.effect_noise((9, 7), 80).save(tmp_path / "a.png")
    expected, content = input_image(tmp_path / "a.png").pixels, (tmp_path / "a.png").read_bytes()
    read = io.BytesIO(content)
    read.seek(5)  # as who has written it, or looked at it, leaves it
    with (tmp_path / "a.png").open("rb") as file:
        for source in (read, file, bytearray(content), memoryview(content), content):
            assert [each.pixels for each in input_images(source)] == [expected]
            assert len(input_images([source, source])) == 2
    with (tmp_path / "a.txt").open("w+") as text, pytest.raises(DataError, match="one of text"):
        input_image(text)
    with pytest.raises(DataError, match="does not read"):
        input_image(file)
    for address in ("https://a.org/b.png", "data:image/png;base64,AAAA"):
        with pytest.raises(DataError, match="not fetched"):
            input_image(address)


def test_precisions_may_have_the_names_of_torch(tiny_folder):
    assert Orthus.open(tiny_folder, device="cpu", dtype="bfloat16").about["dtype"] == "bf16"
    assert Orthus.open(tiny_folder, device="cpu", dtype="float32").model.dtype == torch.float32
    with pytest.raises(ArgumentError, match="dtype must be"):
        Orthus.open(tiny_folder, dtype="float31")


def test_a_picture_in_memory_is_read_as_its_file_would_be(tmp_path):
    grey = Image.fromarray(np.full((4, 5), 30000, np.uint16))
    assert grey.mode.startswith("I;16")
    grey.save(tmp_path / "grey.png")
    assert input_image(grey).pixels == input_image(tmp_path / "grey.png").pixels
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    clear.save(tmp_path / "clear.png")
    assert input_image(clear).pixels == input_image(tmp_path / "clear.png").pixels
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(whole, "PNG")
    closed = Image.new("RGB", (4, 4))
    closed.close()
    for wrong in (
        Image.new("F", (4, 4), 0.5),
        Image.new("RGB", (0, 5)),
        Image.open(io.BytesIO(whole.getvalue()[:-600])),
        closed,
    ):
        with pytest.raises(DataError, match="this picture in memory cannot be read"):
            input_image(wrong)


def test_a_model_that_has_no_folder_continues_and_edits_by_an_array(orthus, tmp_path):
    (path,) = orthus.generate("a snowman", seed=7, steps=1).save(tmp_path / "out.png")
    bare = Orthus(orthus.model, orthus.builder.tokenizer)
    more = bare.generate("a snowman", seed=7, continue_from=path, keep_rows=1, steps=1)
    assert more.infos[0].begun == {"rows": 1, "features": "encoded"}
    example = np.zeros((2, 9, 9, 3), np.uint8)
    assert len(bare.edit(path, example=example, seed=1, steps=1).infos[0].inputs) == 3


def test_the_top_rows_of_a_picture_are_kept(orthus, tmp_path):
    (path,) = orthus.generate("a snowman", seed=7, steps=1).save(tmp_path / "out.png")
    begun = {"continue_from": path, "keep_rows": 1, "steps": 1}
    more = orthus.generate("a snowman", seed=7, **begun)
    assert more.infos[0].begun == {"rows": 1, "features": "drawn again"}
    assert pixel_hash(more.images[0]) == read_record(path)["pixels"]
    other = orthus.generate("a snowman", seed=8, **begun)
    assert pixel_hash(other.images[0]) != pixel_hash(more.images[0])
    with pytest.raises(RecipeError, match="none is named"):
        orthus.generate("a snowman", keep_rows=1)


def test_each_picture_may_be_edited_by_itself(orthus, start):
    pictures = [start, Image.new("RGB", (16, 16), "red")]
    each = orthus.edit(pictures, "a hat", seed=[1, 2], steps=1, each=True)
    assert each.seeds == [1, 2, 1, 2] and [len(info.inputs) for info in each.infos] == [1] * 4
    alone = orthus.edit(pictures[1], "a hat", seed=1, steps=1)
    assert pixel_hash(each.images[2]) == pixel_hash(alone.images[0])


def test_a_picture_is_edited_from_a_file_its_bytes_or_an_image(orthus, start):
    with Image.open(start) as image:
        image.load()
        sources = [start, str(start), start.read_bytes(), image]
        edited = [orthus.edit(source, "a red fox", seed=1, steps=1) for source in sources]
    assert len({pixel_hash(each.images[0]) for each in edited}) == 1
    assert edited[0].infos[0].files == (str(start),)
    assert edited[2].infos[0].files == () and len(edited[2].infos[0].inputs) == 1


def test_what_a_model_writes_before_an_edit_is_kept(orthus, start):
    drawn = orthus.edit(start, "blue fox", num_images=2, seed=1, steps=1, max_text=8)
    assert len(drawn.images) == len(drawn.texts) == 2 and any(drawn.texts)
    assert drawn.infos[0].sampling["max_text"] == 8
    at_once = orthus.edit(start, "blue fox", seed=1, steps=1)
    assert at_once.texts == [""]
    assert pixel_hash(at_once.images[0]) != pixel_hash(drawn.images[0])
    with pytest.raises(RecipeError, match="max_text"):
        orthus.edit(start, "a red fox", max_text=-1)


def test_a_picture_is_edited_by_example(orthus, start):
    example = (Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue"))
    drawn = orthus.edit(start, example=example, seed=1, steps=1)
    assert drawn.infos[0].recipe["by_example"] and len(drawn.infos[0].inputs) == 3
    with pytest.raises(PromptError, match="without words"):
        orthus.edit(start, "a hat", example=example)


def test_a_story_is_told_saved_and_told_on(orthus, start, tmp_path):
    stream = orthus.story.stream(
        "a fox", start, panels=2, seed=1, steps=1, max_new_tokens=4, temperature=0.5
    )
    events = list(stream)
    assert sum(isinstance(event, PanelDone) for event in events) == 2
    story = stream.result
    assert len(story.images) == len(story.texts) == 2 and all(story.texts)
    assert story.panels[0].given and story.panels[0].text == "a fox"
    record = story.save(tmp_path / "told")
    assert (tmp_path / "told" / "story.html").is_file() and len(record["panels"]) == 3

    more = orthus.story(from_story=tmp_path / "told", panels=3, seed=2)
    assert len(more.images) == 1, "the first two are the earlier telling's"
    assert [panel.earlier for panel in more.panels] == [False, True, True, False]
    assert more.info.recipe["steps"] == 1 and more.info.recipe["text"]["temperature"] == 0.5


def test_pictures_are_read(orthus, start):
    said = orthus.caption([start, start.read_bytes()], max_new_tokens=4)
    assert len(said.texts) == 2 and said.texts[0] == said.texts[1]
    assert said.question == "What is this?"
    assert orthus.caption(start, "a fox?", max_new_tokens=4).question == "a fox?"


def test_notes_reach_who_streams(orthus):
    stream = orthus.story.stream("a fox", panels=30, seed=1, steps=1, max_new_tokens=6)
    assert any(isinstance(event, Note) and "context is full" in event.message for event in stream)


def test_mistakes_are_errors_of_ours(orthus, start):
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        orthus.generate("a fox", step=3)
    with pytest.raises(RecipeError, match="at least 1"):
        orthus.edit(start, "a hat", steps=0)
    with pytest.raises(PromptError, match="something to go on from"):
        orthus.story()
    with pytest.raises(DataError, match="cannot be a int"):
        orthus.caption([3])
    with pytest.raises(PromptError, match="the prompt is empty"):
        orthus.generate(" ")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_in_memory_may_be_of_any_kind(mode):
    image = Image.new("RGB", (5, 4), (200, 30, 30)).convert(mode)
    assert input_image(image).image.mode == "RGB" and input_image(image).image.size == (5, 4)
