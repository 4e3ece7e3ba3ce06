"""Low-rank adapters as peft saves them, added to the weights that a model is opened with.

An adapter of a matrix W [O, I] is two small matrices: W becomes W + scale * alpha / rank * B A
(2106.09685). Parts that were trained whole lie beside the adapters. The sum is computed in fp32 and
rounded to the precision that the model is stored in, so that a model with adapters is to the bit
the one that `orthus merge` writes, and draws as fast as one without. Nothing here needs peft.

Legend: O outputs and I inputs of a layer, R rank.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.checkpoint.headers import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    check_path,
    listed,
    read_folder,
    read_metadata,
)
from orthus_core.checkpoint.layout import read_json
from orthus_core.checkpoint.lazy import (
    LazyTensor,
    finite,
    safetensors_file,
    safetensors_folder,
)
from orthus_core.errors import CheckpointError
from orthus_core.model.config import OrthusConfig
from orthus_core.shell_words import shell_quoted
from orthus_core.user_files import user_path

PREFIX = "base_model.model."
"""Of each tensor's name in peft's files."""
A, B = ".lora_A.weight", ".lora_B.weight"
BASE, BASE_NAME, SAMPLING = "orthus.base", "orthus.base_name", "orthus.sampling"
"""Entries of the weights' metadata: the base's fingerprint and name, and sampling defaults."""
GUIDANCE = "orthus.distilled_guidance"
"""Entry of adapters that hold guidance (`orthus distill guidance`)."""

# Settings of peft that change what the matrices mean, and their values that are read here.
_PLAIN = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "alpha_pattern": ({}, None),
    "trainable_token_indices": (None,),
    "target_parameters": ([], None),
}
_TRAIN_AGAIN = "train them again, or copy the whole folder again"


class Adapters(NamedTuple):
    """The adapters in a folder, and how strongly they are added.

    Attributes:
        path: Folder, as the user named it.
        scale: Factor that they are multiplied by; 1 is as trained.
        hash: A SHA-256 over their files.
        tensors: Weights by peft's names without `PREFIX`.
        alpha: Numerator of the factor alpha / rank; of alpha / sqrt(rank) if `by_root`.
        base, base_name: Fingerprint and name of the model that they were trained on; empty where
            another program saved them.
        sampling: Sampling defaults that they bring.
        distilled_guidance: Guidance that they hold; None for adapters that hold none.
    """

    path: str
    scale: float
    hash: str
    tensors: Mapping[str, LazyTensor]
    alpha: float
    by_root: bool
    base: str
    base_name: str
    sampling: Mapping[str, Any]
    distilled_guidance: float | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What results record of them."""
        name = user_path(self.path).absolute().name
        return {"name": name, "path": self.path, "scale": self.scale, "hash": self.hash}

    def touched(self) -> set[str]:
        """Names of the model's weights that they change."""
        ends = (A, B)
        return {
            name[: -len(A)] + ".weight" if name.endswith(ends) else name for name in self.tensors
        }

    def added_to(self, weight: Tensor, name: str, before: Tensor) -> Tensor:
        """The weight with these adapters, in fp32.

        Args:
            weight: Sum so far, in fp32.
            name: Name of the weight.
            before: The weight without any adapters, in fp32.
        """
        layer = name.removesuffix(".weight")
        if whole := self.tensors.get(name):
            trained = whole.read().to(weight)
            if weight is before:
                return torch.lerp(before, trained, self.scale)  # exact at scales 0 and 1
            return weight + self.scale * (trained - before)
        if layer + A not in self.tensors:
            return weight
        a_RI = self.tensors[layer + A].read().to(weight)
        b_OR = self.tensors[layer + B].read().to(weight)
        rank = math.sqrt(len(a_RI)) if self.by_root else len(a_RI)
        return weight + (b_OR @ a_RI) * (self.scale * self.alpha / rank)


