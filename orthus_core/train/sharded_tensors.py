"""Tensors whose rows lie on several devices (torch's DTensor), and plain ones alike."""

from __future__ import annotations

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose parts lie on several devices as one, on each of them; others as they are. All
    processes call this together.
    """
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, which shares its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor's parts lie on several devices."""
    return hasattr(tensor, "full_tensor")


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of `like`, which is sharded by rows."""
    if not is_sharded(like):
        return tensor
    for dim, placement in enumerate(like.placements):  # type: ignore[attr-defined]
        if placement.is_shard():
            mesh = like.device_mesh  # type: ignore[attr-defined]
            parts = tensor.chunk(mesh.size(dim), placement.dim)
            own = mesh.get_local_rank(dim)
            # torch.chunk makes fewer parts than asked for of a few rows.
            tensor = parts[own] if own < len(parts) else tensor[:0]
    return tensor


def like(part: Tensor, sharded: Tensor) -> Tensor:
    """This process's part of a tensor that is sharded as another one is, as that tensor."""
    if not is_sharded(sharded):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        sharded.device_mesh,  # type: ignore[attr-defined]
        sharded.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=sharded.shape,
        stride=sharded.stride(),
    )
