"""The loop: the same in a batch as alone, with a cache as without, and no more than was asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.events import Event, ImageBegun, ImageDone, PatchDone, RowDone, TextPiece
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import seeded_noise
from orthus_core.samplers.prompt import Context, Guidance, Prompt, mixing
from orthus_core.samplers.solvers import ddim_plan
from tests.conftest import make_tiny_model

# Ids of the tiny vocabulary: bos, eos, the special tokens after its 32 codes, then words.
BOS, EOS, EOI, BOI, SEP, IMAGE, WORD = 0, 2, 36, 37, 38, 39, 40
PATCHES, CHANNELS, CONTEXT = 4, 8, 96
CLOSE = {"atol": 2e-4, "rtol": 1e-4}

PARTLY = {"guidance_interval": (300, 800), "guidance_schedule": "linear"}

UNCONDITIONAL = Context((BOS, WORD + 7, SEP))


@pytest.fixture(scope="module")
def precise_model():
    """The tiny model in float64, in which rounding leaves the fp32 features alone: two ways to the
    same picture differ only if they are wrong."""
    return make_tiny_model().double()


def words(*numbers: int) -> Context:
    return Context((BOS, *(WORD + number for number in numbers), SEP))


def with_image(seed: int, *numbers: int) -> Context:
    features = torch.randn(1, PATCHES, CHANNELS, generator=torch.Generator().manual_seed(seed))
    picture = (BOI, *[IMAGE] * PATCHES, EOI)
    return Context((BOS, *picture, *(WORD + number for number in numbers), SEP), features)


def drawn(context: Context, seed: int, scale: float = 3.0) -> Prompt:
    return Prompt(context, seed, Guidance.text(scale), (UNCONDITIONAL,))


def edited(image: int, seed: int, *numbers: int) -> Prompt:
    negatives = (with_image(image), Context((BOS, SEP)))
    return Prompt(with_image(image, *numbers), seed, Guidance.edit(3.0, 1.5), negatives)


class Leaning:
    """Makes a random model open a picture or end now and then, by a rule of the row's tokens."""

    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:
        scores_1V = scores_1V.clone()
        scores_1V[:, [EOS, SEP, BOI]] -= 20
        if ids_1S.shape[1] % 5 == 0:
            scores_1V[:, BOI] += 60
        if int(ids_1S.sum()) % 23 == 0:
            scores_1V[:, EOS] += 60
        return scores_1V


def run(model, prompts: Sequence[Prompt], settings: SamplingParams, processors=()) -> list[Event]:
    return list(generate(model, prompts, settings, processors=processors))


def of_row(events: Sequence[Event], row: int) -> list[Event]:
    return [event for event in events if getattr(event, "row", None) == row]


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [t for event in events if isinstance(event, TextPiece) for t in event.token_ids]


def images_of(events: Sequence[Event]) -> list[ImageDone]:
    return [event for event in events if isinstance(event, ImageDone)]


def assert_same_row(ours: Sequence[Event], theirs: Sequence[Event]) -> None:
    """The same words and the same pictures at the same places, up to rounding."""
    assert tokens_of(ours) == tokens_of(theirs)
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    for mine, other in zip(images_of(ours), images_of(theirs), strict=True):
        torch.testing.assert_close(mine.features_PC, other.features_PC, **CLOSE)
        torch.testing.assert_close(mine.pixels_3HW, other.pixels_3HW, **CLOSE)


