"""Bodies of requests: JSON, and forms with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread
from starlette.requests import Request

from orthus_core.server.body_fields import Refused
from orthus_core.server.server_state import ServerState

R = TypeVar("R")

MOST_FILES = 8
MOST_FIELDS = 40


async def in_reader(state: ServerState, function: Callable[..., R], *args: Any) -> R:
    """Calls a function that may read pictures in a thread, few at a time."""
    return await to_thread.run_sync(partial(function, *args), limiter=state.readers)


async def json_body(request: Request) -> Any:
    """The body as JSON. Raises: Refused when it is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            f"the body must be application/json, not {kind[:80] or 'without a type'}",
            where="Content-Type",
            status=415,
            code="unsupported_media_type",
        )
    try:
        return json.loads(await request.body(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(
            f"the body is no JSON: {error}"[:200], where="body", code="invalid_json"
        ) from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


async def form_body(state: ServerState, request: Request) -> tuple[dict[str, str], list[bytes]]:
    """The texts of a form, and the files of its pictures. Raises: Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused(
            "the body must be multipart/form-data, with the picture as the file `image`",
            where="Content-Type",
            status=415,
            code="unsupported_media_type",
        )
    fields: dict[str, str] = {}
    contents: list[bytes] = []
    limits = {"max_files": MOST_FILES, "max_fields": MOST_FIELDS}
    async with request.form(**limits, max_part_size=state.limits.body_bytes) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            elif name in ("image", "image[]"):
                contents.append(await value.read())
            else:
                fields[name] = "(a file)"
    return fields, contents
