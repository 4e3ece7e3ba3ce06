"""A linear code of pictures, written into Chameleon's encoder: its features are principal
components of patches from the first step on, and need no training.

Every level halves the picture by a strided convolution, which here turns 2x2 blocks into channels
and keeps their principal components, as many as the level has channels. Residual blocks and
attention add nothing. Only the last normalisation and activation are no linear functions, and they
are used where they nearly are: two large constant channels in each group fix its variance, and a
shift moves all values to where x sigmoid(x) is x.

Legend: M pictures, K channels of a feature, D values of a patch, n channels of a level, G groups of
the last normalisation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.errors import RecipeError
from orthus_core.model.vision import OrthusVQ
from orthus_core.train.linear_code import LinearCode, patch_moments

CARRIERS = 1000.0
"""The constant channels' squares, as a multiple of the variance of their group."""
SHIFT = 12.0
"""Where values of unit variance are moved before the last activation."""
SMALLEST = 1e-9
"""Least variance of a component, as a share of the largest."""
PROBE = 0.05
"""The value, of pixels in [-1, 1], that shows what the encoder makes of one: small enough for the
last activation to be linear.
"""
REFERENCES = 3
"""Channels of each group that hold no component: two constants, and a zero which shows the mean
that the normalisation takes away.
"""


@torch.no_grad()
def linear_encoder(vq: OrthusVQ, pixels_M3HW: Tensor, whitening: float) -> LinearCode:
    """Write the principal components of these pictures' patches into the encoder.

    Args:
        vq: Autoencoder whose encoder is overwritten; its features then have zero mean, and a mean
            variance of one over all channels.
        pixels_M3HW: Pictures that the components are fitted to.
        whitening: How far the variances of components are made alike: variance^(1 - whitening) is
            left of each, so 0 keeps them and 1 makes all of them one.

    Returns:
        The linear code that the encoder computes, exact up to the last activation.

    Raises:
        RecipeError: When the last levels have fewer channels than that takes.
    """
    config = vq.config
    channels, groups = config.embed_dim, config.norm_num_groups
    widths = [config.base_channels * n for n in config.channel_multiplier]
    check_room(widths, channels, config.latent_channels, groups)
    patch = 2 ** (len(widths) - 1)
    mean_D, covariance_DD = patch_moments(pixels_M3HW, patch)
    basis_DK, convolutions = pyramid(covariance_DD, widths[:-1], patch, channels)
    variance_K = ((basis_DK.T @ covariance_DD) * basis_DK.T).sum(1)
    code = LinearCode(channels, patch)
    code.set(mean_D, basis_DK, variance_K, whitening)

    # Convolutions that are not written below add nothing to what passes them by.
    encoder: Any = vq.encoder  # its levels are modules without a type of their own
    for module in [*encoder.modules(), vq.quant_conv]:
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    write_pyramid(encoder, convolutions, -(mean_D @ basis_DK))
    slots = slots_of(channels, groups, widths[-1])
    carrier_G = write_slots(encoder, slots, variance_K)
    write_end(encoder, slots, variance_K, carrier_G, code.scale_C)
    vq.quant_conv.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    return code


