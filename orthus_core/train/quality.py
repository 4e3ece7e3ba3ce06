"""What `finetune-vae` did to the decoder, told and kept: both paths, before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orthus_core.evaluation.reconstruction import BYTE_RANGE, Likeness, Reconstruction
from orthus_core.events import Note

QUALITY = "quality.json"


def told(quality: Reconstruction, when: str) -> Iterator[Note]:
    """One line about both paths."""
    yield Note(f"held-out pictures, {when}: {in_words(quality)}")


def in_words(quality: Reconstruction) -> str:
    """Such as `21.30 dB, SSIM 0.710 from codes; 28.10 dB, SSIM 0.930 from features`."""

    def words(likeness: Likeness) -> str:
        return f"{likeness.psnr:.2f} dB, SSIM {likeness.ssim:.3f}"

    return f"{words(quality.codes)} from codes; {words(quality.features)} from features"


def report(before: Reconstruction, after: Reconstruction, pictures: int) -> str:
    """The content of quality.json."""
    table: dict[str, Any] = {
        "what": "means over held-out pictures: PSNR in dB, SSIM by Wang et al. (2004)",
        "pictures": pictures,
        "data_range": BYTE_RANGE,
    }
    for when, quality in (("before", before), ("after", after)):
        table[when] = {path: value._asdict() for path, value in quality._asdict().items()}
    return json.dumps(table, indent=2) + "\n"
