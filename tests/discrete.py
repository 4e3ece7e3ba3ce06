"""A small random discrete Chameleon, the counterpart of conftest's tiny Orthus."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import ChameleonProcessor

from orthus_core.checkpoint.model_folder import discrete_config
from orthus_core.model.chameleon import DiscreteChameleon
from tests.conftest import make_tiny_config


def make_tiny_chameleon(seed: int = 0, **changes) -> DiscreteChameleon:
    """Of the tiny Orthus's sizes: 4 patches a picture, 32 codes, context 96."""
    random = torch.Generator().manual_seed(seed)
    model = DiscreteChameleon(discrete_config(make_tiny_config(**changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=random)
        model.lm_head.weight.mul_(4)  # so that some codes are likelier than others
    return model


def write_tiny_chameleon(folder: Path, tiny_folder: Path, **changes) -> Path:
    """It as a folder in Hugging Face's layout, with the tokenizer of the tiny Orthus's folder."""
    processor = ChameleonProcessor.from_pretrained(tiny_folder)
    vocabulary = processor.tokenizer.get_vocab()
    model = make_tiny_chameleon(
        vocab_size=len(vocabulary),
        vocabulary_map=vocabulary,
        max_position_embeddings=256,
        **changes,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
