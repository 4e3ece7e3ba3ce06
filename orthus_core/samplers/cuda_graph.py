"""A function of tensors that a GPU records once and then plays back: its thousands of small kernels
start as one CUDA graph, without Python in between.

A recording is of fixed shapes and reads fixed buffers, so inputs are copied in and the result is
copied out. Elsewhere the same buffers are there and the function is simply called, which is how a
machine without a GPU tests that nothing depends on where inputs lie.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

TensorFunction = Callable[..., Tensor]

# Shapes are few where pictures are drawn side by side, and many in stories of different lengths;
# then the oldest recordings make room.
KEPT = 32


class CUDAGraph:
    """One function at one set of shapes.

    Args:
        function: Of tensors alone; the same kernels whatever their values, nothing read back.
        inputs: An example of each argument. The function must have run once on this device.
        pool: The memory that recordings share which are never played at once.
    """

    def __init__(self, function: TensorFunction, inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        if inputs[0].is_cuda:
            self._graph = torch.cuda.CUDAGraph()
            # Only this thread's calls are watched: a decoder may be at work beside it.
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                output = function(*self._inputs)
            self._play = lambda: (self._graph.replay(), output)[1]
        else:
            self._play = lambda: function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)
        return self._play().clone()


class CUDAGraphCache:
    """Calls functions, and records those that are called again with the same shapes."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, CUDAGraph] = {}
        self._pool: Any = None

    def __call__(self, key: Hashable, function: TensorFunction, *inputs: Tensor) -> Tensor:
        """`function(*inputs)`; `key` and the shapes say which recording it is."""
        key = (key, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        if key in self._recordings:
            return self._recordings[key](*inputs)
        # The first call warms the libraries up; a shape that comes once is not worth more.
        if key not in self._seen:
            self._seen.add(key)
            return function(*inputs)
        if self._pool is None and inputs[0].is_cuda:
            self._pool = torch.cuda.graph_pool_handle()
        if len(self._recordings) == KEPT:
            del self._recordings[next(iter(self._recordings))]
        self._recordings[key] = CUDAGraph(function, inputs, self._pool)
        return self._recordings[key](*inputs)
