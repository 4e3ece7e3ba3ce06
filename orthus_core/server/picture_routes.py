"""The routes that draw: /v1/images/generations and /v1/images/edits.

A stream begins only when the worker has accepted the request, so that errors have their status.

Legend: P patches, C feature channels.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orthus_core.data.pixels import to_image
from orthus_core.events import ImageDone, TextPiece
from orthus_core.results.metadata import GenerationInfo, pixel_hash, png_bytes
from orthus_core.server.event_streams import RequestRows, ServerSentEvents, or_gone, typed_event
from orthus_core.server.model_worker import UnfinishedImage
from orthus_core.server.picture_requests import (
    AcceptedPictures,
    ImageAsk,
    read_edit,
    read_generation,
    shown_at,
)
from orthus_core.server.request_bodies import form_body, in_reader, json_body
from orthus_core.server.server_state import ServerState
from orthus_core.server.uploaded_pictures import read_picture


async def generations(state: ServerState, request: Request) -> Response:
    body = await json_body(request)
    ask = await in_reader(state, read_generation, body, state.served)
    return await _draw(state, request, ask, "image_generation")


async def edits(state: ServerState, request: Request) -> Response:
    fields, contents = await form_body(state, request)
    uploads = [
        await in_reader(state, read_picture, content, state.served.size, "image")
        for content in contents
    ]
    ask = read_edit(fields, uploads, state.served)
    return await _draw(state, request, ask, "image_edit")


async def _draw(state: ServerState, request: Request, ask: ImageAsk, kind: str) -> Response:
    config, store = state.served.loaded.model.config, state.served.store
    rows = RequestRows(
        state.worker,
        len(ask.seeds),
        partial(ask.prepare, store=store),
        shown_at(ask.partial_images, config.patches) if ask.stream else frozenset(),
    )
    accepted: AcceptedPictures = await or_gone(request, rows.accepted())
    if ask.stream:
        return ServerSentEvents(_image_events(state, rows, accepted, kind), rows)
    data = await or_gone(request, _images(state, rows, accepted.infos))
    for item in data:
        png = item.pop("png")
        if ask.as_url:
            item["url"] = f"{request.base_url}files/{store.keep(png)}"
        else:
            item["b64_json"] = base64.b64encode(png).decode()
    answer = {"created": int(time.time()), "data": data, **_facts(state)}
    usage = _image_usage(accepted, len(data) * config.patches)
    return JSONResponse(answer | {"usage": usage})


async def _images(
    state: ServerState, rows: RequestRows, infos: list[GenerationInfo]
) -> list[dict[str, Any]]:
    """What an answer tells of each picture, in order; its file under `png`."""
    found: dict[int, dict[str, Any]] = {}
    texts = [""] * len(infos)
    async with rows:
        async for event in rows:
            if isinstance(event, TextPiece):
                texts[event.row] += event.text
            elif isinstance(event, ImageDone):
                info = infos[event.row]._replace(text=texts[event.row].strip() or None)
                png = await to_thread.run_sync(finished_png, event, info, state)
                found[event.row] = {"png": png, **_seed_and_text(info)}
    return [found[row] for row in sorted(found)]


def _seed_and_text(info: GenerationInfo) -> dict[str, Any]:
    return {"seed": info.seed, **({"text": info.text} if info.text else {})}


async def _image_events(
    state: ServerState, rows: RequestRows, accepted: AcceptedPictures, kind: str
) -> AsyncIterator[bytes]:
    """The stream of a request for pictures, in OpenAI's events."""
    config, infos = state.served.loaded.model.config, accepted.infos
    facts = {"quality": "auto", **_facts(state)}
    texts, shown = [""] * len(infos), [0] * len(infos)
    async for event in rows:
        if isinstance(event, TextPiece):
            texts[event.row] += event.text
        elif isinstance(event, UnfinishedImage):
            png = await to_thread.run_sync(unfinished_png, event)
            content = {
                "b64_json": base64.b64encode(png).decode(),
                "partial_image_index": shown[event.row],
                "index": event.row,
                "patches": event.done,
                "of_patches": event.total,
            }
            shown[event.row] += 1
            yield typed_event(
                f"{kind}.partial_image", created_at=int(time.time()), **facts, **content
            )
        elif isinstance(event, ImageDone):
            info = infos[event.row]._replace(text=texts[event.row].strip() or None)
            png = await to_thread.run_sync(finished_png, event, info, state)
            content = {
                "b64_json": base64.b64encode(png).decode(),
                "usage": _image_usage(accepted, config.patches),
                "index": event.row,
                **_seed_and_text(info),
            }
            yield typed_event(f"{kind}.completed", created_at=int(time.time()), **facts, **content)


def _facts(state: ServerState) -> dict[str, Any]:
    return {"size": state.served.size_name, "output_format": "png", "background": "opaque"}


def _image_usage(accepted: AcceptedPictures, patches: int) -> dict[str, Any]:
    """The numbers of tokens in the form of image answers: those of the prompt, and a patch is one
    that is drawn.
    """
    text, pictures = accepted.text_tokens, accepted.image_tokens
    return {
        "input_tokens": text + pictures,
        "input_tokens_details": {"text_tokens": text, "image_tokens": pictures},
        "output_tokens": patches,
        "total_tokens": text + pictures + patches,
    }


def finished_png(event: ImageDone, info: GenerationInfo | None, state: ServerState) -> bytes:
    """A finished picture as a file; its features are kept to continue from."""
    image = to_image(event.pixels_3HW)
    state.served.store.keep_features(pixel_hash(image), event.features_PC)
    return png_bytes(image, info)


def unfinished_png(event: UnfinishedImage) -> bytes:
    return png_bytes(to_image(event.pixels_3HW), None)
