"""Documents in one row: each is as it would be alone, for both kinds of model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from orthus_core.data.collate import Batch, collate, pack_rows, with_features
from orthus_core.data.encode import IGNORE, EncodedRow, TokenIds
from orthus_core.losses.diffusion import draw, timesteps_at
from orthus_core.losses.joint import DiscreteLoss, JointLoss, counts_of
from orthus_core.model import padded_rows
from orthus_core.model.packed_attention import packed_mask
from orthus_core.model.schedule import make_schedule
from tests.conftest import make_tiny_config, make_tiny_model

P, C = 4, 8  # patches and channels of the tiny model
FIRST_WORD = 40


class Drawing:
    """A picture whose features are drawn from its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = str(number)


def filled(batch: Batch) -> Batch:
    """With the features of its pictures, if it has any."""
    features = [
        torch.randn(P, C, generator=torch.Generator().manual_seed(picture.number))
        for picture in batch.pictures
    ]
    return with_features(batch, torch.stack(features)) if features else batch


def document(ids: TokenIds, number: int, words: int, picture: bool) -> EncodedRow:
    """<s> words SEP [BOI] patches [EOI] </s>, or words alone, all of it predicted but patches."""
    row = [ids.bos, *[FIRST_WORD + (number * 7 + word) % 50 for word in range(words)], ids.sep]
    row += [ids.boi, *[ids.image] * P, ids.eoi] if picture else []
    row.append(ids.eos)
    targets = [IGNORE if token == ids.image else token for token in row[1:]] + [IGNORE]
    return EncodedRow(row, targets, (Drawing(number),) if picture else ())


@pytest.fixture
def ids() -> TokenIds:
    return TokenIds.of(make_tiny_config())


@pytest.fixture
def rows(ids) -> list[EncodedRow]:
    shapes = [(20, True), (3, False), (5, True), (1, True), (9, False), (2, True), (0, False)]
    return [document(ids, n, words, picture) for n, (words, picture) in enumerate(shapes)]


def by_document(
    rows: list[EncodedRow], batch: Batch, values_BSX: torch.Tensor
) -> list[torch.Tensor]:
    """The values of each row, cut out of a batch that holds them in this order."""
    numbers = batch.attention_mask_BS
    places = [(line, n) for line in range(len(numbers)) for n in range(1, numbers[line].max() + 1)]
    assert len(places) == len(rows)
    return [values_BSX[line][numbers[line] == n] for line, n in places]


def chat(ids: TokenIds) -> EncodedRow:
    """<s> words picture SEP words </s> words picture SEP picture words </s>, as `encode` lays out a
    chat of two turns each; two of the pictures are the user's.
    """
    slots = [ids.boi, *[ids.image] * P, ids.eoi]
    asked, said, told, end = [40, 41], [42, 43, 44], [45], [46, 47]
    row = [ids.bos, *asked, *slots, ids.sep, *said, ids.eos]
    row += [*told, *slots, ids.sep, *slots, *end, ids.eos]
    targets = [*[IGNORE] * (3 + len(slots)), *said, ids.eos]
    targets += [*[IGNORE] * (2 + len(slots)), ids.boi, *[IGNORE] * P, ids.eoi]
    targets += [*end, ids.eos, IGNORE]
    pictures = Drawing(71), Drawing(72), Drawing(73)
    return EncodedRow(row, targets, pictures, (False, False, True))


def ordered_events(rows: list[EncodedRow], longest: int) -> list[EncodedRow]:
    return [row for line in pack_rows(rows, longest) for row in line]


def test_packing_fills_lines_and_loses_nothing(rows):
    longest = max(len(row.ids) for row in rows)
    lines = pack_rows(rows, longest)
    assert len(lines) == 3 and all(sum(len(r.ids) for r in line) <= longest for line in lines)
    assert sorted(len(r.ids) for line in lines for r in line) == sorted(len(r.ids) for r in rows)


def test_sight_restarts_with_every_document_and_ends_at_its_border():
    documents_BS = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    mask, positions_BS = packed_mask(documents_BS, torch.float32)
    assert positions_BS.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
    assert mask.shape == (2, 1, 6, 6)
    seen = [[column for column in range(6) if mask[0, 0, row, column] == 0] for row in range(6)]
    assert seen == [[0], [0, 1], [2], [2, 3], [2, 3, 4], [5]]
    assert (mask[1, 0] == 0).tolist() == torch.ones(6, 6).tril().bool().tolist()


