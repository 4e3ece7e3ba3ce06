"""A discrete Chameleon draws codes and nothing else, by the same rules of the loop as an Orthus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Event, ImageDone, RowDone, TextPiece
from orthus_core.model.chameleon import DiscreteChameleon
from orthus_core.model.config import token_name_of_code
from orthus_core.model.soft_embedding import nearest_code
from orthus_core.samplers.code_sampler import choose_codes, seeded_gumbel
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Guidance, Prompt, mixing
from orthus_core.samplers.text import choose_token, warpers
from tests.discrete import make_tiny_chameleon

# Ids of the tiny vocabulary: bos, codes from 4 on, the special tokens after them, then words.
BOS, CODE, EOI, BOI, SEP, IMAGE, WORD = 0, 4, 36, 37, 38, 39, 40
PATCHES, CODES, CHANNELS = 4, 32, 8
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])
ONE_PICTURE = SamplingParams(max_images=1, noise_scale=0.7, code_top_p=0.9)


@pytest.fixture(scope="module")
def chameleon() -> DiscreteChameleon:
    return make_tiny_chameleon()


def words(*numbers: int) -> Context:
    return Context((BOS, *(WORD + number for number in numbers), SEP))


def with_image(chameleon: DiscreteChameleon, codes: Sequence[int], *numbers: int) -> Context:
    picture = (BOI, *[IMAGE] * PATCHES, EOI)
    ids = (BOS, *picture, *(WORD + number for number in numbers), SEP)
    return Context(ids, chameleon.codebook_KC.detach()[list(codes)].unsqueeze(0))


def drawn(context: Context, seed: int, scale: float = 3.0) -> Prompt:
    return Prompt(context, seed, Guidance.text(scale), (words(7),))


def edited(chameleon: DiscreteChameleon, seed: int) -> Prompt:
    seen = [with_image(chameleon, [3, 1, 4, 1], *asked) for asked in ([1, 2], [])]
    return Prompt(seen[0], seed, Guidance.edit(3.0, 1.2), (seen[1], words(7)))


def run(
    model: DiscreteChameleon, prompts: Sequence[Prompt], settings: SamplingParams
) -> list[Event]:
    return list(generate(model, prompts, settings))


def codes_of(model: DiscreteChameleon, events: Sequence[Event], row: int = 0) -> list[list[int]]:
    """The codes of each picture that a row drew."""
    return [
        nearest_code(event.features_PC, model.codebook_KC).tolist()
        for event in events
        if isinstance(event, ImageDone) and event.row == row
    ]


def tokens_of(events: Sequence[Event], row: int = 0) -> list[int]:
    pieces = [event for event in events if isinstance(event, TextPiece) and event.row == row]
    return [token for piece in pieces for token in piece.token_ids]


# The choice of one code


def chosen(logits: Tensor = LOGITS, draws: int = 4000, **how) -> Counter[int]:
    gumbel = torch.stack(list(islice(seeded_gumbel(0, len(logits)), draws)))
    return Counter(choose_codes(logits.expand(draws, -1), gumbel, **how).tolist())


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 1e-300])
def test_the_coldest_temperatures_take_the_likeliest(temperature):
    warp, generator = warpers(temperature, 3, 0.9), torch.Generator().manual_seed(0)
    logits_V = torch.tensor([1.0, 30.0, -5.0, 29.9])
    assert {choose_token(logits_V, [0], [], warp=warp, generator=generator) for _ in range(20)} == {
        1
    }
    assert {*chosen(temperature=temperature)} == {int(LOGITS.argmax())}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2])
def test_codes_are_drawn_as_likely_as_their_softmax(temperature):
    counts = chosen(temperature=temperature)
    for code, probability in enumerate((LOGITS / temperature).softmax(-1).tolist()):
        assert counts[code] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_k_and_top_p_leave_out_the_tail():
    assert set(chosen(top_k=2)) == {4, 0}
    # softmax(LOGITS) is .64 .23 .09 .03 .01: the first two hold 0.87
    assert set(chosen(top_p=0.8)) == {4, 0}
    assert set(chosen(temperature=5.0, top_p=0.8)) > {4, 0}, "top_p looks at the warmed logits"


def test_temperature_zero_takes_the_likeliest_code():
    assert set(chosen(temperature=0.0)) == {4}


def test_a_seed_gives_the_same_noise_again_and_other_noise_for_every_patch():
    first, again = (torch.stack(list(islice(seeded_gumbel(7, 100), 50))) for _ in range(2))
    assert torch.equal(first, again) and first.isfinite().all()
    assert not torch.equal(first[0], first[1])
    # Gumbel's mean is Euler's constant, its variance pi^2 / 6.
    assert first.mean() == pytest.approx(0.5772, abs=0.05)
    assert first.var() == pytest.approx(1.645, abs=0.15)


# The loop


def without_a_cache(
    model: DiscreteChameleon, prompt: Prompt, settings: SamplingParams
) -> list[int]:
    """One picture, everything read again for every patch, its codes fed as tokens of the table."""
    noise = seeded_gumbel(prompt.seed, CODES)
    codes: list[int] = []
    for _ in range(PATCHES):
        logits = []
        for context in prompt.contexts:
            ids = torch.tensor([context.ids])
            embeds = model.embed(ids, context.features_MPC)
            tail = model.model.embed_tokens(torch.tensor([[BOI, *(CODE + code for code in codes)]]))
            hidden = model.run_backbone(inputs_embeds=torch.cat([embeds, tail], dim=1)).hidden_BSD[
                0, -1
            ]
            logits.append(model.lm_head(hidden)[CODE : CODE + CODES])
        guided = mixing([prompt.guidance]) @ torch.stack(logits)
        code = choose_codes(
            guided,
            next(noise).unsqueeze(0),
            temperature=settings.noise_scale,
            top_p=settings.code_top_p,
        )
        codes.append(int(code))
    return codes


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cached_equals_uncached(chameleon, seed):
    for prompt in (
        Prompt(words(1, 2), seed),
        drawn(words(1, 2, 3), seed),
        edited(chameleon, seed),
    ):
        with torch.no_grad():
            expected = without_a_cache(chameleon, prompt, ONE_PICTURE)
        events = run(chameleon, [prompt], ONE_PICTURE)
        assert codes_of(chameleon, events) == [expected]


def test_pictures_and_words_are_the_same_in_a_batch_as_alone(chameleon):
    prompts = [
        drawn(words(1, 2, 3, 4, 5, 6, 7, 8), 11),
        Prompt(words(9), 12),
        edited(chameleon, 13),
        drawn(words(1, 2), 14),
        drawn(words(1, 2), 15),
    ]
    settings = SamplingParams(
        max_images=2, min_images=2, text_before_image=3, max_text=9, temperature=1.0
    )
    together = run(chameleon, prompts, settings)
    for row, prompt in enumerate(prompts):
        alone = run(chameleon, [prompt], settings)
        assert codes_of(chameleon, together, row) == codes_of(chameleon, alone)
        assert len(codes_of(chameleon, alone)) == 2
        assert tokens_of(together, row) == tokens_of(alone)
    same_prompt = [codes_of(chameleon, together, row) for row in (3, 4)]
    assert same_prompt[0] != same_prompt[1], "another seed is another picture"


def test_a_seed_is_a_picture(chameleon):
    first, again, other = (
        codes_of(chameleon, run(chameleon, [drawn(words(1), seed)], ONE_PICTURE))
        for seed in (41, 41, 42)
    )
    assert first == again != other


def test_without_noise_every_seed_is_the_same_picture(chameleon):
    calm = SamplingParams(max_images=1, noise_scale=0.0)
    pictures = {
        str(codes_of(chameleon, run(chameleon, [drawn(words(1), seed)], calm))) for seed in range(4)
    }
    assert len(pictures) == 1


def test_guidance_of_one_is_none_and_more_of_it_is_another_picture(chameleon):
    def picture(prompt: Prompt) -> list[list[int]]:
        return codes_of(chameleon, run(chameleon, [prompt], ONE_PICTURE))

    plain = [picture(Prompt(words(1, 2), seed)) for seed in range(5)]
    assert [picture(drawn(words(1, 2), seed, 1.0)) for seed in range(5)] == plain
    guided = [picture(drawn(words(1, 2), seed, 8.0)) for seed in range(5)]
    assert guided != plain
    rising = replace(ONE_PICTURE, guidance_schedule="linear")
    halfway = [
        codes_of(chameleon, run(chameleon, [drawn(words(1, 2), seed, 8.0)], rising))
        for seed in range(5)
    ]
    assert halfway != guided and halfway != plain


def test_its_pixels_are_those_of_its_codes(chameleon):
    (done,) = (
        event
        for event in run(chameleon, [drawn(words(1), 1)], ONE_PICTURE)
        if isinstance(event, ImageDone)
    )
    codes = nearest_code(done.features_PC, chameleon.codebook_KC)
    with torch.no_grad():
        expected = chameleon.model.vqmodel.pixels_of_codes(codes.unsqueeze(0))[0]
    torch.testing.assert_close(done.pixels_3HW, expected)


def test_patches_are_codes_and_words_are_not_whatever_the_head_would_rather_say():
    model = make_tiny_chameleon()
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    text = model.text_logits(hidden)
    never = [*range(CODE, CODE + CODES), IMAGE]
    assert text[:, never].isneginf().all() and text.isfinite().sum() == 3 * (96 - len(never))
    torch.testing.assert_close(
        model.image_logits(hidden), model.lm_head(hidden)[:, CODE : CODE + CODES]
    )
    codebook = {tuple(code) for code in model.codebook_KC.tolist()}
    settings = SamplingParams(
        max_images=2, min_images=2, max_text=12, text_before_image=4, temperature=3
    )
    events = run(model, [drawn(words(1), seed) for seed in range(3)], settings)
    features = [
        tuple(f) for e in events if isinstance(e, ImageDone) for f in e.features_PC.tolist()
    ]
    assert len(features) == 3 * 2 * PATCHES and set(features) <= codebook
    said = {token for row in range(3) for token in tokens_of(events, row)}
    assert said and not said & {*never, BOI, EOI}


def test_codes_that_do_not_lie_in_order_keep_their_own_tokens():
    shuffled = {token_name_of_code(code): CODE + code * 5 % CODES for code in range(CODES)}
    vocabulary = make_tiny_chameleon().config.vocabulary_map | shuffled
    model = make_tiny_chameleon(vocabulary_map=vocabulary)
    hidden, features = torch.randn(2, 32), model.codebook_KC[[1, 31]]
    ids = [shuffled[token_name_of_code(code)] for code in (1, 31)]
    torch.testing.assert_close(
        model.image_logits(hidden)[:, [1, 31]], model.lm_head(hidden)[:, ids]
    )
    assert torch.equal(model.embed_features(features), model.model.embed_tokens.weight[ids])


def test_half_precision_draws_codes_too():
    model = make_tiny_chameleon().to(torch.bfloat16)
    events = run(model, [drawn(words(1), 1)], ONE_PICTURE)
    assert events[-1] == RowDone(0, "images")
    assert len(codes_of(model, events)[0]) == PATCHES


# What it says of itself


def test_its_own_sampling_values_go_before_those_of_its_kind():
    plain = make_tiny_chameleon().config
    sampling = SamplingParams.resolve(plain)
    assert sampling.to_dict() == {
        "steps": 1,
        "guidance": 3.0,
        "image_guidance": 1.2,
        "noise_scale": 0.7,
        "negative_prompt": "Generate an image.",
        "code_top_k": 0,
        "code_top_p": 0.9,
    }
    own = make_tiny_chameleon(sampling={"noise_scale": 1.0, "code_top_k": 5}).config
    assert SamplingParams.resolve(own, guidance=2.0, max_images=3) == SamplingParams(
        max_images=3,
        steps=1,
        code_top_k=5,
        code_top_p=0.9,
        guidance=2.0,
        image_guidance=1.2,
        negative_prompt="Generate an image.",
        preset=None,
    )


def test_steps_are_for_an_orthus():
    with pytest.raises(PromptError, match="50 steps a patch") as caught:
        SamplingParams.resolve(make_tiny_chameleon().config, steps=50)
    assert "leave steps out" in caught.value.hint


def test_without_a_decoder_it_writes_and_says_where_pictures_come_from():
    model = make_tiny_chameleon()
    model.model.vqmodel.decoder = None
    with pytest.raises(CheckpointError, match="no pixel decoder") as caught:
        run(model, [Prompt(words(1))], SamplingParams(max_images=1))
    assert "--vqgan vqgan.ckpt" in caught.value.hint and "anole-7b" in caught.value.hint
    assert run(model, [Prompt(words(1))], SamplingParams(max_images=0, max_text=2))
