"""`orthus serve`: a server with OpenAI's interface."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated

import typer

from orthus_cli.console import reporter
from orthus_cli.drawing import load_quietly, model_line
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_core.errors import OrthusError
from orthus_core.recipe import GenerateRecipe, load

MODEL_KEYS = ("model", "lora", "batch_size", "device", "dtype", "quantize", "low_memory")
PACKAGES = ("starlette", "uvicorn", "python_multipart")
Host = Annotated[
    str,
    typer.Option("--host", help="Address to listen at; others than this machine's need a key."),
]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any that is free.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="ORTHUS_API_KEY",
        show_envvar=True,
        help="Key that requests must bring.",
        show_default=False,
    ),
]
Queue = Annotated[
    int, typer.Option("--queue", metavar="N", min=0, help="Pictures and answers that may wait.")
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest time of one request."),
]


@recipe_options(GenerateRecipe, only=MODEL_KEYS)
def serve(
    ctx: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    queue: Queue = 64,
    timeout: Timeout = 600,
    *,
    flags: Flags,
) -> None:
    """Serve a model over HTTP, as OpenAI does.

    Example: orthus serve -m mini --port 8000

    Requests are drawn side by side: each joins and leaves the running batch between two patches.
    Ctrl-C finishes what runs and refuses what is new; again stops at once. docs/server.md shows
    requests.
    """
    run(ctx, load(GenerateRecipe, flags=flags), host, port, api_key, queue, timeout)


def run(
    ctx: typer.Context,
    recipe: GenerateRecipe,
    host: str,
    port: int,
    api_key: str | None,
    queue: int,
    timeout: float,
    when_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves until it is stopped.

    Args:
        recipe: Model, and how it is held.
        host, port, api_key, queue, timeout: The options.
        when_ready: Called with the server's address when it takes connections.

    Raises:
        OrthusError: When packages are missing, or the address may not or cannot be used.
        KeyboardInterrupt: When it was stopped at once.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise OrthusError(
            f"the server needs packages that are not installed: {', '.join(missing)}",
            where=f"orthus {ctx.info_name}",
            hint="pip install 'orthus-kit[serve]'",
        )
    from orthus_core.server.request_guard import Access, Limits
    from orthus_core.server.serving import bind, check_access, open_state, run_server, url_of

    r = reporter(ctx)
    access = Access(host, api_key)
    check_access(access)
    with bind(host, port) as bound:
        loaded = load_quietly(recipe)
        most = None if recipe.batch_size == "auto" else recipe.batch_size
        state = open_state(loaded, access, Limits(seconds=timeout), most, queue)
        url = url_of(bound)
        r.say(f"{model_line(loaded, recipe)}, at {url}")
        bound.listen()  # connections wait until the server takes them
        when_ready(url)
        r.result({"url": url, "model": state.served.name, **loaded.about}, text="", quiet=[url])
        if not run_server(state, bound, r.say, log=r.detail):
            raise KeyboardInterrupt
