"""What the tests of the server share: one of a tiny model, asked in this process."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from orthus_core.api.loaded import LoadedModel
from orthus_core.server.http_app import make_app
from orthus_core.server.request_guard import Access, Limits
from orthus_core.server.server_state import ServerState
from orthus_core.server.serving import open_state

ADDRESS = "http://127.0.0.1:8000"


@contextmanager
def asked(
    loaded: LoadedModel, *, access: Access | None = None, limits: Limits | None = None, **how: Any
) -> Iterator[tuple[TestClient, ServerState]]:
    """A client of a server of this model, and the server's state."""
    state = open_state(loaded, access or Access(), limits or Limits(), **how)
    state.worker.start()
    try:
        with TestClient(make_app(state), base_url=ADDRESS) as client:
            yield client, state
    finally:
        state.worker.stop()


def png(width: int = 40, height: int = 30, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def image_of(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream; the name of each is its type where it has one."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if lines["data"] == "[DONE]":
            found.append({"type": "done"})
            continue
        event = json.loads(lines["data"])
        assert lines.get("event", event.get("type")) in (event.get("type"), "error")
        found.append(event)
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        time.sleep(0.01)
