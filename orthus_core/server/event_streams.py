"""The rows of a request as asynchronous events, and server-sent events made from them.

Whoever goes away has the rows cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orthus_core.errors import OrthusError
from orthus_core.server.model_worker import (
    Accepted,
    Finished,
    ModelWorker,
    PreparedRows,
    Ticket,
    UnfinishedImage,
)
from orthus_core.server.request_guard import Receive, Scope, Send, error_body

R = TypeVar("R")

# Seconds of silence after which a stream sends a comment, so that nothing between closes it.
KEEP_ALIVE = 15.0
# Unfinished pictures of a request that wait for a client that reads slowly; each is 3 MB at 512
# pixels, on the model's device. Later ones are left out meanwhile.
MOST_UNREAD = 32


class ArrivingEvents:
    """An asynchronous iterator of events that come from a thread; `Finished` ends them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._unread = 0  # unfinished pictures among them

    def deliver(self, event: Any) -> None:
        """Adds an event; any thread may call it."""
        self._loop.call_soon_threadsafe(self._add, event)

    def _add(self, event: Any) -> None:
        if isinstance(event, UnfinishedImage):
            if self._unread == MOST_UNREAD:
                return
            self._unread += 1
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """Drops what is not done yet."""
        raise NotImplementedError

    async def accepted(self) -> Any:
        """Waits until the request is accepted, and returns `PreparedRows.about`.

        Raises:
            OrthusError: When it is not.
        """
        try:
            event = await self._events.get()
        except BaseException:
            self.cancel()
            raise
        if isinstance(event, OrthusError):
            raise event
        assert isinstance(event, Accepted), "it comes first"
        return event.about

    async def __aenter__(self) -> ArrivingEvents:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __aiter__(self) -> ArrivingEvents:
        return self

    async def __anext__(self) -> Any:
        event = await self._events.get()
        if isinstance(event, UnfinishedImage):
            self._unread -= 1
        if isinstance(event, Finished):
            raise StopAsyncIteration
        if isinstance(event, OrthusError):
            raise event
        return event


class RequestRows(ArrivingEvents):
    """The rows of a request in the worker's hands.

    Args:
        worker: Owner of the model.
        rows: Number of rows.
        prepare: Makes their prompts.
        shown_at: As in `Ticket`.

    Raises:
        QueueFull, Stopped: As `ModelWorker.submit`.
    """

    def __init__(
        self,
        worker: ModelWorker,
        rows: int,
        prepare: Callable[..., PreparedRows],
        shown_at: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self._worker = worker
        self._ticket = Ticket(rows, prepare, self.deliver, shown_at)
        worker.submit(self._ticket)

    def cancel(self) -> None:
        self._worker.cancel(self._ticket)


class ServerSentEvents(Response):
    """Server-sent events, until they end or the client goes.

    Args:
        events: Events as bytes.
        rows: Where they come from; cancelled at the end.
    """

    def __init__(self, events: AsyncIterator[bytes], rows: ArrivingEvents) -> None:
        super().__init__(
            headers={
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-store",
                "x-accel-buffering": "no",
            }
        )
        del self.headers["content-length"]
        self._events, self._rows = events, rows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_when_gone, receive, group.cancel_scope.cancel)
                await send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                async with aclosing(_with_comments(self._events)) as chunks:
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                group.cancel_scope.cancel()
        finally:
            self._rows.cancel()


async def _with_comments(events: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The events, an error as the last of them, and comments where nothing comes for long."""
    waiting: asyncio.Future[bytes] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))  # type: ignore[arg-type]
            done, _ = await asyncio.wait([waiting], timeout=KEEP_ALIVE)
            if not done:
                yield b": keep-alive\n\n"
                continue
            finished, waiting = waiting, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    except OrthusError as error:
        yield b"event: error\n" + data_event(error_body(error))
    finally:
        if waiting is not None:
            waiting.cancel()


async def _when_gone(receive: Receive, then: Callable[[], None]) -> None:
    """Calls a function when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    then()


async def or_gone(request: Request, work: Awaitable[R]) -> R:
    """The result of some work, which is cancelled when the client goes.

    Raises:
        ClientDisconnect: When it has gone.
    """
    result: list[R] = []
    raised: list[BaseException] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_when_gone, request.receive, group.cancel_scope.cancel)
        try:
            result.append(await work)
        except OrthusError as error:  # alone, and not in a group of errors
            raised.append(error)
        group.cancel_scope.cancel()
    if raised:
        raise raised[0]
    if not result:
        raise ClientDisconnect
    return result[0]


def typed_event(kind: str, **content: Any) -> bytes:
    """An event that names its type, in both ways that clients read."""
    return f"event: {kind}\n".encode() + data_event({"type": kind, **content})


def data_event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"
