"""The training loss and its gradients against the release's, for its own noise and timesteps
(groups h*).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from orthus_core.losses.diffusion import Draws, diffusion_loss
from orthus_core.losses.joint import IGNORE, JointLoss
from orthus_core.model.schedule import add_noise, velocity

BOI = 8197


def patch_positions(ids_BS, image):
    """Flat positions of the hidden states that predict the patches of picture number `image` of
    every row.
    """
    length = ids_BS.shape[1]
    rows = []
    for row, ids_S in enumerate(ids_BS):
        boi = int((ids_S == BOI).nonzero()[image])
        rows.append(row * length + torch.arange(boi, boi + 16))
    return torch.cat(rows)


def loss_of(model, ids_BS, read_NC, clean_NC, index_N, golden, group):
    hidden_XD = model.run_backbone(ids_BS, read_NC).hidden_BSD.flatten(0, 1)
    draws = Draws(golden[f"{group}.noise"], golden[f"{group}.timesteps"])
    scaled_NC = clean_NC * model.config.latent_scale
    return diffusion_loss(model.mlp_head, model.schedule, scaled_NC, hidden_XD[index_N], draws)


def test_noisy_features_and_velocity(golden, golden_model):
    clean_NC = golden["h.target_image_latents"].flatten(0, 1)[:4] * 0.1
    noise_NC, t_N = golden["h.noise"][:4], golden["h.timesteps"][:4]
    schedule = golden_model.schedule
    torch.testing.assert_close(
        add_noise(schedule, clean_NC, noise_NC, t_N),
        golden["h.noisy_latents_first4"],
        rtol=0,
        atol=1e-6,
    )
    torch.testing.assert_close(
        velocity(schedule, clean_NC, noise_NC, t_N), golden["h.velocity_first4"], rtol=0, atol=1e-6
    )


def test_loss_and_gradients_of_one_image_a_row(golden, golden_model_release):
    model = golden_model_release
    ids_BS, clean_NC = golden["h.input_ids"], golden["h.target_image_latents"].flatten(0, 1)
    model.zero_grad()
    loss = loss_of(model, ids_BS, clean_NC, clean_NC, patch_positions(ids_BS, 0), golden, "h")
    loss.backward()
    close(loss, golden["h.diff_loss"][0])
    parameters = dict(model.named_parameters())
    for name in [name for name in golden if name.startswith("h.grad.")]:
        close(parameters[name.removeprefix("h.grad.")].grad, golden[name])
    table_VD = model.model.embed_tokens.weight.grad
    close(model.model.codebook_in.weight.grad.norm(), golden["h.grad_norm.codebook_in"][0])
    close(table_VD[4:8196].norm(), golden["h.grad_norm.embed_tokens_image_rows"][0])
    text_rows_VD = torch.cat([table_VD[:4], table_VD[8196:]])
    close(text_rows_VD.norm(), golden["h.grad_norm.embed_tokens_text_rows"][0])
    model.zero_grad()


def test_loss_of_an_edit_is_that_of_the_second_image(golden, golden_model):
    ids_BS = golden["e2.input_ids"]
    read_NC = golden["e2.image_latents"].reshape(-1, 256)
    index_N = patch_positions(ids_BS, 1)
    with torch.no_grad():
        loss = loss_of(golden_model, ids_BS, read_NC, read_NC[16:], index_N, golden, "h_edit")
    close(loss, golden["h_edit.diff_loss"][0])


def test_loss_of_interleaved_rows_is_over_every_image(golden, golden_model):
    ids_BS = golden["e2.input_ids"]
    read_NC = golden["e2.image_latents"].reshape(-1, 256)
    index_N = torch.cat([patch_positions(ids_BS, 0), patch_positions(ids_BS, 1)])
    with torch.no_grad():
        loss = loss_of(golden_model, ids_BS, read_NC, read_NC, index_N, golden, "h_inter")
    close(loss, golden["h_inter.diff_loss"][0])


def rows_of(golden, *, features=True):
    ids_BS = golden["h.input_ids"]
    targets_BS = torch.full_like(ids_BS, IGNORE)
    targets_BS[:, 0] = ids_BS[:, 1]
    return SimpleNamespace(
        ids_BS=ids_BS,
        attention_mask_BS=torch.ones_like(ids_BS),
        text_targets_BS=targets_BS,
        features_NC=golden["h.target_image_latents"].flatten(0, 1) if features else None,
        image_index_N=patch_positions(ids_BS, 0),
        image_targets_N=None,
        noise_seeds_M=None,
    )


@pytest.mark.parametrize("lambda_image", [0.0, 1.0, 100.0])
def test_joint_loss_is_the_weighted_sum(lambda_image, golden, golden_model):
    torch.manual_seed(0)
    objective = JointLoss(golden_model, lambda_image=lambda_image, repeats=8)
    with torch.no_grad():
        losses = objective(rows_of(golden))
    close(losses.total, losses.text + lambda_image * losses.image)
    # Other noise than the golden's, the same expectation: 512 draws of about 0.45 each.
    assert abs(losses.image - golden["h.diff_loss"][0]) < 0.05


def test_a_batch_without_images_still_reaches_every_weight_of_the_head(tiny_model):
    rows = SimpleNamespace(
        ids_BS=torch.tensor([[0, 41, 42, 43]]),
        attention_mask_BS=torch.ones(1, 4, dtype=torch.long),
        text_targets_BS=torch.tensor([[41, 42, 43, IGNORE]]),
        features_NC=None,
        image_index_N=torch.empty(0, dtype=torch.long),
        image_targets_N=None,
        noise_seeds_M=None,
    )
    tiny_model.zero_grad()
    losses = JointLoss(tiny_model)(rows)
    losses.total.backward()
    assert losses.image == 0 and losses.text > 0
    assert all(p.grad is not None for p in tiny_model.mlp_head.parameters())
    tiny_model.zero_grad()


def close(ours, theirs, atol=1e-4):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
