"""One image from a prompt, written to be read first: the released algorithm, step by step.

    text -> ids -> hidden state -> patch -> hidden state -> patch -> ... -> all patches -> pixels

The backbone reads a prompt. From the hidden state of its last token, the diffusion head turns noise
into the feature of one patch. The feature is embedded like a token, the backbone reads it, and its
hidden state gives the next patch. Guidance needs every hidden state twice: once with the prompt,
once with an unconditional prompt that says nothing about the image.

    from orthus_core import Orthus
    from orthus_core.data.pixels import to_image
    from orthus_core.samplers.reference import generate_image

    orthus = Orthus.open("mini")
    image = generate_image(orthus.model, orthus.builder.tokenizer, "a snowman", seed=1)
    to_image(image.pixels_3HW).save("snowman.png")

`generate.py` draws the same image from the same seed (a test compares them), and does more: many
prompts at once, text between images, other guidance, other solvers. The comments here name the file
that does a step fast.

Legend: B = 2 (prompt, unconditional prompt), S sequence, D hidden, C feature channels, P patches,
H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.model.config import OrthusConfig
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.schedule import Schedule

if TYPE_CHECKING:
    from orthus_core.model.regression_head import RegressionHead


class ReferenceImage(NamedTuple):
    """The features of all patches, and the pixels they decode to, nominally in [-1, 1]."""

    features_PC: Tensor
    pixels_3HW: Tensor


class DDIMStep(NamedTuple):
    """One denoising step: x becomes keep * x + push * prediction.

    timestep: Time that the head is given, from 999 (noise alone) down.
    """

    timestep: int
    keep: float
    push: float


@torch.no_grad()
def generate_image(
    model: OrthusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    seed: int = 0,
    **sampling: Any,
) -> ReferenceImage:
    """An image of what the text says.

    Args:
        model: An Orthus with a pixel decoder.
        tokenizer: The model's tokenizer.
        text: What the image shows.
        seed: Seed of the noise that the patches start from, below 2^32.
        sampling: `steps`, `guidance`, `noise_scale` or `unconditional_prompt`, in place of the
            model's own defaults.
    """
    config = model.config
    sampling = config.sampling_defaults | sampling
    # 1. Words become ids: one sequence with the prompt, one without. Fast: prompt_builder.py.
    prompts = [
        prompt_ids(config, tokenizer, words) for words in (text, sampling["unconditional_prompt"])
    ]
    # 2. Everything random is drawn from the seed: a normal number for each channel of each patch.
    random = torch.Generator().manual_seed(seed)
    noise = (
        sampling["noise_scale"] * torch.randn(1, config.feature_channels, generator=random)
        for _ in range(config.patches)
    )
    # 3. Patch by patch, from noise to feature.
    guidance = sampling["guidance"]
    if config.denoises:
        steps = ddim_steps(model.schedule, sampling["steps"])
        denoise = partial(denoise_patch, model.diffusion_head, steps, guidance=guidance)
    else:
        denoise = partial(regress_patch, model.regression_head, guidance=guidance)
    features_1PC = torch.stack(list(image_features(model, prompts, noise, denoise)), dim=1)
    # 4. All features together become pixels. Fast: decode.py, beside the next image's patches.
    pixels_13HW = model.decode_images(features_1PC)
    return ReferenceImage(features_1PC[0], pixels_13HW[0].float())


def prompt_ids(config: OrthusConfig, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of `<s> text SEP [BOI]`: the user's text ends at SEP, and [BOI] begins an image."""
    # Without split_special_tokens, a text that contains "<image>" would smuggle in an image slot.
    words = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert config.sep_token_id is not None and config.boi_token_id is not None
    return [int(config.bos_token_id or 0), *words, config.sep_token_id, config.boi_token_id]


