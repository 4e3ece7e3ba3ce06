"""The model against the release's tensors: autoencoder, embedding, backbone, head, schedule,
padding.

Groups are named as in tests/golden/golden.json; 1e-4 unless its `_tolerances` say otherwise.
"""

from __future__ import annotations

import pytest
import torch

from orthus_core.model.denoising_head import DenoisingHead


def close(ours, theirs, atol=1e-4):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def features_of(golden, name):
    return golden[name].reshape(-1, golden[name].shape[-1])


def test_features_are_the_encoder_without_quantisation(golden, golden_model):
    features_MPC = golden_model.encode_images(golden["a.pixel_values"])
    close(features_MPC, golden["a.image_latents_bhwc"].flatten(1, 2))
    close(features_MPC.transpose(1, 2).unflatten(2, (4, 4)), golden["a.encode_wo_quant_bchw"])


def test_codes_are_the_nearest_of_the_codebook(golden, golden_model):
    codes_MP = golden_model.model.vqmodel.codes(golden["a.pixel_values"])
    assert torch.equal(codes_MP, golden["a.indices"])


def test_pixels_from_features_and_from_codes(golden, golden_model):
    features_MPC = golden["a.image_latents_bhwc"].flatten(1, 2)
    close(golden_model.decode_images(features_MPC), golden["b.pixels_from_latents"])
    close(
        golden_model.decode_images(golden["b.random_latents"]),
        golden["b.pixels_from_random_latents"],
    )
    close(
        golden_model.model.vqmodel.pixels_of_codes(golden["a.indices"]),
        golden["b.pixels_from_indices"],
    )


def test_soft_embedding_is_exact_without_the_cancelling_square(golden, golden_exact, golden_model):
    ours = golden_model.embed_features(golden["c.latents"])
    # Distances in the thousands have fp32 steps of 1e-4 and more, so the fifth digit of the mixture
    # depends on the processor: the recorded tensor and ours are each held to the sum in float64.
    z_NC, codes_KC = golden["c.latents"].double(), golden_model.model.codebook_in.weight.double()
    weights_NK = (2 * z_NC @ codes_KC.T - codes_KC.square().sum(1)).softmax(-1)
    exact_ND = weights_NK @ golden_model.code_table_KD.double()
    close(golden_exact["c_exact.soft_embeds"].double(), exact_ND, atol=2e-5)
    close(ours.double(), exact_ND, atol=2e-5)
    # The release's own rounding moved the same embeddings by up to 1.2e-3.
    close(ours, golden["c.soft_embeds"], atol=1.2e-2)


def test_soft_embedding_can_round_as_the_release_does(golden, golden_model_release):
    ours = golden_model_release.embed_features(golden["c.latents"])
    close(ours, golden["c.soft_embeds"], atol=1e-4)


def test_text_alone(golden, golden_model, text_columns):
    hidden_BSD = golden_model.run_backbone(golden["d.input_ids"]).hidden_BSD
    close(hidden_BSD, golden["d.last_hidden_state"])
    close(golden_model.lm_head(hidden_BSD)[..., text_columns], golden["d.logits"])


def test_the_first_layer_alone(golden, golden_model):
    seen = []
    handle = golden_model.model.layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append(output[0])
    )
    golden_model.run_backbone(golden["d.input_ids"])
    handle.remove()
    close(seen[0].view(golden["d.hidden_layer0_out"].shape), golden["d.hidden_layer0_out"])


@pytest.mark.parametrize("group", ["e1", "e2"])
def test_one_and_two_images_in_a_prompt(group, golden, golden_exact, golden_model, text_columns):
    ids_BS, features_NC = (
        golden[f"{group}.input_ids"],
        features_of(golden, f"{group}.image_latents"),
    )
    logits_BSV = golden_model.lm_head(golden_model.run_backbone(ids_BS, features_NC).hidden_BSD)
    close(logits_BSV[..., text_columns], golden_exact[f"{group}_exact.logits"])
    # The release's rounding moved the same logits by 3.3e-4.
    close(logits_BSV[..., text_columns], golden[f"{group}.logits"], atol=3.4e-3)


@pytest.mark.parametrize("group", ["e1", "e2"])
def test_prompts_with_images_as_the_release_rounds_them(group, golden, golden_model_release):
    ids_BS, features_NC = (
        golden[f"{group}.input_ids"],
        features_of(golden, f"{group}.image_latents"),
    )
    embeds_BSD = golden_model_release.embed(ids_BS, features_NC)
    hidden_BSD = golden_model_release.run_backbone(ids_BS, features_NC).hidden_BSD
    close(embeds_BSD, golden[f"{group}.inputs_embeds"])
    close(hidden_BSD, golden[f"{group}.last_hidden_state"], atol=2e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention, golden, golden_model):
    before = golden_model.config._attn_implementation
    golden_model.set_attn_implementation(attention)
    hidden_BSD = golden_model.run_backbone(golden["d.input_ids"]).hidden_BSD
    golden_model.set_attn_implementation(before)
    close(hidden_BSD, golden["d.last_hidden_state"])


