"""Makes this folder's files from the full golden set: only what the tests read, in under 10 MB.

    python tests/golden/shrink.py GOLDEN_FOLDER

What is left out, and why nothing is lost by it:
- Logits of the 8192 image codes: text never picks one, `text_logits` puts them at -inf.
- Rows of `lm_head` for those codes: set to zero.
- Rows of the quantiser's codebook that are near none of the goldens' features: moved far away.
- bf16 weights are split into their high and low bytes and deflated: the high bytes repeat.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
# Token ids of image codes in the golden vocabulary (REFERENCE: code j is token 4 + j).
CODE_TOKENS = slice(4, 4 + 8192)
# The nearest code and its rivals: enough that picking the right one means something.
CODES_KEPT_A_FEATURE = 32
FAR_AWAY = 64.0


def without_code_columns(logits: Tensor) -> Tensor:
    """Logits of text tokens alone, in vocabulary order."""
    return torch.cat([logits[..., : CODE_TOKENS.start], logits[..., CODE_TOKENS.stop :]], dim=-1)


def shrink_tensors(source: Path, target: Path) -> None:
    tensors = load_file(source)
    small = {
        name: without_code_columns(tensor) if "logits" in name else tensor
        for name, tensor in tensors.items()
    }
    save_file({name: tensor.contiguous() for name, tensor in small.items()}, target)


def shrink_weights(source: Path, features_NC: Tensor, target: Path) -> None:
    weights = load_file(source)
    weights["lm_head.weight"][CODE_TOKENS] = 0
    codes_KC = weights["model.vqmodel.quantize.embedding.weight"]
    near = torch.cdist(features_NC, codes_KC.float()).topk(CODES_KEPT_A_FEATURE, largest=False)
    far = torch.ones(len(codes_KC), dtype=torch.bool)
    far[near.indices.flatten()] = False
    codes_KC[far] = FAR_AWAY
    planes: dict[str, np.ndarray] = {}
    for name, tensor in weights.items():
        assert tensor.dtype == torch.bfloat16, name
        bytes_N2 = tensor.contiguous().view(torch.uint8).numpy().reshape(*tensor.shape, 2)
        planes[f"{name}.low"], planes[f"{name}.high"] = bytes_N2[..., 0], bytes_N2[..., 1]
    with open(target, "wb") as file:
        np.savez_compressed(file, **planes)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The bf16 weights that `shrink_weights` wrote."""
    weights: dict[str, Tensor] = {}
    with np.load(path) as planes:
        for low_name in planes.files:
            if low_name.endswith(".low"):
                name = low_name.removesuffix(".low")
                bytes_N2 = np.stack([planes[low_name], planes[f"{name}.high"]], axis=-1)
                weights[name] = torch.from_numpy(bytes_N2).view(torch.bfloat16).squeeze(-1)
    return weights


def main(source: Path) -> None:
    features = load_file(source / "golden.safetensors")["a.image_latents_bhwc"]
    for name in ("golden.safetensors", "golden_exact.safetensors", "preproc.safetensors"):
        shrink_tensors(source / name, HERE / name)
    shrink_weights(source / "model.safetensors", features.flatten(0, 2), HERE / "model.npz")
    for name in ("config.json", "golden.json"):
        text = json.loads((source / name).read_text())
        (HERE / name).write_text(json.dumps(text, separators=(",", ":")) + "\n")
    for path in HERE.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner may read


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
