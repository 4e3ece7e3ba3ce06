"""CLIP from a local folder, for captions and pictures in one space; nothing is downloaded.

Legend: M pictures or captions, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from orthus_core.data.pixels import open_image
from orthus_core.errors import OrthusError
from orthus_core.evaluation.picture_folders import unit_pixels

# The values of CLIP's own preprocessing (2103.00020), where the folder has no others.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
NEEDED = ("config.json", "model.safetensors")
VIT_L14 = "openai/clip-vit-large-patch14"


class ClipEncoder:
    """A CLIP model with its tokenizer and preprocessing.

    Attributes:
        name: Name of the folder.
        size: Side of its pictures in pixels.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any, device: str = "cpu") -> None:
        self.name = folder.name
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.device = device
        self.size: int = model.config.vision_config.image_size
        settings = folder / "preprocessor_config.json"
        stored = json.loads(settings.read_text()) if settings.is_file() else {}
        mean, std = stored.get("image_mean", MEAN), stored.get("image_std", STD)
        self.mean_311, self.std_311 = (torch.tensor(each).view(3, 1, 1) for each in (mean, std))

    @torch.no_grad()
    def pictures(self, paths: Sequence[Path]) -> Tensor:
        """Features of pictures, scaled by their shorter side and cut around the middle: [M, D]."""
        return self.images([open_image(path) for path in paths])

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of open RGB pictures, as `pictures`: [M, D]."""
        return self._pixels(unit_pixels([_middle(each, self.size) for each in images]))

    @torch.no_grad()
    def stretched_pictures(self, sources: Sequence[Path | bytes]) -> Tensor:
        """Features of pictures that are resized without keeping their shape and without
        antialiasing, as the official program of InstructPix2Pix does: [M, D].
        """
        resized = [
            F.interpolate(
                unit_pixels([open_image(source)]),
                size=(self.size, self.size),
                mode="bicubic",
                align_corners=False,
            )
            for source in sources
        ]
        return self._pixels(torch.cat(resized))

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, cut to what the model reads: [M, D]."""
        length = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            [*texts], padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        ids, mask = (words[name].to(self.device) for name in ("input_ids", "attention_mask"))
        return _features(self.model.get_text_features(input_ids=ids, attention_mask=mask)).cpu()

    def _pixels(self, pixels_M3HW: Tensor) -> Tensor:
        inputs_M3HW = ((pixels_M3HW - self.mean_311) / self.std_311).to(self.device)
        return _features(self.model.get_image_features(pixel_values=inputs_M3HW)).cpu()


def open_clip_folder(folder: Path | None, what: str = VIT_L14, device: str = "cpu") -> ClipEncoder:
    """Opens CLIP as transformers saves it.

    Args:
        folder: Folder with the model and its tokenizer; None when none was named.
        what: Which model it has to be, for the error.
        device: Where it runs.

    Raises:
        OrthusError: When files are missing or are of another model; the message names them.
    """
    hint = (
        f"download {what} (hub): config.json, model.safetensors, tokenizer.json and "
        "preprocessor_config.json, and give their folder with --clip"
    )
    if folder is None:
        raise OrthusError("the weights of CLIP are needed", hint=hint)
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        lacking.append("tokenizer.json")
    if lacking:
        raise OrthusError(f"CLIP lacks {', '.join(lacking)}", where=str(folder), hint=hint)
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises anything on files of another model
        raise OrthusError(f"no model of CLIP: {error}", where=str(folder), hint=hint) from error
    return ClipEncoder(folder, model, tokenizer, device)


def cosines(a_MD: Tensor, b_MD: Tensor) -> list[float]:
    """Cosine of each row of one with that of the other."""
    return F.cosine_similarity(a_MD.double(), b_MD.double()).tolist()


def _middle(picture: Image.Image, size: int) -> Image.Image:
    width, height = (size * side // min(picture.size) for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def _features(output: Any) -> Tensor:
    # transformers 5 returns an object, 4 a tensor.
    return getattr(output, "pooler_output", output)
