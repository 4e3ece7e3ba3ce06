"""Requests: prepared from a recipe and its inputs, run for events, gathered into results."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import orthus_core.api as api
from orthus_core.api.loaded import LoadedModel
from orthus_core.errors import PromptError
from orthus_core.events import ImageDone, PatchDone
from orthus_core.recipe import (
    CaptionRecipe,
    EditRecipe,
    GenerateRecipe,
    StoryRecipe,
    as_table,
    load,
)
from orthus_core.results.metadata import pixel_hash
from orthus_core.samplers.params import SamplingParams


@pytest.fixture(scope="module")
def loaded(tiny_folder) -> LoadedModel:
    return api.load_model(tiny_folder, device="cpu")


def test_names_are_public_and_cost_nothing_until_they_are_used():
    code = (
        "import sys, orthus_core.api as api; dir(api); "
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert all(getattr(api, name) is not None for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'snowman'"):
        _ = api.snowman


def test_a_request_says_what_will_be_drawn_and_draws_nothing_yet(loaded):
    recipe = load(GenerateRecipe, flags={"steps": 2, "guidance": 2.0, "batch_size": 3})
    request = api.prepare_generate(loaded, recipe, ["a fox", "a hat"], seeds=[4, 9])
    assert [info.prompt for info in request.infos] == ["a fox", "a fox", "a hat", "a hat"]
    assert [info.seed for info in request.infos] == [prompt.seed for prompt in request.prompts]
    assert [info.seed for info in request.infos] == [4, 9, 4, 9]
    assert request.params == SamplingParams.from_recipe(loaded.model.config, recipe)
    assert (request.params.steps, request.params.guidance, request.batch_size) == (2, 2.0, 3)
    for info in request.infos:
        own = dataclasses.replace(recipe, seeds=(info.seed,), num_images=1)
        assert info.recipe == as_table(own) and info.sampling == request.params.to_dict()
        assert info.among == {"prompts": ["a fox", "a hat"], "seeds": [4, 9]}
    with pytest.raises(PromptError, match="the prompt is empty"):
        api.prepare_generate(loaded, recipe, ["a fox", " "])


def test_images_of_a_request_are_those_of_the_class(loaded, orthus, start):
    recipe = load(GenerateRecipe, flags={"steps": 2, "seeds": [5], "num_images": 2})
    request = api.prepare_generate(loaded, recipe, ["a fox"])
    collector, finished = api.ImageCollector(request), []
    for event in api.run(request):
        result = collector.add(event)
        assert (result is not None) == isinstance(event, ImageDone)
        finished += [result.row] if result else []
    assert sorted(finished) == [0, 1]
    ours, theirs = collector.images, orthus.generate("a fox", num_images=2, seed=5, steps=2)
    assert ours.seeds == theirs.seeds == [5, 6]
    assert [*map(pixel_hash, ours.images)] == [*map(pixel_hash, theirs.images)]

    recipe = load(EditRecipe, flags={"steps": 1, "max_text": 8, "seeds": [1]})
    edits = api.edits_of(api.input_images(start), "blue fox", each=False)
    request = api.prepare_edit(loaded, recipe, edits)
    collector = api.ImageCollector(request)
    for event in api.run(request):
        collector.add(event)
    theirs = orthus.edit(start, "blue fox", seed=1, steps=1, max_text=8)
    assert collector.images.texts == theirs.texts and any(theirs.texts)
    assert pixel_hash(collector.images.images[0]) == pixel_hash(theirs.images[0])


def test_a_story_can_be_taken_after_each_panel(loaded):
    flags = {"steps": 1, "panels": 2, "seed": 3, "text.max_new_tokens": 4}
    recipe = load(StoryRecipe, flags=flags)
    request = api.prepare_story(loaded, recipe, api.open_story(recipe, "a red fox"))
    assert request.info.seed == 3 and request.images_to_draw == 2
    collector, lengths = api.StoryCollector(request), []
    for event in api.run(request):
        if collector.add(event):
            lengths.append(len(collector.story.panels))
    assert lengths == [2, 3] and len(collector.story.images) == 2


def test_answers_come_in_the_order_of_the_images(loaded, start, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    recipe = load(CaptionRecipe, flags={"text.max_new_tokens": 3, "seed": 1})
    images = [broken, start, api.input_image(start)]
    request = api.prepare_caption(loaded, recipe, images)
    assert request.seeds == (1, 2, 3)
    collector = api.CaptionCollector(request)
    for event in api.run(request):
        collector.add(event)
    assert [failed.row for failed in collector.failures] == [0]
    assert [answer.row for answer in collector.answers] == [1, 2]
    assert len(set(collector.captions.texts)) == 1 and collector.captions.seeds == [2, 3]
    (answer,) = (one for one in collector.answers if one.file == start and one.content)
    again = api.prepare_caption(loaded, recipe, [start], answers={answer.content: "known"})
    (known,) = (event for event in api.run(again) if hasattr(event, "known"))
    assert known.known and known.text == "known"


def test_drawing_stops_where_its_reader_stops(loaded):
    recipe = load(GenerateRecipe, flags={"steps": 1, "seeds": [1]})
    events = api.run(api.prepare_generate(loaded, recipe, ["a fox"]))
    seen = [next(events), next(events)]
    assert isinstance(seen[1], PatchDone)
    events.close()
    assert list(events) == []
