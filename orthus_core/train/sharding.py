"""How what is trained lies on the devices: whole on the only one, sharded by torch's FSDP2, or
whole on each.

Sharded, each process holds its rows of each parameter, of its gradient and of what the optimiser
knows of it (2304.11277); a layer is gathered when its turn comes. With replicas, groups of
processes hold the whole model, and average their gradients. Parameters change when they are
sharded, so optimisers, averages and hooks are made afterwards, of `Layout.parameters`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonDecoderLayer,
    ChameleonForConditionalGeneration,
    ChameleonSwinDecoderLayer,
)

from orthus_core.device import free_bytes
from orthus_core.errors import TrainingError
from orthus_core.model.diffusion_head import Block
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.model.vision import OrthusVQ
from orthus_core.output_checks import size_text
from orthus_core.recipe import keys
from orthus_core.recipe.training import (
    BuildBaseRecipe,
    DevicesRecipe,
    FinetuneVaeRecipe,
    PosttrainRecipe,
    PretrainRecipe,
)
from orthus_core.train.distributed import all_reduce_sum, anywhere, current_rank, gather_each
from orthus_core.train.freeze import hold_other_rows
from orthus_core.train.sharded_tensors import is_sharded, local, whole

if TYPE_CHECKING:
    from orthus_core.recipe.distill_head import DistillHeadRecipe

Model = TypeVar("Model", bound=InterleavedModel | ChameleonForConditionalGeneration)
Training = PretrainRecipe | FinetuneVaeRecipe | BuildBaseRecipe | PosttrainRecipe
ADAPTERS = "default"
"""peft's name of the adapters in a model."""
LAYERS = (ChameleonDecoderLayer, ChameleonSwinDecoderLayer)
# Keys of a recipe that each process may set in its own way, as machines differ.
OF_EACH = ("data.workers", "data.cache")
# What is marked on parameters for optimisers and hooks, and must survive sharding.
MARKS = ("no_decay", "by_row", "moving_rows_V")
# Memory for drawing, in the model's own size: beside the copy, a layer that is being gathered, and
# keys and values.
ROOM_TO_DRAW = 1.2
# Bytes of gradients that are averaged in one operation.
BUCKET = 64 * 2**20


