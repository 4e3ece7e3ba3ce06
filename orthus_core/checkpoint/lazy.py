"""Tensors with known shape and dtype that are read on demand, so that no step holds a whole model
in memory.

A checkpoint is a dictionary of them: a layout renames, joins and rearranges entries, the writer
reads one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from orthus_core.checkpoint.headers import TensorHeader, not_finite, read_folder, read_header
from orthus_core.errors import CheckpointError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class LazyTensor(NamedTuple):
    """A tensor that has not been read yet.

    Attributes:
        shape, dtype: Shape and dtype of the tensor that `read` returns.
        read: Returns the tensor, whose memory the caller owns.
        source: File that holds the tensor, for error messages.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    source: str

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


def in_memory(tensor: Tensor, source: str) -> LazyTensor:
    """Wrap a tensor that is already in memory."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor, source)


def safetensors_file(file: Path) -> dict[str, LazyTensor]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: As for `read_header`.
    """
    return {name: _in_file(name, header) for name, header in read_header(file).items()}


def safetensors_folder(folder: Path) -> dict[str, LazyTensor]:
    """The tensors of a folder of safetensors.

    Raises:
        CheckpointError: As for `read_folder`.
    """
    return {name: _in_file(name, header) for name, header in read_folder(folder).items()}


def finite(tensor: Tensor, name: str, source: str) -> Tensor:
    """The tensor, if all of its values are finite numbers.

    Raises:
        CheckpointError: Names the tensor and its file when one is not.
    """
    if is_finite(tensor):
        return tensor
    raise not_finite([name], source)


def is_finite(tensor: Tensor) -> bool:
    """Whether every value is a finite number; takes no memory of the tensor's size for common
    dtypes.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.dtype.itemsize < 2:  # no 8-bit format has a minimum here
        tensor = tensor.float()
    return bool(torch.stack(tensor.aminmax()).float().sum().isfinite())


def _in_file(name: str, header: TensorHeader) -> LazyTensor:
    dtype = TORCH_DTYPES[header.dtype]

    def read() -> Tensor:
        # Plain reads, no memory map: the system counts mapped pages as process memory until
        # memory runs short.
        data = torch.empty(header.bytes, dtype=torch.uint8)
        try:
            with header.file.open("rb", buffering=0) as stream:
                stream.seek(header.start)
                _fill(stream, data.numpy().data)
        except OSError as error:
            raise CheckpointError(
                f"cannot read a weight file: {error.strerror or error}",
                where=str(header.file),
                hint="check the disk, or the connection to it",
            ) from error
        return finite(data.view(dtype).view(header.shape), name, str(header.file))

    return LazyTensor(header.shape, dtype, read, str(header.file))


def _fill(stream, view: memoryview) -> None:
    """Read until the view is full; one system call reads at most 2 GB."""
    while view:
        count = stream.readinto(view)
        assert count, "the header was checked against the file's size"
        view = view[count:]


def cast(tensor: LazyTensor, dtype: torch.dtype, name: str = "a tensor") -> LazyTensor:
    """The same tensor in another precision; integer tensors are unchanged.

    Its `read` raises CheckpointError when a value is too large for that precision.
    """
    if tensor.dtype == dtype or not tensor.dtype.is_floating_point:
        return tensor

    def read() -> Tensor:
        rounded = tensor.read().to(dtype)
        if dtype == torch.float16 and not is_finite(rounded):
            raise CheckpointError(
                f"{name} holds values that are too large for fp16",
                where=tensor.source,
                hint="keep the source's precision, or use bf16 (--set dtype=bf16)",
            )
        return rounded

    return tensor._replace(dtype=dtype, read=read)


def joined(parts: Sequence[LazyTensor], dim: int) -> LazyTensor:
    """Concatenate parts of one tensor along a dimension."""
    first = parts[0]
    if len(parts) == 1:
        return first
    shape = list(first.shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return first._replace(
        shape=tuple(shape), read=lambda: torch.cat([part.read() for part in parts], dim)
    )


def averaged(copies: Sequence[LazyTensor]) -> LazyTensor:
    """The mean of copies of one tensor: the tensor itself when they agree."""
    first = copies[0]
    if len(copies) == 1:
        return first

    def read() -> Tensor:
        return torch.stack([copy.read().float() for copy in copies]).mean(0).to(first.dtype)

    return first._replace(read=read)


def rows(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    """Rows `start` to `stop` of a tensor."""
    return tensor._replace(
        shape=(stop - start, *tensor.shape[1:]), read=lambda: tensor.read()[start:stop]
    )
