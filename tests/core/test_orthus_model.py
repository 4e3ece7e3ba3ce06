"""The model as transformers knows it, and what holds for any weights."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoConfig, AutoModel

from orthus_core.errors import CheckpointError, PromptError
from orthus_core.model.config import (
    OrthusConfig,
    code_of_token_name,
    token_name_of_code,
)
from orthus_core.model.interleaved import positions
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.schedule import make_schedule
from orthus_core.model.soft_embedding import argmin_embed, mixture_figures, soft_embed
from tests.conftest import make_tiny_config, make_tiny_model

IMAGE, BOI, EOI = 39, 37, 36


def assert_same_weights(one, other):
    theirs = other.state_dict()
    assert one.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_a_saved_model_opens_as_it_was(shard, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    opened = OrthusForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same_weights(opened, tiny_model)
    assert opened.config.to_diff_dict().keys() >= {"head_width", "vq_config", "vocabulary_map"}
    assert opened.config.head_width == 24 and opened.config.vq_config.embed_dim == 8
    assert opened.config.sampling_defaults == tiny_model.config.sampling_defaults


def test_the_auto_classes_know_the_family(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is OrthusConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is OrthusForConditionalGeneration


def test_device_map_auto_places_every_part(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    opened = OrthusForConditionalGeneration.from_pretrained(
        tmp_path, device_map="auto", dtype=torch.float32
    )
    assert_same_weights(opened.to("cpu"), tiny_model)


def test_a_fresh_head_predicts_nothing(tiny_config):
    head = OrthusForConditionalGeneration(tiny_config).mlp_head
    for block in head.res_blocks:
        assert not block.adaLN_modulation[1].weight.any()
    assert not head.final_layer.linear.weight.any()
    x_NC = torch.randn(3, 8)
    assert not head(x_NC, torch.tensor([0, 500, 999]), torch.randn(3, 32)).any()


def test_gradient_checkpointing_changes_no_gradient():
    ids_BS, features = torch.tensor([[0, 41, BOI, *[IMAGE] * 4, EOI, 2]]), torch.randn(4, 8)
    gradients = []
    for checkpointing in (False, True):
        model = make_tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.model.layers[0].gradient_checkpointing
        model(ids_BS, features).hidden_BSD.square().sum().backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_batched_equals_single_whatever_the_padding(tiny_model):
    short, long = [0, 45, 46, 2], [0, 41, BOI, *[IMAGE] * 4, EOI, 50]
    features = torch.randn(4, 8)
    padded = torch.tensor([[1] * (len(long) - len(short)) + short, long])
    mask_BS = (padded != 1).long()
    with torch.no_grad():
        batch_BSD = tiny_model(padded, features, attention_mask=mask_BS).hidden_BSD
        torch.testing.assert_close(
            batch_BSD[0, -4:], tiny_model(torch.tensor([short])).hidden_BSD[0], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            batch_BSD[1],
            tiny_model(torch.tensor([long]), features).hidden_BSD[0],
            rtol=0,
            atol=1e-5,
        )


def test_positions_count_real_tokens_only():
    mask_BS = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    assert positions(mask_BS).tolist() == [[1, 1, 0, 1, 2], [0, 1, 2, 3, 1]]


def test_a_wrong_number_of_features_is_named(tiny_model):
    with pytest.raises(PromptError, match="4 image slots but 3 image features"):
        tiny_model.embed(torch.tensor([[0, *[IMAGE] * 4]]), torch.randn(3, 8))


def test_text_logits_never_name_a_picture(tiny_model):
    logits_NV = tiny_model.text_logits(torch.randn(2, 32))
    assert torch.isinf(logits_NV[:, [4, 35, IMAGE]]).all()
    assert torch.isfinite(logits_NV[:, [0, 2, EOI, BOI, 60]]).all()


def test_a_sharp_softmax_is_the_nearest_code_and_a_soft_one_has_gradients():
    random = torch.Generator().manual_seed(0)
    z_NC, codes_KC, table_KD = (
        torch.randn(rows, width, generator=random) for rows, width in ((5, 8), (32, 8), (32, 16))
    )
    torch.testing.assert_close(
        soft_embed(z_NC, codes_KC, table_KD, temperature=1e-4),
        argmin_embed(z_NC, codes_KC, table_KD),
    )
    nearest_ND = argmin_embed(z_NC, codes_KC, table_KD)
    assert torch.equal(soft_embed(z_NC, codes_KC, table_KD, temperature=0), nearest_ND)
    z_NC.requires_grad_()
    soft_embed(z_NC, codes_KC, table_KD).sum().backward()
    assert z_NC.grad.abs().min() > 0


def test_a_mixture_is_measured_by_its_entropy_and_its_distance_to_the_lookup():
    """Two codes at the same distance of the first feature, and a third that is far away."""
    codes_KC = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 50.0]])
    table_KD = torch.tensor([[2.0, 0.0], [0.0, 0.0], [9.0, 9.0]])
    between, on_a_code = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 50.0]])

    def figures(z_NC: torch.Tensor, temperature: float = 1.0) -> list[float]:
        return list(map(float, mixture_figures(z_NC, codes_KC, table_KD, temperature=temperature)))

    assert figures(between) == pytest.approx([math.log(2), 0.5])  # [1, 0], and [2, 0] is nearest
    assert figures(on_a_code) == pytest.approx([0, 0])
    assert figures(torch.cat([between, on_a_code])) == pytest.approx([math.log(2) / 2, 0.25])
    assert figures(between, 1e9)[0] == pytest.approx(math.log(3))
    assert figures(between, 0) == [0, 0]


def test_an_embedding_follows_codes_that_have_moved():
    model, features_NC = make_tiny_model(), torch.randn(3, 8)
    codes = model.model.codebook_in.weight

    def embedded() -> torch.Tensor:
        with torch.no_grad():
            return model.embed_features(features_NC)

    def afresh() -> torch.Tensor:
        temperature = model.config.embedding_temperature
        return soft_embed(features_NC, codes, model.code_table_KD, temperature=temperature).detach()

    first = embedded()
    assert torch.equal(first, afresh()) and torch.equal(embedded(), first)
    with torch.no_grad():
        codes.mul_(1.5)
    assert torch.equal(embedded(), afresh()) and not torch.allclose(embedded(), first)
    codes.data = torch.randn_like(codes)
    assert torch.equal(embedded(), afresh())
    # While they learn, their squares are part of what is learnt.
    model.embed_features(features_NC).sum().backward()
    learnt, codes.grad = codes.grad, None
    soft_embed(features_NC, codes, model.code_table_KD).sum().backward()
    torch.testing.assert_close(learnt, codes.grad)


def test_large_features_keep_their_precision():
    """|z|^2 of 2.6e4 swamps the differences between codes when it is added in fp32."""
    random = torch.Generator().manual_seed(0)
    z_NC = 10 * torch.randn(16, 256, generator=random)
    codes_KC, table_KD = (torch.randn(512, n, generator=random) for n in (256, 16))
    true_ND = soft_embed(z_NC.double(), codes_KC.double(), table_KD.double(), temperature=50.0)
    exact_ND = soft_embed(z_NC, codes_KC, table_KD, temperature=50.0)
    release_ND = soft_embed(z_NC, codes_KC, table_KD, temperature=50.0, distance="release")
    error = [(ours - true_ND).abs().max().item() for ours in (exact_ND, release_ND)]
    assert error[0] < 1e-4 and error[0] * 3 < error[1]


@pytest.mark.parametrize("kind", ["softmax", "argmin", "linear"])
def test_every_kind_of_embedding_embeds(kind):
    model, z_NC = make_tiny_model(embedding=kind), torch.randn(3, 8)
    assert hasattr(model.model, "feature_in") == (kind == "linear")
    found, codes_KC, table_KD = (
        model.embed_features(z_NC),
        model.model.codebook_in.weight,
        model.code_table_KD,
    )
    if kind == "softmax":
        wanted = soft_embed(z_NC, codes_KC, table_KD)
    elif kind == "argmin":
        wanted = table_KD[torch.cdist(z_NC, codes_KC).argmin(1)]
    else:
        layer = model.model.feature_in
        wanted = z_NC @ layer.weight.T + layer.bias
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    learns = {name for name, p in model.named_parameters() if p.grad is not None}
    table, codes = "model.embed_tokens.weight", "model.codebook_in.weight"
    of_kind = {"softmax": {table, codes}, "argmin": {table}}
    assert learns == of_kind.get(kind, {"model.feature_in.weight", "model.feature_in.bias"})


def test_code_names_are_chameleons():
    assert token_name_of_code(102) == "IMGIMGBACZ" and code_of_token_name("IMGIMGBACZ") == 102
    assert [code_of_token_name(token_name_of_code(code)) for code in range(300)] == list(range(300))
    assert code_of_token_name("<image>") is None and code_of_token_name("IMGIMGZ") is None


def test_a_vocabulary_without_codes_is_refused():
    config = make_tiny_config()
    config.vocabulary_map = {"<image>": 39}
    with pytest.raises(CheckpointError, match="no token for 32 of 32 codes"):
        OrthusForConditionalGeneration(config)
    config.vocabulary_map = None
    with pytest.raises(CheckpointError, match="no vocabulary_map"):
        OrthusForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("embedding", "sofmax"), ("prediction", "x0"), ("embedding_temperature", 0.0)],
)
def test_a_word_no_code_understands_is_refused(field, value):
    with pytest.raises(CheckpointError, match=field):
        OrthusForConditionalGeneration(make_tiny_config(**{field: value}))


def test_schedules_without_zero_snr_are_rombachs():
    linear = make_schedule(beta_schedule="linear", zero_terminal_snr=False)
    assert linear.alphas_cumprod_T[0] == pytest.approx(1 - 0.00085)
    assert (
        0
        < linear.alphas_cumprod_T[-1]
        < make_schedule(zero_terminal_snr=False).alphas_cumprod_T[-1]
        < 0.01
    )
    rescaled = make_schedule().alphas_cumprod_T
    assert rescaled[-1] == 0 and rescaled[0] == pytest.approx(1 - 0.00085, rel=1e-6)
    assert (rescaled.diff() < 0).all()
