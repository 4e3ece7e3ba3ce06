"""Prompts as token ids, the shape in which transformers' `generate` takes them, to images.

    model.generate(**processor(text="a snowman", return_tensors="pt"), generation_mode="image")

Legend: B prompts, S sequence, M images, P patches an image, C feature channels.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from orthus_core.errors import ArgumentError, CheckpointError, PromptError
from orthus_core.events import ImageBegun, ImageDone, RowDone, TextPiece
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Guidance, Prompt, without_idle_branches
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.seeds import GENERATOR_SEEDS, MOST_SEED


@dataclass
class GeneratedImages(ModelOutput):
    """What `generate` returns that draws.

    Attributes:
        sequences: Ids of the prompts and of all that follows, padded on the right: [B, S].
        features: Features of the drawn images, one sequence after the other: [M, P, C].
        pixel_values: Their pixels, about [-1, 1]: [M, 3, H, W].
        image_rows: Sequence of each image: int64 [M].
    """

    sequences: Tensor | None = None
    features: Tensor | None = None
    pixel_values: Tensor | None = None
    image_rows: Tensor | None = None


# What transformers' loops are often given, and what it changes nothing to say here.
IDLE = {"use_cache": True, "return_dict_in_generate": True, "num_beams": 1}


def generate_images(
    model: OrthusForConditionalGeneration,
    ids_BS: Tensor | None,
    features: Tensor | None,
    *,
    mode: str,
    attention_mask: Tensor | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    negative_prompt_ids: Tensor | Sequence[int] | None = None,
    num_return_sequences: int | None = None,
    seed: int | Sequence[int] | None = None,
    max_images: int | None = None,
    max_new_tokens: int | None = None,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int | None = None,
    **unknown: Any,
) -> GeneratedImages:
    """Draws one image after each prompt, or continues it with text and images.

    Args:
        model: Model that draws.
        ids_BS: Ids of the prompts, padded on the left.
        features: Features of the prompts' images.
        mode: "image", or "interleaved" for text and images as the model chooses.
        attention_mask: Mask [B, S] that is 0 at padding; by default that is the pad token.
        guidance_scale: Guidance; the model's own by default, 1 for none.
        num_inference_steps: Denoising steps of a patch; the model's own by default.
        negative_prompt_ids: Ids that guidance leads away from, for all prompts; by default the
            model's own unconditional prompt, read by the tokenizer of its folder.
        num_return_sequences: Sequences for each prompt, one after the other; 1 by default.
        seed: A seed that counts up over all sequences, or one for each; None draws them from
            torch's global generator.
        max_images: Images of a sequence; 1, or 4 if interleaved.
        max_new_tokens, do_sample, temperature, top_k, top_p: The text of an interleaved sequence;
            at most 256 tokens, and the likeliest, by default.
        batch_size: Sequences side by side; all by default.

    Raises:
        ArgumentError: For an unknown mode or argument, when there is nothing to guide against, or
            for something to guide against where the model is guided inside.
        PromptError: When a prompt is missing, or does not fit the context.
    """
    if mode not in ("image", "interleaved"):
        raise ArgumentError(
            f"there is no {mode!r}",
            where="the argument generation_mode",
            hint='give "text", "image" or "interleaved"',
        )
    unknown = {
        name: value
        for name, value in unknown.items()
        if value is not None and not (name in IDLE and value == IDLE[name])
    }
    if unknown:
        raise ArgumentError(
            f"{', '.join(unknown)} is not known where generation_mode is {mode!r}",
            where="generate",
            hint="see help(orthus_core.samplers.token_prompts.generate_images)",
        )
    if ids_BS is None:
        raise PromptError("there is no prompt", where="input_ids")
    _check_whole("num_return_sequences", num_return_sequences, 1)
    _check_whole("num_inference_steps", num_inference_steps)
    _check_whole("max_images", max_images)
    _check_whole("max_new_tokens", max_new_tokens)
    _check_whole("batch_size", batch_size)
    if guidance_scale is not None and not hasattr(guidance_scale, "__float__"):
        raise ArgumentError(
            f"guidance_scale must be a number, not {guidance_scale!r:.80}",
            where="the argument guidance_scale",
        )
    if max_images is not None and max_images < (mode == "image"):
        raise ArgumentError(
            f"{max_images} images where generation_mode is {mode!r}",
            where="the argument max_images",
            hint="give a whole number from 1",
        )
    asked: dict[str, Any] = {"guidance": guidance_scale, "steps": num_inference_steps}
    if negative_prompt_ids is not None and model.config.distilled_guidance is not None:
        raise ArgumentError(
            "this model is guided in its one stream, and leads away from no other",
            where="the argument negative_prompt_ids",
            hint="leave it out, or draw with the model that it was distilled from",
        )
    if mode == "image":
        params = SamplingParams.resolve(
            model.config, **asked, max_images=1 if max_images is None else max_images
        )
    else:
        asked |= {"max_images": 4 if max_images is None else max_images}
        asked |= {"max_text": 256 if max_new_tokens is None else max_new_tokens}
        sampled = 1.0 if temperature is None else temperature
        asked |= {"temperature": sampled if do_sample else 0.0}
        asked |= {"top_k": 0 if top_k is None else top_k, "top_p": 1.0 if top_p is None else top_p}
        params = SamplingParams.resolve(model.config, "story", **asked)

    # 1. Prompts without their padding, each with its own images.
    contexts = list(_contexts(model, ids_BS, features, attention_mask))
    guidance, against = Guidance.text(params.guidance), ()
    if params.guidance != 1:
        against = (Context(_negative_ids(model, negative_prompt_ids, params)),)
    else:
        guidance = Guidance.none()
    contexts = [context for context in contexts for _ in range(num_return_sequences or 1)]
    prompts = [
        without_idle_branches(Prompt(context, each, guidance, against))
        for context, each in zip(contexts, seeds_of_sequences(seed, len(contexts)), strict=True)
    ]

    # 2. What happens to each sequence, as ids, features and pixels.
    ids = [list(context.ids) for context in contexts]
    config = model.config
    boi, eoi = cast(int, config.boi_token_id), cast(int, config.eoi_token_id)
    image, pad = cast(int, config.image_token_id), cast(int, config.pad_token_id or 0)
    drawn: list[tuple[int, int, Tensor, Tensor]] = []
    for event in generate(model, prompts, params, batch_size):
        if isinstance(event, TextPiece):
            ids[event.row] += event.token_ids
        elif isinstance(event, ImageBegun):
            ids[event.row] += [boi, *[image] * config.patches, eoi]
        elif isinstance(event, ImageDone):
            drawn.append((event.row, event.image, event.features_PC, event.pixels_3HW))
        elif isinstance(event, RowDone) and event.reason == "end":
            ids[event.row].append(_first(config.eos_token_id))
    drawn.sort(key=lambda each: each[:2])
    longest = max(map(len, ids))
    sequences = torch.tensor([row + [pad] * (longest - len(row)) for row in ids])
    return GeneratedImages(
        sequences=sequences.to(ids_BS.device),
        features=torch.stack([each[2] for each in drawn]) if drawn else None,
        pixel_values=torch.stack([each[3] for each in drawn]) if drawn else None,
        image_rows=torch.tensor([each[0] for each in drawn], dtype=torch.long),
    )


def _check_whole(name: str, value: Any, low: int | None = None) -> None:
    """Raises: ArgumentError when a value that is given is no whole number, or too low."""
    if value is None:
        return
    try:
        fits = operator.index(value) >= (-(2**63) if low is None else low)
    except TypeError:
        fits = False
    if not fits:
        raise ArgumentError(
            f"{name} must be a whole number{'' if low is None else f' from {low}'}, "
            f"not {value!r:.80}",
            where=f"the argument {name}",
        )


def _contexts(
    model: OrthusForConditionalGeneration,
    ids_BS: Tensor,
    features: Tensor | None,
    attention_mask: Tensor | None,
) -> Iterator[Context]:
    config = model.config
    mask_BS = ids_BS != config.pad_token_id if attention_mask is None else attention_mask.bool()
    channels = config.feature_channels
    left = None if features is None else features.reshape(-1, config.patches, channels)
    for ids_S, mask_S in zip(ids_BS.cpu(), mask_BS.cpu(), strict=True):
        ids = tuple(ids_S[mask_S].tolist())
        count = ids.count(config.image_token_id) // config.patches
        own = None
        if count and left is not None:
            own, left = left[:count], left[count:]
        yield Context(ids, own)
    if left is not None and len(left):
        raise PromptError(
            f"{len(left)} images more than the prompts have places for",
            where="pixel_values",
            hint="let the processor write the ids of text and images together",
        )


def _negative_ids(
    model: OrthusForConditionalGeneration,
    asked: Tensor | Sequence[int] | None,
    params: SamplingParams,
) -> tuple[int, ...]:
    """Ids of the context that guidance leads away from."""
    if asked is not None:
        return tuple(torch.as_tensor(asked).flatten().tolist())
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        return PromptBuilder(model, tokenizer).context(params.negative_prompt).ids
    except (OSError, ValueError, CheckpointError) as error:
        raise ArgumentError(
            "guidance needs ids that it leads away from, and the model's folder has no tokenizer",
            where="the argument negative_prompt_ids",
            hint=f"give processor(text={params.negative_prompt!r}).input_ids[0]; or no guidance, 1",
        ) from error


def seeds_of_sequences(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """The seed of each sequence, as `generate_images` takes them.

    Raises: ArgumentError for another number of seeds than sequences, and for what is no seed.
    """
    if seed is None:
        return torch.randint(GENERATOR_SEEDS, (count,)).tolist()
    several = isinstance(seed, Iterable) and getattr(seed, "ndim", 1) > 0
    try:  # numpy's and torch's numbers have an index, too
        seeds = [operator.index(each) for each in (seed if several else [seed])]  # type: ignore[union-attr]
    except TypeError:
        seeds = [-1]
    if min(seeds, default=0) < 0 or max(seeds, default=0) > MOST_SEED:
        raise ArgumentError(
            f"seed must be a whole number, or one for each sequence, not {seed!r}"[:200],
            where="the argument seed",
            hint=f"give whole numbers from 0 to {MOST_SEED}",
        )
    if not several:
        return [seeds[0] + number for number in range(count)]
    if len(seeds) != count:
        raise ArgumentError(
            f"{len(seeds)} seeds for {count} sequences",
            where="the argument seed",
            hint="give one for each, or one to count up from",
        )
    return seeds


def _first(token: int | list[int] | None) -> int:
    return token[0] if isinstance(token, list) else cast(int, token)
