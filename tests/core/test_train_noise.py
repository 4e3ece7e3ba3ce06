"""What a training draws for a row depends on the row, not on the batch or the process it is in."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from orthus_core.data.collate import Batch, collate, with_features
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import IGNORE, EncodedRow, TokenIds
from orthus_core.data.order import splitmix64
from orthus_core.data.sources import Batches, MadeRows, Mixture
from orthus_core.losses.adversarial import augmented_alike, shifted
from orthus_core.losses.joint import JointLoss, chosen_patches, counts_of
from orthus_core.losses.picture_loss import PictureLoss
from orthus_core.losses.picture_noise import Stream, drawn_seeds, normal, uniform
from orthus_core.recipe.training import AutoencoderLosses, FinetuneVaeRecipe, LogRecipe
from orthus_core.train.autoencoder import DecoderObjective, DecoderStage, fresh_autoencoder
from orthus_core.train.distributed import Rank
from tests.conftest import TINY_AUTOENCODER, make_tiny_config, make_tiny_model
from tests.core.toy_data import ToyPictures

P, C = 4, 8  # patches and channels of the tiny model
IDS = TokenIds.of(make_tiny_config())
PICTURES = (1, 0, 3, 2, 1, 0, 2, 1)  # of each of eight rows


class Drawing:
    """A picture whose features are drawn from its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def key(self) -> str:
        return str(self.number)

    def load(self, size: int):
        raise AssertionError("its features are known")


def encoded(document: Document) -> EncodedRow:
    """Words, each picture of the document, and an end; of several the first is the user's."""
    number = int(document.id)
    row = [IDS.bos, *[40 + (number * 7 + word) % 50 for word in range(1 + number % 5)]]
    for _ in document.pictures:
        row += [IDS.boi, *[IDS.image] * P, IDS.eoi]
    row.append(IDS.eos)
    targets = [IGNORE if token == IDS.image else token for token in row[1:]] + [IGNORE]
    of_model = tuple(place > 0 or number % 3 == 0 for place, _ in enumerate(document.pictures))
    return EncodedRow(row, targets, document.pictures, of_model)


def document(number: int) -> Document:
    pictures = [Drawing(10 * number + place) for place in range(PICTURES[number % 8])]
    return Document(turn("user", str(number)) + turn("model", "x", *pictures), id=str(number))


def batches(**options) -> Batches:
    lay = partial(collate, ids=IDS, packing=options.pop("packing", False), own_pictures=True)
    options = {"batch_size": 8, "noise_seed": 5} | options
    return Batches(Mixture([MadeRows("made", document)]), encoded, lay, **options)


def filled(batch: Batch) -> Batch:
    return with_features(
        batch,
        torch.stack(
            [
                torch.randn(P, C, generator=torch.Generator().manual_seed(picture.number))
                for picture in batch.pictures
            ]
        ),
    )


# All that is drawn for a picture.
ALL_NOISE = {
    **{"repeats": 4, "patch_share": 0.5, "prefix_noise": 0.5, "prefix_clean": 0.5},
    "input_noise": 0.5,
}


