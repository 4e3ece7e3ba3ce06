"""Small random Chameleons, made by transformers itself, in every layout that is read.

`chameleon` is a model and `chameleon_folder` the same in Hugging Face's layout. `meta_folder`
writes a model as Meta publishes its own: the inverse of our mapping, written independently of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from orthus_core.checkpoint.convert import Converted, convert
from orthus_core.model.config import OrthusVQConfig, token_name_of_code
from orthus_core.model.decoder import PixelDecoder
from orthus_core.recipe import ConvertRecipe, load

Chameleon = ChameleonForConditionalGeneration
MetaFolder = Callable[..., Path]
Convert = Callable[..., Converted]
ChangeJson = Callable[[Path, Callable[[dict[str, Any]], Any]], None]
ChangeWeights = Callable[[Path, Callable[[dict[str, Tensor]], Any]], None]

CODES = 32
VQ = {
    "embed_dim": 8,
    "num_embeddings": CODES,
    "latent_channels": 8,
    "resolution": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1,
}


@pytest.fixture(scope="session")
def chameleon() -> Chameleon:
    """Three layers, four heads, two key heads, fp32. Do not change it in place."""
    return random_chameleon()


@pytest.fixture
def make_chameleon() -> Callable[..., Chameleon]:
    """Makes further ones: `make_chameleon(norms=2, swin_norm=True)`."""
    return random_chameleon


@pytest.fixture(scope="session")
def decoder() -> dict[str, Tensor]:
    """A pixel decoder that fits it, by the names a VQGAN checkpoint has."""
    torch.manual_seed(3)
    weights = PixelDecoder(OrthusVQConfig(**VQ)).state_dict()
    return {f"decoder.{name}": weight.clone() for name, weight in weights.items()}


@pytest.fixture
def chameleon_folder(tmp_path: Path, chameleon: Chameleon) -> Path:
    """It in Hugging Face's layout, with tokenizer, without pixel decoder; the test's own copy."""
    return write_hugging_face(chameleon, tmp_path / "chameleon")


@pytest.fixture
def write_chameleon(tmp_path: Path) -> Callable[[Chameleon], Path]:
    """Writes another one in Hugging Face's layout."""
    return lambda model: write_hugging_face(model, tmp_path / "another")


@pytest.fixture
def vqgan_file(tmp_path: Path, chameleon: Chameleon, decoder: dict[str, Tensor]) -> Path:
    """Its autoencoder as a taming-style checkpoint, with parts that only training used."""
    return write_vqgan(chameleon, decoder, tmp_path / "vqgan.ckpt")


@pytest.fixture
def meta_folder(tmp_path: Path, decoder: dict[str, Tensor]) -> MetaFolder:
    """Writes a model in Meta's layout: `meta_folder(model, files=2, fused=False)`."""
    return lambda model, **how: write_meta(model, decoder, tmp_path / "meta", **how)