def test_diffusion_head(golden, golden_model):
    head = golden_model.mlp_head
    close(head.time_embed(golden["f.t"]), golden["f.t_emb"])
    close(head(golden["f.x"], golden["f.t"], golden["f.c"]), golden["f.v"])


def test_a_planned_step_is_the_head_itself(golden, golden_model):
    head, timesteps_T = golden_model.mlp_head, torch.tensor([999, 500, 9])
    ready = DenoisingHead(head)
    amounts_TRA = ready.modulation(ready.times(timesteps_T), ready.condition(golden["f.c"]))
    for timestep, amounts in zip(timesteps_T, ready.by_step(amounts_TRA), strict=True):
        t_N = timestep.expand(len(golden["f.x"]))
        planned = ready.step(golden["f.x"], amounts)
        close(planned, head(golden["f.x"], t_N, golden["f.c"]), atol=1e-5)


def test_schedule(golden, golden_model):
    alphas_T = golden_model.schedule.alphas_cumprod_T
    # A product of 1000 fp32 factors, whose last digits depend on the processor: the recorded and
    # our product are each 4e-7 to 5e-7 from the product in float64.
    close(alphas_T, golden["sched.alphas_cumprod_train"], atol=1e-6)
    close(alphas_T, golden["sched.alphas_cumprod_sample"], atol=1e-6)
    assert alphas_T[-1] == 0


def test_left_padding(golden, golden_model, text_columns):
    mask_BS = golden["j.attention_mask"]
    real = mask_BS == 1
    hidden_BSD = golden_model.run_backbone(golden["j.input_ids"], attention_mask=mask_BS).hidden_BSD
    close(hidden_BSD[real], golden["j.last_hidden_state"][real])
    close(golden_model.lm_head(hidden_BSD)[..., text_columns][real], golden["j.logits"][real])
    unpadded_BSD = golden_model.run_backbone(golden["j.input_ids"][1:, 4:]).hidden_BSD
    close(hidden_BSD[1:, 4:], unpadded_BSD)
    close(unpadded_BSD, golden["j.row1_unpadded_last_hidden_state"])


def test_left_padded_edit_rows(golden, golden_model, text_columns):
    mask_BS, ids_BS = golden["j3.attention_mask"], golden["j3.input_ids"]
    features_MPC = golden["j3.image_latents"].flatten(1, 2)[:2]  # the third row has no image
    hidden_BSD = golden_model.run_backbone(ids_BS, features_MPC, attention_mask=mask_BS).hidden_BSD
    close(hidden_BSD[mask_BS == 1], golden["j3.last_hidden_state"][mask_BS == 1], atol=2e-3)
    logits_BV = golden_model.lm_head(hidden_BSD[:, -1])[:, text_columns]
    close(logits_BV, golden["j3.logits_last"], atol=3.4e-3)


@pytest.mark.parametrize("split", [1, 5, 23])
def test_cached_equals_uncached(split, golden, golden_model):
    ids_BS, features_NC = golden["e2.input_ids"], features_of(golden, "e2.image_latents")
    whole_BSD = golden_model.run_backbone(ids_BS, features_NC).hidden_BSD
    embeds_BSD = golden_model.embed(ids_BS, features_NC)
    first = golden_model.run_backbone(inputs_embeds=embeds_BSD[:, :split], use_cache=True)
    second = golden_model.run_backbone(
        inputs_embeds=embeds_BSD[:, split:], past_key_values=first.past_key_values, use_cache=True
    )
    parts_BSD = torch.cat([first.hidden_BSD, second.hidden_BSD], dim=1)
    close(parts_BSD, whole_BSD, atol=1e-5)


def test_a_static_cache_equals_none(golden, golden_model):
    from transformers import StaticCache

    ids_BS, features_NC = golden["e1.input_ids"], features_of(golden, "e1.image_latents")
    whole_BSD = golden_model.run_backbone(ids_BS, features_NC).hidden_BSD
    embeds_BSD = golden_model.embed(ids_BS, features_NC)
    cache = StaticCache(config=golden_model.config, max_cache_len=32)
    parts = []
    for begin, end in [(0, 10), *((i, i + 1) for i in range(10, ids_BS.shape[1]))]:
        position_ids = torch.arange(begin, end)[None]
        part = golden_model.run_backbone(
            inputs_embeds=embeds_BSD[:, begin:end], past_key_values=cache, position_ids=position_ids
        )
        parts.append(part.hidden_BSD)
    close(torch.cat(parts, dim=1), whole_BSD, atol=1e-5)