def found_of(parts: list[Batch], **changes) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean losses of batches that are one step, and their gradients."""
    model = make_tiny_model()
    objective = JointLoss(
        model,
        lambda_image=2.0,
        **(ALL_NOISE | changes),
    ).train()
    counts = [counts_of(part) for part in parts]
    mean = counts[0]._make(sum(each) / len(parts) for each in zip(*counts, strict=True))
    losses = []
    for part in parts:
        found = objective(filled(part), mean)
        (found.total / len(parts)).backward()
        losses.append(torch.stack(found).detach())
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return torch.stack(losses).mean(0), gradients


@pytest.mark.parametrize("timesteps", ["uniform", "uniform-angle", "logit-normal"])
@pytest.mark.parametrize("how", ["halves", "steps", "packed", "packed halves"])
def test_a_batch_has_the_losses_and_gradients_of_its_parts(timesteps, how):
    packing = how.startswith("packed")
    if how == "packed":
        parts = [batches(packing=True)(1)]
    elif how == "steps":  # accumulated
        parts = [batches(batch_size=4)(step) for step in (2, 3)]
    else:
        parts = [batches(shard=n, shards=2, packing=packing)(1) for n in range(2)]
    torch.manual_seed(len(how))  # of no account
    found, gradients = found_of(parts, timesteps=timesteps)
    wanted, wanted_gradients = found_of([batches()(1)], timesteps=timesteps)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-5, atol=1e-6)


def test_each_kind_of_noise_is_in_the_losses_that_are_compared():
    read = {"input_noise": 0.0}  # it drowns what is added to the same pictures
    without = ({"prefix_noise": 0.0}, {"prefix_clean": 0.0}, {"patch_share": 1.0})
    every, *others = (
        found_of([batches()(1)], **read, **changes)[0][2] for changes in ({}, *without)
    )
    others.append(found_of([batches()(1)])[0][2])
    assert all(abs(every - other) > 1e-4 for other in others)


def test_a_share_of_the_pictures_is_read_as_the_diffusion_makes_them():
    """x_t = sqrt(a_t) z + sqrt(1 - a_t) eps of the scaled features, one t of the whole schedule for
    a picture. What ones and zeros become differs by sqrt(a_t), as their noise is the same.
    """
    count, share = 1000, 0.75
    model = make_tiny_model(latent_scale=0.5)
    alphas_T, seeds_M = model.schedule.alphas_cumprod_T, torch.arange(count)
    objective = JointLoss(model, input_noise=share).train()
    zeros_NC, ones_NC = torch.zeros(count * P, C), torch.ones(count * P, C)
    noise_MX, ones_MX = (
        objective.as_read(each, seeds_M).view(count, P * C) for each in (zeros_NC, ones_NC)
    )
    signal_MX = ones_MX - noise_MX
    signal_M = signal_MX.mean(1)
    torch.testing.assert_close(signal_MX, signal_M[:, None].expand_as(signal_MX))
    is_noisy_M = noise_MX.any(1)
    assert torch.equal(ones_MX[~is_noisy_M], torch.ones(int((~is_noisy_M).sum()), P * C))
    assert is_noisy_M.float().mean() == pytest.approx(share, abs=0.05)
    t_M = (alphas_T.sqrt() - signal_M[is_noisy_M, None]).abs().argmin(1)
    assert t_M.min() < 20 and t_M.max() > 980 and t_M.float().mean() == pytest.approx(499.5, abs=40)
    unit_MX = 0.5 * noise_MX[is_noisy_M] / (1 - alphas_T[t_M]).sqrt()[:, None]
    assert unit_MX.mean().abs() < 0.03 and unit_MX.std() == pytest.approx(1, abs=0.02)
    again = objective.as_read(ones_NC[: 8 * P], seeds_M[8:16]).view(8, -1)
    assert torch.equal(again, ones_MX[8:16]), "of the picture, in any batch"
    at_rest = JointLoss(model, input_noise=1.0).eval()
    assert torch.equal(at_rest.as_read(ones_NC, seeds_M), ones_NC)
    without = {"beta_start": 1e-12, "beta_end": 1e-12, "zero_terminal_snr": False}
    clean = JointLoss(make_tiny_model(**without), input_noise=1.0).train()
    torch.testing.assert_close(clean.as_read(ones_NC, seeds_M), ones_NC, atol=1e-2, rtol=0)


@pytest.mark.parametrize("of", ["all", "drawn"])
def test_pictures_that_are_only_read_stay_clean_where_noise_is_of_those_that_are_drawn(of):
    """A question about a picture that is drowned in noise teaches to guess."""
    objective = JointLoss(make_tiny_model(), input_noise=1.0, input_noise_of=of).train()
    features_NC, seeds_M = torch.ones(2 * P, C), torch.arange(2)
    is_drawn_N = torch.arange(2 * P) >= P
    shown, drawn = objective.as_read(features_NC, seeds_M, is_drawn_N).split(P)
    assert not torch.equal(drawn, features_NC[P:])
    assert torch.equal(shown, features_NC[:P]) == (of == "drawn")
    assert not torch.equal(objective.as_read(features_NC, seeds_M)[:P], features_NC[:P])


def test_a_step_reads_a_shown_picture_clean_where_noise_is_of_those_that_are_drawn(monkeypatch):
    """The loss hands the batch's targets on."""
    seen = []
    objective = JointLoss(make_tiny_model(), input_noise=1.0, input_noise_of="drawn").train()
    monkeypatch.setattr(objective, "as_read", lambda *given: seen.append(given) or given[0])
    rows = filled(batches()(1))
    assert rows.features_NC is not None
    rows = replace(rows, image_targets_N=torch.ones(len(rows.features_NC), dtype=torch.bool))
    objective(rows)
    ((_, _, targets_N),) = seen
    assert targets_N is rows.image_targets_N