def without_a_cache(model, prompt: Prompt, pictures: int, params: SamplingParams) -> Tensor:
    """Pictures one after another, everything read again for every patch: [pictures, P, C]."""
    head, plan = model.mlp_head, ddim_plan(model.schedule, params.steps)
    noise = seeded_noise(prompt.seed, CHANNELS)
    off = torch.eye(len(prompt.contexts))[:1]
    low, high = params.guidance_interval or (0, 999)
    done: list[Tensor] = []
    own = prompt.context
    for _ in range(pictures):
        patches: list[Tensor] = []
        for _ in range(PATCHES):
            hidden = []
            for context in (own, *prompt.negatives):
                ids = [*context.ids, BOI, *[IMAGE] * len(patches)]
                given = [] if context.features_MPC is None else list(context.features_MPC)
                features = [*given, *(patch.unsqueeze(0) for patch in patches)]
                rows = torch.cat(features) if features else None
                hidden.append(model.run_backbone(torch.tensor([ids]), rows).hidden_BSD[0, -1])
            x = next(noise).unsqueeze(0)
            mix = mixing([prompt.guidance])
            if params.guidance_schedule == "linear":
                mix = off + (len(patches) + 1) / PATCHES * (mix - off)
            for timestep, keep, push in zip(plan.timesteps_T, plan.keep, plan.push, strict=True):
                each = head(
                    x.expand(len(hidden), -1), timestep.expand(len(hidden)), torch.stack(hidden)
                )
                x = keep * x + push * ((mix if low <= timestep <= high else off) @ each)
            patches.append(x[0] / model.config.latent_scale)
        picture = torch.stack(patches)
        done.append(picture)
        before = [] if own.features_MPC is None else [own.features_MPC]
        own = Context(
            (*own.ids, BOI, *[IMAGE] * PATCHES, EOI), torch.cat([*before, picture.unsqueeze(0)])
        )
    return torch.stack(done)


@pytest.mark.parametrize(
    "prompt",
    [Prompt(words(1, 2), 3), drawn(words(1, 2, 3), 4), edited(5, 6, 1, 2)],
    ids=["plain", "guided", "edit"],
)
@pytest.mark.parametrize("guides", [{}, PARTLY], ids=["throughout", "partly"])
def test_cached_equals_uncached(tiny_model, prompt, guides):
    settings = SamplingParams(max_images=2, steps=10, **guides)
    events = run(tiny_model, [prompt], settings)
    expected = without_a_cache(tiny_model, prompt, 2, settings)
    for event, picture in zip(images_of(events), expected, strict=True):
        torch.testing.assert_close(event.features_PC, picture, **CLOSE)


def test_greedy_text_equals_reading_everything_again(tiny_model):
    prompt = Prompt(with_image(1, 2, 3))
    events = run(tiny_model, [prompt], SamplingParams(max_images=0, max_text=12))
    ids = list(prompt.context.ids)
    for token in tokens_of(events):
        hidden = tiny_model.run_backbone(
            torch.tensor([ids]), prompt.context.features_MPC
        ).hidden_BSD[:, -1]
        logits = tiny_model.text_logits(hidden)[0]
        logits[[BOS, 1, EOI, BOI]] = float("-inf")
        assert token == int(logits.argmax())
        ids.append(token)
    assert len(tokens_of(events)) == 12


@pytest.mark.parametrize("guides", [{}, PARTLY], ids=["throughout", "partly"])
def test_pictures_are_the_same_in_a_batch_as_alone(precise_model, guides):
    prompts = [
        drawn(words(1, 2, 3, 4, 5, 6, 7, 8), 11),
        Prompt(words(9), 12),
        edited(13, 14, 3, 1, 4),
        drawn(words(1, 2), 15, 7.5),
        drawn(words(1, 2), 16, 7.5),
    ]
    settings = SamplingParams(max_images=2, steps=10, **guides)
    together = run(precise_model, prompts, settings)
    for row, prompt in enumerate(prompts):
        assert_same_row(of_row(together, row), run(precise_model, [prompt], settings))
    same_prompt = [images_of(of_row(together, row))[0].features_PC for row in (3, 4)]
    assert not torch.allclose(*same_prompt, atol=0.1), "another seed is another picture"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_at_different_places_do_not_disturb_each_other(tiny_model, temperature):
    prompts = [
        drawn(words(1, 2, 3), 21),
        drawn(words(4), 22),
        edited(23, 24, 5),
        Prompt(words(6, 7, 8, 9, 10, 11), 25),
        Prompt(words(6, 7, 8, 9, 10, 11), 26),
    ]
    settings = SamplingParams(
        max_images=2, max_text=18, steps=5, temperature=temperature, top_p=0.95
    )
    together = run(tiny_model, prompts, settings, [Leaning()])
    for row, prompt in enumerate(prompts):
        alone = run(tiny_model, [prompt], settings, [Leaning()])
        assert_same_row(of_row(together, row), of_row(alone, 0))
    # Otherwise this would show little: the rows draw at different times, and end at different ones.
    kinds = [[type(event) for event in of_row(together, row)] for row in range(len(prompts))]
    assert sum(PatchDone in kind for kind in kinds) >= 3
    assert len({len(kind) for kind in kinds}) >= 3


