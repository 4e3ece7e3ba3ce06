"""The routes of the server, and the handlers of those that only look.

Other handlers check a body, hand a ticket to the worker, and make the answer from the events of its
rows: picture_routes.py, chat_routes.py and page_routes.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router

from orthus_core.server import chat_routes, page_routes, picture_routes, story_routes
from orthus_core.server.body_fields import Refused
from orthus_core.server.page_file import read_page
from orthus_core.server.prometheus import CONTENT_TYPE
from orthus_core.server.request_guard import Receive, RequestGuard, Scope, Send
from orthus_core.server.server_state import ServerState


def make_app(state: ServerState) -> RequestGuard:
    """The ASGI application."""

    def route(path: str, method: str, handler: Callable[..., Awaitable[Response]]) -> Route:
        return Route(path, partial(handler, state), methods=[method])

    routes = [
        route("/", "GET", page),
        route("/health", "GET", health),
        route("/metrics", "GET", metrics),
        route("/v1/models", "GET", models),
        route("/v1/models/{name:path}", "GET", one_model),
        route("/v1/images/generations", "POST", picture_routes.generations),
        route("/v1/images/edits", "POST", picture_routes.edits),
        route("/v1/chat/completions", "POST", chat_routes.chat),
        route("/files/{name}", "GET", kept_file),
        *(route(*each) for each in (*page_routes.ROUTES, *story_routes.ROUTES)),
    ]
    paths = frozenset(each.path for each in routes)

    async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["path"].rstrip("/")
        meant = next((path for path in (asked, f"/v1{asked}") if path in paths), None)
        hint = f"did you mean {meant}?" if meant else ""
        if not meant and asked.startswith("/v1"):
            hint = f"this server has {', '.join(sorted(filter(_is_openai, paths)))}"
        message = "there is nothing at this address"
        raise Refused(message, hint=hint, status=404, code="not_found")

    router = Router(routes, redirect_slashes=False, default=nothing_here)
    return RequestGuard(router, state.access, state.limits, state.meters, paths)


def _is_openai(path: str) -> bool:
    return path.startswith("/v1/") and "{" not in path


# Small answers


async def page(state: ServerState, request: Request) -> Response:
    found = read_page()
    headers = {"content-security-policy": found.policy, "cache-control": "no-cache"}
    return HTMLResponse(found.content, headers=headers)


async def health(state: ServerState, request: Request) -> Response:
    stopping = state.access.stopping
    failed = not (stopping or state.worker.takes_requests)
    status = "stopping" if stopping else "failed" if failed else "ok"
    return JSONResponse(
        {"status": status, "model": state.served.name},
        status_code=200 if status == "ok" else 503,
    )


async def metrics(state: ServerState, request: Request) -> Response:
    return Response(state.meters.text(), headers={"content-type": CONTENT_TYPE})


async def models(state: ServerState, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model_entry(state)]})


async def one_model(state: ServerState, request: Request) -> Response:
    name = request.path_params["name"]
    if not name:
        raise Refused(
            "there is nothing at this address",
            hint="did you mean /v1/models?",
            status=404,
            code="not_found",
        )
    if name != state.served.name:
        raise Refused(
            f"there is no model {name[:80]!r} here",
            where="model",
            hint=f"this server has {state.served.name!r}",
            status=404,
            code="model_not_found",
        )
    return JSONResponse(_model_entry(state))


def _model_entry(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.served.name,
        "object": "model",
        "created": state.began,
        "owned_by": "orthus-kit",
    }


async def kept_file(state: ServerState, request: Request) -> Response:
    name = request.path_params["name"]
    content = state.served.store.file(name)
    if content is None:
        raise Refused("this file is no longer kept", status=404, code="not_found")
    kind = "image/png" if name.endswith(".png") else "application/zip"
    return Response(content, media_type=kind, headers={"cache-control": "no-store"})