@torch.no_grad()
def read_linear_code(vq: OrthusVQ) -> LinearCode:
    """The linear code that an encoder of `linear_encoder` computes, with its weights as they are
    (those of a stored model are rounded).

    It is read from the features of pictures in which one value of each patch is not zero. One
    product with it gives the features without the encoder's convolutions, which take a hundred
    times as long, and more exactly than they do in bf16.
    """
    side = vq.config.resolution
    patch = 2 ** (len(vq.config.channel_multiplier) - 1)
    values, places = 3 * patch**2, (side // patch) ** 2
    blank_M3HW = torch.zeros(1, 3, side, side, device=vq.device, dtype=vq.dtype)
    rest_C = vq.features(blank_M3HW).double().mean((0, 1))
    answers = []
    for first in range(0, values, places):
        count = min(places, values - first)
        patches_1DP = torch.zeros(1, values, places, device=vq.device, dtype=vq.dtype)
        patches_1DP[0, first + torch.arange(count), torch.arange(count)] = PROBE
        probe_M3HW = F.fold(patches_1DP, (side, side), patch, stride=patch)
        answers.append(vq.features(probe_M3HW)[0, :count].double())
    response_DC = (torch.cat(answers) - rest_C) / PROBE
    code = LinearCode(vq.config.embed_dim, patch, stored=False).to(vq.device)
    length_C = response_DC.norm(dim=0).clamp_min(SMALLEST)
    code.basis_DC.copy_(response_DC / length_C)
    code.scale_C.copy_(1 / length_C)
    code.mean_D.copy_(-rest_C @ torch.linalg.pinv(response_DC))
    return code


class Slots(NamedTuple):
    """Channels of the last level.

    Attributes:
        component_K: The channel of each component.
        group_K: The group of normalisation that it is in.
        zero_G: The channel of each group that is zero; the two after it are constants.
        size: Channels of a group.
    """

    component_K: Tensor
    group_K: Tensor
    zero_G: Tensor
    size: int


def slots_of(channels: int, groups: int, width: int) -> Slots:
    """Slots that deal the components out to the groups, the largest to different ones."""
    number_K, size = torch.arange(channels), width // groups
    group_K, zero_G = number_K % groups, torch.arange(groups) * size
    return Slots(zero_G[group_K] + REFERENCES + number_K // groups, group_K, zero_G, size)


def write_pyramid(encoder: Any, convolutions: list[Tensor], shift_K: Tensor) -> None:
    """From pixels to the components, in the first channels of the last strided convolution.

    Args:
        encoder: Chameleon's encoder, all of whose convolutions are zero.
        convolutions: Those of `pyramid`.
        shift_K: What is added to the components.
    """
    encoder.conv_in.weight[:3, :3, 1, 1] = torch.eye(3)
    for level, weight_nnkk in zip(encoder.down, convolutions, strict=False):
        for block in level.block:
            if hasattr(block, "nin_shortcut"):
                nn.init.eye_(block.nin_shortcut.weight.flatten(1))
        outputs, inputs = weight_nnkk.shape[:2]
        level.downsample.conv.weight[:outputs, :inputs, :2, :2] = weight_nnkk
    encoder.down[-2].downsample.conv.bias[: len(shift_K)] = shift_K


def write_slots(encoder: Any, slots: Slots, variance_K: Tensor) -> Tensor:
    """Components into their slots, beside constants that fix the variance of each group.

    Returns:
        The standard deviation of all that is in each group: [G].
    """
    number_K = torch.arange(len(variance_K))
    entry, strided = encoder.down[-1].block[0], encoder.down[-2].downsample.conv
    if hasattr(entry, "nin_shortcut"):
        entry.nin_shortcut.weight[slots.component_K, number_K, 0, 0] = 1.0
        bias = entry.nin_shortcut.bias
    else:
        weight_nnkk, bias_n = strided.weight.clone(), strided.bias.clone()
        strided.weight.zero_()
        strided.bias.zero_()
        strided.weight[slots.component_K] = weight_nnkk[number_K]
        strided.bias[slots.component_K] = bias_n[number_K]
        bias = strided.bias
    of_group_G = torch.zeros(len(slots.zero_G), dtype=variance_K.dtype)
    of_group_G.index_add_(0, slots.group_K, variance_K)
    constant = math.sqrt(CARRIERS * float(of_group_G.max()))
    bias[slots.zero_G + 1], bias[slots.zero_G + 2] = constant, -constant
    return ((2 * constant**2 + of_group_G) / slots.size).sqrt()


def write_end(
    encoder: Any, slots: Slots, variance_K: Tensor, deviation_G: Tensor, scale_K: Tensor
) -> None:
    """Through the last normalisation and activation to features.

    What is subtracted has the same weight as what it is subtracted from, so that rounding moves no
    mean.

    Args:
        deviation_G: What the normalisation divides by.
        scale_K: What a component is divided by to be a feature.
    """
    norm, out = encoder.norm_out, encoder.conv_out
    spread_K = variance_K.clamp_min(variance_K.max() * SMALLEST).sqrt()
    zero_K = slots.zero_G[slots.group_K]
    norm.weight.zero_()
    norm.weight[slots.component_K] = (deviation_G[slots.group_K] / spread_K).float()
    norm.weight[slots.zero_G] = deviation_G.float()
    norm.bias.fill_(SHIFT)
    component = (spread_K / scale_K).float()
    mean_taken_away = (1 / scale_K).float()
    rows = torch.arange(len(variance_K))
    out.weight[rows, slots.component_K, 1, 1] = component
    out.weight[rows, zero_K + 1, 1, 1] = -component
    out.weight[rows, zero_K + 2, 1, 1] = mean_taken_away
    out.weight[rows, zero_K, 1, 1] = -mean_taken_away


def check_room(widths: list[int], channels: int, latent_channels: int, groups: int) -> None:
    """Check that an encoder has room for the components and the channels beside them.

    Raises:
        RecipeError: When it has not.
    """
    per_group = -(-channels // groups) + REFERENCES
    wanted = {
        "its last but one level": (widths[-2] if len(widths) > 1 else 0, channels),
        "its last level": (widths[-1], per_group * groups),
        "latent_channels": (latent_channels, channels),
        "the values of a patch": (3 * 4 ** (len(widths) - 1), channels),
    }
    # Components of 2 x 2 blocks, of 4 x 4 and so on, go through the level after them as they are.
    entering = 3
    for level, width in enumerate(widths[:-2]):
        entering = min(width, 4 * entering)
        wanted[f"its level {level + 2}"] = (widths[level + 1], entering)
    for what, (has, needs) in wanted.items():
        if has < needs:
            raise RecipeError(
                f"a linear encoder of {channels} channels needs {needs} in {what}, not {has}",
                where="autoencoder.encoder",
                hint="raise channel_multiplier, lower embed_dim or norm_num_groups, or take "
                'encoder = "trained"',
            )


def pyramid(
    covariance_DD: Tensor, widths: list[int], patch: int, channels: int
) -> tuple[Tensor, list[Tensor]]:
    """Nested blocks of 2, 4, 8 ... pixels, each reduced to its principal components.

    Args:
        covariance_DD: Covariance of patches, values in the order of their three channels.
        widths: Most components of the blocks of each size.
        patch: Side of a patch, 2 to the power of their number.
        channels: Components K of a whole patch.

    Returns:
        The components [D, K], orthonormal columns, and the strided convolutions that compute them,
        [n after, n before, 2, 2] for each size.
    """
    variance_D, all_DD = torch.linalg.eigh(covariance_DD)
    best_DK = all_DD[:, -channels:] * variance_D[-channels:].clamp_min(0).sqrt()
    # What is lost on the way should be what the components of the whole patch leave out as well.
    kept_DD = best_DK @ best_DK.T
    numbers = torch.arange(len(covariance_DD)).view(3, patch, patch)
    basis_Dn = torch.eye(3, dtype=covariance_DD.dtype)  # of one pixel
    convolutions: list[Tensor] = []
    for level, width in enumerate(widths):
        side = 2 ** (level + 1)
        before = basis_Dn.shape[1]
        within = torch.arange(3 * side * side).view(3, side, side)
        blocks = within.unfold(1, side // 2, side // 2).unfold(2, side // 2, side // 2)
        joined = torch.zeros(3 * side * side, 4 * before, dtype=covariance_DD.dtype)
        for place in range(4):
            of_place = blocks[:, place // 2, place % 2].flatten()
            joined[of_place, place * before : (place + 1) * before] = basis_Dn
        last = side == patch
        source = covariance_DD if last else kept_DD
        squares = numbers.unfold(1, side, side).unfold(2, side, side)
        squares = squares.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        own = sum((source[s][:, s] for s in squares), start=torch.zeros(()).to(source))
        turned = torch.linalg.eigh(joined.T @ own @ joined)[1].flip(1)
        kept = turned[:, : channels if last else width]
        convolutions.append(kept.T.reshape(kept.shape[1], 2, 2, before).permute(0, 3, 1, 2))
        basis_Dn = joined @ kept
    return basis_Dn, convolutions
