"""The route of stories, /api/story: panel by panel, as server-sent events.

A story's thread puts the panels together, and hands the row of each to the worker; so stories and
other requests are continued side by side. Nothing but the worker's thread uses the model.
"""

from __future__ import annotations

import base64
import io
import queue
import tempfile
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor
from transformers import LogitsProcessor

from orthus_core.api.arguments import named, recipe_of
from orthus_core.api.stories import Opening, Story, StoryCollector, open_story, prepare_story
from orthus_core.data.pictures import Picture
from orthus_core.errors import OrthusError
from orthus_core.events import ImageBegun, Note, TextPiece
from orthus_core.recipe import StoryRecipe
from orthus_core.results.metadata import png_bytes
from orthus_core.results.story_folder import Panel
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.server.body_fields import Fields, Refused
from orthus_core.server.event_streams import ArrivingEvents, ServerSentEvents, or_gone, typed_event
from orthus_core.server.model_worker import (
    Accepted,
    Finished,
    ModelWorker,
    PreparedRows,
    QueueFull,
    Stopped,
    Ticket,
    UnfinishedImage,
    unforeseen,
)
from orthus_core.server.picture_requests import (
    IGNORED,
    Served,
    check_model,
    opened_keys,
    read_sampling,
    shown_at,
)
from orthus_core.server.picture_routes import unfinished_png
from orthus_core.server.request_bodies import in_reader, json_body
from orthus_core.server.server_state import MOST_STORIES, ServerState
from orthus_core.server.uploaded_pictures import content_of_url, read_picture

MOST_PANELS = 24
MOST_PICTURES = 8
# Seconds after which a story has probably ended.
RETRY_SECONDS = 10
# Seconds between two tries of a later panel to get a place in the queue.
NEXT_TRY = 0.2


@dataclass(frozen=True)
class StoryAsk:
    """A request for a story.

    Attributes:
        recipe: The recipe of the command that would tell the same.
        opening: What the story continues, and its earlier panels.
        partial_images: Unfinished pictures of each panel.
    """

    recipe: StoryRecipe
    opening: Opening
    partial_images: int


def read_story(body: Any, served: Served) -> StoryAsk:
    """The body of a request for a story. Raises: Refused, DataError."""
    fields = Fields(body)
    check_model(fields.text("model"), served)
    prompt = fields.text("prompt", "")
    images = _pictures(fields.take("images", []), served)
    earlier = _panels(fields.take("before", []), served)
    partial = fields.integer("partial_images", 0, 0, served.loaded.model.config.patches)
    values = read_sampling(fields, StoryRecipe) | {
        "panels": fields.integer("panels", min(len(earlier) + 3, MOST_PANELS), 1, MOST_PANELS),
        "keep_panels": fields.integer("keep_panels"),
        "free": fields.flag("free"),
        "temperature": fields.number("temperature"),
        "top_p": fields.number("top_p"),
        "max_new_tokens": fields.integer("max_new_tokens"),
    }
    seed = fields.integer("seed")
    fields.ignore("stream", *IGNORED)
    fields.done()
    (seed,) = choose_seeds(() if seed is None else (seed,), 1)
    recipe = recipe_of(StoryRecipe, named(StoryRecipe, values, {}), opened_keys(served.loaded))
    recipe = replace(recipe, seed=seed)
    opening = open_story(recipe, prompt, images)
    return StoryAsk(recipe, opening._replace(earlier=earlier), partial)


def _pictures(urls: Any, served: Served) -> list[Any]:
    if not isinstance(urls, list) or len(urls) > MOST_PICTURES:
        raise Refused(f"images must be a list of at most {MOST_PICTURES}", where="images")
    return [_picture(url, f"images[{number}]", served) for number, url in enumerate(urls)]


def _panels(before: Any, served: Served) -> list[Panel]:
    if not isinstance(before, list) or len(before) >= MOST_PANELS:
        raise Refused(f"before must be a list of at most {MOST_PANELS - 1} panels", where="before")
    panels = []
    for number, entry in enumerate(before):
        where = f"before[{number}]"
        fields = Fields(entry, where=where)
        text, url = fields.text("text", ""), fields.text("image", longest=2**31)
        fields.done()
        image = None if url is None else _picture(url, f"{where}.image", served)
        png = None if image is None else png_bytes(image, None)
        panels.append(Panel(text, image, given=True, earlier=True, png=png))
    return panels


def _picture(url: Any, where: str, served: Served) -> Any:
    if not isinstance(url, str):
        raise Refused(f"{where} must be a data: URL", where=where)
    return read_picture(content_of_url(url, where), served.size, where).image()


@dataclass(frozen=True)
class StoryFile:
    """A story is complete, and kept as a zip file of this name."""

    name: str
    panels: int
    seed: int


@dataclass(frozen=True)
class ToldPanel:
    """A panel is complete; `png` is its picture with its record, None for the last words alone."""

    number: int
    text: str
    png: bytes | None
    forced: bool


class _Gone:
    """Put in the place of events when nobody waits for them any more."""


