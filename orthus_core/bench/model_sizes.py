"""The models to measure: the bundled one, and random ones of other sizes.

Speed does not depend on the values of weights, so sizes without a trained model use random
weights, scaled so that rounding errors stay small over the patches of a picture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_model, read_config
from orthus_core.errors import PromptError
from orthus_core.model.config import OrthusConfig, OrthusVQConfig, token_name_of_code
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration

# Scale of a random head's response to its condition: at 1 it amplifies rounding at every patch.
CALM = 0.1


class Shape(NamedTuple):
    """The sizes that determine speed; everything else is as in the released 7B.

    Attributes:
        about: Description for reports.
        resolution: Side of its pictures in pixels; each patch is 16 x 16 pixels.
    """

    about: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    resolution: int
    head_width: int
    base_channels: int = 128


SHAPES = {
    "mini": None,  # the bundled model, unchanged
    "mid": Shape("25M backbone, 7M head, 256 patches", 512, 8, 8, 1376, 256, 512),
    "mid-full-head": Shape("25M backbone, 50M head, 256 patches", 512, 8, 8, 1376, 256, 1536),
    "7b": Shape("the released shape, 1024 patches", 4096, 32, 32, 11008, 512, 1536),
}
# The released head, measured by itself.
FULL_HEAD = {"channels": 256, "cond_dim": 4096, "width": 1536, "depth": 3}

CODES, FIRST_CODE, VOCABULARY = 8192, 4, 65536


def check_shape(name: str, patches: int | None) -> None:
    """Check, before anything is measured, that there is such a shape, and that its pictures have so
    many patches.

    Raises:
        PromptError: When there is none, or they have fewer.
    """
    shape = _named(name)
    has = read_config(resolve(name)).patches if shape is None else config_of(shape).patches
    if patches is not None and patches > has:
        raise PromptError(
            f"{patches} patches of a picture of {has}",
            where="--patches",
            hint=f"a picture of {name} has no more",
        )


def model_of(name: str, device: torch.device, dtype: torch.dtype) -> OrthusForConditionalGeneration:
    """A model of this shape.

    Raises:
        PromptError: For a name that is not in `SHAPES`.
    """
    shape = _named(name)
    if shape is None:
        model = open_model(name, device=device, dtype=dtype).model
        assert isinstance(model, OrthusForConditionalGeneration), "the bundled model is an Orthus"
        return model
    return random_model(config_of(shape), device, dtype)


def _named(name: str) -> Shape | None:
    if name not in SHAPES:
        raise PromptError(
            f"there is no shape {name!r}", where="--shape", hint=f"use one of {', '.join(SHAPES)}"
        )
    return SHAPES[name]


def config_of(shape: Shape) -> OrthusConfig:
    """The configuration of a random model."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {token_name_of_code(code): FIRST_CODE + code for code in range(CODES)}
    special = ("<eoss>", "<racm3:break>", "<reserved08706>", "<image>")
    vocabulary |= {name: len(vocabulary) + index for index, name in enumerate(special)}
    vocabulary |= {f"w{index}": index for index in range(len(vocabulary), VOCABULARY)}
    return OrthusConfig(
        vocab_size=VOCABULARY,
        vocabulary_map=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        head_width=shape.head_width,
        vq_config=OrthusVQConfig(
            embed_dim=256,
            latent_channels=256,
            num_embeddings=CODES,
            resolution=shape.resolution,
            base_channels=shape.base_channels,
        ),
    )


@torch.no_grad()
def random_model(
    config: OrthusConfig, device: torch.device, dtype: torch.dtype
) -> OrthusForConditionalGeneration:
    """A random model of these sizes, identical for identical configurations; created on its device,
    so that a large one fits.
    """
    standard = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = OrthusForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(standard)
    _fill(model, torch.Generator(device).manual_seed(0))
    model.diffusion_head.cond_embed.weight.mul_(CALM)
    return model.requires_grad_(False)


@torch.no_grad()
def random_head(
    device: torch.device, dtype: torch.dtype, sizes: dict[str, int] | None = None
) -> DiffusionHead:
    """A head alone, with the released one's sizes by default."""
    head = DiffusionHead(**(sizes or FULL_HEAD)).to(device, dtype).eval()
    _fill(head, torch.Generator(device).manual_seed(0))
    return head.requires_grad_(False)


def _fill(module: torch.nn.Module, random: torch.Generator) -> None:
    # Fresh AdaLN layers are zero and would predict nothing, so they are randomised too.
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and "norm" not in name:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=random)
