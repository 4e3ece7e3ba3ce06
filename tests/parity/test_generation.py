"""Drawing and writing against the released implementation: the same noise gives the same pictures.

`golden_exact` is the release without the rounding of its code distances, to be matched tightly;
`golden` is the release as published, matched tightly with `embedding_distance = "release"` and as
closely as its own rounding lets `"exact"` be (tests/golden/golden.json says how much that is).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from orthus_core.events import Event, ImageDone, RowDone, TextPiece
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import draw_patches, patch_plan
from orthus_core.samplers.prompt import Context, Guidance, Prompt, mixing
from orthus_core.samplers.solvers import ddim_plan

# REFERENCE: latents of std 11 within 5e-3 of the exact file; pixels follow at about a thousandth.
LATENTS = {"atol": 5e-3, "rtol": 0}
PIXELS = {"atol": 2e-4, "rtol": 0}
# What the release's own rounding costs, measured when the goldens were made, with room for luck.
ROUNDED_LATENTS = {"atol": 0.4, "rtol": 0}
ROUNDED_PIXELS = {"atol": 1.3e-2, "rtol": 0}


def context(ids: Tensor, features: Tensor | None = None, mask: Tensor | None = None) -> Context:
    """One golden row without its padding; features [1, h, w, C] or [h, w, C]."""
    kept = ids.flatten() if mask is None else ids.flatten()[mask.flatten().bool()]
    return Context(
        tuple(kept.tolist()),
        None if features is None else features.reshape(1, -1, features.shape[-1]),
    )


def features_of(events: Sequence[Event]) -> Tensor:
    return torch.cat([event.features_PC for event in events if isinstance(event, ImageDone)])


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, TextPiece) for token in event.token_ids]


@pytest.fixture
def text_prompt(golden) -> Prompt:
    """Group i: text-to-image, guidance 5, one noise a patch."""
    ids, mask = golden["j.input_ids"], golden["j.attention_mask"]
    return Prompt(
        context(ids[0]),
        guidance=Guidance.text(5.0),
        negatives=(context(ids[1], mask=mask[1]),),
        noise=iter(golden["i.noise"][:, 0]),
    )


@pytest.fixture
def plain_prompt(golden) -> Prompt:
    return Prompt(context(golden["i_nocfg.input_ids"]), noise=iter(golden["i.noise"][:, 0]))


@pytest.fixture
def edit_prompt(golden) -> Prompt:
    """Group i_edit: instruction and image, image only, empty; guidance 5 and 1.5."""
    ids, mask, images = (
        golden[f"j3.{name}"] for name in ("input_ids", "attention_mask", "image_latents")
    )
    return Prompt(
        context(ids[0], images[0], mask[0]),
        guidance=Guidance.edit(5.0, 1.5),
        negatives=(context(ids[1], images[1], mask[1]), context(ids[2], mask=mask[2])),
        noise=iter(golden["i.noise"][:, 0]),
    )


def test_the_schedule_is_the_released_one(golden, golden_model):
    schedule = golden_model.schedule
    for name in ("train", "sample"):
        torch.testing.assert_close(
            schedule.alphas_cumprod_T, golden[f"sched.alphas_cumprod_{name}"], atol=1e-6, rtol=1e-5
        )
    assert schedule.alphas_cumprod_T[-1] == 0
    plan = ddim_plan(schedule, 100)
    assert plan.timesteps_T.tolist() == golden["sched.timesteps"].tolist()
    assert golden["sched.final_alpha_cumprod"].item() == 1  # so the last step keeps no noise
    # v is predicted from x = signal * x0 + noise * eps; at the last step keep and push undo that.
    last = schedule.alphas_cumprod_T[plan.timesteps_T[-1]].double()
    assert plan.keep[-1] == pytest.approx(float(last.sqrt()), abs=1e-6)
    assert plan.push[-1] == pytest.approx(-float((1 - last).sqrt()), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "branches", "guidance"),
    [
        ("g.nocfg_latents", ["g.z_cond"], Guidance.none()),
        ("g.cfg1_latents", ["g.z_cond", "g.z_uncond"], Guidance.text(1.0)),
        ("g.cfg5_latents", ["g.z_cond", "g.z_uncond"], Guidance.text(5.0)),
        (
            "g.edit_t5_i1.5_latents",
            ["g.z_cond", "g.z_image_only", "g.z_uncond"],
            Guidance.edit(5.0, 1.5),
        ),
    ],
)
def test_a_patch_in_100_steps_is_the_released_one(golden, golden_model, name, branches, guidance):
    feature = draw_patches(
        patch_plan(golden_model, 100),
        torch.cat([golden[branch] for branch in branches]),
        golden["g.noise"],
        mixing([guidance]),
    )
    torch.testing.assert_close(feature, golden[name], atol=1e-3, rtol=0)


def test_the_way_from_noise_to_a_patch_is_the_released_one(golden, golden_model):
    head, plan = golden_model.mlp_head, ddim_plan(golden_model.schedule, 100)
    hidden = torch.cat([golden["g.z_cond"], golden["g.z_uncond"]])
    x, passed = golden["g.noise"], []
    for timestep, keep, push in zip(plan.timesteps_T, plan.keep, plan.push, strict=True):
        prediction = head(x.expand(2, -1), timestep.expand(2), hidden)
        x = keep * x + push * (mixing([Guidance.text(5.0)]) @ prediction)
        passed.append(x)
    torch.testing.assert_close(
        torch.cat(passed[9::10]), golden["g.cfg5_trajectory_every10"], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("prompt", "exact", "rounded"),
    [
        ("text_prompt", "i_exact.cfg5_latents", "i.cfg5_latents"),
        ("plain_prompt", "i_exact.nocfg_latents", "i_nocfg.latents"),
        ("edit_prompt", "i_exact.edit_latents", "i_edit.latents"),
    ],
)
def test_a_whole_picture_is_the_released_one(
    request, golden, golden_exact, golden_model, golden_model_release, prompt, exact, rounded
):
    prompt = request.getfixturevalue(prompt)
    events = list(generate(golden_model, [prompt], SamplingParams(max_images=1)))
    torch.testing.assert_close(features_of(events), golden_exact[exact], **LATENTS)
    torch.testing.assert_close(features_of(events), golden[rounded], **ROUNDED_LATENTS)
    assert events[-1] == RowDone(0, "images")

    prompt = prompt._replace(noise=iter(golden["i.noise"][:, 0]))
    events = list(generate(golden_model_release, [prompt], SamplingParams(max_images=1)))
    torch.testing.assert_close(features_of(events), golden[rounded], **LATENTS)


def test_its_pixels_are_the_released_ones(golden, golden_exact, golden_model, text_prompt):
    events = list(generate(golden_model, [text_prompt], SamplingParams(max_images=1)))
    (done,) = (event for event in events if isinstance(event, ImageDone))
    torch.testing.assert_close(done.pixels_3HW, golden_exact["i_exact.cfg5_pixels"][0], **PIXELS)
    torch.testing.assert_close(done.pixels_3HW, golden["i.cfg5_pixels"][0], **ROUNDED_PIXELS)


def test_all_three_tasks_in_one_batch_are_the_released_ones(
    golden, golden_exact, golden_model, text_prompt, plain_prompt, edit_prompt
):
    prompts = [edit_prompt, plain_prompt, text_prompt]
    events = list(generate(golden_model, prompts, SamplingParams(max_images=1)))
    names = ["edit_latents", "nocfg_latents", "cfg5_latents"]
    for row, name in enumerate(names):
        mine = [event for event in events if getattr(event, "row", None) == row]
        torch.testing.assert_close(features_of(mine), golden_exact[f"i_exact.{name}"], **LATENTS)


@pytest.mark.parametrize("group", ["i_mmu", "i_text"])
def test_text_is_the_released_one(golden, golden_model, group):
    asked = {
        "i_mmu": context(golden["e1.input_ids"], golden["e1.image_latents"]),
        "i_text": context(golden["d.input_ids"]),
    }[group]
    expected = golden[f"{group}.output_ids"][0, len(asked.ids) :].tolist()
    settings = SamplingParams(max_images=0, max_text=len(expected))
    events = list(generate(golden_model, [Prompt(asked)], settings))
    assert tokens_of(events) == expected
    assert events[-1] == RowDone(0, "length")


class Dictated:
    """Says given tokens at given lengths of the row, and elsewhere none that turns its course."""

    def __init__(self, words: dict[int, int], shunned: list[int]) -> None:
        self.words, self.shunned = words, shunned

    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:
        if (word := self.words.get(ids_1S.shape[1])) is not None:
            return torch.full_like(scores_1V, -1e9).index_fill(1, torch.tensor([word]), 0.0)
        return scores_1V.index_fill(1, torch.tensor(self.shunned), -1e9)


@pytest.mark.parametrize("distance", ["exact", "release"])
def test_text_and_pictures_by_turns_are_the_released_ones(
    golden, golden_model, golden_model_release, distance
):
    model = {"exact": golden_model, "release": golden_model_release}[distance]
    config = model.config
    dictated = Dictated(
        {8: 8500, 10: 8197, 29: 8197, 48: 8710},
        [config.boi_token_id, config.sep_token_id, config.eoi_token_id],
    )
    prompt = Prompt(
        context(golden["i_inter.cond_ids"]),
        guidance=Guidance.text(3.0),
        negatives=(context(golden["i_inter.uncond_ids"]),),
        noise=iter(golden["i_inter.noise"][:, 0]),
    )
    settings = SamplingParams(max_images=2, max_text=100)
    events = list(generate(model, [prompt], settings, processors=[dictated]))

    # The release's tokens hold [BOI], patch slots, [EOI] and the [SEP] that ends the row as well.
    not_text = {
        config.boi_token_id,
        config.image_token_id,
        config.eoi_token_id,
        config.sep_token_id,
    }
    expected = [
        token for token in golden["i_inter.output_tokens"].tolist() if token not in not_text
    ]
    assert tokens_of(events) == expected
    assert events[-1] == RowDone(0, "end")
    tolerance = LATENTS if distance == "release" else ROUNDED_LATENTS
    torch.testing.assert_close(features_of(events), golden["i_inter.latents"], **tolerance)