@pytest.fixture
def change_weights() -> ChangeWeights:
    """Rewrites a safetensors file: `change_weights(file, lambda weights: weights.pop(name))`."""

    def rewrite(file: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    return rewrite


@pytest.fixture
def change_json() -> ChangeJson:
    """Rewrites a JSON file: `change_json(file, lambda table: table.pop(key))`."""

    def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        table = json.loads(file.read_text(encoding="utf-8"))
        change(table)
        write_json(file, table)

    return rewrite


@pytest.fixture
def converted(tmp_path: Path) -> Convert:
    """Converts a folder with a small head: `converted(folder, "dtype=bf16", vqgan=file)`."""

    def run(folder: Path, *overrides: str, output: str = "orthus", **options: Any) -> Converted:
        small = ("head.width=32", "head.depth=2", "check.codes=8")
        recipe = load(ConvertRecipe, None, (*small, *overrides))
        *_, last = convert(folder, tmp_path / output, recipe, **options)
        assert isinstance(last, Converted)
        return last

    return run


def vocabulary() -> dict[str, int]:
    """Meta's names; code j has token 4 + 5 j mod 32, so neither in order nor side by side."""
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    names |= {token_name_of_code(code): 4 + code * 5 % CODES for code in range(CODES)}
    special = ["<eoss>", "<racm3:break>", "<reserved08706>", "<reserved08707>"]
    return names | {name: len(names) + index for index, name in enumerate([*special, *"abcdefgh "])}


def tokenizer_table(slot: str) -> dict[str, Any]:
    """A tokenizer.json with the picture slot's name, its special names among its words."""
    names = {slot if name == "<reserved08707>" else name: i for name, i in vocabulary().items()}
    tokenizer = Tokenizer(BPE(vocab=names, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens([name for name in names if name.startswith("<")])
    return json.loads(tokenizer.to_str())


def random_chameleon(norms: int = 1, **changes: Any) -> Chameleon:
    """A random Chameleon.

    Args:
        norms: Different LayerNorms among its heads: as many as Meta would have files of it.
        changes: Fields of its configuration.
    """
    names = {
        "<image>" if name == "<reserved08707>" else name: i for name, i in vocabulary().items()
    }
    fields: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "vocabulary_map": names,
        "vq_config": dict(VQ),
    }
    torch.manual_seed(7)
    model = Chameleon(ChameleonConfig(**{**fields, **changes})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms start as ones and zeros, which would hide a wrong order of theirs.
            weight.copy_(torch.randn_like(weight) * 0.2 + ("norm" in name))
        for layer in model.model.layers:
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                for weight in (norm.weight, norm.bias):
                    heads = len(weight) // norms
                    weight.copy_(weight[::heads].clone().repeat_interleave(heads, 0))
    return model


def write_hugging_face(model: Chameleon, folder: Path) -> Path:
    folder.mkdir()
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    write_json(folder / "tokenizer.json", tokenizer_table("<image>"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def write_vqgan(model: Chameleon, decoder: dict[str, Tensor], file: Path) -> Path:
    weights = {name: weight.clone() for name, weight in model.model.vqmodel.state_dict().items()}
    weights |= decoder | {"loss.discriminator.main.0.weight": torch.ones(2)}
    torch.save({"state_dict": weights, "epoch": 3}, file)
    return file


def write_meta(
    model: Chameleon,
    decoder: dict[str, Tensor],
    folder: Path,
    *,
    files: int = 1,
    fused: bool = False,
) -> Path:
    """Meta's download: models/7b, shared out over `files`, and tokenizer/.

    Args:
        model: Has as many different LayerNorms among its heads as there are files.
        decoder: For its vqgan.ckpt.
        folder: What to make.
        files: Model-parallel size.
        fused: Whether query, key and value are one matrix, and gate and up another.
    """
    weights, config = model.state_dict(), model.config
    place = folder / "models" / "7b"
    place.mkdir(parents=True)
    for rank in range(files):
        shard = meta_shard(weights, config, rank, files)
        if fused:
            for layer in range(config.num_hidden_layers):
                attention, feed = f"layers.{layer}.attention.", f"layers.{layer}.feed_forward."
                parts = [shard.pop(f"{attention}w{part}.weight") for part in "qkv"]
                shard[f"{attention}wqkv.weight"] = torch.cat(parts)
                parts = [shard.pop(f"{feed}w{part}.weight") for part in "13"]
                shard[f"{feed}w13.weight"] = torch.cat(parts)
        name = "consolidated.pth" if files == 1 else f"consolidated.{rank:02d}.pth"
        torch.save(shard | {"rope.freqs": torch.ones(4)}, place / name)
    numbers = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": 10000.0,
        "qk_normalization": True,
        "swin_norm": config.swin_norm,
    }
    write_json(place / "params.json", {"model": numbers})
    write_json(place / "consolidate_params.json", {"model_parallel_size": files})
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    write_json(tokenizer / "text_tokenizer.json", tokenizer_table("<reserved08707>"))
    write_vqgan(model, decoder, tokenizer / "vqgan.ckpt")
    shape = {
        "double_z": False,
        "z_channels": VQ["latent_channels"],
        "resolution": VQ["resolution"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": VQ["base_channels"],
        "ch_mult": VQ["channel_multiplier"],
        "num_res_blocks": VQ["num_res_blocks"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"embed_dim": VQ["embed_dim"], "n_embed": CODES, "ddconfig": shape, "lossconfig": {}}
    text = yaml.safe_dump({"model": {"target": "taming.models.vqgan.VQModel", "params": params}})
    (tokenizer / "vqgan.yaml").write_text(text)
    return folder


def meta_shard(
    weights: dict[str, Tensor], config: ChameleonConfig, rank: int, files: int
) -> dict[str, Tensor]:
    """One file's part of a model, by Meta's names and in the order of its rotary embedding."""

    def part(name: str, dim: int) -> Tensor:
        return weights[name].chunk(files, dim)[rank].clone()

    def turned(name: str, heads: int) -> Tensor:
        # transformers turns (i, i + half) of a head together, Meta (2 i, 2 i + 1).
        first, second = weights[name].unflatten(0, (heads, 2, -1)).unbind(1)
        whole = torch.stack((first, second), 2).flatten(0, 2)
        return whole.chunk(files)[rank].clone()

    def norm(name: str) -> Tensor:
        first, second = weights[name].chunk(files)[rank][0].chunk(2)
        return torch.stack((first, second), 1).flatten()

    shard = {
        "tok_embeddings.weight": part("model.embed_tokens.weight", 1),
        "output.weight": part("lm_head.weight", 0),
        "norm.weight": weights["model.norm.weight"].clone(),
    }
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}.", f"layers.{layer}."
        attention, feed = theirs + "attention.", theirs + "feed_forward."
        q_name, k_name = ours + "self_attn.q_proj.weight", ours + "self_attn.k_proj.weight"
        shard |= {
            attention + "wq.weight": turned(q_name, config.num_attention_heads),
            attention + "wk.weight": turned(k_name, config.num_key_value_heads),
            attention + "wv.weight": part(ours + "self_attn.v_proj.weight", 0),
            attention + "wo.weight": part(ours + "self_attn.o_proj.weight", 1),
            feed + "w1.weight": part(ours + "mlp.gate_proj.weight", 0),
            feed + "w2.weight": part(ours + "mlp.down_proj.weight", 1),
            feed + "w3.weight": part(ours + "mlp.up_proj.weight", 0),
            theirs + "attention_norm.weight": weights[ours + "input_layernorm.weight"].clone(),
            theirs + "ffn_norm.weight": weights[ours + "post_attention_layernorm.weight"].clone(),
        }
        for which in "qk":
            for kind in ("weight", "bias"):
                shard[f"{attention}{which}_normalization.{kind}"] = norm(
                    f"{ours}self_attn.{which}_norm.{kind}"
                )
    return shard


def write_json(file: Path, table: Any) -> None:
    file.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def words_only(table: dict[str, Any]) -> None:
    """Takes the image tokens out of a configuration's vocabulary."""
    names = table["vocabulary_map"]
    table["vocabulary_map"] = {n: i for n, i in names.items() if not n.startswith("IMG")}
