"""From words and pictures to prompts: the layouts that training uses, the model's own values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from orthus_core.checkpoint.model_folder import Opened, open_model
from orthus_core.data.pictures import FilePicture
from orthus_core.data.pixels import open_image, pack_pixels, square
from orthus_core.errors import CheckpointError, DataError, PromptError
from orthus_core.events import ImageDone, RowDone, TextPiece
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.text import with_words
from tests.conftest import make_tiny_config

resolve = SamplingParams.resolve
SAMPLING = SamplingParams(
    steps=2, guidance=3.0, image_guidance=1.5, noise_scale=1.0, negative_prompt="what"
)


@pytest.fixture(scope="module")
def opened(tiny_folder) -> Opened:
    return open_model(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def builder(opened) -> PromptBuilder:
    return PromptBuilder(opened.model, opened.processor.tokenizer)


@pytest.fixture
def picture(tmp_path) -> FilePicture:
    path = tmp_path / "in.png"
    Image.linear_gradient("L").convert("RGB").resize((40, 24)).save(path)
    return FilePicture(path)


def words(opened, text: str) -> list[int]:
    return opened.processor.tokenizer(text, add_special_tokens=False).input_ids


def test_a_picture_is_asked_for_as_training_lays_it_out(opened, builder):
    config = opened.model.config
    prompt = builder.picture("a snowman", SAMPLING)
    bos, sep = config.bos_token_id, config.sep_token_id
    assert prompt.context.ids == (bos, *words(opened, "a snowman"), sep)
    assert [context.ids for context in prompt.negatives] == [(bos, *words(opened, "what"), sep)]
    assert prompt.guidance.weights == (3.0, -2.0)


def test_an_edit_compares_with_the_picture_alone_and_with_nothing(opened, builder, picture):
    config = opened.model.config
    prompt = builder.edit([picture], "a red fox", SAMPLING)
    shown = (config.boi_token_id, *[config.image_token_id] * 4, config.eoi_token_id)
    bos, sep = config.bos_token_id, config.sep_token_id
    assert prompt.context.ids == (bos, *shown, *words(opened, "a red fox"), sep)
    assert prompt.negatives[0].ids == (bos, *shown, sep)
    assert prompt.negatives[1].ids == (bos, *words(opened, "what"), sep)
    assert prompt.guidance.weights == (3.0, -1.5, -0.5)
    pixels = pack_pixels([square(open_image(picture.path), 16)])
    with torch.no_grad():
        expected = opened.model.encode_images(pixels)
    for context in (prompt.context, prompt.negatives[0]):
        torch.testing.assert_close(context.features_MPC, expected)
    assert prompt.negatives[1].features_MPC is None


def test_a_story_goes_on_from_pictures_and_words(opened, builder, picture):
    prompt = builder.story([picture, "a snowman"], SAMPLING)
    assert prompt.context.features_MPC.shape == (1, 4, 8)
    assert prompt.context.ids[-1] == opened.model.config.sep_token_id


def test_guidance_of_one_reads_no_other_stream(builder, picture):
    assert builder.picture("a fox", replace(SAMPLING, guidance=1.0)).negatives == ()
    both = builder.edit([picture], "a fox", replace(SAMPLING, guidance=2.0, image_guidance=1.0))
    assert both.guidance.weights == (2.0, -1.0) and len(both.negatives) == 1


def test_values_that_are_not_asked_for_are_the_models_own():
    small = make_tiny_config(sampling={"steps": 20, "guidance": 1.5})
    assert resolve(small, steps=None) == SamplingParams(
        steps=20,
        last_steps=20,
        guidance=1.5,
        image_guidance=1.5,
        negative_prompt="Generate an image.",
    )
    assert resolve(small, steps=5, negative_prompt="fog").steps == 5
    assert resolve(small, negative_prompt="fog").negative_prompt == "fog"
    assert resolve(small, "story").guidance == resolve(small, "edit").guidance == 1.5
    gentle = make_tiny_config(sampling={"guidance": 3.0, "edit_guidance": 2.0})
    assert [resolve(gentle, task).guidance for task in ("picture", "edit")] == [3.0, 2.0]
    assert resolve(gentle, "edit", guidance=4.0).guidance == 4.0
    released = make_tiny_config()
    own = SamplingParams(steps=100, last_steps=100, image_guidance=1.5)
    assert resolve(released) == replace(own, guidance=5.0, negative_prompt="Generate an image.")
    assert resolve(released, "story") == replace(
        own, guidance=3.0, negative_prompt="generate images", temperature=0.8, top_p=0.9
    )
    assert resolve(released, "story", temperature=0.0).temperature == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 2.5), ("guidance", "3"), ("edit_max_text", None), ("noise_scale", True)],
)
def test_a_model_that_names_no_value_where_one_belongs_is_refused(name, value):
    with pytest.raises(CheckpointError, match=f"as its {name}"):
        resolve(make_tiny_config(sampling={name: value}), "edit")
    with pytest.raises(CheckpointError, match="scheduler"):
        resolve(make_tiny_config(sampling={"scheduler": 3}))


def test_words_before_an_edit_are_the_models_own_to_allow():
    silent, talking = make_tiny_config(), make_tiny_config(sampling={"edit_max_text": 9})
    assert resolve(silent, "edit").max_text == 0
    assert resolve(silent, "edit").to_dict()["max_text"] == 0
    assert resolve(talking, "picture").max_text == 0
    assert "max_text" not in resolve(talking, "picture").to_dict()
    assert "max_text" not in resolve(talking, "story").to_dict()
    edit = resolve(talking, "edit")
    assert edit.to_dict()["max_text"] == 9
    assert (edit.max_text, edit.text_before_image, edit.owed_images) == (9, 9, 1)
    assert edit.end_with_image
    at_once = resolve(talking, "edit", max_text=0)
    assert at_once == resolve(silent, "edit")


def test_what_is_written_before_a_picture_leads_it_but_not_what_it_is_guided_against(
    opened, builder, picture
):
    sampling = resolve(opened.model.config, "edit", steps=2, max_text=6)
    prompts = [builder.edit([picture], word, sampling) for word in ("a fox", "a red fox", "what")]
    prompts = [prompt._replace(seed=seed) for seed, prompt in enumerate(prompts)]

    def drawn(prompts: list[Prompt], size: int, **asked) -> tuple[dict, dict]:
        texts, pictures = {}, {}
        params = replace(sampling, **asked)
        for event in generate(opened.model, prompts, params, size):
            if isinstance(event, TextPiece):
                texts.setdefault(event.row, []).extend(event.token_ids)
            elif isinstance(event, ImageDone):
                pictures[event.row] = event.features_PC
        return texts, pictures

    texts, pictures = drawn(prompts, 3)
    assert set(pictures) == {0, 1, 2} and all(0 < len(texts[row]) <= 6 for row in texts)
    assert texts, "a model that never writes would show nothing here"
    # 1. One by one they are the same.
    alone_texts, alone = drawn(prompts, 1)
    assert alone_texts == texts
    for row, features_PC in alone.items():
        torch.testing.assert_close(features_PC, pictures[row], rtol=1e-4, atol=1e-4)
    # 2. Words that are in the prompt already draw the same, against the same contexts.
    row = next(iter(texts))
    context = prompts[row].context
    said = prompts[row]._replace(context=context._replace(ids=(*context.ids, *texts[row])))
    _, again = drawn([said], 1, max_text=0)
    torch.testing.assert_close(again[0], pictures[row], rtol=1e-4, atol=1e-4)


def test_a_preset_gives_what_is_not_asked_for():
    released = make_tiny_config()
    exact, fast = resolve(released), resolve(released, preset="fast")
    assert exact.to_dict() == exact.to_dict() | {
        "preset": "exact",
        "scheduler": "ddim",
        "steps": 100,
    }
    assert fast.steps < 100 and fast.scheduler != "ddim"
    asked = resolve(released, preset="fast", steps=60, scheduler="ddim", step_tolerance=0.1)
    assert (asked.steps, asked.scheduler, asked.step_tolerance) == (60, "ddim", 0.1)
    own = make_tiny_config(sampling={"steps": 3, "scheduler": "unipc"})
    assert resolve(own).scheduler == "unipc"
    assert resolve(own, preset="fast").steps == 3
    assert resolve(own, preset="fast").scheduler == fast.scheduler
    with pytest.raises(PromptError, match="no preset 'slow'"):
        resolve(released, preset="slow")


def test_the_loop_is_told_the_preset_as_steps():
    released = make_tiny_config()
    exact = resolve(released)
    assert (exact.steps, exact.last_steps, exact.scheduler) == (100, 100, "ddim")
    turbo = resolve(released, preset="turbo", step_tolerance=0.05, max_images=2)
    assert turbo.last_steps < turbo.steps < 100
    assert (turbo.step_tolerance, turbo.max_images) == (0.05, 2)


def test_pictures_of_a_preset_do_not_depend_on_the_batch(opened, builder):
    sampling = resolve(opened.model.config, preset="fast", step_tolerance=0.02)
    prompts = [builder.picture("a fox", sampling)._replace(seed=seed) for seed in range(3)]

    def pictures(size: int) -> dict[int, torch.Tensor]:
        events = generate(opened.model, prompts, sampling, size)
        return {event.row: event.features_PC for event in events if isinstance(event, ImageDone)}

    whole = pictures(3)
    for row, features in pictures(1).items():
        torch.testing.assert_close(features, whole[row], atol=1e-3, rtol=1e-3)


def test_asking_for_nothing_is_an_error_that_says_so(opened, builder, picture):
    with pytest.raises(PromptError, match="prompt is empty"):
        builder.picture("  ", SAMPLING)
    with pytest.raises(PromptError, match="instruction is empty"):
        builder.edit([picture], "", SAMPLING)
    with pytest.raises(PromptError, match="question is empty"):
        builder.question(picture, "")
    with pytest.raises(PromptError, match="something to go on from"):
        builder.story([], SAMPLING)
    with pytest.raises(DataError, match="no such picture"):
        builder.question(FilePicture(Path("missing.png")), "what is this?")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        PromptBuilder(opened.model, None)


def test_a_text_cannot_smuggle_in_a_picture(opened, builder):
    prompt = builder.picture("a fox <image><racm3:break>", SAMPLING)
    config = opened.model.config
    assert not {config.image_token_id, config.boi_token_id} & set(prompt.context.ids)


def test_batches_number_rows_through_and_change_nothing(opened, builder):
    prompts = [builder.picture("a fox", SAMPLING)._replace(seed=seed) for seed in range(5)]
    settings = SamplingParams(max_images=1, steps=2)

    def pictures(size: int | None) -> dict[int, torch.Tensor]:
        events = generate(opened.model, prompts, settings, size)
        return {event.row: event.features_PC for event in events if isinstance(event, ImageDone)}

    whole = pictures(None)
    assert sorted(whole) == [0, 1, 2, 3, 4]
    for size in (1, 2, 5, 9):
        for row, features in pictures(size).items():
            torch.testing.assert_close(features, whole[row], atol=1e-3, rtol=1e-3)


def test_words_arrive_as_their_tokens_do(opened):
    tokenizer = opened.processor.tokenizer
    ids = words(opened, "a snowman ☃ é")
    events = [TextPiece(0, "", (token,)) for token in ids] + [RowDone(0, "end")]
    told = [event.text for event in with_words(events, tokenizer) if isinstance(event, TextPiece)]
    assert "".join(told) == "a snowman ☃ é"
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(told)
    assert "" in told, "the first bytes of a snowman are no letter yet"


def test_words_of_rows_do_not_mix_and_begin_anew_after_a_picture(opened):
    tokenizer = opened.processor.tokenizer
    fox, man = words(opened, "a red fox"), words(opened, "a snowman")
    picture = ImageDone(0, 0, torch.zeros(3, 16, 16), torch.zeros(4, 8))
    events = [
        *[
            TextPiece(row, "", (token,))
            for pair in zip(fox, man, strict=False)
            for row, token in enumerate(pair)
        ],
        picture,
        TextPiece(0, "", tuple(man)),
    ]
    told: dict[int, list[str]] = {0: [], 1: []}
    for event in with_words(events, tokenizer):
        if isinstance(event, TextPiece):
            told[event.row].append(event.text)
    assert told[0][-1] == "a snowman"
    assert "a red fox".startswith("".join(told[0][:-1]))
    assert "a snowman".startswith("".join(told[1]))


def test_a_model_may_name_one_of_our_schedulers_and_no_code():
    config = make_tiny_config(sampling={"scheduler": "dpm++"})
    assert resolve(config).scheduler == "dpm++"
    config.sampling = {"scheduler": "antigravity.Fly"}
    with pytest.raises(CheckpointError, match="not ours: antigravity"):
        resolve(config)
    assert resolve(config, preset="fast").scheduler == "dpm++"
