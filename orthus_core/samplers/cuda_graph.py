"""CUDA graphs: a GPU records a function of tensors once and then replays it, so that thousands of
small kernels start without Python in between.

A recording has fixed shapes and reads fixed buffers, so inputs are copied in and the result is
copied out. On a CPU there are the same buffers, but the function is simply called. So a machine
without a GPU can test that no function depends on the memory of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

TensorFunction = Callable[..., Tensor]

# Number of recordings that are kept; the oldest are dropped. Images drawn in one batch have few
# shapes, stories of different lengths many.
KEPT = 32


class CUDAGraph:
    """A recording of one function for one set of shapes.

    Args:
        function: Function of tensors alone. It runs the same kernels whatever their values, and
            reads no value back. It has run once on this device.
        inputs: Example of each argument.
        pool: Memory pool shared by recordings that are never replayed at the same time.
    """

    def __init__(self, function: TensorFunction, inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        if inputs[0].is_cuda:
            self._graph = torch.cuda.CUDAGraph()
            # Only this thread's calls are recorded: the decoder may run in another thread.
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
    """Calls functions, and records each one that is called again with the same shapes."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, CUDAGraph] = {}
        self._pool: Any = None

    def __call__(self, key: Hashable, function: TensorFunction, *inputs: Tensor) -> Tensor:
        """`function(*inputs)`.

        Args:
            key: Identifies the function; key and shapes together identify a recording.
            function: Function to call or replay.
            inputs: Arguments of the function.
        """
        key = (key, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        if key in self._recordings:
            return self._recordings[key](*inputs)
        # The first call initialises the libraries; a shape that comes once needs no recording.
        if key not in self._seen:
            self._seen.add(key)
            return function(*inputs)
        if self._pool is None and inputs[0].is_cuda:
            self._pool = torch.cuda.graph_pool_handle()
        if len(self._recordings) == KEPT:
            del self._recordings[next(iter(self._recordings))]
        self._recordings[key] = CUDAGraph(function, inputs, self._pool)
        return self._recordings[key](*inputs)
