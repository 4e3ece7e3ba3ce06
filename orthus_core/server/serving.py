"""uvicorn around the application: the socket, and two ways to stop.

The first Ctrl-C (or SIGTERM) refuses new requests and ends the server when the last answer is
complete; the second ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from orthus_core.api.loaded import LoadedModel
from orthus_core.errors import OrthusError
from orthus_core.server.http_app import make_app
from orthus_core.server.model_worker import ModelWorker
from orthus_core.server.picture_requests import Served
from orthus_core.server.picture_store import PictureStore
from orthus_core.server.prometheus import Meters
from orthus_core.server.request_guard import Access, Limits, is_loopback
from orthus_core.server.server_state import METERS, ServerState

# More connections than this are closed with 503 by uvicorn itself.
MOST_CONNECTIONS = 1000
# Seconds in which the head of a request must arrive.
HEAD_SECONDS = 30.0


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address; port 0 is any that is free.

    Raises:
        OrthusError: When the address is in use, or is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OrthusError(
            f"cannot listen at {host}:{port}: {reason}",
            where="--host, --port",
            hint="another --port, or --port 0 for any that is free",
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address that clients use."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_access(access: Access) -> None:
    """Raises: OrthusError when anybody in the network could use the server."""
    if access.api_key is None and not is_loopback(access.host):
        raise OrthusError(
            f"at {access.host} others can reach the server, so it needs a key",
            where="--host",
            hint="set ORTHUS_API_KEY (or --api-key), or leave out --host",
        )
    if access.api_key is not None and not access.api_key.strip():
        raise OrthusError("the API key is empty", where="--api-key", hint="give it a value")


class ImpatientProtocol(H11Protocol):
    """A connection that is closed when a request does not begin, or its head does not end, in
    `HEAD_SECONDS`. Bodies have a limit of their own.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        if self._answers:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._close)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self._answers:
            self.transport.close()


class GracefulServer(uvicorn.Server):
    """A server whose first signal lets what runs finish.

    Args:
        state: State of the application.
        say: Called with what a person should know.
    """

    def __init__(self, state: ServerState, say: Callable[[str], None] = lambda _: None) -> None:
        config = uvicorn.Config(
            make_app(state),
            http=ImpatientProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=15,
        )
        super().__init__(config)
        self._state, self._say = state, say
        self.stopped_at_once = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # Cancelled tasks are in cycles with their frames. A full collection comes only when the new
        # objects are a quarter of the old ones, and the model and its packages have so many that
        # those of thousands of requests would wait for it. Frozen, they do not count.
        gc.collect()
        gc.freeze()
        gc.collect()
        try:
            await super().serve(sockets)
        finally:
            gc.unfreeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.access.stopping:
            self.stopped_at_once = self.should_exit = self.force_exit = True
            return
        self.finish()

    def finish(self) -> None:
        """Refuses new requests, and ends when the last answer is complete."""
        self._state.access.stopping = True
        active = self._state.access.active
        if active:
            self._say(f"finishing {active} requests; Ctrl-C again stops at once")

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; uvicorn asks ten times a second."""
        if self._state.access.stopping and self._state.access.active == 0:
            self.should_exit = True
        return await super().on_tick(counter)


def open_state(
    loaded: LoadedModel,
    access: Access,
    limits: Limits,
    most_rows: int | None = None,
    most_waiting: int = 64,
) -> ServerState:
    """The state of an application that serves a model.

    Args:
        loaded: Open model; nothing else may use it from now on.
        access: Who is answered.
        limits: Limits of each request.
        most_rows, most_waiting: As for `ModelWorker`.
    """
    meters = Meters(METERS)
    worker = ModelWorker(loaded, meters, most_rows=most_rows, most_waiting=most_waiting)
    # A folder's path is nobody else's business.
    served = Served(loaded, Path(loaded.about["name"]).name or "model", PictureStore())
    return ServerState(served, worker, meters, access, limits)


def run_server(
    state: ServerState,
    bound: socket.socket,
    say: Callable[[str], None],
    log: Callable[[str], None] | None = None,
) -> bool:
    """Serves until it is stopped; False when it was stopped at once.

    Args:
        state: State of the application; its worker is started and stopped here.
        bound: Socket from `bind`.
        say: Called with what a person should know.
        log: Called with a line for each request.
    """
    # What uvicorn says of hostile clients is of no interest to others.
    handlers = {"orthus.server": _Lines(say, log), "uvicorn.error": _Lines(log, log)}
    for name, handler in handlers.items():
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    server = GracefulServer(state, say)
    state.worker.start()
    try:
        anyio.run(server.serve, [bound])
    finally:
        state.worker.stop()
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)
    return not server.stopped_at_once


class _Lines(logging.Handler):
    """Passes log lines on: warnings and errors to one function, the others to another."""

    def __init__(
        self, say: Callable[[str], None] | None, log: Callable[[str], None] | None
    ) -> None:
        super().__init__()
        self._say, self._log = say, log

    def emit(self, record: logging.LogRecord) -> None:
        tell = self._say if record.levelno >= logging.WARNING else self._log
        if tell is not None:
            tell(self.format(record))
