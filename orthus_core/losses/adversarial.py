"""A discriminator that learns to distinguish decoded pictures from real ones, and trains the
decoder to fool it.

As in VQGAN (2012.09841, section 3.1): patches are judged (1611.07004), the hinge loss is used
(1705.02894), and the term's weight adapts to the size of the others' gradient. The relativistic
loss instead compares each decoded picture with its own original, and penalises the discriminator's
slope (2501.05441). Chameleon's own discriminator was never published; this one is trained from
scratch beside the decoder.

Legend: M pictures, H W pixels, h w the grid of patches that are judged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.losses.picture_noise import Stream, drawn_seeds, uniform

# Largest factor on the adversarial term, and what keeps its denominator off zero: VQGAN's values.
MAX_ADAPTIVE_WEIGHT = 1e4
DELTA = 1e-4
SLOPE = 0.2
WIDEST = 8  # times the first level's channels
GROUPS = 8


class PatchDiscriminator(nn.Module):
    """Pictures to one score a patch, high for true: [M, 3, H, W] to [M, 1, h, w].

    Each level halves the picture, so a score judges a patch of 16, 34 or 70 pixels after 1, 2 or 3
    levels. Groups are normalised rather than batches: a score then depends on its own picture
    alone, and no running statistics have to be kept.

    Args:
        channels: Channels of the first level, a multiple of 8; each further level doubles them, up
            to 8 times.
        levels: Number of halvings, at least 1.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        widths = [channels * min(2**level, WIDEST) for level in range(levels + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1)]
        for level in range(1, levels + 1):
            stride = 2 if level < levels else 1
            layers += [
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1),
                nn.GroupNorm(GROUPS, widths[level]),
            ]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(widths[-1], 1, 4, padding=1)]
        self.layers = nn.Sequential(*layers)
        for parameter in self.parameters():
            parameter.no_decay = True  # type: ignore[attr-defined]

    def forward(self, pixels_M3HW: Tensor) -> Tensor:
        return self.layers(pixels_M3HW)


def generator_loss(scores_of_decoded: Tensor) -> Tensor:
    """The decoder's loss: minus the mean score of its pictures."""
    return -scores_of_decoded.float().mean()


def discriminator_loss(scores_of_true: Tensor, scores_of_decoded: Tensor) -> Tensor:
    """The discriminator's hinge loss: real patches above 1, decoded ones below -1."""
    true = F.relu(1 - scores_of_true.float()).mean()
    return 0.5 * (true + F.relu(1 + scores_of_decoded.float()).mean())


def relativistic_loss(better: Tensor, worse: Tensor) -> Tensor:
    """The loss of whoever wants the scores `better` above `worse`, pair by pair
    (1807.00734): the decoder wants its pictures' scores above the originals', the discriminator the
    reverse.
    """
    return F.softplus(worse.float() - better.float()).mean()


def slope_penalty(discriminator: nn.Module, pixels_M3HW: Tensor) -> Tensor:
    """Half the squared gradient of a picture's summed scores by its pixels, averaged over pictures:
    the zero-centred penalty R1 on real pictures, R2 on decoded ones (1801.04406, eq. 9).
    """
    pixels_M3HW = pixels_M3HW.detach().requires_grad_()
    scores = discriminator(pixels_M3HW).sum()
    (slope_M3HW,) = torch.autograd.grad(scores, pixels_M3HW, create_graph=True)
    return 0.5 * slope_M3HW.square().flatten(1).sum(1).mean()


def augmented_alike(
    decoded_M3HW: Tensor, truth_M3HW: Tensor, seeds_M: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both pictures of each pair with the same random brightness, saturation, contrast and shift
    (DiffAugment, 2006.10738), so that a small set cannot be learnt by heart. Gradients pass.

    Args:
        seeds_M: Seed of each pair, which its changes alone depend on; None draws seeds from torch's
            global generator.
    """
    if seeds_M is None:
        seeds_M = drawn_seeds(len(truth_M3HW))
    drawn_M5 = uniform(seeds_M.to(truth_M3HW.device), Stream.AUGMENTATION, 5)
    bright, saturated, contrasted = drawn_M5[:, :3, None, None, None].unbind(1)
    height, width = truth_M3HW.shape[2:]
    down_M, across_M = (
        (share_M * (2 * (side // 8) + 1)).long() - side // 8
        for share_M, side in zip(drawn_M5[:, 3:].unbind(1), (height, width), strict=True)
    )

    def changed(x_M3HW: Tensor) -> Tensor:
        x_M3HW = x_M3HW + (bright - 0.5)
        grey_M1HW = x_M3HW.mean(1, keepdim=True)
        x_M3HW = grey_M1HW + 2 * saturated * (x_M3HW - grey_M1HW)
        mean_M111 = x_M3HW.mean((1, 2, 3), keepdim=True)
        x_M3HW = mean_M111 + (contrasted + 0.5) * (x_M3HW - mean_M111)
        return shifted(x_M3HW, down_M, across_M)

    return changed(decoded_M3HW), changed(truth_M3HW)


def shifted(pixels_M3HW: Tensor, down_M: Tensor, across_M: Tensor) -> Tensor:
    """Each picture moved down and to the right by pixels of its own, with 0 in what is uncovered.

    Args:
        down_M: Pixels down, int64; negative for up.
        across_M: Pixels to the right, int64; negative for the left.
    """
    height, width = pixels_M3HW.shape[2:]
    from_MH = torch.arange(height, device=down_M.device) - down_M[:, None]
    from_MW = torch.arange(width, device=across_M.device) - across_M[:, None]
    covered_MHW = is_place(from_MH, height)[:, :, None] & is_place(from_MW, width)[:, None]
    rows_M3HW = from_MH.clamp(0, height - 1)[:, None, :, None].expand_as(pixels_M3HW)
    columns_M3HW = from_MW.clamp(0, width - 1)[:, None, None].expand_as(pixels_M3HW)
    return pixels_M3HW.gather(2, rows_M3HW).gather(3, columns_M3HW) * covered_MHW[:, None]


def is_place(numbers: Tensor, count: int) -> Tensor:
    """Whether each number is one of 0 .. count - 1."""
    return (numbers >= 0) & (numbers < count)


def unchanged(values: Tensor) -> Tensor:
    """The mean over processes of what only one has."""
    return values


def adaptive_weight(
    others: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    mean: Callable[[Tensor], Tensor] = unchanged,
) -> Tensor:
    """|gradient of the other terms| / |gradient of the adversarial term|, both at the decoder's
    last layer: a constant that balances the two (2012.09841, eq. 7).

    Args:
        mean: The mean of a tensor over the processes that share a batch, so that the gradients are
            those of the whole batch.
    """
    (others_grad,) = torch.autograd.grad(others, last_layer, retain_graph=True)
    (adversarial_grad,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio = mean(others_grad).norm() / (mean(adversarial_grad).norm() + DELTA)
    return ratio.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