def test_left_padded_equals_unpadded(tiny_model):
    short, long = Prompt(words(1), 31), Prompt(words(*range(20)), 32)
    settings = SamplingParams(max_images=1, steps=5)
    padded = run(tiny_model, [short, long], settings)
    assert_same_row(of_row(padded, 0), run(tiny_model, [short], settings))
    texts = SamplingParams(max_images=0, max_text=10)
    padded = run(tiny_model, [short, long], texts)
    assert tokens_of(of_row(padded, 0)) == tokens_of(run(tiny_model, [short], texts))


def test_a_seed_is_a_picture(tiny_model):
    settings = SamplingParams(max_images=1, steps=5)
    first, again = (run(tiny_model, [drawn(words(1), 41)], settings) for _ in range(2))
    assert torch.equal(images_of(first)[0].pixels_3HW, images_of(again)[0].pixels_3HW)


def test_noise_scale_scales_the_noise(tiny_model):
    noise = torch.randn(PATCHES, CHANNELS, generator=torch.Generator().manual_seed(0))
    half = Prompt(words(1), noise=iter(noise / 2))
    whole = Prompt(words(1), noise=iter(noise))
    by_hand = run(tiny_model, [half], SamplingParams(max_images=1, steps=5))
    by_setting = run(tiny_model, [whole], SamplingParams(max_images=1, steps=5, noise_scale=0.5))
    assert_same_row(by_setting, by_hand)


def test_what_a_row_does_is_told_in_order(tiny_model):
    events = run(tiny_model, [Prompt(words(1))], SamplingParams(max_images=1, steps=2))
    begun, *patches, image, end = events
    assert begun == ImageBegun(0, 0, forced=False)
    assert patches == [PatchDone(0, 0, n + 1, PATCHES) for n in range(PATCHES)]
    assert isinstance(image, ImageDone)
    assert image.pixels_3HW.shape == (3, 16, 16)
    assert image.features_PC.shape == (PATCHES, CHANNELS)
    assert end == RowDone(0, "images")