class Layout:
    """What is trained, whole on the only device.

    Attributes:
        objective: What computes the losses.
        parameters: Its parameters that are trained.
    """

    is_sharded = False

    def __init__(self, objective: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.objective = objective
        self.parameters = list(parameters)
        self._keeping = [
            m for m in objective.modules() if isinstance(m, OrthusForConditionalGeneration)
        ]

    def share_buffers(self) -> None:
        """Before the first batch of a step, and after the last step: all processes have the buffers
        of the first one, such as running means.
        """

    def backward(self, loss: Tensor) -> None:
        """The gradients of one batch of a step, added to those before."""
        loss.backward()

    def average_gradients(self) -> None:
        """After the last batch of a step: each gradient is then the mean over the processes."""

    def clip(self, limit: float) -> Tensor:
        """Shorten the gradient to this norm; returns the norm that it had, on all processes the
        same.
        """
        return whole(torch.nn.utils.clip_grad_norm_(self.parameters, limit))

    def end_step(self) -> None:
        """After the optimisers have moved the parameters."""
        for model in self._keeping:
            model.forget_code_squares()

    def after_evaluation(self) -> None:
        """After passes without a backward pass."""


class Replicas(Layout):
    """What is trained, whole on each of several devices."""

    def share_buffers(self) -> None:
        for buffer in self.objective.buffers():
            torch.distributed.broadcast(buffer, 0)

    def average_gradients(self) -> None:
        own = torch.tensor([p.grad is not None for p in self.parameters]).float()
        users = all_reduce_sum(own)
        moved = [p for p, count in zip(self.parameters, users, strict=True) if count]
        for p in moved:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in buckets([p.grad for p in moved if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            flat /= current_rank().shards
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, mean in zip(bucket, flat.split(sizes), strict=True):
                gradient.copy_(mean.view(gradient.shape))


class Shards(Layout):
    """What is trained, sharded over several devices by FSDP2.

    Args:
        objective: What computes the losses; already sharded.
        parameters: Its parameters that are trained, as they are after that.
        shared: Names of those that are not in a layer, and so may be unused by a batch.
    """

    is_sharded = True

    def __init__(
        self, objective: nn.Module, parameters: Sequence[nn.Parameter], shared: Sequence[str]
    ) -> None:
        super().__init__(objective, parameters)
        self.shared = list(shared)

    def backward(self, loss: Tensor) -> None:
        # The processes reduce the gradients that they have, so they must have the same ones: what
        # only others used, such as the codes of a process without a picture, has a gradient of 0.
        # (What nobody used has none, and an optimiser leaves it alone.)
        shared = [self.objective.get_parameter(name) for name in self.shared]
        used = leaves(loss)
        own = torch.tensor([id(p) in used for p in shared]).float()
        users = all_reduce_sum(own).tolist()
        missing = [p for p, u, n in zip(shared, own.tolist(), users, strict=True) if n and not u]
        if missing:
            loss = _WithZeroGradients.apply(loss, *missing)  # type: ignore[assignment]
        loss.backward()

    def after_evaluation(self) -> None:
        # The gathered weights are those of this moment, and the next pass must not find them.
        for module in self.objective.modules():
            if hasattr(module, "reshard"):
                module.reshard()  # type: ignore[operator]


class _WithZeroGradients(torch.autograd.Function):
    """The loss as it is; the parameters have a gradient of 0."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.shapes = [(p.shape, p.dtype, p.device) for p in parameters]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        zeros = (torch.zeros(s, dtype=t, device=d) for s, t, d in ctx.shapes)
        return (gradient, *zeros)


def leaves(loss: Tensor) -> set[int]:
    """Identities of the parameters that the backward pass of a loss reaches."""
    found: set[int] = set()
    seen: set[Any] = set()
    todo = [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))  # type: ignore[union-attr]
        todo += [following for following, _ in node.next_functions]
    return found


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one dtype and at most `BUCKET` bytes, or of one tensor."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in (tensor for tensor in tensors if tensor.dtype == dtype):
            if bucket and sum(each.nbytes for each in bucket) + tensor.nbytes > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        if bucket:
            yield bucket


def lay_out(
    objective: nn.Module,
    trainable: Sequence[nn.Parameter],
    recipe: DevicesRecipe,
    device: torch.device,
    *,
    sixteen_bit: bool,
) -> Layout:
    """Put what is trained on the devices of all processes; all hold the same weights before.

    Args:
        objective: What computes the losses, whole and on this process's device. Without layers of a
            transformer, as an autoencoder, it stays whole.
        trainable: Its parameters that are trained.
        sixteen_bit: Whether its products are in bf16: then layers are gathered in it. Gradients are
            averaged, and parameters moved, in their own precision.

    Raises:
        TrainingError: When the processes cannot form the replicas.
    """
    if recipe.checkpoint_activations:
        checkpoint_layers(objective)
    place = current_rank()
    replicas = check_replicas(recipe, place.shards)
    if place.shards == 1:
        return Layout(objective, trainable)
    names = {id(p): name for name, p in objective.named_parameters()}
    moving = [names[id(p)] for p in trainable]
    layers = [module for module in objective.modules() if isinstance(module, LAYERS)]
    if recipe.sharding == "none" or not layers:
        return Replicas(objective, trainable)
    marks = {name: marks_of(objective.get_parameter(name)) for name in moving}
    shared = shard(objective, layers, replicas, device, sixteen_bit=sixteen_bit)
    parameters = dict(objective.named_parameters())
    for name, marked in marks.items():
        for mark, value in marked.items():
            setattr(parameters[name], mark, value)
        if "moving_rows_V" in marked:
            hold_other_rows(parameters[name])
    layout = Shards(
        objective, [parameters[name] for name in moving], [n for n in moving if n in shared]
    )
    check_shards(layout, replicas)
    return layout


def marks_of(parameter: nn.Parameter) -> dict[str, Any]:
    return {mark: getattr(parameter, mark) for mark in MARKS if hasattr(parameter, mark)}


def check_replicas(recipe: DevicesRecipe, shards: int) -> int:
    """How many groups of processes hold the whole model each.

    Raises:
        TrainingError: When the processes do not divide into that many.
    """
    replicas = recipe.replicas
    if recipe.sharding == "hybrid" and replicas == 1:  # one group on each machine
        replicas = max(1, shards // int(os.environ.get("LOCAL_WORLD_SIZE") or shards))
    if shards == 1:
        return 1
    if shards % replicas:
        raise TrainingError(
            f"{shards} processes do not divide into {replicas} groups of one size",
            where="devices.replicas",
            hint=f"take a divisor of {shards}, or leave it at 1",
        )
    return replicas


def shard(
    objective: nn.Module,
    layers: Sequence[nn.Module],
    replicas: int,
    device: torch.device,
    *,
    sixteen_bit: bool,
) -> set[str]:
    """Shard an objective in place: each layer by itself, the LM head, and all else in one group
    that is gathered for a whole pass; returns the names of the parameters of that group.

    Autoencoders stay whole on each device: they are small, and used outside of the pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    shards = current_rank().shards
    shape, names = (shards,), ("shard",)
    if replicas > 1:
        shape, names = (replicas, shards // replicas), ("replica", "shard")
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    # What enters a layer keeps its precision, as under autocast, by which the products are in bf16.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if sixteen_bit else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    heads = [m for name, m in objective.named_modules() if name.rpartition(".")[2] == "lm_head"]
    tables = [m.weight for m in objective.modules() if isinstance(m, nn.Embedding)]
    for head in heads:
        if isinstance(head, nn.Linear) and not any(head.weight is table for table in tables):
            fully_shard(head, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    apart = {p for m in objective.modules() if isinstance(m, OrthusVQ) for p in m.parameters()}
    before = dict(objective.named_parameters())
    shared = {name for name, p in before.items() if p not in apart and not is_sharded(p)}
    fully_shard(
        objective,
        mesh=mesh,
        mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        reshard_after_forward=False,
        ignored_params=apart,
    )
    return shared


def check_shards(layout: Layout, replicas: int) -> None:
    """Check that what is trained is sharded, and that gradients will be averaged.

    Raises:
        TrainingError: When it is not, so that each process would train by itself.
    """
    whole_ones = [p for p in layout.parameters if not is_sharded(p)]
    own = sum(local(p).numel() for p in layout.parameters)
    held = int(all_reduce_sum(torch.tensor(float(own), dtype=torch.float64)).item())
    if whole_ones or held != replicas * sum(p.numel() for p in layout.parameters):
        raise TrainingError(
            f"{len(whole_ones)} of {len(layout.parameters)} parameters are not sharded, and the "
            f"processes hold {held} values",
            where=f"torch {torch.__version__}",
            hint="this torch does not shard as it says: install another version, or set "
            'devices.sharding = "none"',
        )


def check_averages(device: torch.device) -> None:
    """Check that the processes average what they have, which some versions of gloo summed.

    Raises:
        TrainingError: When they do not.
    """
    import torch.distributed as dist

    place = current_rank()
    if place.shards == 1:
        return
    wanted = (place.shards + 1) / 2
    values = torch.full((place.shards,), place.shard + 1.0, device=device)
    own = torch.zeros(1, device=device)
    with warnings.catch_warnings():  # newer versions have another name for it
        warnings.simplefilter("ignore", FutureWarning)
        dist.reduce_scatter_tensor(own, values, op=dist.ReduceOp.AVG)
    everywhere = torch.full((1,), place.shard + 1.0, device=device)
    dist.all_reduce(everywhere, op=dist.ReduceOp.AVG)
    found = [float(own), float(everywhere)]
    if any(abs(value - wanted) > 1e-6 for value in found):
        raise TrainingError(
            f"the mean of 1 to {place.shards} over the processes is {wanted}, and they find "
            f"{found[0]} and {found[1]}",
            where=f"torch {torch.__version__} on {device.type}",
            hint="its collective operations are wrong: install another version of torch",
        )


def check_alike(facts: dict[str, Any]) -> None:
    """Check that all processes are about to train the same.

    Args:
        facts: What must be the same on each, by a name for the message.

    Raises:
        TrainingError: Names the first thing that differs, and the process.
    """
    each = gather_each(facts)
    for other, found in enumerate(each):
        for name in sorted(each[0].keys() | found.keys()):
            if each[0].get(name) != found.get(name):
                raise TrainingError(
                    f"the processes do not agree on {name}: {each[0].get(name)!r} on process 0, "
                    f"{found.get(name)!r} on process {other}",
                    where=f"process {other} of {len(each)}",
                    hint="start all of them with the same command, recipe, data and versions, "
                    "where they see the same files",
                )


def check_launch(recipe: Training | DistillHeadRecipe, output: Path, *, finished: bool) -> None:
    """Check, before a model or data is read, that all processes were started to train the same, and
    can share it.

    Args:
        output: Where the trained model goes.
        finished: Whether it is there already.

    Raises:
        TrainingError: Names what differs, or cannot be shared.
    """
    place = current_rank()
    if place.shards == 1:
        return
    own = {key.name: key.default for key in keys(recipe) if key.name not in OF_EACH}
    check_alike(
        {"the command": recipe.command, "the output": str(output)}
        | {name: value for name, value in own.items() if value is not None}
    )
    check_alike({f"whether {output} is finished": finished})
    check_replicas(recipe.devices, place.shards)


@torch.no_grad()
def whole_copy(model: Model, device: torch.device, dtype: torch.dtype) -> Model | None:
    """A plain copy of a sharded model on a device of the first process, with adapters added to what
    they adapt; its parameters are gathered one after the other, so that no other device ever holds
    it whole. None on the other processes, which call this together with it.
    """
    copy = None
    if current_rank().is_first:
        with torch.device("meta"):
            copy = type(model)(model.config)  # type: ignore[arg-type]
        copy.model.vqmodel = model.model.vqmodel  # type: ignore[assignment]
        if getattr(model, "generation_config", None) is not None:
            copy.generation_config = model.generation_config
    for name, weight in whole_weights(model):
        if copy is not None:
            put(copy, name, nn.Parameter(weight.to(device, dtype), requires_grad=False))
    if copy is not None:
        for name, buffer in model.named_buffers():
            path, _, own = name.rpartition(".")
            copy.get_submodule(path).register_buffer(own, buffer, persistent=False)
        copy.eval()
    return copy


def gathered(model: Model, dtype: torch.dtype) -> Model | None:
    """The model to save: itself, or of a sharded one a copy on the CPU of the first process, and
    None on the others.
    """
    return whole_copy(model, torch.device("cpu"), dtype) if has_shards(model) else model


def has_shards(model: nn.Module) -> bool:
    """Whether a model is sharded."""
    return any(is_sharded(p) for p in model.parameters())


@torch.no_grad()
def gather_moved(model: nn.Module) -> None:
    """Make what is trained of a sharded model plain, on the CPU of the first process; on others it
    is empty afterwards.
    """
    is_first = current_rank().is_first
    for name, parameter in list(model.named_parameters()):
        if is_sharded(parameter) and parameter.requires_grad:
            full = whole(parameter.detach())
            put(model, name, nn.Parameter(full.cpu() if is_first else full[:0].clone()))


def put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Replace a parameter."""
    path, _, own = name.rpartition(".")
    setattr(model.get_submodule(path), own, parameter)


class NoRoomToDraw(Exception):
    """The memory beside a training is too little for a model that could draw."""


@contextmanager
@torch.no_grad()
def drawable(
    model: Model, as_drawn: Callable[[], AbstractContextManager[None]]
) -> Iterator[Model | None]:
    """The model to draw with, for as long as this lasts: itself in `as_drawn`, or a plain copy of a
    sharded one on the first process, in bf16 on a GPU. None on the other processes, which call this
    together with it.

    Raises:
        NoRoomToDraw: On the first process, when there is no memory for the copy.
    """
    if not has_shards(model):
        with as_drawn():
            yield model
        return
    is_first, device = current_rank().is_first, model.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    wanted = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    free = free_bytes(device) if device.type == "cuda" else None
    if anywhere(is_first and free is not None and free < ROOM_TO_DRAW * wanted):
        if is_first:
            raise NoRoomToDraw(
                f"no samples are drawn: a model to draw with takes {size_text(wanted)} of memory "
                f"beside the training, and {size_text(free or 0)} are free"
            )
        yield None
        return
    yield whole_copy(model, device, dtype)


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a sharded model by name, each gathered when its turn comes, with adapters
    added to what they adapt. Those of the autoencoder are not among them.
    """
    for name, parameter in model.named_parameters():
        if not is_sharded(parameter) or ".lora_" in name:
            continue
        owner, adapted, own = name.partition(".base_layer.")
        full = whole(parameter.detach())
        if adapted and own == "weight":
            module = model.get_submodule(owner)
            up, down = (module.get_submodule(f"lora_{each}.{ADAPTERS}") for each in "BA")
            up, down = (whole(each.weight.detach()) for each in (up, down))  # type: ignore[operator]
            full = full + module.scaling[ADAPTERS] * (up @ down)  # type: ignore[index]
        yield (f"{owner}.{own}" if adapted else name), full


def some_weights(parameters: Sequence[Tensor]) -> str:
    """A digest of a few values of each parameter, which tells other weights from these."""
    digest = hashlib.sha256()
    for parameter in parameters:
        flat = parameter.detach().flatten()
        digest.update(flat[:: max(1, len(flat) // 16)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:10]


def checkpoint_layers(objective: nn.Module) -> None:
    """Have each layer of the transformer, and each block of the head, keep only its input for the
    backward pass, which computes the rest again.
    """
    from torch.utils.checkpoint import checkpoint

    for layer in objective.modules():
        if not isinstance(layer, (*LAYERS, Block)):
            continue
        forward = layer.forward

        @wraps(forward)  # type: ignore[arg-type]
        def again(
            *args: Any, _layer: nn.Module = layer, _forward: Any = forward, **kwargs: Any
        ) -> Any:
            if not (_layer.training and torch.is_grad_enabled()):
                return _forward(*args, **kwargs)
            return checkpoint(_forward, *args, use_reentrant=False, **kwargs)

        # What gathers a sharded layer is a hook of its call, so it stays outside.
        layer.forward = again  # type: ignore[method-assign]
