"""A discriminator that learns to distinguish decoded pictures from real ones, and trains the
decoder to fool it.

As in VQGAN (2012.09841, section 3.1): patches are judged (1611.07004), the hinge loss is used
(1705.02894), and the term's weight adapts to the size of the others' gradient. Chameleon's own
discriminator was never published; this one is trained from scratch beside the decoder.

Legend: M pictures, H W pixels, h w the grid of patches that are judged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def adaptive_weight(others: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|gradient of the other terms| / |gradient of the adversarial term|, both at the decoder's
    last layer: a constant that balances the two (2012.09841, eq. 7).
    """
    (others_grad,) = torch.autograd.grad(others, last_layer, retain_graph=True)
    (adversarial_grad,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio = others_grad.norm() / (adversarial_grad.norm() + DELTA)
    return ratio.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