def path_and_scale(typed: str) -> tuple[str, float]:
    """Folder and scale of PATH[:SCALE].

    Raises:
        CheckpointError: When the scale is no finite number.
    """
    path, colon, scale = typed.rpartition(":")
    if not colon or user_path(typed).exists():
        return typed, 1.0
    try:
        number = float(scale)
    except ValueError:
        if not user_path(path).exists():
            return typed, 1.0  # the colon belongs to a path that is not there
        number = math.nan
    if not math.isfinite(number):
        raise CheckpointError(
            f"the scale of adapters must be a number, not {scale!r}",
            where=f"lora {typed}",
            hint=f"write PATH:SCALE, such as {path}:0.8; without a scale it is 1",
        )
    return path, number


def read_adapters(typed: Iterable[str | Path], base: Path, name: str) -> list[Adapters]:
    """The adapters that are named, checked against the model that they are to be added to.

    Args:
        typed: Each PATH or PATH:SCALE.
        base: Folder of that model.
        name: Its name.

    Raises:
        CheckpointError: When a folder is missing or broken, or of another model, or a scale is no
            number.
    """
    places = [path_and_scale(str(each)) for each in typed]
    found = [_read(path, scale) for path, scale in places]
    own = fingerprint(base) if found else ""
    shapes = {name: header.shape for name, header in read_folder(base).items()} if found else {}
    for each in found:
        if each.base and each.base != own:
            raise CheckpointError(
                f"these adapters are of another model than {name} (hash {own[:10]}): they were "
                f"trained on {each.base_name or 'one'} with the hash {each.base[:10]}",
                where=each.path,
                hint="draw with the model that they were trained on (-m), or train adapters of "
                "this one",
            )
        _check_shapes(each, shapes, name)
        if each.distilled_guidance is not None and each.scale != 1:
            raise CheckpointError(
                f"these adapters hold guidance {each.distilled_guidance:g}, which is learnt whole, "
                f"and are added at {each.scale:g}",
                where=each.path,
                hint=f"leave the scale out: --lora {shell_quoted([each.path])}",
            )
    return found


def _read(path: str, scale: float) -> Adapters:
    folder = user_path(path)
    if folder.name == ADAPTER_WEIGHTS and not folder.is_dir():
        folder, path = folder.parent, str(Path(path).parent)
    check_path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            "there is no such folder of adapters",
            where=path,
            hint="give the folder that `orthus posttrain` wrote with lora.rank, and a scale after "
            "a colon if any",
        )
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            whole = (folder / CONFIG).is_file()
            raise CheckpointError(
                f"this folder holds a model, and no adapters: there is no {file}"
                if whole
                else f"this folder holds no adapters: there is no {file}",
                where=path,
                hint=f"draw with it: -m {shell_quoted([path])}" if whole else _TRAIN_AGAIN,
            )
    table, weights = read_json(folder / ADAPTER_CONFIG), folder / ADAPTER_WEIGHTS
    tensors = safetensors_file(weights)
    foreign = [name for name in tensors if not name.startswith(PREFIX)]
    unread = [name for name, plain in _PLAIN.items() if table.get(name) not in plain]
    if table.get("peft_type") != "LORA" or unread or foreign:
        what = unread[0] if unread else foreign[0] if foreign else f"{table.get('peft_type')}"
        raise CheckpointError(
            f"these are adapters of a kind that is not read here: {what}",
            where=str(folder / ADAPTER_CONFIG),
            hint="plain LoRA of peft is read; others can be merged into the model with peft",
        )
    try:
        alpha, by_root = float(table["lora_alpha"]), bool(table.get("use_rslora"))
        metadata = read_metadata(weights)
        sampling = json.loads(metadata.get(SAMPLING, "{}"))
        guidance = float(metadata[GUIDANCE]) if GUIDANCE in metadata else None
        if guidance is not None and not 0 <= guidance < math.inf:
            raise ValueError(f"{GUIDANCE} is {guidance}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the lora_alpha or the metadata of these adapters cannot be used: {error}",
            where=str(folder),
            hint=_TRAIN_AGAIN,
        ) from error
    digest = hashlib.sha256(f"{alpha} {by_root}".encode())
    with weights.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return Adapters(
        path,
        scale,
        digest.hexdigest(),
        {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()},
        alpha,
        by_root,
        metadata.get(BASE, ""),
        metadata.get(BASE_NAME, ""),
        sampling if isinstance(sampling, dict) else {},
        guidance,
    )


