"""Tokenizer and picture processor together, with the chats that an Orthus reads.

    processor = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "image", "url": "cat.png"},
                                         {"type": "text", "text": "what is this?"}]}]
    as_tensors = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(chat, **as_tensors)
    model.generate(**inputs)

It is Chameleon's processor, which ends a text with SEP; a text that ends a turn already, as those
of the chat template do, stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ChameleonProcessor
from transformers.feature_extraction_utils import BatchFeature

# diffusers looks here for the base of a pipeline's processor.
from transformers.processing_utils import ProcessorMixin  # noqa: F401

from orthus_core.checkpoint.hub_files import PROCESSOR_MAP, TEMPLATE, add_processor_files
from orthus_core.data.pixels import to_image
from orthus_core.errors import ArgumentError
from orthus_core.model.config import IMAGE_TOKEN, OrthusConfig


class OrthusProcessor(ChameleonProcessor):
    """Texts and pictures to token ids and pixels; results back to texts and pictures."""

    # transformers reads from this signature what a processor consists of.
    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        image_seq_length: int = 1024,
        image_token: str = IMAGE_TOKEN,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, image_seq_length, image_token)
        self.chat_template = chat_template or TEMPLATE
        self.auto_map = PROCESSOR_MAP

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Token ids and pixels of a batch.

        Args:
            images: Pictures in the order of the `<image>` marks in the texts.
            text: One text or several.
            kwargs: As for `ChameleonProcessor`, such as `return_tensors="pt"` and `padding=True`.

        Returns: `input_ids`, `attention_mask` and, with pictures, `pixel_values`.

        Raises: ArgumentError when the texts are none.
        """
        if text is not None:
            tokenizer = self.tokenizer
            bos, sep = tokenizer.bos_token, tokenizer.sep_token
            ended = (sep, tokenizer.eos_token)
            texts = [text] if isinstance(text, str) else text
            if not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
                raise ArgumentError(
                    f"text must be a string or a list of strings, not {text!r:.80}",
                    where="the argument text",
                    hint='pictures are the first argument: processor(images=..., text="...")',
                )
            if not kwargs.pop("return_for_text_completion", False):
                # One that begins with [BOS] is a template's, which may leave its last turn open.
                texts = [t if t.startswith(bos) or t.endswith(ended) else t + sep for t in texts]
            # The tokenizer puts [BOS] first, which a chat template has written already.
            if kwargs.get("add_special_tokens", True):
                texts = [each.removeprefix(bos) for each in texts]
            text = texts
        return super().__call__(images=images, text=text, return_for_text_completion=True, **kwargs)

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """What `generate` returned, as texts or PIL images.

        Args:
            generated_outputs: Ids [B, S], pixels [M, 3, H, W] in [-1, 1], or a `GeneratedImages`.
            skip_special_tokens: Whether texts go without special tokens.
            generation_mode: "text" (default) or "image".
            kwargs: For the tokenizer's `decode`.

        Raises: ArgumentError for another mode.
        """
        if generation_mode == "image":
            pixels = getattr(generated_outputs, "pixel_values", generated_outputs)
            # An interleaved sequence may hold text alone.
            return [] if pixels is None else [to_image(pixels_3HW) for pixels_3HW in pixels]
        if generation_mode not in (None, "text"):
            raise ArgumentError(
                f"there is no {generation_mode!r}",
                where="the argument generation_mode",
                hint='give "text" or "image"',
            )
        ids = getattr(generated_outputs, "sequences", generated_outputs)
        return self.post_process_image_text_to_text(ids, skip_special_tokens, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As transformers', and the files by which `trust_remote_code` knows this class."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        add_processor_files(Path(save_directory))
        return saved

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoProcessor") -> None:
        """Nothing: transformers, where code is trusted, would copy this file into saved folders."""


AutoProcessor.register(OrthusConfig, OrthusProcessor, exist_ok=True)
