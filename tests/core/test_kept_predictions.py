"""Some pictures hold a model to what it predicted of them before the training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthus_core.data.encode import IGNORE
from orthus_core.losses.joint import JointLoss
from orthus_core.losses.kept_predictions import KeepingLoss
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.packed_attention import document_inputs
from tests.conftest import make_tiny_model
from tests.core.test_train_noise import ALL_NOISE, P, batches, filled

OPTIONS = ALL_NOISE | {"lambda_image": 2.0, "text_weight": 0.0}
READ_CLEAN = OPTIONS | {"prefix_noise": 0.0, "prefix_clean": 0.0, "input_noise": 0.0}


def model_with_head() -> OrthusForConditionalGeneration:
    """A tiny model whose head predicts something."""
    model = make_tiny_model()
    torch.manual_seed(0)
    for weight in model.diffusion_head.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def predicting(times: float) -> OrthusForConditionalGeneration:
    """The same model, its predictions multiplied by `times`."""
    model = model_with_head()
    with torch.no_grad():
        for weight in model.diffusion_head.final_layer.linear.parameters():
            weight *= times
    return model


def image_loss(times: float, rows, options=OPTIONS) -> float:
    return JointLoss(predicting(times), **options).train()(rows).image.item()


@pytest.fixture(scope="module")
def rows():
    return filled(batches(packing=True)(1))


def test_a_model_is_held_where_it_is_by_rows_that_are_kept(rows):
    model = model_with_head()
    objective = KeepingLoss(model, is_kept=bool, weight=3, **OPTIONS).train()
    losses = objective(rows)
    losses.total.backward()
    assert losses.total == losses.image == 0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    names = [name for name, _ in model.named_parameters()]
    held = [name.removeprefix("model.") for name, _ in objective.named_parameters()]
    assert held == names, "what is trained and saved has no part of the model before"


def is_kept(key: str) -> bool:
    """Whether a picture is of every second document."""
    return int(key) // 10 % 2 == 0


def test_kept_rows_count_their_distance_read_clean_and_the_others_their_diffusion_loss(rows):
    is_kept_N = torch.tensor([is_kept(p.key) for p in rows.pictures]).repeat_interleave(P)
    targets_N = rows.image_targets_N
    of_kept = replace(rows, image_targets_N=targets_N & is_kept_N)
    of_others = replace(rows, image_targets_N=targets_N & ~is_kept_N)
    model = model_with_head()
    objective = KeepingLoss(model, is_kept=is_kept, weight=3, **OPTIONS).train()
    model.load_state_dict(predicting(0).state_dict())
    # The mean of v^2, from the squared errors of 2 v, v and 0.
    twice, none, once = (image_loss(times, of_kept, READ_CLEAN) for times in (2, 0, 1))
    distance = (twice + none) / 2 - once
    parts = [(3 * distance, of_kept), (image_loss(0, of_others), of_others)]
    # Half of each picture's patches are learnt.
    counts = [int(part.image_targets_N.sum()) for _, part in parts]
    expected = sum(n * loss for n, (loss, _) in zip(counts, parts, strict=True)) / sum(counts)
    assert distance > 0.01
    assert objective(rows).image.item() == pytest.approx(expected, rel=1e-4)
    # A held-out row is measured as ever.
    at_rest = JointLoss(predicting(0), **OPTIONS).eval()
    assert objective.eval()(rows).image == at_rest(rows).image
    assert objective.eval()(rows).text == at_rest(rows).text


def test_words_of_kept_rows_count_their_divergence_and_the_others_their_own_loss(rows):
    model = model_with_head()
    options = READ_CLEAN | {"text_weight": 1.0}
    objective = KeepingLoss(model, is_kept=is_kept, weight=3, words_weight=2, **options).train()
    with torch.no_grad():
        model.lm_head.weight *= 1.5

    firsts = rows.image_index_N.view(-1, P)[:, 0].tolist()
    documents_X = rows.attention_mask_BS.flatten().tolist()
    width = rows.ids_BS.shape[1]
    kept = {
        (first // width, documents_X[first])
        for first, shown in zip(firsts, rows.pictures, strict=True)
        if is_kept(shown.key)
    }
    losses, kinds = [], set()
    for place, target in enumerate(rows.text_targets_BS.flatten().tolist()):
        if target == IGNORE:
            continue
        kinds.add(is_in_kept := (place // width, documents_X[place]) in kept)
        now, before = (logs_at(each, rows, place) for each in (model, objective.start))
        likely = before.isfinite()
        assert not all(likely), "tokens of pictures are never words"
        divergence = (before[likely].exp() * (before[likely] - now[likely])).sum()
        losses.append(2 * divergence if is_in_kept else -now[target])
    expected = torch.stack(losses).mean().item()
    assert kinds == {True, False}
    assert objective(rows).text.item() == pytest.approx(expected, rel=1e-4)


def logs_at(model: OrthusForConditionalGeneration, rows, place: int) -> torch.Tensor:
    """Log-probabilities of the token after a place of the batch: [V]."""
    documents = document_inputs(model, rows.attention_mask_BS, model.dtype)
    read = model.run_backbone(rows.ids_BS, rows.features_NC, **documents)
    return model.text_logits(read.hidden_BSD.flatten(0, 1)[[place]])[0].detach().log_softmax(0)