def test_one_document_a_row_keeps_the_plain_mask():
    documents_BS = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert packed_mask(documents_BS, torch.float32).mask is documents_BS


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_hidden_states_of_packed_documents_are_those_of_documents_alone(ids, rows, attention):
    model = make_tiny_model()
    model.model.set_attn_implementation(attention)
    batch = filled(collate(rows, ids, packing=True))
    assert batch.attention_mask_BS.max() > 1
    mask, position_ids = packed_mask(batch.attention_mask_BS, model.dtype)
    assert torch.equal(
        position_ids * (batch.attention_mask_BS > 0),
        batch.position_ids_BS * (batch.attention_mask_BS > 0),
    )
    hidden_BSD = model(
        batch.ids_BS, batch.features_NC, attention_mask=mask, position_ids=position_ids
    ).hidden_BSD
    ordered = ordered_events(rows, batch.ids_BS.shape[1])
    for row, together_SD in zip(ordered, by_document(ordered, batch, hidden_BSD), strict=True):
        single = filled(collate([row], ids))
        alone_SD = model(single.ids_BS, single.features_NC).hidden_BSD[0]
        torch.testing.assert_close(together_SD, alone_SD, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nothing_of_a_document_reaches_its_neighbours(ids, rows):
    model = make_tiny_model()

    def hidden(changed: list[EncodedRow]) -> list[torch.Tensor]:
        batch = filled(collate(changed, ids, packing=True))
        mask, position_ids = packed_mask(batch.attention_mask_BS, model.dtype)
        hidden_BSD = model(
            batch.ids_BS, batch.features_NC, attention_mask=mask, position_ids=position_ids
        ).hidden_BSD
        return by_document(ordered_events(changed, batch.ids_BS.shape[1]), batch, hidden_BSD)

    before = hidden(rows)
    other = document(ids, 23, 5, True)  # as long as rows[2], with other words and patches
    after = hidden([other if row is rows[2] else row for row in rows])
    place = [len(row.ids) for row in ordered_events(rows, 27)].index(len(other.ids))
    same = [torch.equal(one, two) for one, two in zip(before, after, strict=True)]
    assert same == [number != place for number in range(len(rows))]


def test_losses_and_gradients_of_packed_rows_are_those_of_rows(ids, rows):
    def losses(packing: bool):
        model = make_tiny_model()
        longest = max(len(row.ids) for row in rows)
        batch = filled(collate(ordered_events(rows, longest), ids, packing=packing))
        torch.manual_seed(3)
        found = JointLoss(model, lambda_image=2.0, repeats=3)(batch)
        found.total.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return found, gradients, batch

    (apart, apart_grad, _), (together, together_grad, batch) = losses(False), losses(True)
    assert len(batch.ids_BS) == 3
    torch.testing.assert_close(together.text, apart.text)
    torch.testing.assert_close(together.image, apart.image)
    assert together_grad.keys() == apart_grad.keys()
    for name, gradient in together_grad.items():
        torch.testing.assert_close(gradient, apart_grad[name], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_the_loss_of_a_chat_is_that_of_its_answers_alone_or_packed(ids, rows):
    model, row = make_tiny_model(), chat(ids)
    single = filled(collate([row], ids, own_pictures=True))
    logits_SV = model.text_logits(model(single.ids_BS, single.features_NC).hidden_BSD[0])
    # Positions of the two answers' words and ends, and of the begin and end of the drawn picture.
    learnt = [10, 11, 12, 13, 22, 27, 28, 29, 30]
    assert [row.ids[at] for at in learnt] == [
        *(42, 43, 44, ids.eos),
        *(ids.boi, ids.eoi, 46, 47, ids.eos),
    ]
    nll = [-logits_SV[at - 1].log_softmax(-1)[row.ids[at]] for at in learnt]
    loss = JointLoss(model, repeats=2)
    torch.testing.assert_close(loss(single).text, torch.stack(nll).mean())
    assert counts_of(single) == (len(learnt), P)
    assert single.image_index_N[single.image_targets_N].tolist() == [22, 23, 24, 25]

    theirs = [each._replace(from_model=(True,) * len(each.pictures)) for each in rows]
    every = ordered_events([row, *theirs], len(row.ids))
    found = []
    for packing in (False, True):
        torch.manual_seed(3)
        found.append(loss(filled(collate(every, ids, packing=packing, own_pictures=True))))
    apart, together = found
    torch.testing.assert_close(together.text, apart.text)
    torch.testing.assert_close(together.image, apart.image)


@pytest.fixture
def slow_to_meet_shapes(monkeypatch):
    """This processor, as if it were a card."""
    monkeypatch.setattr(padded_rows, "meets_shapes_slowly", lambda tensor: True)


def test_rows_that_are_added_for_a_card_change_nothing(slow_to_meet_shapes):
    shapes = []

    def function(x_ND: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
        shapes.append(len(x_ND))
        return x_ND * y_N[:, None] + 1

    for count in (0, 1, 7, 8, 9):
        x_ND, y_N = torch.randn(count, 3, requires_grad=True), torch.arange(count)
        padded = padded_rows.with_padded_rows(function, x_ND, y_N, many=8)
        assert torch.equal(padded, x_ND * y_N[:, None] + 1)
        padded.sum().backward()
        assert torch.equal(x_ND.grad, y_N[:, None].expand(count, 3).float())
    assert shapes == [0, 8, 8, 8, 16]


def test_losses_and_gradients_in_few_shapes_are_the_same(ids, rows, monkeypatch):
    def losses(packing: bool, few: bool):
        model = make_tiny_model()
        batch = filled(collate(rows, ids, packing=packing, few_shapes=few))
        torch.manual_seed(3)
        found = JointLoss(model, lambda_image=2.0, repeats=3)(batch)
        found.total.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return found, gradients, batch

    for packing in (False, True):
        with monkeypatch.context() as plain:
            plain.setattr(padded_rows, "meets_shapes_slowly", lambda tensor: False)
            exact, exact_grad, _ = losses(packing, few=False)
        with monkeypatch.context() as card:
            card.setattr(padded_rows, "meets_shapes_slowly", lambda tensor: True)
            found, found_grad, batch = losses(packing, few=True)
        assert batch.ids_BS.shape == (8, 64)
        torch.testing.assert_close(found.text, exact.text)
        torch.testing.assert_close(found.image, exact.image)
        assert found_grad.keys() == exact_grad.keys()
        for name, gradient in found_grad.items():
            torch.testing.assert_close(gradient, exact_grad[name], rtol=1e-3, atol=1e-5)


def test_the_discrete_model_packs_alike(ids, rows):
    config = make_tiny_config()
    torch.manual_seed(0)
    fields = {k: v for k, v in config.to_dict().items() if k != "model_type"}
    fields["vq_config"] = {k: v for k, v in fields["vq_config"].items() if k != "model_type"}
    model = ChameleonForConditionalGeneration(ChameleonConfig(**fields)).eval()
    codes = torch.Generator().manual_seed(5)
    filled = [
        row._replace(
            ids=[
                config.code_token_ids[int(torch.randint(32, (), generator=codes))]
                if token == ids.image
                else token
                for token in row.ids
            ]
        )
        for row in rows
    ]
    filled = [row._replace(text_targets=[*row.ids[1:], IGNORE], pictures=()) for row in filled]
    objective = DiscreteLoss(model.model, model.lm_head)
    with torch.no_grad():
        together = objective(collate(filled, ids, packing=True))
        apart = objective(collate(filled, ids))
        torch.testing.assert_close(together.total, apart.total)
        # Each by itself, weighed by its length, comes to the same.
        lengths = [len(row.ids) - 1 for row in filled]
        alone = [objective(collate([row], ids)).total.item() for row in filled]
    mean = sum(n * loss for n, loss in zip(lengths, alone, strict=True)) / sum(lengths)
    assert together.total.item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_pictures_that_are_only_shown_can_be_left_out_of_the_loss(ids, packing):
    shown, drawn = document(ids, 1, 3, True), document(ids, 2, 5, True)
    rows = [
        shown._replace(from_model=(False,), noise_seed=1),
        drawn._replace(from_model=(True,), noise_seed=2),
    ]
    model = make_tiny_model()
    loss = JointLoss(model, repeats=1)

    def image_loss(rows: list[EncodedRow], **options) -> tuple[float, float]:
        batch = filled(collate(rows, ids, packing=packing, **options))
        torch.manual_seed(3)
        return counts_of(batch).image, float(loss(batch).image.detach())

    assert image_loss(rows)[0] == 2 * P
    count, value = image_loss(rows, own_pictures=True)
    assert count == P
    assert value == pytest.approx(image_loss(rows[1:])[1], rel=1e-4)
    nothing = filled(collate(rows[:1], ids, own_pictures=True))
    assert loss(nothing).image == 0


def test_a_loss_without_a_weight_costs_a_training_nothing(ids, rows):
    """It is measured at rest, and the other one reaches the backbone."""
    batch = filled(collate(rows, ids))
    for text_weight, lambda_image in ((1.0, 0.0), (0.0, 1.0)):
        model, used = make_tiny_model(), []
        for head in (model.lm_head, model.mlp_head):
            head.register_forward_hook(lambda head, *_, used=used: used.append(head))
        loss = JointLoss(model, text_weight=text_weight, lambda_image=lambda_image)
        found = loss(batch)
        assert (found.text is None, found.image is None) == (not text_weight, not lambda_image)
        assert set(used) == {model.lm_head if text_weight else model.mlp_head}
        found.total.backward()
        assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
        found = loss.eval()(batch)
        assert found.text > 0 and found.image > 0
        assert found.text.requires_grad == bool(text_weight)
        assert found.image.requires_grad == bool(lambda_image)


def test_noise_on_what_is_read_leaves_what_is_to_be_drawn_as_it_is(ids, rows, monkeypatch):
    targets = []

    def remembered(head, schedule, clean_NC, cond_ND, draws):
        targets.append((clean_NC, cond_ND))
        return cond_ND.sum() * 0

    monkeypatch.setattr("orthus_core.losses.joint.diffusion_loss", remembered)
    batch = filled(collate(rows, ids))
    for prefix_noise in (0.0, 0.5):
        JointLoss(make_tiny_model(), prefix_noise=prefix_noise).train()(batch)
    (clean, cond), (also_clean, other_cond) = targets
    assert torch.equal(clean, batch.features_NC * make_tiny_config().latent_scale)
    assert torch.equal(clean, also_clean) and not torch.allclose(cond, other_cond)


def test_a_patch_gets_as_many_draws_as_asked_for_and_none_like_another(ids, rows, monkeypatch):
    found = []

    def remembered(head, schedule, clean_NC, cond_ND, draws):
        found.append((len(clean_NC), draws))
        return cond_ND.sum() * 0

    monkeypatch.setattr("orthus_core.losses.joint.diffusion_loss", remembered)
    JointLoss(make_tiny_model(), repeats=5)(filled(collate(rows, ids)))
    ((patches, draws),) = found
    assert draws.noise.shape == (5 * patches, C) and len(draws.noise.unique(dim=0)) == 5 * patches
    timesteps_RN = draws.timesteps.view(5, patches)
    assert all(len(timesteps_RN[:, patch].unique()) > 1 for patch in range(patches))


def test_the_loss_of_a_share_of_the_patches_is_drawn_anew_each_step(ids, rows, monkeypatch):
    found = []

    def remembered(head, schedule, clean_NC, cond_ND, draws):
        found.append((clean_NC, cond_ND))
        return cond_ND.sum() * 0

    monkeypatch.setattr("orthus_core.losses.joint.diffusion_loss", remembered)
    batch = filled(collate(rows, ids))
    loss = JointLoss(make_tiny_model(), repeats=1, patch_share=0.5)
    loss.eval()(batch)
    loss.train()
    for seed in range(20):
        torch.manual_seed(seed)
        loss(batch)
    (every, conditions), *parts = found
    condition_of = {tuple(c.tolist()): h for c, h in zip(every, conditions, strict=True)}
    chosen = [frozenset(tuple(c.tolist()) for c in clean) for clean, _ in parts]
    assert {len(each) for each in chosen} == {round(0.5 * len(every))} and len(set(chosen)) > 10
    assert frozenset().union(*chosen) == condition_of.keys()
    for clean, hidden in parts:  # each patch with the hidden state before it
        wanted = torch.stack([condition_of[tuple(c.tolist())] for c in clean])
        torch.testing.assert_close(hidden, wanted)


def test_timesteps_cover_the_whole_schedule_evenly():
    schedule = make_schedule(num_train_timesteps=10)
    timesteps = draw(torch.arange(250), P, 1, 8, schedule).timesteps
    counts = torch.bincount(timesteps)
    assert len(counts) == 10 and counts.min() > 700 and counts.max() < 900


def test_timesteps_of_an_angle_are_the_nearest_by_hand():
    schedule = make_schedule()
    angles_T = schedule.alphas_cumprod_T.double().sqrt().acos()
    assert angles_T[-1] == pytest.approx(math.pi / 2) and (angles_T.diff() > 0).all()
    wanted_R = torch.rand(500, generator=torch.Generator().manual_seed(0)) * math.pi / 2
    nearest_R = (angles_T[None] - wanted_R.double()[:, None]).abs().argmin(1)
    assert (timesteps_at(schedule, wanted_R) - nearest_R).abs().max() <= 1, "ties of rounding"
    assert (timesteps_at(schedule, wanted_R) == nearest_R).float().mean() > 0.99
    ends = timesteps_at(schedule, torch.tensor([0.0, math.pi / 2]))
    assert ends.tolist() == [0, 999]


@pytest.mark.parametrize(
    # Shares of the angle below a quarter and a half of pi/2: sigmoid(n) < 1/4 where n < -ln 3.
    ("kind", "quarter", "half"),
    [("uniform-angle", 0.25, 0.5), ("logit-normal", 0.136, 0.5)],
)
def test_noise_levels_are_drawn_by_their_angle(kind, quarter, half):
    schedule = make_schedule()
    draws = draw(torch.arange(1250), P, 1, 4, schedule, timesteps=kind)
    angles = schedule.alphas_cumprod_T[draws.timesteps].sqrt().acos() / (math.pi / 2)
    assert (angles < 0.25).float().mean() == pytest.approx(quarter, abs=0.01)
    assert (angles < 0.5).float().mean() == pytest.approx(half, abs=0.01)


def test_the_discrete_loss_is_a_mean_over_the_counts_it_is_given(ids):
    model = make_tiny_model()

    class Backbone(torch.nn.Module):
        embed_tokens = model.model.embed_tokens

        def forward(self, input_ids, **_):
            return SimpleNamespace(last_hidden_state=self.embed_tokens(input_ids))

    objective = DiscreteLoss(Backbone(), model.lm_head)
    batch = collate([document(ids, 0, 9, False)], ids)
    own = counts_of(batch)
    alone = objective(batch).total
    half = objective(batch, own._replace(text=2 * own.text)).total
    torch.testing.assert_close(half, alone / 2)


def ones(seeds_M: torch.Tensor, stream: object, count: int) -> torch.Tensor:
    """In place of noise, so that what is added is its amount."""
    return torch.ones(len(seeds_M), count)


def test_each_picture_is_read_with_an_amount_of_noise_of_its_own(monkeypatch):
    monkeypatch.setattr("orthus_core.losses.joint.normal", ones)
    loss = JointLoss(make_tiny_model(), prefix_noise=0.5).train()
    features_NC = torch.randn(200 * P, C)
    seeds_M = torch.arange(200)
    added_MX = (loss.as_read(features_NC, seeds_M) - features_NC).view(200, P * C)
    amounts_M = added_MX.mean(1)
    torch.testing.assert_close(added_MX, amounts_M[:, None].expand_as(added_MX))
    assert len(amounts_M.unique()) == 200
    assert 0 <= amounts_M.min() < 0.05 and 0.45 < amounts_M.max() < 0.5
    assert torch.equal(loss.eval().as_read(features_NC, seeds_M), features_NC), (
        "measured without noise"
    )


def test_some_pictures_are_read_with_noise_up_to_a_random_patch(monkeypatch):
    monkeypatch.setattr("orthus_core.losses.joint.normal", ones)
    loss = JointLoss(make_tiny_model(), prefix_noise=0.5, prefix_clean=0.5).train()
    features_NC = torch.randn(4000 * P, C)
    noisy_MX = loss.as_read(features_NC, torch.arange(4000)) - features_NC
    noisy_MP = noisy_MX.view(4000, P, C)[:, :, 0] > 1e-6
    ends_M = noisy_MP.sum(1)
    assert torch.equal(noisy_MP, torch.arange(P) < ends_M[:, None]), "noise first, then none"
    # Half of the pictures are noisy throughout, the others up to each patch equally often.
    shares = torch.bincount(ends_M, minlength=P + 1) / 4000
    torch.testing.assert_close(shares, torch.tensor([*[0.5 / P] * P, 0.5]), atol=0.03, rtol=0)
