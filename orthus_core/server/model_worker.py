"""The thread that owns the model: rows of all requests are continued side by side, and join and
leave the running batch between two steps.

    ticket = Ticket(rows=2, prepare=..., deliver=...)
    worker.submit(ticket)      # raises QueueFull
    ...                        # deliver(event) is called in the worker's thread
    worker.cancel(ticket)

Prompts are made here too, at the next step after a request has come, so that a request that the
model cannot follow is refused at once and not when its turn comes. A row's text and pictures do not
depend on the other rows (see `samplers.generate`).

Legend: N patches that are drawn, C feature channels, P patches.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import LogitsProcessor

from orthus_core.api.loaded import LoadedModel
from orthus_core.device import free_bytes, is_out_of_memory, release_memory
from orthus_core.errors import OrthusError, PromptError
from orthus_core.events import Event, ImageDone, PatchDone, RowDone, TextPiece
from orthus_core.samplers.decode import (
    DECODED_AT_ONCE,
    ImageDecoder,
    PendingImage,
    decode_unfinished,
    ordered_events,
)
from orthus_core.samplers.engine import TOKENS_AT_ONCE, Backbone
from orthus_core.samplers.generate import (
    CAUTIOUS,
    MOST_AT_ONCE,
    Job,
    RunningBatch,
    check_prompts,
)
from orthus_core.samplers.memory_estimate import need
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.patch_sampler import (
    DiffusionPatchSampler,
    PatchSampler,
    patch_sampler_for,
)
from orthus_core.samplers.prompt import Prompt, room_for_image
from orthus_core.samplers.sequence import Phase, SequenceState
from orthus_core.samplers.text import Written, with_words
from orthus_core.server.prometheus import Meters

log = logging.getLogger("orthus.server")
R = TypeVar("R")

# Patch samplers of different steps, schedulers and the like that are kept; each holds the tables of
# its steps.
SAMPLERS_KEPT = 8
# Text that a row is assumed to write when the memory of a row is estimated.
TYPICAL_TEXT = 256
# Weight of the newest picture in the mean time between two, from which `Retry-After` follows.
NEWEST = 0.1


class QueueFull(OrthusError):
    """The rows that wait are as many as may.

    Args:
        retry_after: Seconds after which a place is probably free.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(
            f"the queue is full: {waiting} are waiting",
            where="queue",
            hint=f"try again in about {retry_after} seconds",
        )
        self.retry_after = retry_after


class Stopped(OrthusError):
    """The worker has stopped, or is about to."""


class PreparedRows(NamedTuple):
    """What a request wants of the model.

    Attributes:
        prompts: Prompt of each row.
        params: How all of them are sampled.
        processors: Logits processors of their text.
        about: Anything that whoever answers the request needs; delivered as `Accepted`.
    """

    prompts: Sequence[Prompt]
    params: SamplingParams
    processors: Sequence[LogitsProcessor] = ()
    about: Any = None


@dataclass(frozen=True)
class Accepted:
    """The rows of a request are prepared, and wait or run."""

    about: Any


@dataclass(frozen=True)
class UnfinishedImage:
    """A row's picture number `image` has `done` of its `total` patches; white where it has none."""

    row: int
    image: int
    done: int
    total: int
    pixels_3HW: torch.Tensor


@dataclass(frozen=True)
class Finished:
    """All rows of a request are complete."""


@dataclass(eq=False)
class Ticket:
    """A request in the worker's hands.

    Attributes:
        rows: Number of its rows.
        prepare: Makes its prompts, in the worker's thread. Raises OrthusError when it cannot be.
        deliver: Called in the worker's thread with `Accepted`, the events of its rows numbered from
            0, and at last with `Finished` or an OrthusError. PatchDone is not delivered.
        shown_at: Numbers of patches at which an `UnfinishedImage` is delivered.
        cancelled: Whether nobody waits for it any more.
    """

    rows: int
    prepare: Callable[[LoadedModel], PreparedRows]
    deliver: Callable[[Any], None]
    shown_at: frozenset[int] = frozenset()
    cancelled: bool = False
    left: int = field(default=0, init=False)


@dataclass(eq=False)
class _RequestRow:
    """A row of a request: the request, its number there, and what it is continued with.

    What it is continued with is made when it joins the batch: a patch sampler holds the tables of
    all its steps, and as many rows may wait as there are samplers.
    """

    ticket: Ticket
    number: int
    prompt: Prompt
    prepared: PreparedRows
    came: float
    begun: tuple[Job, SequenceState] | None = None

    @property
    def sequence(self) -> SequenceState:
        assert self.begun is not None, "it has joined the batch"
        return self.begun[1]


