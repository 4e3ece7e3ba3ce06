"""Floating-point operations of a training step, counted from the shapes of what it computes.

A product of a row with N weights takes 2 N operations forward, 2 N backward for its input, and 2 N
for the weights if these are trained (2204.02311, appendix B). So

    step = token * tokens + pair * pairs + slot * slots + word * words + draw * draws
    token = 6 N of the layers' trained matrices and 4 N of their frozen ones
    pair  = 12 D a layer: scores and sums of the positions that each position sees, itself included
    slot  = 6 K (C + D): a patch that is read, through the soft embedding
    word  = 6 D V: a predicted word, through the LM head
    draw  = 6 N of the head for features: patches that are predicted, times their share and repeats

with 4 in place of 6 where weights are frozen and a gradient passes through, and 2 where none does,
as in an encoder that only reads; a loss of weight 0 costs nothing. Counted is what has to be
computed: no padding, the causal half of attention within each document, and one forward pass even
where activations are computed again. Norms, activations, softmaxes and the optimiser are left out,
and so are the networks that a loss of pictures looks at them with (discriminator, perceptual
distance).

Legend: D hidden, V vocabulary, K codes, C feature channels, N weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from orthus_core.losses.joint import DiscreteLoss, JointLoss, counts_of
from orthus_core.model.config import BOI_TOKEN
from orthus_core.model.interleaved import InterleavedModel

# Operations a weight: forward, and with it backward to the input, and with it to the weight.
FORWARD, THROUGH, TRAINED = 2, 4, 6
# Operations of a pair of positions in a layer, a number of its width: two products forward, four
# backward.
PAIR = 12


class Work(NamedTuple):
    """Amounts of one batch, and the operations that they take.

    Attributes:
        tokens: Positions of rows without padding; 0 when training on pictures alone.
        pictures: Pictures that are read or trained on.
        flops: Floating-point operations.
    """

    tokens: float = 0
    pictures: float = 0
    flops: float = 0

    def plus(self, other: Work) -> Work:
        return Work(*(one + more for one, more in zip(self, other, strict=True)))


class Costs(NamedTuple):
    """Operations of each kind of thing that a transformer computes (see above)."""

    token: float
    pair: float
    slot: float = 0
    word: float = 0
    draw: float = 0


class Amounts(NamedTuple):
    """How many of each there are."""

    tokens: float
    pairs: float
    slots: float = 0
    words: float = 0
    draws: float = 0


def flops_of(costs: Costs, amounts: Amounts) -> float:
    """Operations of so many of each."""
    return sum(cost * amount for cost, amount in zip(costs, amounts, strict=True))


def counter_of(objective: nn.Module) -> Callable[[Any], Work]:
    """A function that counts the work of an objective's batches; nothing for an objective that is
    not known here.
    """
    if isinstance(objective, JointLoss):
        return _of_orthus(objective)
    if isinstance(objective, DiscreteLoss):
        return _of_discrete(objective)
    vq = getattr(objective, "vq", None)
    if vq is not None and getattr(vq, "decoder", None) is not None:
        # A linear encoder does not run: one product gives its features.
        return _of_pictures(vq, encodes=getattr(objective, "linear", None) is None)
    return lambda batch: Work()


def row_costs(model: InterleavedModel, *, text: bool = True, image: bool = True) -> Costs:
    """What rows cost a model, whose trained weights ask for gradients.

    Args:
        text, image: Whether these losses have a weight; without, they are not computed.
    """
    config: Any = model.config
    backbone: Any = model.model
    pair = PAIR * config.hidden_size * config.num_hidden_layers
    costs = Costs(products(backbone.layers), pair, word=products(model.lm_head) if text else 0)
    if not hasattr(model, "mlp_head"):
        return costs
    slot = 0.0
    if config.embedding == "softmax":
        each = config.num_codes * (config.feature_channels + config.hidden_size)
        slot = each * (TRAINED if _is_trained(backbone.codebook_in) else FORWARD)
    elif config.embedding == "linear":
        slot = products(backbone.feature_in)
    head: Any = model.mlp_head
    return costs._replace(slot=slot, draw=products(head) if image else 0)


def _of_orthus(objective: JointLoss) -> Callable[[Any], Work]:
    model = objective.model
    costs = row_costs(model, text=objective.text_weight != 0, image=objective.lambda_image != 0)

    def count(batch: Any) -> Work:
        own = counts_of(batch)
        tokens, pairs = documents_of(batch.attention_mask_BS)
        slots = len(batch.image_index_N)
        draws = own.image * objective.patch_share * objective.repeats
        amounts = Amounts(tokens, pairs, slots, own.text, draws)
        return Work(tokens, slots / model.config.patches, flops_of(costs, amounts))

    return count


def _of_discrete(objective: DiscreteLoss) -> Callable[[Any], Work]:
    config: Any = objective.backbone.config
    layers: Any = objective.backbone.layers
    pair = PAIR * config.hidden_size * config.num_hidden_layers
    costs = Costs(products(layers), pair, word=products(objective.lm_head))
    begins = config.vocabulary_map.get(BOI_TOKEN)

    def count(batch: Any) -> Work:
        tokens, pairs = documents_of(batch.attention_mask_BS)
        amounts = Amounts(tokens, pairs, words=counts_of(batch).text)
        pictures = 0 if begins is None else int((batch.ids_BS == begins).sum())
        return Work(tokens, pictures, flops_of(costs, amounts))

    return count


def _of_pictures(vq: nn.Module, *, encodes: bool) -> Callable[[Any], Work]:
    there, back = vision_flops(vq.config)  # type: ignore[arg-type]
    trains = _is_trained(vq.encoder)  # type: ignore[arg-type]
    each = there * encodes * (3 if trains else 1) + back * 3

    def count(pixels_M3HW: Tensor) -> Work:
        return Work(pictures=len(pixels_M3HW), flops=each * len(pixels_M3HW))

    return count


def products(module: nn.Module) -> float:
    """Operations of one row through the linear layers of a module, and of its gradient."""
    layers = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return sum(
        (TRAINED if layer.weight.requires_grad else THROUGH) * layer.weight.numel()
        for layer in layers
    )


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def documents_of(documents_BS: Tensor) -> tuple[int, int]:
    """Positions without padding, and pairs of a position and one that it sees, in rows of these
    documents (`attention_mask_BS`).
    """
    many = int(documents_BS.max()) + 1
    rows_B1 = torch.arange(len(documents_BS), device=documents_BS.device)[:, None]
    lengths = (rows_B1 * many + documents_BS).flatten().bincount(minlength=many * len(rows_B1))
    lengths_BK = lengths.view(-1, many)[:, 1:]
    return int(lengths_BK.sum()), int((lengths_BK * (lengths_BK + 1) // 2).sum())


def vision_flops(config: Any) -> tuple[float, float]:
    """Operations of an autoencoder from one picture to features, and back, found without computing
    anything.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from orthus_core.model.vision import OrthusVQ

    side, found = config.resolution, []
    with torch.device("meta"), torch.no_grad():
        vq = OrthusVQ(config)
        thing = torch.empty(1, 3, side, side)
        for way in (vq.features, vq.pixels):
            with FlopCounterMode(display=False) as counter:
                thing = way(thing)
            found.append(float(counter.get_total_flops()))
    there, back = found
    return there, back