@pytest.mark.parametrize("window", [1, 3])
def test_seeds_belong_to_the_picture_of_a_row_of_a_training(window):
    def seeds(steps=range(6), **options) -> dict[int, int]:
        found = {}
        for step in steps:
            batch = batches(window=window, **options)(step)
            names = [picture.number for picture in batch.pictures]
            found |= dict(zip(names, batch.noise_seeds_M.tolist(), strict=True))
        return found

    alone = seeds()
    assert len(set(alone.values())) == len(alone) == 6 * sum(PICTURES)
    assert seeds(shards=2) | seeds(shards=2, shard=1) == alone
    assert seeds(packing=True) == alone and seeds(range(12), batch_size=4) == alone
    assert seeds(seed=1) == alone, "the seed of the order is not that of the noise"
    assert not set(seeds(noise_seed=6).values()) & set(alone.values())


def test_rows_without_a_seed_get_other_noise_each_time():
    batch = replace(batches()(0), noise_seeds_M=None)
    objective = JointLoss(make_tiny_model()).train()
    torch.manual_seed(0)
    one, other = (objective.noise_seeds(filled(batch)) for _ in range(2))
    assert len(set(one.tolist()) | set(other.tolist())) == 2 * sum(PICTURES)
    assert collate([encoded(document(0))], IDS).noise_seeds_M is None


@pytest.mark.parametrize("share", [0.01, 0.5, 0.75])
def test_a_share_of_each_picture_is_chosen_from_its_targets(share):
    scores_MP = uniform(torch.arange(50), Stream.CHOICE_OF_PATCHES, 8)
    chosen_MP = torch.zeros(50, 8)
    chosen_MP.view(-1)[chosen_patches(scores_MP, None, share)] = 1
    assert chosen_MP.sum(1).eq(max(1, round(share * 8))).all() and chosen_MP.sum(0).all()
    targets_MP = torch.arange(8) < torch.tensor([0, 4, 8]).repeat(20)[:50, None]
    chosen_N = chosen_patches(scores_MP, targets_MP.flatten(), share)
    found_MP = torch.zeros(50, 8, dtype=torch.bool)
    found_MP.view(-1)[chosen_N] = True
    assert not (found_MP & ~targets_MP).any()
    wanted = [0, max(1, round(share * 4)), max(1, round(share * 8))]
    assert found_MP.sum(1).tolist() == (wanted * 20)[:50]


def test_numbers_are_those_of_splitmix64():
    seeds_M = drawn_seeds(3) * torch.tensor([1, -1, 1])
    with np.errstate(over="ignore"):
        places_X = np.arange(5, dtype=np.uint64) + np.uint64(Stream.READ * 2**40)
        starts_MX = seeds_M.numpy().astype(np.uint64)[:, None] + places_X * np.uint64(
            0x9E3779B97F4A7C15
        )
    wanted_MX = (splitmix64(starts_MX) >> np.uint64(40)).astype(np.float32) / 2**24
    assert np.array_equal(uniform(seeds_M, Stream.READ, 5).numpy(), wanted_MX)


def test_numbers_are_normal_or_uniform_and_independent():
    seeds_M = torch.arange(40)
    x_MX = normal(seeds_M, Stream.DIFFUSION, 10_001).double()
    assert x_MX.shape == (40, 10_001) and x_MX.isfinite().all() and 4 < x_MX.abs().max() < 6
    # 400,000 numbers: a mean within 0.0016, and moments within 2% at five standard errors.
    moments = torch.stack([x_MX.mean(), *((x_MX**power).mean() for power in (2, 3, 4))])
    torch.testing.assert_close(moments, torch.tensor([0.0, 1, 0, 3]).double(), atol=0.06, rtol=0)
    below = [(x_MX < value).double().mean().item() for value in (-2, -1, 0, 1, 2)]
    assert below == pytest.approx([0.0228, 0.1587, 0.5, 0.8413, 0.9772], abs=0.004)
    u_MX = uniform(seeds_M, Stream.DIFFUSION, 10_000)
    counts = torch.histc(u_MX, 20, 0, 1) / u_MX.numel()
    assert 0 <= u_MX.min() and u_MX.max() < 1 and (counts - 0.05).abs().max() < 0.002
    # Numbers of one picture and the next, of a stream and the next, of a place and the next.
    other_MX = normal(seeds_M, Stream.READ, 10_001).double()
    pairs = [(x_MX[:-1], x_MX[1:]), (x_MX, other_MX), (x_MX[:, :-1], x_MX[:, 1:])]
    pairs += [(x_MX[:, :5000], x_MX[:, 5000:10_000]), (x_MX[:, :5000], x_MX[:, 5001:])]
    for one, two in pairs:
        assert abs((one * two).mean()) < 0.01 and abs(((one**2) * (two**2)).mean() - 1) < 0.03
    streams = torch.cat([uniform(seeds_M, stream, 100) for stream in Stream])
    assert len(streams.unique(dim=0)) == 40 * len(Stream)


