"""The shapes in which transformers, its Trainer and peft call a model: `forward`, `generate`,
`save_pretrained`, `push_to_hub`.

Everything of ours calls `run_backbone`, and applies the head that a position needs. Losses,
samplers and what a hub shows are packages that depend on this one, so they are imported by name,
where they are asked for.

Legend: B batch, S sequence, D hidden, V vocabulary, M images, P patches an image, C feature
    channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    Cache,
    GenerationConfig,
    GenerationMixin,
)
from transformers.utils import logging
from transformers.utils.generic import ModelOutput, can_return_tuple

from orthus_core.entry_points import imported
from orthus_core.errors import ArgumentError
from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.recipe.drawing import TextSampling

log = logging.get_logger(__name__)
# A mixin's methods see the model that they are mixed into.
_Model = InterleavedModel if TYPE_CHECKING else object


@dataclass
class OrthusCausalLMOutput(ModelOutput):
    """What `forward` returns.

    Attributes:
        loss: Text loss plus `lambda_image` times the image loss; None without labels.
        logits: Logits of the next text token [B, S, V]; those of image codes and image slots are
            the least number.
        past_key_values: Keys and values of all positions so far; None without a cache.
        hidden_states, attentions: Those of every layer, where they are asked for.
        text_loss, image_loss: The parts of the loss before weighting.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    text_loss: Tensor | None = None
    image_loss: Tensor | None = None