def _check_shapes(adapters: Adapters, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises: CheckpointError when a tensor has no place in the model, or another shape."""
    wrong = []
    for tensor, lazy in adapters.tensors.items():
        wanted, layer = shapes.get(tensor), tensor.removesuffix(A).removesuffix(B)
        target = shapes.get(layer + ".weight")
        if tensor.endswith((A, B)) and target is not None and len(target) == len(lazy.shape) == 2:
            ranks = [adapters.tensors[layer + end].shape for end in (A, B) if _has(adapters, layer)]
            if ranks and ranks[0][0] == ranks[1][-1] > 0:
                inputs, outputs = ranks[0][-1], ranks[1][0]
                wanted = lazy.shape if (outputs, inputs) == target else None
        if wanted != lazy.shape:
            wrong.append(f"{tensor} {list(lazy.shape)}")
    if wrong or not adapters.tensors:
        raise CheckpointError(
            f"{len(wrong)} of these adapters do not fit {name}: {listed(wrong)}"
            if wrong
            else "there is no adapter in this file",
            where=adapters.path,
            hint="draw with the model that they were trained on (-m)",
        )


def _has(adapters: Adapters, layer: str) -> bool:
    return all(
        layer + end in adapters.tensors and len(adapters.tensors[layer + end].shape) == 2
        for end in (A, B)
    )


def with_adapters(
    weight: Tensor, name: str, adapters: Sequence[Adapters], dtype: torch.dtype
) -> Tensor:
    """A weight of the model with adapters: summed in fp32, then rounded to `dtype`.

    Raises:
        CheckpointError: When a value is too large for that precision.
    """
    before = weight.float()
    total = before
    for each in adapters:
        total = each.added_to(total, name, before)
    return finite(total.to(dtype), name, ", ".join(each.path for each in adapters))


@torch.no_grad()
def add_adapters(
    module: nn.Module, folder: Path, adapters: Sequence[Adapters], prefix: str = ""
) -> None:
    """Add adapters to the weights of an opened model, or of one of its modules.

    Args:
        module: Model or module; weights that are still in their files are left out.
        folder: Folder that the model was opened from.
        adapters: Adapters to add, from `read_adapters`.
        prefix: Name of the module in the model, with a dot after it.
    """
    touched = {name for each in adapters for name in each.touched()}
    stored = safetensors_folder(folder)
    for local, weight in module.named_parameters():
        name = prefix + local
        if name not in touched or weight.is_meta:
            continue
        precision = stored[name].dtype
        # Where the model was opened in less than it is stored in, the sum begins with the file's.
        whole = weight.dtype in (precision, torch.float32)
        before = weight.detach() if whole else stored[name].read().to(weight.device)
        weight.data = with_adapters(before, name, adapters, precision).to(weight)


def bring_settings(config: OrthusConfig, adapters: Sequence[Adapters]) -> None:
    """Set what adapters bring beside weights in the configuration of their model: sampling
    defaults, and the guidance that they hold.
    """
    for each in adapters:
        config.sampling = {**(config.sampling or {}), **each.sampling}
        if each.distilled_guidance is not None:
            config.distilled_guidance = each.distilled_guidance


def merged(folder: Path, adapters: Sequence[Adapters]) -> dict[str, LazyTensor]:
    """The tensors of a model with adapters, each in the precision that it is stored in."""
    touched = {name for each in adapters for name in each.touched()}

    def sum_of(name: str, tensor: LazyTensor) -> LazyTensor:
        if name not in touched:
            return tensor
        return tensor._replace(
            read=lambda: with_adapters(tensor.read(), name, adapters, tensor.dtype)
        )

    return {name: sum_of(name, tensor) for name, tensor in safetensors_folder(folder).items()}


def hash_with(base: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The hash of a model of this fingerprint with adapters, from their `record`s."""
    parts = [base, *(f"{each['hash']} {each['scale']!r}" for each in records)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
