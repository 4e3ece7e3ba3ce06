"""The files from which ChameleonProcessor opens a tokenizer and a picture processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orthus_core.data.pixels import RESCALE
from orthus_core.model.config import IMAGE_TOKEN, SEP_TOKEN, OrthusConfig


def tokenizer_files(tokenizer: Mapping[str, Any], context: int) -> dict[str, str]:
    """A tokenizer table (as `tokenizers` saves it) with the special tokens that Chameleon uses.

    Args:
        tokenizer: The table.
        context: Longest text, in tokens.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "sep_token": SEP_TOKEN,
        "model_max_length": context,
    }
    return {"tokenizer.json": _text(tokenizer), "tokenizer_config.json": _text(settings)}


def picture_files(config: OrthusConfig) -> dict[str, str]:
    """Lanczos to the shortest edge, centre crop, x * 0.0078 - 1, as facebook/chameleon-7b."""
    side = config.vq_config.resolution
    pictures = {
        "image_processor_type": "ChameleonImageProcessor",
        "processor_class": "ChameleonProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 1,  # Lanczos
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": RESCALE,
        "do_normalize": True,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    together = {
        "processor_class": "ChameleonProcessor",
        "image_seq_length": config.patches,
        "image_token": IMAGE_TOKEN,
    }
    return {"preprocessor_config.json": _text(pictures), "processor_config.json": _text(together)}


def _text(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"