class OrthusGenerationMixin(GenerationMixin, _Model):
    """What transformers' tools call of an Orthus."""

    output_modalities = ("text", "image")
    # A batch has a number of text targets and another one of patches, so that its loss cannot be
    # divided by the one number that transformers' Trainer counts.
    accepts_loss_kwargs = False

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        features: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        noise_seeds: Tensor | None = None,
        lambda_image: float = 100.0,
        **kwargs: Any,
    ) -> OrthusCausalLMOutput:
        """Logits of the next text token, and the joint loss where labels are given.

        Args:
            input_ids: Token ids [B, S], with `<image>` in the slot of each patch.
            pixel_values: Pixels [M, 3, H, W] as the processor makes them; encoded without gradient.
            attention_mask: Mask [B, past + S] that is 0 at padding, left or right.
            position_ids: Positions [B, S]; by default the mask is counted.
            past_key_values: Cache, filled in place.
            inputs_embeds: Input embeddings [B, S, D] in place of ids.
            labels: Ids [B, S] to predict, each from the position before it, -100 where there is
                nothing to predict. At the slot of a patch, any other value than -100 makes the
                patch a target of the diffusion head.
            features: Features [M, P, C] in place of pixels, such as stored ones.
            use_cache: Whether to return a cache; by default the config's choice, and none with
                labels.
            logits_to_keep: Number of last positions to return logits of, or their indices; 0 is
                all.
            noise_seeds: Seed of the noise of each image, int64 [M]; drawn from torch's global
                generator by default.
            lambda_image: Weight of the image loss; 100 in the paper.
            kwargs: As for the backbone, such as `output_hidden_states`.

        Raises:
            PromptError: When the numbers of slots and of features differ.
            ArgumentError: When labels come without ids, or images with embeddings.
        """
        if features is None and pixel_values is not None:
            features = self.encode_pixels(pixel_values)
        if inputs_embeds is None and input_ids is None:
            raise ArgumentError("neither ids nor embeddings are given", where="forward")
        if inputs_embeds is not None and features is not None and labels is None:
            raise ArgumentError(
                "embeddings and images are both given, and embeddings have no slots of images",
                where="forward",
                hint="give input_ids, or inputs_embeds = model.embed(input_ids, features)",
            )
        output = self.run_backbone(
            input_ids,
            features,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=False if use_cache is None and labels is not None else use_cache,
            **kwargs,
        )
        hidden_BSD, last = output.hidden_BSD, logits_to_keep
        kept = last if isinstance(last, Tensor) else slice(-last, None)
        logits = self.lm_head(hidden_BSD[:, kept])
        # The least number in place of -inf, with which entropies would be NaN (as in Chameleon).
        never, least = self._never_text(logits.device), torch.finfo(logits.dtype).min
        losses = {}
        if labels is not None:
            if input_ids is None:
                raise ArgumentError(
                    "labels need the ids that they belong to",
                    where="forward",
                    hint="give input_ids, from which the slots of patches are known",
                )
            of_labels = imported("orthus_core.losses.labelled.labelled_losses")
            losses = of_labels(
                self,
                hidden_BSD,
                input_ids,
                labels,
                features,
                attention_mask=attention_mask,
                noise_seeds=noise_seeds,
                lambda_image=lambda_image,
            )
        return OrthusCausalLMOutput(
            logits=logits.index_fill(-1, never, least),
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            **losses,
        )

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Features of a processor's pixels [..., 3, H, W], on any device and in any precision: fp32
        [M, P, C]. A collator may have stacked the images of each row.
        """
        pixels_M3HW = pixels.reshape(-1, *pixels.shape[-3:])
        encoder = next(self.model.vqmodel.parameters())
        return self.encode_images(pixels_M3HW.to(encoder.device, encoder.dtype)).float()

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        generation_mode: str = "text",
        **kwargs: Any,
    ) -> Any:
        """Continues token ids with text, with an image, or with both.

        Args:
            inputs, input_ids: Token ids [B, S] of the prompts, by either name.
            generation_config: How text is chosen in mode "text"; the model's own by default.
            pixel_values, features: The prompts' images, as for `forward`.
            generation_mode: "text" is transformers' own loop; "image" draws one image;
                "interleaved" writes and draws as the model chooses.
            kwargs: For text, all that transformers' `generate` takes. Otherwise
                `guidance_scale`, `num_inference_steps`, `negative_prompt_ids`,
                `num_return_sequences`, `seed`, and for the text of "interleaved" `max_new_tokens`,
                `max_images`, `do_sample`, `temperature`, `top_k`, `top_p`: see
                `samplers.token_prompts.generate_images`.

        Returns: For text, ids [B, S] as transformers returns them; otherwise a `GeneratedImages`
            with the ids, features and pixels.

        Raises:
            ArgumentError: For another mode, or an unknown argument of "image" and "interleaved".
            PromptError: When a prompt does not fit the context.
        """
        ids_BS = inputs if input_ids is None else input_ids
        if features is None and pixel_values is not None:
            features = self.encode_pixels(pixel_values)
        if generation_mode != "text":
            if generation_config is not None:
                raise ArgumentError(
                    f"generation_config says how text is chosen, and generation_mode is "
                    f"{generation_mode!r}",
                    where="the argument generation_config",
                    hint="give max_new_tokens, do_sample, temperature, top_k and top_p themselves",
                )
            draw = imported("orthus_core.samplers.token_prompts.generate_images")
            return draw(self, ids_BS, features, mode=generation_mode, **kwargs)
        if features is not None and ids_BS is not None:
            mask_BS = kwargs.get("attention_mask")
            if mask_BS is not None and len(mask_BS) > 1 and not bool(mask_BS[:, -1].all()):
                # transformers looks for it among ids alone.
                log.warning(
                    "Prompts are padded on the right, and text is written after the padding: "
                    'set processor.tokenizer.padding_side = "left".'
                )
            # Embedded here, so that beams and several sequences of a prompt each get its images.
            kwargs["inputs_embeds"] = self.embed(ids_BS.to(self.device), features)
        if ids_BS is not None:
            kwargs["input_ids"] = ids_BS
        if self.generation_config.suppress_tokens is None:
            self.write_text_as_ours()  # opened from a folder without generation_config.json
        if generation_config is None and ids_BS is not None:
            self._limit(ids_BS.shape[1], kwargs)
        writes = super().generate  # type: ignore[attr-defined]
        return writes(generation_config=generation_config, **kwargs)

    def _limit(self, length: int, kwargs: dict[str, Any]) -> None:
        """Sets the number of new tokens where it is not given: as many as the context holds, and no
        more than the model's default, which a given `max_length` replaces.
        """
        if kwargs.get("max_length") is not None:
            kwargs.setdefault("max_new_tokens", None)
        room = self.config.max_position_embeddings - length
        if "max_new_tokens" not in kwargs and room > 0:
            usual = self.generation_config.max_new_tokens
            kwargs["max_new_tokens"] = room if usual is None else min(usual, room)

    def write_text_as_ours(self) -> None:
        """Has transformers' loop write as ours does (see `text_generation`)."""
        self.generation_config.update(**text_generation(self.config))

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As transformers', and the files by which `trust_remote_code` and a hub know the model."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            imported("orthus_core.checkpoint.hub_files.add_hub_files")(Path(save_directory))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the model with a card: see `checkpoint.publish.push_model`."""
        return imported("orthus_core.checkpoint.publish.push_model")(self, None, repo_id, **kwargs)


def text_generation(config: InterleavedConfig) -> dict[str, Any]:
    """Values of transformers' `GenerationConfig` with which its loop writes as ours does: the
    likeliest words, no image, until SEP or [EOS].
    """
    never = (config.bos_token_id, config.pad_token_id, config.boi_token_id, config.eoi_token_id)
    return {
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": [token for token in config.end_token_ids if token is not None],
        "suppress_tokens": [token for token in never if token is not None],
        "max_new_tokens": TextSampling().max_new_tokens,
        "do_sample": False,
    }


def register_auto_classes(config: type[OrthusConfig], model: type[OrthusGenerationMixin]) -> None:
    """Have transformers' Auto classes open folders of this configuration as this model."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(config, model, exist_ok=True)
