"""Map other projects' parameter names to ours. No code outside this package uses the foreign
names.

Ours are the released ones: `model.embed_tokens`, `model.layers.N`, `model.norm`,
`model.codebook_in`, `model.vqmodel`, `lm_head`, `mlp_head`. Hugging Face's Chameleon and Anole
use the same names for the parts they have; Meta's checkpoints do not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EMBEDDINGS = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
CODEBOOK_IN = "model.codebook_in.weight"
VQ = "model.vqmodel."
VQ_CODEBOOK = VQ + "quantize.embedding.weight"
VQ_DECODER = VQ + "decoder."
IMAGE_HEAD = "mlp_head."
REGRESSION_HEAD = IMAGE_HEAD + "layers."
LINEAR_EMBEDDING = "model.feature_in."

# Prefixes that training wrappers add to names: DDP and torch.compile.
_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.)+")
# What other versions of transformers put around the parts of a Chameleon, and the parts' own names
# when the backbone was saved without a head.
_LANGUAGE_MODEL = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?=\w)")
_BARE = re.compile(r"^(?:embed_tokens|layers|norm|codebook_in|feature_in|vqmodel)\.")
# Tables computed from the config, which older versions stored.
_COMPUTED = re.compile(
    r"(?:rotary_emb\.(?:inv_freq|cos_cached|sin_cached)|rope\.freqs|position_ids|freqs_cis"
    r"|causal_mask|attn\.masked_bias)$"
)
# A VQGAN's inference parameters (taming-transformers), after a project's prefix.
_VQGAN = re.compile(
    r"^(?:model\.)?(?:first_stage_model\.|vqmodel\.|vqgan\.)?"
    r"((?:encoder|decoder|quantize\.embedding|quant_conv|post_quant_conv)\..+)$"
)


def from_hugging_face(name: str) -> str | None:
    """Our name of a parameter in Hugging Face's Chameleon or Anole, or a released Orthus; None for
    computed tables.
    """
    name = _WRAPPER.sub("", name)
    if _COMPUTED.search(name):
        return None
    name = _LANGUAGE_MODEL.sub("", name)
    return "model." + name if _BARE.match(name) else name


def from_vqgan(name: str) -> str | None:
    """Our name of a parameter in a taming-style VQGAN checkpoint; None for parameters used only in
    its training (its losses).

    Meta's `vqgan.ckpt` keeps taming's names (facebookresearch/chameleon,
    chameleon/inference/vqgan.py).
    """
    found = _VQGAN.match(_WRAPPER.sub("", name))
    return VQ + found[1] if found else None


class MetaName(NamedTuple):
    """A parameter of Meta's own checkpoints.

    Attributes:
        ours: Our name of the parameter, with `{}` for the layer's number.
        split: Dimension along which model-parallel files split it; None when each file has a copy.
        rotary: Whether its rows are in Meta's rotary order, the two of each pair adjacent.
    """

    ours: str
    split: int | None
    rotary: bool = False


_LAYER = "model.layers.{}."
# Facts: facebookresearch/chameleon, chameleon/inference/transformer.py (names, and which dimension
# each rank holds), and huggingface/transformers,
# models/chameleon/convert_chameleon_weights_to_hf.py (how the files join).
META_NAMES = {
    "tok_embeddings.weight": MetaName(EMBEDDINGS, split=1),
    "norm.weight": MetaName(FINAL_NORM, split=None),
    "output.weight": MetaName(LM_HEAD, split=0),
    "layers.{}.attention.wq.weight": MetaName(_LAYER + "self_attn.q_proj.weight", 0, rotary=True),
    "layers.{}.attention.wk.weight": MetaName(_LAYER + "self_attn.k_proj.weight", 0, rotary=True),
    "layers.{}.attention.wv.weight": MetaName(_LAYER + "self_attn.v_proj.weight", 0),
    "layers.{}.attention.wo.weight": MetaName(_LAYER + "self_attn.o_proj.weight", 1),
    "layers.{}.feed_forward.w1.weight": MetaName(_LAYER + "mlp.gate_proj.weight", 0),
    "layers.{}.feed_forward.w3.weight": MetaName(_LAYER + "mlp.up_proj.weight", 0),
    "layers.{}.feed_forward.w2.weight": MetaName(_LAYER + "mlp.down_proj.weight", 1),
    "layers.{}.attention_norm.weight": MetaName(_LAYER + "input_layernorm.weight", None),
    "layers.{}.ffn_norm.weight": MetaName(_LAYER + "post_attention_layernorm.weight", None),
}
# One LayerNorm per file, shared by that file's query (or key) heads; our format has one row per
# head.
META_HEAD_NORMS = {
    "layers.{}.attention.q_normalization.weight": _LAYER + "self_attn.q_norm.weight",
    "layers.{}.attention.q_normalization.bias": _LAYER + "self_attn.q_norm.bias",
    "layers.{}.attention.k_normalization.weight": _LAYER + "self_attn.k_norm.weight",
    "layers.{}.attention.k_normalization.bias": _LAYER + "self_attn.k_norm.bias",
}
