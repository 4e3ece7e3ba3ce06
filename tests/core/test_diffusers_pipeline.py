"""`OrthusPipeline`: diffusers' names and shapes, the pictures of `Orthus.generate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orthus_core import OrthusPipeline
from orthus_core.errors import ArgumentError, CheckpointError, OrthusError
from orthus_core.results.metadata import pixel_hash
from orthus_core.samplers.seeds import GENERATOR_SEEDS
from tests.discrete import write_tiny_chameleon


@pytest.fixture(scope="module")
def pipe(tiny_folder) -> OrthusPipeline:
    return quiet(OrthusPipeline.from_pretrained(tiny_folder))


def quiet(pipe: OrthusPipeline) -> OrthusPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_draws_what_orthus_draws(pipe, orthus):
    asked = {"num_inference_steps": 3, "guidance_scale": 4.0, "negative_prompt": "a red fox"}
    prompts = ["a snowman", "what is this?"]
    drawn = pipe(prompts, **asked, num_images_per_prompt=2, generator=seeded()).images
    seeds = torch.randint(GENERATOR_SEEDS, (4,), generator=seeded()).tolist()
    values = {"steps": 3, "guidance": 4.0, "negative_prompt": "a red fox"}
    expected = [
        *orthus.generate(prompts[0], seed=seeds[:2], **values).images,
        *orthus.generate(prompts[1], seed=seeds[2:], **values).images,
    ]
    assert [*map(pixel_hash, drawn)] == [*map(pixel_hash, expected)]
    assert len({pixel_hash(image) for image in drawn}) == 4
    guides = {"guidance_interval": [0, 700], "guidance_schedule": "linear"}
    (guided,) = pipe(prompts[0], **asked, **guides, generator=seeded()).images
    seed = torch.randint(GENERATOR_SEEDS, (1,), generator=seeded()).item()
    (expected,) = orthus.generate(prompts[0], seed=seed, **values, **guides).images
    assert pixel_hash(guided) == pixel_hash(expected) != pixel_hash(drawn[0])


@pytest.fixture(scope="module")
def mini() -> OrthusPipeline:
    return quiet(OrthusPipeline.from_pretrained("mini"))


def drawn_for_cats(pipe: OrthusPipeline) -> list[str]:
    prompts, asked = ("a cat", "a 🐱"), {"num_inference_steps": 1}
    return [pixel_hash(pipe(each, **asked, generator=seeded()).images[0]) for each in prompts]


def test_emoji_mean_the_names_that_the_folder_lists(mini):
    word, emoji = drawn_for_cats(mini)
    assert word == emoji


def test_a_saved_pipeline_reads_emoji_as_its_model_did(mini, pipe, tmp_path):
    mini.save_pretrained(tmp_path / "saved")
    again = quiet(OrthusPipeline.from_pretrained(tmp_path / "saved"))
    assert drawn_for_cats(again) == drawn_for_cats(mini)
    again.save_pretrained(tmp_path / "saved")  # over itself
    lists = [tmp_path / "saved/model" / name for name in ("vocabulary.txt", "words.json")]
    sources = [Path(mini.model.name_or_path) / each.name for each in lists]
    assert [each.read_bytes() for each in lists] == [each.read_bytes() for each in sources]
    pipe.save_pretrained(tmp_path / "saved")  # a model of other words, or none
    assert not (tmp_path / "saved/model/words.json").exists()


def test_generators_and_output_types_are_those_of_diffusers(pipe):
    one = {"num_inference_steps": 1}
    as_list = pipe(["a snowman"] * 2, **one, generator=[seeded(1), seeded(2)], output_type="np")
    (alone,) = pipe("a snowman", **one, generator=seeded(2), output_type="pt", return_dict=False)
    assert as_list.images.shape == (2, 16, 16, 3) and 0 <= as_list.images.min()
    assert alone.shape == (1, 3, 16, 16) and as_list.images.max() <= 1
    np.testing.assert_allclose(as_list.images[1], alone[0].permute(1, 2, 0).numpy(), atol=1e-5)
    levels = np.asarray(pipe("a snowman", **one, generator=seeded(2)).images[0])
    # A picture's levels are scaled by the release's rounded factor.
    np.testing.assert_allclose(as_list.images[1] * 255, levels, atol=2)
    torch.manual_seed(5)
    first = pipe("a snowman", **one).images[0]
    torch.manual_seed(5)
    assert pixel_hash(first) == pixel_hash(pipe("a snowman", **one).images[0])


def test_guidance_of_no_more_than_1_is_none_as_in_diffusers(pipe):
    def drawn(scale) -> torch.Tensor:
        one = {"num_inference_steps": 1, "output_type": "latent", "generator": seeded()}
        return pipe("a snowman", guidance_scale=scale, **one).images

    none = drawn(1)
    for scale in (0, 0.0, 0.5, np.float32(0), torch.tensor(0.0)):
        assert drawn(scale).equal(none)
    assert not drawn(3).equal(none)


def test_numbers_of_numpy_and_names_of_precisions_are_known(pipe, tiny_folder):
    two = pipe("a snowman", num_inference_steps=1, num_images_per_prompt=np.int64(2)).images
    assert len(two) == 2
    assert len(pipe(np.array(["a snowman"] * 2), num_inference_steps=np.int64(1)).images) == 2
    half = OrthusPipeline.from_pretrained(tiny_folder, torch_dtype="bfloat16")
    assert half.dtype == torch.bfloat16


def test_each_prompt_may_have_its_own_negative_prompt(pipe):
    asked = {"num_inference_steps": 1, "guidance_scale": 4.0, "output_type": "pt"}
    prompts, against = ["a snowman", "a snowman"], ["a red fox", "what is this?"]
    how = {"num_images_per_prompt": 2, "generator": [seeded(n) for n in (1, 2, 1, 2)]}
    together = pipe(prompts, negative_prompt=against, **asked, **how).images
    for number, negative in enumerate(against):
        both = [seeded(1), seeded(2)]
        alone = pipe(
            "a snowman",
            negative_prompt=negative,
            num_images_per_prompt=2,
            generator=both,
            **asked,
        ).images
        own = together[2 * number : 2 * number + 2]
        torch.testing.assert_close(own, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[:2], together[2:], rtol=1e-2, atol=1e-2)


def test_latents_are_the_features_that_the_model_decodes(pipe):
    asked = {"num_inference_steps": 1, "num_images_per_prompt": 2}
    latents = pipe("a snowman", **asked, generator=seeded(), output_type="latent").images
    assert latents.shape == (2, pipe.model.config.patches, 8)
    whole = pipe("a snowman", **asked, generator=seeded(), output_type="pt").images
    with torch.no_grad():
        decoded = pipe.model.decode_images(latents) / 2 + 0.5
    torch.testing.assert_close(decoded.clamp(0, 1), whole, rtol=1e-4, atol=1e-4)


def test_each_patch_is_a_step_and_may_be_the_last(pipe):
    seen = []
    features = torch.zeros(2, pipe.model.config.patches, 8)

    def stops(pipe, step, picture, tensors):
        seen.append((step, picture))
        features[picture, step] = tensors["features"]
        pipe._interrupt = step == 1 and picture == 1

    asked = {"num_inference_steps": 1, "num_images_per_prompt": 2, "output_type": "pt"}
    part = pipe("a snowman", **asked, generator=seeded(), callback_on_step_end=stops).images
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
    whole = pipe("a snowman", **asked, generator=seeded()).images
    assert part.shape == whole.shape and not part.equal(whole)
    with torch.no_grad():
        as_they_are = pipe.model.decode_images(features) / 2 + 0.5
    torch.testing.assert_close(part, as_they_are.clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_diffusers_saves_and_opens_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    again = quiet(OrthusPipeline.from_pretrained(tmp_path / "saved"))
    asked = {"num_inference_steps": 1}
    one, other = (
        each("a snowman", **asked, generator=seeded()).images[0] for each in (pipe, again)
    )
    assert pixel_hash(one) == pixel_hash(other)
    assert type(again.model) is type(pipe.model) and type(again.processor) is type(pipe.processor)


def test_what_it_cannot_do_is_said(pipe, tiny_folder, tmp_path):
    for wrong, said in (
        ({"height": 512}, "16 x 16"),
        ({"output_type": "jpg"}, "'jpg'"),
        ({"generator": [seeded()] * 2}, "2 generators for 1"),
        ({"generator": 7}, "no torch.Generator"),
        ({"num_images_per_prompt": 0}, "from 1, not 0"),
        ({"num_images_per_prompt": "2"}, "from 1, not '2'"),
        ({"negative_prompt": ["a red fox"] * 2}, "2 negative prompts for 1"),
        ({"prompt": []}, "there is no prompt"),
        ({"prompt": [5]}, "must be text"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
        ({"guidance_scale": "high"}, "guidance_scale must be a number"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "features, not 'latents'"),
        ({"prompt": [], "negative_prompt": []}, "there is no prompt"),
    ):
        with pytest.raises(ArgumentError, match=said):
            pipe(**{"prompt": "a snowman", "num_inference_steps": 1, **wrong})
    assert pipe("a snowman", num_inference_steps=1, height=16, width=16).images
    with pytest.raises(ArgumentError, match="variant"):
        OrthusPipeline.from_pretrained(tiny_folder, variant="fp16")
    with pytest.raises(OrthusError, match="no precision 'fp23'"):
        OrthusPipeline.from_pretrained(tiny_folder, torch_dtype="fp23")
    usual = {"variant": None, "use_safetensors": True, "device_map": "cpu"}
    usual |= {"force_download": False, "local_files_only": False}
    assert OrthusPipeline.from_pretrained(tiny_folder, **usual).device.type == "cpu"
    chameleon = write_tiny_chameleon(tmp_path / "chameleon", tiny_folder)
    with pytest.raises(CheckpointError, match="draws with an Orthus"):
        OrthusPipeline.from_pretrained(chameleon)
