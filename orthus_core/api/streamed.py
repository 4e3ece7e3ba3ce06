"""Methods for long work: call one for its result, or stream its events.

class Pipeline:
    @streamed
    def generate(self, prompt: str) -> Work[Images]: ...

pipeline.generate("a snowman").images[0]
for event in (stream := pipeline.generate.stream("a snowman")): ...
stream.result.images[0]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from orthus_core.api.arguments import check_call

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Work = Generator[Any, None, R]
"""Yields the events of `orthus_core.events` (and a story's `PanelDone`), returns what was made."""


class EventStream(Iterator[Any], Generic[R]):
    """The events of some work, and its result when they are exhausted."""

    def __init__(self, work: Work[R]) -> None:
        self._work = work
        self._made: list[R] = []

    def __next__(self) -> Any:
        try:
            return next(self._work)
        except StopIteration as end:
            if not self._made and end.value is not None:
                self._made.append(end.value)
            raise

    @property
    def result(self) -> R:
        """The result; any remaining work is done first.

        Raises:
            RuntimeError: When the work was interrupted, by an error or by `close`.
        """
        for _ in self:
            pass
        if not self._made:
            raise RuntimeError("the work was broken off, so there is no result")
        return self._made[0]

    def close(self) -> None:
        """Stops the work, and releases its resources."""
        self._work.close()


class Streamed(Generic[P, R]):
    """A method of an object: call it for its result."""

    def __init__(self, work: Callable[P, Work[R]]) -> None:
        functools.update_wrapper(self, work)
        self._work = work

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.stream(*args, **kwargs).result

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> EventStream[R]:
        """Events one by one, as they happen; work starts when the first is requested.

        Raises:
            ArgumentError: When an argument is missing, or has no name and needs one.
        """
        check_call(self._work, args, kwargs)
        return EventStream(self._work(*args, **kwargs))


class streamed(Generic[S, P, R]):
    """Decorates a method that yields events and returns what it made."""

    def __init__(self, work: Callable[Concatenate[S, P], Work[R]]) -> None:
        self._work = work

    @overload
    def __get__(self, instance: None, owner: type) -> Streamed[..., R]: ...
    @overload
    def __get__(self, instance: S, owner: type) -> Streamed[P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return Streamed(self._work if instance is None else self._work.__get__(instance, owner))
