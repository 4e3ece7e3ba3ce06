"""The route of conversations: /v1/chat/completions, words and pictures in and out."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orthus_core.events import ImageBegun, ImageDone, RowDone, TextPiece
from orthus_core.server.chat_requests import ChatAsk, read_chat, size_of_usage
from orthus_core.server.event_streams import RequestRows, ServerSentEvents, data_event, or_gone
from orthus_core.server.model_worker import UnfinishedImage
from orthus_core.server.picture_requests import shown_at
from orthus_core.server.picture_routes import finished_png, unfinished_png
from orthus_core.server.request_bodies import in_reader, json_body
from orthus_core.server.server_state import ServerState


async def chat(state: ServerState, request: Request) -> Response:
    body = await json_body(request)
    ask: ChatAsk = await in_reader(state, read_chat, body, state.served)
    patches = state.served.loaded.model.config.patches
    shown = shown_at(ask.partial_images, patches) if ask.stream else frozenset()
    rows = RequestRows(state.worker, len(ask.seeds), ask.prepare, shown)
    prompt_tokens: int = await or_gone(request, rows.accepted())
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": state.served.name,
    }
    if ask.stream:
        return ServerSentEvents(_chat_events(state, rows, ask, head, prompt_tokens), rows)
    answers = [ChatAnswer(ask.stops) for _ in ask.seeds]

    async def gather() -> None:
        async with rows:
            async for event in rows:
                await _add_to_chat(state, answers[event.row], event)

    await or_gone(request, gather())
    completion = sum(answer.tokens for answer in answers)
    choices = [
        {
            "index": index,
            "message": answer.message(),
            "finish_reason": answer.finish_reason,
            "logprobs": None,
        }
        for index, answer in enumerate(answers)
    ]
    usage = size_of_usage(prompt_tokens, completion)
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage})


# Between the words before and after a picture.
BETWEEN = "\n\n"


class ChatAnswer:
    """One answer as it arrives: words, which end at a stop text, and pictures.

    Attributes:
        tokens: Tokens and patches so far.
        finish_reason: Why it ended, as OpenAI names it.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = stops, ""
        self._parts: list[str | dict[str, Any]] = []
        self._stopped, self.tokens, self.finish_reason = False, 0, "stop"

    def say(self, text: str, *, last: bool = False) -> str:
        """Takes words, and returns those that are certainly before any stop text."""
        if self._stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        longest = max((len(stop) for stop in self._stops), default=1)
        if found:
            said, self._stopped = self._held[: min(found)], True
        elif last:
            said, self._held = self._held, ""
        else:
            sure = len(self._held) - (longest - 1)
            said, self._held = self._held[: max(0, sure)], self._held[max(0, sure) :]
        if said:
            if self._parts and isinstance(self._parts[-1], str):
                self._parts[-1] += said
                return said
            is_first = not any(isinstance(part, str) for part in self._parts)
            self._parts.append(said)
            return said if is_first else f"{BETWEEN}{said}"
        return ""

    def end(self, reason: str) -> None:
        """Takes why the row ended; its last token may also have completed a stop text."""
        is_full = reason in ("length", "context") and not self._stopped
        self.finish_reason = "length" if is_full else "stop"

    def show(self, png: bytes) -> dict[str, Any]:
        """Takes a picture, and returns it as a part."""
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        part = {"type": "image_url", "image_url": {"url": url}}
        self._parts.append(part)
        return part

    def message(self) -> dict[str, Any]:
        """The whole answer. `images` has its pictures; `parts` says in which order words and
        pictures came, pictures by their place in `images`.
        """
        images = [part for part in self._parts if not isinstance(part, str)]
        content = BETWEEN.join(part.strip() for part in self._parts if isinstance(part, str))
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if images:
            numbers = iter(range(len(images)))
            message["images"] = images
            message["parts"] = [
                {"type": "text", "text": part.strip()}
                if isinstance(part, str)
                else {"type": "image", "index": next(numbers)}
                for part in self._parts
            ]
        return message


async def _add_to_chat(state: ServerState, answer: ChatAnswer, event: Any) -> dict[str, Any]:
    """Adds an event to an answer, and returns what a stream tells of it; empty for nothing."""
    if isinstance(event, TextPiece):
        answer.tokens += len(event.token_ids)
        said = answer.say(event.text)
        return {"content": said} if said else {}
    if isinstance(event, ImageBegun):
        said = answer.say("", last=True)
        return {"content": said} if said else {}
    if isinstance(event, ImageDone):
        answer.tokens += len(event.features_PC)
        png = await to_thread.run_sync(finished_png, event, None, state)
        return {"images": [answer.show(png)]}
    if isinstance(event, RowDone):
        said = answer.say("", last=True)
        answer.end(event.reason)
        return {"content": said} if said else {}
    return {}


async def _chat_events(
    state: ServerState,
    rows: RequestRows,
    ask: ChatAsk,
    head: dict[str, Any],
    prompt_tokens: int,
) -> AsyncIterator[bytes]:
    """The stream of a chat: chunks as OpenAI sends them."""
    head = {**head, "object": "chat.completion.chunk"}
    if ask.with_usage:
        head["usage"] = None  # as OpenAI's chunks before the last
    answers = [ChatAnswer(ask.stops) for _ in ask.seeds]

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
        return data_event({**head, "choices": [choice]})

    for index in range(len(answers)):
        yield chunk(index, {"role": "assistant", "content": ""})
    async for event in rows:
        if isinstance(event, UnfinishedImage):
            png = await to_thread.run_sync(unfinished_png, event)
            b64 = base64.b64encode(png).decode()
            yield chunk(event.row, {"partial_image": {"b64_json": b64, "patches": event.done}})
            continue
        delta = await _add_to_chat(state, answers[event.row], event)
        if delta:
            yield chunk(event.row, delta)
        if isinstance(event, RowDone):
            yield chunk(event.row, {}, answers[event.row].finish_reason)
    if ask.with_usage:
        usage = size_of_usage(prompt_tokens, sum(answer.tokens for answer in answers))
        yield data_event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"