class ModelWorker:
    """Runs rows of requests on a model, in a thread of its own.

    Args:
        loaded: Open model; nothing else uses it from now on.
        meters: Counts rows, pictures and tokens, and measures steps.
        most_rows: Rows that run side by side; None is as many as memory is estimated to hold.
        most_waiting: Rows that wait for a place.

    Attributes:
        unfinished_rows: Rows that wait or run.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        meters: Meters,
        *,
        most_rows: int | None = None,
        most_waiting: int = 64,
    ) -> None:
        self.loaded, self._meters = loaded, meters
        self._backbone, self._decoder = Backbone(loaded.model), ImageDecoder(loaded.model)
        self.most_rows = most_rows or rows_that_fit(loaded)
        self.most_waiting = most_waiting
        self._at_once = self.most_rows
        self._batch = RunningBatch(self._backbone, self._fail_row)
        self._samplers: OrderedDict[Hashable, PatchSampler] = OrderedDict()
        self._rows: dict[int, _RequestRow] = {}
        self._written: dict[int, Written] = {}  # texts go on after a step that failed
        self._waiting: deque[_RequestRow] = deque()
        self._next_number = 0
        # What other threads change, under the lock of `_changed`.
        self._changed = threading.Condition()
        self._arrived: deque[tuple[Ticket, float]] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.unfinished_rows = 0
        self._stopping = False
        self._has_cancelled = False
        self._seconds_a_picture, self._last_picture = 0.0, 0.0
        self._thread = threading.Thread(target=self._run, name="orthus-model", daemon=True)

    # For other threads

    @property
    def takes_requests(self) -> bool:
        """Whether it has not stopped, by `stop` or by a failure that it could not recover from."""
        return not self._stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its present step; what has not ended ends with `Stopped`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, ticket: Ticket) -> None:
        """Takes a request.

        Raises:
            PromptError: For more rows than ever have a place.
            QueueFull: When more rows would wait than may.
            Stopped: After `stop`.
        """
        with self._changed:
            if self._stopping:
                raise Stopped("the server is stopping", where="server", hint="try again later")
            most = self.most_rows + self.most_waiting
            if ticket.rows > most:
                raise PromptError(
                    f"{ticket.rows} pictures or answers at once",
                    where="n",
                    hint=f"this server takes at most {most}",
                )
            if self.unfinished_rows + ticket.rows > most:
                waiting = max(0, self.unfinished_rows - self.most_rows)
                raise QueueFull(waiting, self._retry_after(ticket.rows))
            ticket.left = ticket.rows
            self.unfinished_rows += ticket.rows
            self._arrived.append((ticket, time.perf_counter()))
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Drops a request; its rows leave the batch before the next step."""
        with self._changed:
            ticket.cancelled = self._has_cancelled = True
            self._changed.notify()

    def call(self, function: Callable[[], R]) -> R:
        """Calls a function in the worker's thread between two steps, and returns its result.

        Raises:
            Stopped: After `stop`. And whatever the function raises.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._stopping:
                raise Stopped("the server is stopping", where="server", hint="try again later")
            self._calls.append((function, future))
            self._changed.notify()
        return future.result()

    def _retry_after(self, rows: int) -> int:
        """Seconds until that many more rows have probably left."""
        return max(1, min(600, math.ceil(rows * self._seconds_a_picture)))

    # The thread

    def _run(self) -> None:
        try:
            with self._decoder, torch.no_grad():
                while self._wait():
                    try:
                        events = ordered_events(self._steps())
                        for event in with_words(events, self.loaded.tokenizer, self._written):
                            self._tell(event)
                    except Exception as error:  # one bad step must not end the server
                        self._recover(error)
        except Exception as error:  # such as a device that answers no more
            unforeseen(error)
        with self._changed:
            self._stopping = True  # nobody may wait for a thread that has ended
        self._give_up(Stopped("the server has stopped", where="server", hint="try again later"))

    def _wait(self) -> bool:
        """Waits until there is something to do; False when it is to stop."""
        with self._changed:
            self._count_rows()
            if not (self._batch.sequences or self._waiting):
                self._at_once = self.most_rows  # memory that ran out may be free again
                self._written.clear()
            while not (self._arrived or self._calls or self._waiting or self._stopping):
                if self._batch.sequences:
                    break
                self._changed.wait()
            return not self._stopping

    def _steps(self) -> Iterator[Event | PendingImage]:
        """Steps until no row is left."""
        while not self._stopping:
            self._take_calls()
            self._take_arrived()
            self._drop_cancelled()
            self._seat()
            self._count_rows()
            if not self._batch.sequences:
                return
            began = time.perf_counter()
            # Whoever looks on need not wait until the backbone has read what is drawn.
            yield from self._batch.extend()
            yield from self._unfinished_images()  # type: ignore[misc]
            self._batch.read()
            self._meters.observe("orthus_step_seconds", time.perf_counter() - began)

    def _take_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except BaseException as error:  # the caller's, in its own thread
                future.set_exception(error)

    def _take_arrived(self) -> None:
        """Makes the prompts of new requests; their rows wait."""
        while self._arrived:
            ticket, came = self._arrived.popleft()
            if ticket.cancelled:
                self._forget(ticket)
                continue
            try:
                prepared = ticket.prepare(self.loaded)
                check_prompts(self.loaded.model, prepared.prompts, prepared.params)
                self._job(prepared)  # refused now, and not when its turn comes
            except OrthusError as error:
                self._refuse(ticket, error)
                continue
            except Exception as error:
                self._refuse(ticket, unforeseen(error))
                continue
            assert len(prepared.prompts) == ticket.rows, "as many as were asked for"
            self._deliver(ticket, Accepted(prepared.about))
            self._waiting.extend(
                _RequestRow(ticket, number, prompt, prepared, came)
                for number, prompt in enumerate(prepared.prompts)
            )

    def _job(self, prepared: PreparedRows) -> Job:
        params = prepared.params
        sampler = self._patch_sampler(params) if params.max_images else None
        parts = (self.loaded.model, params, prepared.processors, sampler)
        return Job(*parts, self._backbone, self._decoder)

    def _patch_sampler(self, params: SamplingParams) -> PatchSampler:
        """The patch sampler of these values; rows with the same one are drawn together."""
        names = ("steps", "last_steps", "scheduler", "time_grid", "step_tolerance", "noise_scale")
        others = ("patch_norm", "guidance_interval", "code_top_k", "code_top_p")
        key = tuple(getattr(params, name) for name in (*names, *others))
        if key not in self._samplers:
            # One copy of the head's weights, in the layout that is fastest, serves all of them.
            heads = (
                each.head
                for each in self._samplers.values()
                if isinstance(each, DiffusionPatchSampler)
            )
            self._samplers[key] = patch_sampler_for(self.loaded.model, params, next(heads, None))
        self._samplers.move_to_end(key)
        while len(self._samplers) > SAMPLERS_KEPT:
            self._samplers.popitem(last=False)
        return self._samplers[key]

    def _drop_cancelled(self) -> None:
        if not self._has_cancelled:
            return
        self._has_cancelled = False
        for row in [row for row in self._waiting if row.ticket.cancelled]:
            self._waiting.remove(row)
            self._leave(row)
        for row in self._rows.values():
            if row.ticket.cancelled and not row.sequence.ended:
                row.sequence.cancel()

    def _seat(self) -> None:
        """Lets waiting rows join, first come, first served."""
        while self._waiting and len(self._batch.sequences) < self._at_once:
            row = self._waiting[0]
            try:
                row.begun = row.begun or self._begin(row)
            except Exception as error:  # memory that ran out since the request came
                self._deliver(row.ticket, unforeseen(error))
                self.cancel(row.ticket)
                self._drop_cancelled()
                continue
            self._waiting.popleft()
            self._rows[row.sequence.number] = row
            job, sequence = row.begun
            self._batch.join(job, [sequence])
            self._meters.observe("orthus_queue_seconds", time.perf_counter() - row.came)

    def _begin(self, row: _RequestRow) -> tuple[Job, SequenceState]:
        job, self._next_number = self._job(row.prepared), self._next_number + 1
        about = (row.prompt, row.prepared.params, self.loaded.model.config, job.patch_sampler)
        return job, SequenceState(self._next_number, *about)

    def _unfinished_images(self) -> Iterator[UnfinishedImage]:
        """Pictures of the rows that show them after as many patches as they have now."""
        shown = [
            (row, sequence)
            for sequence in self._batch.sequences
            if sequence.phase is Phase.DRAW
            and len(sequence.patches) in (row := self._rows[sequence.number]).ticket.shown_at
        ]
        total = self.loaded.model.config.patches
        for first in range(0, len(shown), DECODED_AT_ONCE):
            part = shown[first : first + DECODED_AT_ONCE]
            drawn = [torch.stack(sequence.patches) for _, sequence in part]
            pixels_M3HW = decode_unfinished(self.loaded.model, drawn)
            for (_, sequence), pixels_3HW in zip(part, pixels_M3HW, strict=True):
                done = len(sequence.patches)
                yield UnfinishedImage(sequence.number, sequence.images, done, total, pixels_3HW)

    def _tell(self, event: Any) -> None:
        """Delivers an event to its request."""
        row = self._rows.get(getattr(event, "row", 0))
        if row is None or isinstance(event, PatchDone):
            return
        if isinstance(event, ImageDone):
            self._count_picture()
        elif isinstance(event, TextPiece):
            self._meters.add("orthus_text_tokens_total", len(event.token_ids))
        if not row.ticket.cancelled:
            self._deliver(row.ticket, replace(event, row=row.number))
        if isinstance(event, RowDone):
            del self._rows[row.sequence.number]
            self._leave(row)

    def _leave(self, row: _RequestRow) -> None:
        """Counts a row as done, and tells its request when that was the last one."""
        with self._changed:
            self.unfinished_rows -= 1
        row.ticket.left -= 1
        if row.ticket.left == 0 and not row.ticket.cancelled:
            self._deliver(row.ticket, Finished())

    def _deliver(self, ticket: Ticket, event: Any) -> None:
        try:
            ticket.deliver(event)
        except Exception as error:  # its loop is closed: nobody waits any more
            log.debug("a request took no more events: %s", error)
            self.cancel(ticket)

    def _refuse(self, ticket: Ticket, error: OrthusError) -> None:
        self._forget(ticket)
        self._deliver(ticket, error)

    def _forget(self, ticket: Ticket) -> None:
        with self._changed:
            self.unfinished_rows -= ticket.left
        ticket.left = 0

    def _recover(self, error: Exception) -> None:
        """Goes on after a step that failed: with half the rows when memory ran out, else without
        those that ran.
        """
        seated = [self._rows[each.number] for each in self._batch.sequences if not each.ended]
        lost = [row for row in self._rows.values() if row.sequence.ended]
        self._batch = RunningBatch(self._backbone, self._fail_row)
        self._backbone.forget()
        device = self.loaded.model.device
        if is_out_of_memory(error) and len(seated) > 1:
            del error
            release_memory(device)
            self._at_once = len(seated) // 2
            self._waiting.extendleft(reversed(seated))
            log.warning(
                "memory does not hold %d at once: going on with %d", len(seated), self._at_once
            )
            shown = unforeseen(RuntimeError("memory ran out"))
        else:
            release_memory(device)
            lost += seated
            shown = _too_large(device) if is_out_of_memory(error) else unforeseen(error)
        self._rows = {}
        for ticket in dict.fromkeys(row.ticket for row in lost):
            self._fail(ticket, shown)

    def _fail_row(self, number: int, error: Exception) -> None:
        """Ends the request of a row whose token could not be chosen; its rows leave the batch."""
        ticket = self._rows[number].ticket
        if not ticket.cancelled:
            self._deliver(ticket, unforeseen(error))
            self.cancel(ticket)

    def _fail(self, ticket: Ticket, error: OrthusError) -> None:
        """Ends a request and its rows that still wait."""
        self._waiting = deque(row for row in self._waiting if row.ticket is not ticket)
        self._refuse(ticket, error)

    def _give_up(self, error: OrthusError) -> None:
        tickets = [row.ticket for row in (*self._rows.values(), *self._waiting)]
        with self._changed:
            tickets += [ticket for ticket, _ in self._arrived]
            calls = list(self._calls)
            self._arrived.clear()
            self._calls.clear()
        for ticket in dict.fromkeys(tickets):
            if not ticket.cancelled:
                self._fail(ticket, error)
        for _, future in calls:
            future.set_exception(error)

    def _count_rows(self) -> None:
        self._meters.set("orthus_batch_rows", len(self._batch.sequences))
        self._meters.set("orthus_queue_rows", len(self._waiting))

    def _count_picture(self) -> None:
        self._meters.add("orthus_pictures_total")
        now, before = time.perf_counter(), self._last_picture
        self._last_picture = now
        if before and len(self._rows) > 1:  # else the time is that of nobody asking
            newest = now - before
            self._seconds_a_picture += NEWEST * (newest - self._seconds_a_picture)


def rows_that_fit(loaded: LoadedModel) -> int:
    """The number of rows of typical length that fit together into the memory that is free now."""
    model = loaded.model
    free = free_bytes(model.device)
    if free is None:
        return CAUTIOUS
    config = model.config
    slots = min(config.max_position_embeddings, 2 * room_for_image(config) + TYPICAL_TEXT)
    of_row = need(
        model,
        slots=slots,
        branches=2,
        tokens_at_once=TOKENS_AT_ONCE,
        decoded_at_once=DECODED_AT_ONCE,
    )
    return min(MOST_AT_ONCE, of_row.rows_in(free))


def unforeseen(error: Exception) -> OrthusError:
    """An error of ours, without its insides."""
    log.error(
        "%s while a request was worked on: %s",
        type(error).__name__,
        error,
        exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
    )
    return ServerFault(
        "the server failed at this request",
        where="server",
        hint="its log says why; other requests go on",
    )


class ServerFault(OrthusError):
    """A failure of the server, and not of the request."""


def _too_large(device: torch.device) -> PromptError:
    return PromptError(
        f"not enough memory on {device} for this request",
        where="memory",
        hint="shorten the prompt, or send fewer pictures",
    )
