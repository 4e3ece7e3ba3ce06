"""Conversions of recorded Chameleon and Anole checkpoints against what those computed.

The recordings are tensors of transformers' Chameleon on a tiny random model; they are too large to
come along and are read from beside the repository where they are. What comes along is tested the
same way against transformers itself, in tests/core/checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from orthus_core.checkpoint.convert import Converted, convert
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe import ConvertRecipe, load

RECORDINGS = Path(__file__).parents[3] / "shared" / "golden_chameleon"
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not here")


@pytest.fixture(scope="module", params=["plain", "anole"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def recorded(layout: str) -> dict[str, Tensor]:
    return load_file(RECORDINGS / layout / "golden.safetensors")


@pytest.fixture(scope="module")
def made(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    recipe = load(ConvertRecipe, None, ("head.width=64",))
    output = tmp_path_factory.mktemp("converted") / layout
    *_, last = convert(RECORDINGS / layout, output, recipe)
    assert isinstance(last, Converted)
    return last


@pytest.fixture(scope="module")
def model(made: Converted) -> OrthusForConditionalGeneration:
    return open_model(made.folder, device="cpu", dtype="fp32").model


def with_features(model: OrthusForConditionalGeneration, ids_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids with slots where codes were, and those codes' vectors."""
    table = torch.tensor(model.config.code_token_ids)
    is_code = torch.isin(ids_BS, table)
    codes = torch.tensor([int((table == token).nonzero()) for token in ids_BS[is_code]])
    slots = ids_BS.masked_fill(is_code, model.config.image_token_id)
    return slots, model.model.vqmodel.quantize.embedding.weight[codes]


def test_the_proof_of_the_conversion_is_exact(made: Converted):
    assert made.proof is not None
    assert (made.proof.codes, made.proof.difference) == (64, 0.0)


@torch.no_grad()
def test_discrete_pictures_give_the_recorded_hidden_states_and_logits(model, recorded):
    ids, features = with_features(model, recorded["disc.input_ids"])
    hidden = model.run_backbone(ids, features).hidden_BSD
    torch.testing.assert_close(hidden, recorded["disc.last_hidden_state"], **TOLERANCE)
    logits = recorded.get("disc.logits", recorded.get("disc.logits_unmasked"))
    torch.testing.assert_close(model.lm_head(hidden), logits, **TOLERANCE)


@torch.no_grad()
def test_text_gives_the_recorded_logits(model, recorded, layout):
    if layout != "plain":
        pytest.skip("recorded for plain only; anole's text logits are those of disc")
    hidden = model.run_backbone(recorded["text.input_ids"]).hidden_BSD
    torch.testing.assert_close(hidden, recorded["text.last_hidden_state"], **TOLERANCE)
    logits, expected = model.text_logits(hidden), recorded["text.logits_unmasked"]
    is_text = logits[0, 0].isfinite()
    assert is_text.sum() == model.config.vocab_size - model.config.num_codes - 1
    torch.testing.assert_close(logits[..., is_text], expected[..., is_text], **TOLERANCE)


@torch.no_grad()
def test_pictures_are_tokenised_and_looked_up_as_recorded(model, recorded, layout):
    if layout != "plain":
        pytest.skip("recorded for plain only")
    table = torch.tensor(model.config.code_token_ids)
    codes = model.model.vqmodel.codes(recorded["pixel_values"])
    assert torch.equal(table[codes].int(), recorded["image_bpe_tokens"])
    slots = int((recorded["pix.input_ids"] == model.config.image_token_id).sum())
    pixels = recorded["pixel_values"][: slots // model.config.patches]
    model.config.embedding = "argmin"
    try:
        hidden = model.run_backbone(
            recorded["pix.input_ids"], model.encode_images(pixels)
        ).hidden_BSD
    finally:
        model.config.embedding = "softmax"
    torch.testing.assert_close(hidden, recorded["pix.last_hidden_state"], **TOLERANCE)


@torch.no_grad()
def test_anoles_decoder_draws_the_recorded_pixels(model, recorded, layout, made):
    if layout != "anole":
        assert not made.has_decoder
        return
    pixels = model.model.vqmodel.pixels_of_codes(recorded["codes"])
    torch.testing.assert_close(pixels, recorded["pixels"], **TOLERANCE)
