"""What the handlers of all routes share."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from anyio import CapacityLimiter

from orthus_core.server.model_worker import ModelWorker
from orthus_core.server.picture_requests import Served
from orthus_core.server.prometheus import Meters
from orthus_core.server.request_guard import Access, Limits

METERS = {
    "orthus_requests_total": "Requests by path and status.",
    "orthus_pictures_total": "Pictures drawn.",
    "orthus_text_tokens_total": "Text tokens written.",
    "orthus_batch_rows": "Rows in the running batch.",
    "orthus_queue_rows": "Rows that wait for a place in the batch.",
    "orthus_request_seconds": "Time from a request to the end of its answer.",
    "orthus_queue_seconds": "Time from a request until a row of it joins the batch.",
    "orthus_step_seconds": "Time of one step of the running batch.",
}

# Pictures that clients send are read by at most so many threads, each of which may need 100 MB.
READ_AT_ONCE = 2
# Stories at once; each has a thread.
MOST_STORIES = 16


@dataclass
class ServerState:
    """What the handlers share.

    Attributes:
        served: What requests may ask for.
        worker: Owner of the model.
        meters: Counts and times.
        access: Who is answered.
        limits: Limits of each request.
        readers: Threads that read pictures.
        stories: Places for stories.
        began: When the server began, in seconds since 1970.
    """

    served: Served
    worker: ModelWorker
    meters: Meters
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(READ_AT_ONCE))
    stories: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MOST_STORIES)
    )
    began: int = field(default_factory=lambda: int(time.time()))
