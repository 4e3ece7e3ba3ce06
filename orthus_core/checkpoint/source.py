"""A checkpoint to convert, in any layout: configuration, tensors by our names, and other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orthus_core.checkpoint import parameter_names
from orthus_core.checkpoint.configuration import has_decoder
from orthus_core.checkpoint.lazy import LazyTensor, safetensors_file
from orthus_core.errors import CheckpointError

# Rows of an LM head converted to fp32 at once: the whole head of a 7B would take 1 GB.
_HEAD_ROWS = 8192


class LayerwiseModel(NamedTuple):
    """A transformer that reads its weights one layer at a time, in fp32; verification runs it.

    Attributes:
        embed: Token ids [S] to input embeddings [S, D].
        layer: Layer number and hidden states [S, D] to the next hidden states.
        finish: Hidden states to the last norm's output [S, D].
        logits: That output to logits [S, V].
    """

    embed: Callable[[Tensor], Tensor]
    layer: Callable[[int, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]


def project(hidden_SD: Tensor, head_VD: Tensor) -> Tensor:
    """Logits [S, V] in fp32 of a head in any precision, without a full fp32 copy of the head."""
    parts = head_VD.split(_HEAD_ROWS)
    return torch.cat([hidden_SD @ part.float().T for part in parts], -1)


@dataclass(frozen=True)
class Source:
    """The result of a layout's `open_folder`.

    Attributes:
        path: The folder.
        layout: Display name of the layout.
        config: Fields of transformers' ChameleonConfig, or of our configuration.
        tensors: Tensors by our names, including those that Orthus does not use.
        keep: Files that are copied unchanged: tokenizer, processor, licence.
        texts: Contents of files to write, by name.
        stack: Builds the source's own layerwise model, with its weights rounded to the given
            precision (None leaves them unchanged).
    """

    path: Path
    layout: str
    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    keep: tuple[Path, ...]
    texts: dict[str, str]
    stack: Callable[[torch.dtype | None], LayerwiseModel]

    @property
    def is_orthus(self) -> bool:
        """Whether the source is already an Orthus, whose head and input codes are kept."""
        return any(name.startswith(parameter_names.IMAGE_HEAD) for name in self.tensors)

    @property
    def has_decoder(self) -> bool:
        return has_decoder(self.tensors)


def vqgan_tensors(file: Path) -> dict[str, LazyTensor]:
    """The autoencoder of a VQGAN checkpoint, pickled or safetensors, by our names.

    Raises:
        CheckpointError: When the file is missing, unsafe, or holds no such autoencoder.
    """
    from orthus_core.checkpoint.pickled import pickled_file

    if not file.is_file():
        raise CheckpointError(
            "there is no such file", where=str(file), hint="give the path of a vqgan.ckpt"
        )
    read = safetensors_file if file.suffix == ".safetensors" else pickled_file
    found = {parameter_names.from_vqgan(name): tensor for name, tensor in read(file).items()}
    tensors = {name: tensor for name, tensor in found.items() if name is not None}
    if parameter_names.VQ_CODEBOOK not in tensors:
        raise CheckpointError(
            "this file holds no VQGAN: it has no quantize.embedding",
            where=str(file),
            hint="give the vqgan.ckpt that comes with Chameleon (its folder `tokenizer/`)",
        )
    return tensors
