"""What every request must satisfy before it reaches its route: host, origin, token, size and time.

On a loopback address only this machine's own names are answered, because a web page elsewhere can
let its name point to 127.0.0.1 (DNS rebinding); and what a page of another origin sends is refused,
because a browser sends simple requests without asking. On other addresses a token is required.
Errors, also those of routes, are answered in OpenAI's shape.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from orthus_core.errors import OrthusError
from orthus_core.server.body_fields import Refused
from orthus_core.server.model_worker import QueueFull, ServerFault, Stopped
from orthus_core.server.prometheus import Meters

log = logging.getLogger("orthus.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# The page, and files whose names cannot be guessed; a browser fetches them without a token.
WITHOUT_TOKEN = ("/health", "/", "/favicon.ico")
FILES = "/files/"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
# Of OpenAI's interface: its client shows it as `_request_id`, and the log has it.
REQUEST_ID = b"x-request-id"
# A stream that took too long says so at its end, but does not wait for who reads nothing.
SECONDS_TO_SAY_WHY = 1.0
TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
TYPES |= {404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


@dataclass(frozen=True)
class Limits:
    """Limits of each request.

    Attributes:
        body_bytes: Largest body.
        body_seconds: Time until all of the body has arrived.
        seconds: Time from the beginning of a request to the end of its answer.
    """

    body_bytes: int = 20_000_000
    body_seconds: float = 30
    seconds: float = 600


@dataclass
class Access:
    """Who is answered.

    Attributes:
        host: Address that the server is bound to.
        api_key: Token that requests must bring; None needs none.
        names: Further host names that are answered on a loopback address.
        stopping: Whether new requests are refused.
        active: Requests that are being answered.
    """

    host: str = "127.0.0.1"
    api_key: str | None = field(default=None, repr=False)
    names: frozenset[str] = OWN_NAMES
    stopping: bool = False
    active: int = 0


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RequestGuard:
    """An ASGI application around that of the routes.

    Args:
        app: The routes.
        access: Who is answered.
        limits: Limits of each request.
        meters: Counts requests by path and status, and measures them.
        paths: Paths that are counted by name.
    """

    def __init__(
        self, app: App, access: Access, limits: Limits, meters: Meters, paths: frozenset[str]
    ) -> None:
        self._app, self._access, self._limits = app, access, limits
        self._meters, self._paths = meters, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _other_protocol(scope, receive, send)
        answer = _Answer(send)
        began, path = time.perf_counter(), scope["path"]
        self._access.active += 1
        try:
            await self._guarded(scope, _Body(receive, self._limits), answer)
        finally:
            self._access.active -= 1
            counted = path if path in self._paths else "other"
            self._meters.add("orthus_requests_total", path=counted, code=str(answer.status))
            seconds = time.perf_counter() - began
            self._meters.observe("orthus_request_seconds", seconds, path=counted)
            known = (scope["method"], counted, answer.status, seconds, answer.id)
            log.info("%s %s %s %.3f s %s", *known)

    async def _guarded(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            with anyio.move_on_after(self._limits.seconds) as limit:
                self._check(scope)
                scope["app"] = self  # so that a router raises what it refuses
                await self._app(scope, receive, answer.send)
            if limit.cancelled_caught:
                raise Refused(
                    f"the request took longer than {self._limits.seconds:g} seconds",
                    hint="ask for fewer pictures or steps, or start the server with --timeout",
                    status=504,
                    code="timeout",
                )
        except ClientDisconnect:
            pass
        except HTTPException as error:
            await answer.refuse(_refusal(scope, error))
        except OrthusError as error:
            _let_go(error)
            await answer.refuse(error)
        except Exception as error:
            cause = _alone(error)
            log.error(
                "%s: %s (%s)",
                type(cause).__name__,
                cause,
                answer.id,
                exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
            )
            _let_go(error)
            await answer.refuse(ServerFault("the server failed at this request", where="server"))

    def _check(self, scope: Scope) -> None:
        """Raises: Refused when nobody may ask, or not this one."""
        access, path = self._access, scope["path"]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if is_loopback(access.host) and _name_of(host) not in access.names | {access.host}:
            raise Refused(
                f"this server does not answer for the host {host[:80]!r}",
                where="Host",
                hint="use http://127.0.0.1 or http://localhost",
                status=403,
                code="host_not_allowed",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(
                "pages of other origins are not answered",
                where="Origin",
                status=403,
                code="origin_not_allowed",
            )
        if access.api_key is not None and not (
            path in WITHOUT_TOKEN or path.startswith(FILES) or self._has_token(headers)
        ):
            raise Refused(
                "the API key is missing or wrong",
                where="Authorization",
                hint="send the header: Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.body_bytes:
            raise too_large(self._limits)
        if access.stopping and path not in ("/health", "/metrics"):
            raise Stopped("the server is stopping", where="server", hint="try again later")

    def _has_token(self, headers: dict[bytes, str]) -> bool:
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        # Digests have one length, so that the time of the comparison tells nothing.
        given, wanted = (
            hashlib.sha256(each.encode()).digest()
            for each in (token.strip(), self._access.api_key or "")
        )
        return scheme.lower() == "bearer" and hmac.compare_digest(given, wanted)


class _Body:
    """Passes on a request's body, as far as the limits allow."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._until = time.monotonic() + limits.body_seconds
        self._bytes, self._complete = 0, False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        with anyio.move_on_after(max(0.0, self._until - time.monotonic())) as limit:
            message = await self._receive()
        if limit.cancelled_caught:
            raise Refused(
                f"the body did not arrive within {self._limits.body_seconds:g} seconds",
                where="body",
                status=408,
                code="timeout",
            )
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._limits.body_bytes:
            raise too_large(self._limits)
        return message


