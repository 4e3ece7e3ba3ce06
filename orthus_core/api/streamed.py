"""Methods for long work: call one for its result, or stream its events.

class Pipeline:
    @takes_keys_of(GenerateRecipe)
    def generate(self, prompt: str, **asked) -> Work[Images]: ...

pipeline.generate("a snowman").images[0]
for event in (stream := pipeline.generate.stream("a snowman")): ...
stream.result.images[0]
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Generator, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from orthus_core.api.arguments import MODEL_KEYS, check_call
from orthus_core.recipe import Recipe
from orthus_core.recipe.schema import keys

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


class Streamed(Protocol[P, R]):
    """A method of an object: call it for its result, or stream its events."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> EventStream[R]:
        """Events one by one, as they happen; work starts when the first is requested.

        Raises:
            ArgumentError: When an argument is missing, or has no name and needs one.
        """
        ...


class streamed(Generic[S, P, R]):
    """Decorates a method that yields events and returns what it made.

    Args:
        work: The method.
        schema: Recipe class whose keys the method takes as further arguments, for its signature.
    """

    def __init__(
        self, work: Callable[Concatenate[S, P], Work[R]], schema: type[Recipe] | None = None
    ) -> None:
        self._work, self._schema = work, schema

    @overload
    def __get__(self, instance: None, owner: type) -> Streamed[..., R]: ...
    @overload
    def __get__(self, instance: S, owner: type) -> Streamed[P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        work = self._work if instance is None else self._work.__get__(instance, owner)

        def stream(*args: Any, **kwargs: Any) -> EventStream[R]:
            check_call(work, args, kwargs)
            return EventStream(work(*args, **kwargs))

        # A function, so that help() shows its arguments.
        @functools.wraps(work)
        def call(*args: Any, **kwargs: Any) -> R:
            return stream(*args, **kwargs).result

        call.stream = functools.wraps(work)(stream)  # type: ignore[attr-defined]
        signature = full_signature(work, self._schema)
        call.__signature__ = stream.__signature__ = signature  # type: ignore[attr-defined]
        return call


def takes_keys_of(
    schema: type[Recipe],
) -> Callable[[Callable[Concatenate[S, P], Work[R]]], streamed[S, P, R]]:
    """`streamed`, for a method that takes the keys of a recipe."""
    return lambda work: streamed(work, schema)


def full_signature(work: Callable[..., Any], schema: type[Recipe] | None) -> inspect.Signature:
    """The signature of a method, with the keys of a recipe in the place of `**asked`."""
    signature = inspect.signature(work)
    if schema is None:
        return signature
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    taken = {each.name for each in own} | {*MODEL_KEYS, "seeds", "by_example"}
    more = [
        inspect.Parameter(
            key.path[-1], inspect.Parameter.KEYWORD_ONLY, default=None, annotation=key.annotation
        )
        for key in keys(schema)
        if key.path[-1] not in taken
    ]
    returned = typing.get_type_hints(work).get("return")
    result = typing.get_args(returned)[-1] if returned is not None else inspect.Signature.empty
    return signature.replace(parameters=[*own, *more], return_annotation=result)