@torch.no_grad()
def image_features(
    model: OrthusForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    noise: Iterable[Tensor],
    denoise: Callable[[Tensor, Tensor], Tensor],
) -> Iterator[Tensor]:
    """One feature [1, C] for each noise [1, C], in reading order.

    Args:
        model: The model that reads the prompts and the patches.
        prompts: Ids of the prompt and of the unconditional prompt; both end with [BOI].
        noise: Starting point of each patch.
        denoise: Turns the hidden states [B, D] and the noise of a patch into its feature, as the
            head scales it.
    """
    # 1. The backbone reads both prompts. Fast: engine.py, which needs no padding (kv_cache.py).
    ids_BS, mask_BS = left_padded(prompts, model.config.pad_token_id or 0)
    ids_BS, mask_BS = ids_BS.to(model.device), mask_BS.to(model.device)
    output = model(ids_BS, attention_mask=mask_BS, use_cache=True)
    for noise_1C in noise:
        # 2. From the hidden states of the newest position, and back from the head's scale of
        # numbers to the autoencoder's. Fast: patch_sampler.py.
        hidden_BD = output.hidden_BSD[:, -1]
        feature_1C = denoise(hidden_BD, noise_1C.to(model.device)) / model.config.latent_scale
        yield feature_1C
        # 3. Both sequences read the same patch. The keys and values of all that came before are in
        # the cache. Fast: branches.py and engine.py; on a GPU, cuda_graph.py.
        embeds_11D = model.embed_features(feature_1C).unsqueeze(1)
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(2, 1)], dim=1)
        output = model(
            inputs_embeds=embeds_11D.expand(2, 1, -1),
            attention_mask=mask_BS,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
    # After the last patch [EOI] would follow, and text could go on: sequence.py has these rules.


def ddim_steps(schedule: Schedule, steps: int) -> list[DDIMStep]:
    """The steps of deterministic DDIM from noise to a feature (2010.02502, eq. 12 with eta 0).

    A noisy feature is x = sqrt(a) clean + sqrt(1 - a) noise, where a rises from 0 to 1. The head's
    prediction implies both the clean feature and the noise, and the next x mixes these anew:

        v = sqrt(a) noise - sqrt(1 - a) clean    (2202.00512), so
        clean = sqrt(a) x - sqrt(1 - a) v        and
        noise = sqrt(1 - a) x + sqrt(a) v

    Fast, and for more solvers: solvers.py.
    """
    # Evenly spaced times that end at the schedule's last (2305.08891, table 2).
    last = schedule.num_timesteps
    timesteps = [round(last - number * (last / steps)) - 1 for number in range(steps)]
    alphas = [float(schedule.alphas_cumprod_T[timestep]) for timestep in timesteps]
    found = []
    for timestep, (now, then) in zip(timesteps, pairwise([*alphas, 1.0]), strict=True):
        if schedule.prediction == "v":
            keep = sqrt(then) * sqrt(now) + sqrt(1 - then) * sqrt(1 - now)
            push = sqrt(1 - then) * sqrt(now) - sqrt(then) * sqrt(1 - now)
        else:  # "epsilon": the prediction is the noise, and clean = (x - sqrt(1 - a) noise)/sqrt(a)
            keep = sqrt(then) / sqrt(now)
            push = sqrt(1 - then) - keep * sqrt(1 - now)
        found.append(DDIMStep(timestep, keep, push))
    return found


@torch.no_grad()
def denoise_patch(
    head: DiffusionHead,
    steps: Sequence[DDIMStep],
    hidden_BD: Tensor,
    noise_1C: Tensor,
    guidance: float,
) -> Tensor:
    """The feature [1, C], as the head scales it, that the steps lead to from noise [1, C].

    Args:
        hidden_BD: Hidden states with the prompt and with the unconditional prompt.
        guidance: Factor on what the prompt changes in the prediction (see `guided`).
    """
    x_1C = noise_1C.float()  # 16 bits would lose what each of many small steps adds
    for timestep, keep, push in steps:
        # Fast: denoising_head.py, which computes what depends on time and condition, but not on x,
        # for all steps at once.
        time_B = torch.full((2,), timestep, device=hidden_BD.device)
        prediction_BC = head(x_1C.expand(2, -1).to(hidden_BD.dtype), time_B, hidden_BD).float()
        x_1C = keep * x_1C + push * guided(prediction_BC, guidance)
    return x_1C


@torch.no_grad()
def regress_patch(
    head: RegressionHead, hidden_BD: Tensor, noise_1C: Tensor, guidance: float
) -> Tensor:
    """The feature [1, C], as the head scales it, that a regression head predicts; noise has no
    effect. Other arguments as for `denoise_patch`.
    """
    return guided(head(hidden_BD).float(), guidance)


def guided(prediction_BC: Tensor, guidance: float) -> Tensor:
    """The prediction with the prompt, led away from the one without: [1, C] (2207.12598)."""
    with_prompt_1C, without_1C = prediction_BC.chunk(2)
    return without_1C + guidance * (with_prompt_1C - without_1C)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids [B, S] of equal length, and the mask [B, S] that is 0 at the padding."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)