class StoryRun(ArrivingEvents):
    """A story that a thread of its own tells: events of `StoryRequest.events` with a ToldPanel in
    the place of each PanelDone, and a StoryFile at last.

    Raises:
        QueueFull: When the largest number of stories is under way.
    """

    def __init__(self, state: ServerState, ask: StoryAsk) -> None:
        super().__init__()
        self._state, self._ask = state, ask
        self._gone, self._has_begun = False, False
        self._early: list[Any] = []  # events from before the first panel is accepted
        self._ticket: Ticket | None = None
        self._of_panel: queue.SimpleQueue[Any] = queue.SimpleQueue()
        if not state.stories.acquire(blocking=False):
            raise QueueFull(MOST_STORIES, RETRY_SECONDS)
        threading.Thread(target=self._run, name="orthus-story", daemon=True).start()

    def cancel(self) -> None:
        self._gone = True
        if self._ticket is not None:
            self._state.worker.cancel(self._ticket)
        self._of_panel.put(_Gone())

    def _run(self) -> None:
        try:
            self._tell()
        except OrthusError as error:
            self._end(error)
        except Exception as error:
            self._end(unforeseen(error))
        finally:
            self._state.stories.release()

    def _tell(self) -> None:
        loaded = self._state.served.loaded
        loaded = loaded._replace(builder=_WorkersBuilder(loaded.builder, self._state.worker))
        request = prepare_story(loaded, self._ask.recipe, self._ask.opening)
        collector = StoryCollector(request)
        for event in request.events(self._continue_panel):
            panel = collector.add(event)
            if panel is None:
                self._deliver_in_order(event)
                continue
            number = collector.number
            png = panel.image and png_bytes(panel.image, request.info._replace(panel=number))
            self.deliver(ToldPanel(number, panel.text, png, panel.forced))
        self._begin()  # at the latest now: the earlier panels may be all that are wanted
        story = collector.story
        name = self._state.served.store.keep(_zipped(story), ".zip")
        self.deliver(StoryFile(name, len(story.panels), request.info.seed))
        self.deliver(Finished())

    def _continue_panel(
        self, prompt: Prompt, params: SamplingParams, processor: LogitsProcessor
    ) -> Iterator[Any]:
        """Has the worker continue a panel's prompt. Yields the events of its row.

        Raises:
            QueueFull: When there is no place for the first panel; the others wait for one.
            Stopped: When the client has gone.
        """
        rows = PreparedRows([prompt], params, [processor])
        patches = self._state.served.loaded.model.config.patches
        ticket = Ticket(
            1,
            lambda _: rows,
            self._of_panel.put,
            shown_at(self._ask.partial_images, patches),
        )
        self._ticket = ticket
        while True:
            if self._gone:
                raise Stopped("the client has gone", where="client")
            try:
                self._state.worker.submit(ticket)
                break
            except QueueFull:
                if not self._has_begun:
                    raise
                time.sleep(NEXT_TRY)
        while not isinstance(event := self._of_panel.get(), Finished):
            if isinstance(event, _Gone):
                raise Stopped("the client has gone", where="client")
            if isinstance(event, OrthusError):
                raise event
            if not isinstance(event, Accepted):
                yield event
            else:
                self._begin()

    def _begin(self) -> None:
        """Delivers `Accepted`, once, and what has waited for it."""
        if not self._has_begun:
            self._has_begun = True
            for event in (Accepted(None), *self._early):
                self.deliver(event)

    def _deliver_in_order(self, event: Any) -> None:
        """Delivers an event; a note from before the first panel waits for `Accepted`."""
        if self._has_begun:
            self.deliver(event)
        else:
            self._early.append(event)

    def _end(self, error: OrthusError) -> None:
        try:
            self.deliver(error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass


class _WorkersBuilder(PromptBuilder):
    """A prompt builder whose pictures the worker's thread encodes."""

    def __init__(self, builder: PromptBuilder, worker: ModelWorker) -> None:
        super().__init__(builder.model, builder.tokenizer, builder.read)
        self._worker = worker

    def features(self, pictures: Sequence[Picture]) -> Tensor:
        return self._worker.call(partial(super().features, pictures))


def _zipped(story: Story) -> bytes:
    """The story's folder, as `orthus story` writes it, in a zip file."""
    file = io.BytesIO()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "story"
        story.save(folder)
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"story/{path.name}")
    return file.getvalue()


async def story(state: ServerState, request: Request) -> Response:
    body = await json_body(request)
    ask = await in_reader(state, read_story, body, state.served)
    run = StoryRun(state, ask)
    await or_gone(request, run.accepted())
    return ServerSentEvents(_story_events(run, str(request.base_url)), run)


async def _story_events(run: StoryRun, base_url: str) -> AsyncIterator[bytes]:
    async for event in run:
        match event:
            case TextPiece() if event.text:
                yield typed_event("story.text", delta=event.text)
            case ImageBegun():
                yield typed_event("story.image_begun", panel=event.panel, forced=event.forced)
            case UnfinishedImage():
                b64 = _b64(await to_thread.run_sync(unfinished_png, event))
                done, total = event.done, event.total
                yield typed_event(
                    "story.partial_image", b64_json=b64, patches=done, of_patches=total
                )
            case ToldPanel():
                yield typed_event(
                    "story.panel",
                    panel=event.number,
                    text=event.text,
                    b64_json=event.png and _b64(event.png),
                    forced=event.forced,
                )
            case Note():
                yield typed_event("story.note", message=event.message)
            case StoryFile():
                yield typed_event(
                    "story.completed",
                    seed=event.seed,
                    panels=event.panels,
                    file=f"{base_url}files/{event.name}",
                )


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


ROUTES = (("/api/story", "POST", story),)