def too_large(limits: Limits) -> Refused:
    """The body is larger than it may be."""
    return Refused(
        f"the body is larger than {limits.body_bytes // 1_000_000} MB",
        where="body",
        hint="send smaller pictures",
        status=413,
        code="request_too_large",
    )


class _Answer:
    """The answer to a request: its id, its status, whether it has begun, and whether it is a stream
    of events that has not ended.
    """

    def __init__(self, send: Send) -> None:
        self._send, self.status, self._begun = send, 499, False  # 499: the client left before
        self._streams = False
        self.id = f"req_{secrets.token_hex(16)}"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            named = (REQUEST_ID, self.id.encode())
            further = [*message.get("headers", ()), named, *SECURITY_HEADERS]
            message = {**message, "headers": further}
        elif not message.get("more_body", False):
            self._streams = False
        await self._send(message)

    async def refuse(self, error: OrthusError) -> None:
        """Answers with an error; when the answer has begun, it is broken off, or is a stream that
        ends with the error.
        """
        if self._streams:
            last = b"event: error\ndata: " + json.dumps(error_body(error)).encode() + b"\n\n"
            with anyio.move_on_after(SECONDS_TO_SAY_WHY):  # its reader may have stopped to read
                await self.send({"type": "http.response.body", "body": last})
        if self._begun:
            return
        status, headers = status_of(error)
        content = json.dumps(error_body(error)).encode()
        fixed = {"content-type": "application/json", "content-length": str(len(content))}
        # What of the body has not been read is not a request.
        closing = {"connection": "close"} if status in (408, 413, 431) else {}
        named = {**fixed, **closing, **headers}
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": content})


def _refusal(scope: Scope, error: HTTPException) -> Refused:
    """What the router or the reader of forms refuses, in the words of the others."""
    message, hint, code = error.detail, "", "error"
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        message, code = f"this address does not answer {scope['method'][:20]}", "method_not_allowed"
        hint = f"use {headers.get('allow', 'another method')}"
    return Refused(message, hint=hint, status=error.status_code, code=code, headers=headers)


def _alone(error: Exception) -> Exception:
    """The error that a group of tasks raised, if it is one alone; else the group."""
    # By its attribute: Python 3.10 has no class of groups.
    while len(errors := getattr(error, "exceptions", ())) == 1:
        error = errors[0]
    return error


def _let_go(error: Exception) -> None:
    """Drops the frames in which an error was raised.

    One from another thread is in the variables of some of them too, and would keep the request's
    body, of up to `Limits.body_bytes`, until the next full garbage collection.
    """
    error.__traceback__ = None


def status_of(error: OrthusError) -> tuple[int, dict[str, str]]:
    """The HTTP status of an error, and further headers."""
    match error:
        case Refused():
            return error.status, error.headers
        case QueueFull():
            return 429, {"retry-after": str(error.retry_after)}
        case Stopped():
            return 503, {"retry-after": "10"}
        case ServerFault():
            return 500, {}
    return 400, {}


def error_body(error: OrthusError) -> dict[str, Any]:
    """An error in OpenAI's shape, in the words of the commands."""
    status, _ = status_of(error)
    where = error.where.removeprefix("the argument ") or None
    codes = {429: "queue_full", 500: "server_error", 503: "stopping"}
    code = error.code if isinstance(error, Refused) else codes.get(status, "invalid_value")
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return {"error": {"message": message, "type": kind, "param": where, "code": code}}


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _other_protocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers the server's own start and end; closes web sockets."""
    if scope["type"] == "websocket":
        await receive()
        return await send({"type": "websocket.close", "code": 1008})
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