class Watching:
    """Remembers what each row's tokens were when it came to write."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:
        self.seen.append(ids_1S[0].tolist())
        return scores_1V


def test_after_the_last_patch_eoi_is_appended_and_text_goes_on(tiny_model):
    watching = Watching()
    settings = SamplingParams(max_images=1, min_images=1, text_before_image=2, max_text=5, steps=2)
    run(tiny_model, [Prompt(words(1))], settings, [watching])
    after_image = watching.seen[2]
    assert after_image[3 + 2 :] == [BOI, *[IMAGE] * PATCHES, EOI]
    assert len(watching.seen) == 5


def test_a_picture_that_is_owed_is_begun_for_the_model(tiny_model):
    settings = SamplingParams(max_images=3, min_images=3, text_before_image=4, max_text=30, steps=2)
    events = run(tiny_model, [Prompt(words(1))], settings)
    assert len(images_of(events)) == 3
    begun = [event for event in events if isinstance(event, ImageBegun)]
    assert begun == [ImageBegun(0, number, forced=True) for number in range(3)]


def test_a_row_may_end_with_its_last_picture(tiny_model):
    settings = SamplingParams(
        max_images=2, min_images=2, text_before_image=3, max_text=30, end_with_image=True, steps=2
    )
    events = run(tiny_model, [Prompt(words(1))], settings)
    assert isinstance(events[-2], ImageDone)
    assert events[-1] == RowDone(0, "images")


def test_a_text_ends_with_the_context(tiny_model):
    prompt = Prompt(words(*range(40), *range(40)))
    events = run(tiny_model, [prompt], SamplingParams(max_images=0, max_text=1000), [NoEnd()])
    assert len(prompt.context.ids) + len(tokens_of(events)) == CONTEXT
    assert events[-1] == RowDone(0, "context")


def test_the_head_of_words_runs_for_words_only(tiny_model, monkeypatch):
    calls = []
    text_logits = tiny_model.text_logits
    monkeypatch.setattr(
        tiny_model, "text_logits", lambda hidden: calls.append(len(hidden)) or text_logits(hidden)
    )
    run(tiny_model, [drawn(words(1), 1), drawn(words(2), 2)], SamplingParams(max_images=1, steps=2))
    assert calls == []
    run(tiny_model, [Prompt(words(1))], SamplingParams(max_images=0, max_text=3), [Leaning()])
    assert calls == [1, 1, 1]


def test_only_the_new_feature_is_embedded(tiny_model, monkeypatch):
    rows = []
    embed_features = tiny_model.embed_features
    monkeypatch.setattr(
        tiny_model, "embed_features", lambda z: rows.append(len(z)) or embed_features(z)
    )
    run(tiny_model, [edited(1, 2, 3)], SamplingParams(max_images=1, steps=2))
    # The pictures of the prompt's streams once; then each new patch once, the last one never.
    assert rows == [PATCHES, PATCHES, *[1] * (PATCHES - 1)]


def test_rows_that_ended_leave_the_batch(tiny_model, monkeypatch):
    batches = []
    run_backbone = type(tiny_model).run_backbone

    def watched(self, *args, **kwargs):
        out = run_backbone(self, *args, **kwargs)
        batches.append(out.hidden_BSD.shape[0])
        return out

    monkeypatch.setattr(type(tiny_model), "run_backbone", watched)
    long = Prompt(words(1), 51)
    short = Prompt(Context(tuple([BOS, *[WORD] * (CONTEXT - 4), SEP])), 52)
    run(tiny_model, [short, long], SamplingParams(max_images=0, max_text=9), [NoEnd()])
    assert batches[0] == 2 and batches[-1] == 1


class NoEnd:
    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:
        return scores_1V.index_fill(1, torch.tensor([EOS, SEP]), float("-inf"))


def test_gradients_are_off_inside_and_as_they_were_outside(tiny_model):
    with torch.enable_grad():
        for event in generate(
            tiny_model, [Prompt(words(1))], SamplingParams(max_images=1, steps=2)
        ):
            assert torch.is_grad_enabled()
            if isinstance(event, ImageDone):
                assert not event.features_PC.requires_grad


def test_sixteen_bit_weights_draw_whole_numbers_of_patches_with_an_fp32_state():
    model = make_tiny_model().to(torch.bfloat16)
    (done,) = images_of(run(model, [drawn(words(1), 1)], SamplingParams(max_images=1, steps=5)))
    assert done.features_PC.dtype == torch.float32 and done.features_PC.isfinite().all()
    reference = images_of(
        run(make_tiny_model(), [drawn(words(1), 1)], SamplingParams(max_images=1, steps=5))
    )[0]
    error = (done.features_PC - reference.features_PC).abs().mean()
    assert error < 0.1 * reference.features_PC.abs().mean()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(words(*range(40), *range(40), *range(9))), "tokens long"),
        (Prompt(Context((BOS, BOI, IMAGE, EOI, SEP))), "1 image slots but 0 image features"),
        (Prompt(words(1), guidance=Guidance.text(3.0)), "2 guidance weights for 1 contexts"),
        (Prompt(Context(())), "empty"),
        (Prompt(Context((BOS, 10_000))), "outside the vocabulary"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_drawn(
    tiny_model, prompt, message
):
    with pytest.raises(PromptError, match=message):
        run(tiny_model, [prompt], SamplingParams(max_images=1, steps=2))


def test_noise_that_is_used_up_is_named(tiny_model):
    prompt = Prompt(words(1), noise=iter(torch.randn(3, CHANNELS)))
    with pytest.raises(PromptError, match="used up after 3 patches of picture 1"):
        run(tiny_model, [prompt], SamplingParams(max_images=1, steps=2))


def test_a_model_without_a_decoder_writes_but_does_not_draw():
    model = make_tiny_model()
    model.model.vqmodel.decoder = None
    with pytest.raises(CheckpointError, match="no pixel decoder"):
        run(model, [Prompt(words(1))], SamplingParams(max_images=1))
    assert tokens_of(
        run(model, [Prompt(words(1))], SamplingParams(max_images=0, max_text=2), [NoEnd()])
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_images", -1),
        ("min_images", 9),
        ("max_text", -5),
        ("noise_scale", float("nan")),
        ("temperature", -1.0),
        ("temperature", float("inf")),
        ("top_p", 0.0),
    ],
)
def test_settings_that_cannot_be_are_named(field, value):
    with pytest.raises(PromptError, match=field):
        SamplingParams(**{field: value})
