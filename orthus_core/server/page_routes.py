"""What the page needs and OpenAI's interface has not: the model and its words.

Stories have a file of their own (story_routes.py).
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orthus_core.data.known_words import KnownWords
from orthus_core.errors import OrthusError
from orthus_core.model.config import DiscreteConfig
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.samplers.params import PRESETS, STORY_TEXT, SamplingParams, Task
from orthus_core.server.body_fields import Fields
from orthus_core.server.request_bodies import in_reader, json_body
from orthus_core.server.server_state import ServerState
from orthus_core.version import __version__

TASKS: tuple[tuple[str, Task], ...] = (
    ("generate", "picture"),
    ("edit", "edit"),
    ("story", "story"),
)


async def model(state: ServerState, request: Request) -> Response:
    """The model, what it draws, and its own values of sampling for each command."""
    served, config = state.served, state.served.loaded.model.config
    about = {**served.loaded.about, "name": served.name}
    about.pop("lora", None)
    rows, columns = config.grid
    return JSONResponse(
        {
            "model": about,
            "version": __version__,
            "kind": "discrete" if isinstance(config, DiscreteConfig) else "orthus",
            "size": {"width": served.size, "height": served.size},
            "grid": {"rows": rows, "columns": columns, "patches": config.patches},
            "context": config.max_position_embeddings,
            "defaults": {name: _defaults(state, task) for name, task in TASKS},
            "presets": list(PRESETS),
            "schedulers": list(SOLVERS),
            "limits": {
                "n": served.most_images,
                "body_bytes": state.limits.body_bytes,
                "seconds": state.limits.seconds,
                "rows": state.worker.most_rows,
                "queue": state.worker.most_waiting,
            },
            "has_words": bool(served.loaded.known and served.loaded.known.listed),
        }
    )


def _defaults(state: ServerState, task: Task) -> dict[str, Any] | None:
    """The model's own values for a task; None when they are invalid."""
    try:
        params = SamplingParams.resolve(state.served.loaded.model.config, task)
    except OrthusError:
        return None
    text = {name: getattr(params, name) for name in STORY_TEXT} if task == "story" else {}
    return {**params.to_dict(), **text}


async def words(state: ServerState, request: Request) -> Response:
    """What the model draws, as its folder lists it; null when it lists nothing."""
    known = state.served.loaded.known
    listed = known.listed if known else None
    return JSONResponse({"words": listed.record() if listed else None})


async def check_words(state: ServerState, request: Request) -> Response:
    """How a text is read, and the words of it that the model does not know."""
    fields = Fields(await json_body(request))
    text = fields.text("text", "", 4000)
    fields.done()
    known = state.served.loaded.known
    if known is None:
        return JSONResponse({"read_as": text, "unknown": [], "exceeds": False})
    # Hundreds of unknown words take seconds, in which other requests must be answered.
    return JSONResponse(await in_reader(state, _checked, known, text))


def _checked(known: KnownWords, text: str) -> dict[str, Any]:
    """The answer to `check_words`."""
    read = known.read(text)
    unknown = [
        {"word": each.word, "nearest": each.nearest, "message": str(each)}
        for each in known.unknown(read)
    ]
    return {"read_as": read, "unknown": unknown, "exceeds": known.exceeds(read)}


ROUTES = (
    ("/api/model", "GET", model),
    ("/api/words", "GET", words),
    ("/api/check_words", "POST", check_words),
)
