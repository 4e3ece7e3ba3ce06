"""The pixel decoder of the vision autoencoder: from features on a grid to pixels.

Chameleon in transformers has the encoder only. The decoder mirrors it (the VQGAN of 2012.09841) and
uses transformers' own residual and attention blocks, so its parameters have the released names.

Legend: M images, h w the patch grid, H W height and width of a layer's output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ChameleonVQVAEConfig
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonVQVAEEncoderAttnBlock,
    ChameleonVQVAEEncoderResnetBlock,
)


class Upsample(nn.Module):
    """Doubles height and width by repetition, then applies a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_MCHW, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, then upsampling.

    Attention follows each block where the config asks for it.
    """

    def __init__(
        self, config: ChameleonVQVAEConfig, inputs: int, outputs: int, resolution: int, last: bool
    ) -> None:
        super().__init__()
        blocks = config.num_res_blocks + 1  # one more than the encoder has
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(
            ChameleonVQVAEEncoderResnetBlock(config, widths[i], outputs) for i in range(blocks)
        )
        attends = resolution in (config.attn_resolutions or ()) and config.attn_type == "vanilla"
        self.attn = nn.ModuleList(
            ChameleonVQVAEEncoderAttnBlock(outputs) for _ in range(blocks if attends else 0)
        )
        self.upsample = nn.Identity() if last else Upsample(outputs)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x_MCHW = block(x_MCHW)
            if len(self.attn):
                x_MCHW = self.attn[index](x_MCHW)
        return self.upsample(x_MCHW)


class Middle(nn.Module):
    """Two residual blocks with attention between them, at the lowest resolution."""

    def __init__(self, config: ChameleonVQVAEConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = ChameleonVQVAEEncoderResnetBlock(config, channels, channels)
        attends = config.attn_type == "vanilla"
        self.attn_1 = ChameleonVQVAEEncoderAttnBlock(channels) if attends else nn.Identity()
        self.block_2 = ChameleonVQVAEEncoderResnetBlock(config, channels, channels)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_MCHW)))


class PixelDecoder(nn.Module):
    """From latents [M, latent_channels, h, w] (after post_quant_conv) to pixels [M, 3, H, W]."""

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        super().__init__()
        widths = [config.base_channels * multiplier for multiplier in config.channel_multiplier]
        top = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, top, kernel_size=3, padding=1)
        self.mid = Middle(config, top)
        # `up.N` is numbered as the encoder's levels are: 0 is full resolution, and runs last.
        self.up = nn.ModuleList(
            Level(
                config,
                inputs=widths[min(level + 1, len(widths) - 1)],
                outputs=widths[level],
                resolution=config.resolution // 2**level,
                last=level == 0,
            )
            for level in range(len(widths))
        )
        self.norm_out = nn.GroupNorm(num_groups=32, num_channels=widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels, kernel_size=3, padding=1)

    def forward(self, latents_MChw: Tensor) -> Tensor:
        x_MCHW = self.mid(self.conv_in(latents_MChw))
        for level in reversed(self.up):
            x_MCHW = level(x_MCHW)
        x_MCHW = self.norm_out(x_MCHW)
        return self.conv_out(x_MCHW * torch.sigmoid(x_MCHW))
