"""Bodies of requests: JSON, and forms with pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread
from starlette.requests import Request

from orthus_core.server.body_fields import A_FILE, Refused
from orthus_core.server.server_state import ServerState

R = TypeVar("R")

# Names under which pictures come; PHP's and some other clients number them.
_IMAGE = re.compile(r"image(\[\d{0,3}\])?", re.A)
MOST_FILES = 8
MOST_FIELDS = 40


async def in_reader(state: ServerState, function: Callable[..., R], *args: Any) -> R:
    """Calls a function that may read pictures in a thread, few at a time."""
    return await to_thread.run_sync(partial(function, *args), limiter=state.readers)


async def json_body(request: Request) -> Any:
    """The body as JSON. Raises: Refused when it is none."""
    kind = _kind(request)
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


def _kind(request: Request) -> str:
    """The type of the body. Raises: Refused when the body is compressed."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise Refused(
            f"bodies that are encoded as {encoding[:40]} are not read",
            where="Content-Encoding",
            hint="send the body as it is",
            status=415,
            code="unsupported_media_type",
        )
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


async def form_body(state: ServerState, request: Request) -> tuple[dict[str, Any], list[bytes]]:
    """The texts of a form, and the files of its pictures. Fields whose names end with [] are a
    list, as the official client sends one. Raises: Refused.
    """
    if _kind(request) != "multipart/form-data":
        raise Refused(
            "the body must be multipart/form-data, with the picture as the file `image`",
            where="Content-Type",
            status=415,
            code="unsupported_media_type",
        )
    fields: dict[str, Any] = {}
    lists: dict[str, list[str]] = {}
    contents: list[bytes] = []
    limits = {"max_files": MOST_FILES, "max_fields": MOST_FIELDS}
    async with request.form(**limits, max_part_size=state.limits.body_bytes) as form:
        for name, value in form.multi_items():
            if isinstance(value, str) and name.endswith("[]"):
                lists.setdefault(name.removesuffix("[]"), []).append(value)
            elif isinstance(value, str):
                fields[name] = value
            elif _IMAGE.fullmatch(name):
                contents.append(await value.read())
            else:
                fields[name] = A_FILE
    return lists | fields, contents