def test_pictures_are_moved_by_pixels_of_their_own():
    pixels_M3HW = torch.arange(3 * 3 * 4 * 5.0).view(3, 3, 4, 5) + 1
    down, across = [0, 1, -2], [3, 0, -1]
    moved = shifted(pixels_M3HW, torch.tensor(down), torch.tensor(across))
    for picture, (one, dy, dx) in enumerate(zip(moved, down, across, strict=True)):
        for y in range(4):
            for x in range(5):
                inside = 0 <= y - dy < 4 and 0 <= x - dx < 5
                wanted = pixels_M3HW[picture, :, y - dy, x - dx] if inside else torch.zeros(3)
                assert torch.equal(one[:, y, x], wanted)


@pytest.fixture
def decoder_stage(monkeypatch):
    def made(shard=0, shards=1, **changes) -> DecoderStage:
        monkeypatch.setattr(
            "orthus_core.train.autoencoder.current_rank", lambda: Rank(shard, shards)
        )
        torch.manual_seed(0)
        vq = fresh_autoencoder(TINY_AUTOENCODER)
        recipe = FinetuneVaeRecipe(log=LogRecipe(validate_rows=7), **changes)
        recipe = replace(recipe, optim=replace(recipe.optim, batch_size=6))
        return DecoderStage(vq, recipe, ToyPictures())

    return made


def test_the_noise_of_a_decoder_is_of_the_picture_in_any_batch(decoder_stage):
    alone, parts = decoder_stage(seed=3), [decoder_stage(n, 2, seed=3) for n in range(2)]
    torch.manual_seed(0)
    decoder = DecoderObjective(
        fresh_autoencoder(TINY_AUTOENCODER), PictureLoss(AutoencoderLosses()), feature_noise=0.5
    )
    ((pixels_M3HW, seeds_M),) = alone.parts(1, 1)
    with torch.no_grad():
        whole = decoder(pixels_M3HW, seeds_M)
        halves = [decoder(*part.parts(1, 1)[0]) for part in parts]
        other = decoder(pixels_M3HW, seeds_M + 1)
    mean = (halves[0].total + halves[1].total) / 2
    torch.testing.assert_close(mean, whole.total, rtol=1e-6, atol=1e-6)
    assert abs(whole.total - other.total) > 1e-4
    pairs = augmented_alike(pixels_M3HW.flip(-1), pixels_M3HW, seeds_M)
    for place in range(6):
        one = slice(place, place + 1)
        alone_pair = augmented_alike(pixels_M3HW.flip(-1)[one], pixels_M3HW[one], seeds_M[one])
        for together, single in zip(pairs, alone_pair, strict=True):
            torch.testing.assert_close(together[one], single)
    same = augmented_alike(pixels_M3HW[:1].expand(2, -1, -1, -1), pixels_M3HW[:2], seeds_M[:2])[0]
    assert not torch.allclose(*same, atol=0.1), "two pictures of a batch are changed differently"


def test_seeds_of_pictures_are_by_their_place_among_those_of_all_processes(decoder_stage):
    def seeds(stage: DecoderStage, held_out=False, step=0, count=2) -> list[int]:
        parts = stage.held_out() if held_out else stage.parts(step, count)
        assert all(len(pixels) == len(seeds_M) for pixels, seeds_M in parts)
        return [seed for _, seeds_M in parts for seed in seeds_M.tolist()]

    alone = decoder_stage(seed=3)
    drawn = seeds(alone)
    assert len(set(drawn)) == 12 and not set(drawn) & set(seeds(alone, step=1))
    assert seeds(alone, step=0, count=1) + seeds(alone, step=1, count=1) == drawn
    shared = [seeds(decoder_stage(n, 2, seed=3), count=1) for n in range(2)]
    assert [seed for pair in zip(*shared, strict=True) for seed in pair] == drawn[:6]
    assert not set(seeds(decoder_stage(seed=4))) & set(drawn)
    measured = seeds(alone, held_out=True)
    assert measured == seeds(decoder_stage(seed=4), held_out=True) and len(set(measured)) > 1
    shares = [seeds(decoder_stage(n, 2), held_out=True) for n in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(measured) and all(shares)
