"""`orthus ui`: the server's page, in a browser."""

from __future__ import annotations

import threading
import webbrowser
from typing import Annotated
from urllib.parse import quote

import typer

from orthus_cli.commands.serve import MODEL_KEYS, ApiKey, Port, run
from orthus_cli.console import reporter
from orthus_cli.recipe_options import Flags, recipe_options
from orthus_core.recipe import GenerateRecipe, load

HOST = "127.0.0.1"
QUEUE, TIMEOUT = 64, 600
Open = Annotated[
    bool,
    typer.Option("--open/--no-open", help="Open the page in a browser, or only say where it is."),
]


@recipe_options(GenerateRecipe, only=MODEL_KEYS)
def ui(
    ctx: typer.Context,
    port: Port = 0,
    api_key: ApiKey = None,
    open_browser: Open = True,
    *,
    flags: Flags,
) -> None:
    """Open a page to draw on, in the browser.

    Example: orthus ui -m mini

    The page draws patch by patch, edits, tells stories and answers questions; the browser keeps
    what was made. It is served to this machine alone, until Ctrl-C.
    """
    recipe = load(GenerateRecipe, flags=flags)
    r = reporter(ctx)

    def show(url: str) -> None:
        # What follows # is not sent to the server, and the page takes it out of the address.
        address = f"{url}/#key={quote(api_key, safe='')}" if api_key else f"{url}/"
        if not webbrowser.open(address):
            r.say(f"no browser was found: open {url} in one")

    def when_ready(url: str) -> None:
        # A browser in the terminal returns when it is closed, and the server must answer it.
        if open_browser:
            threading.Thread(target=show, args=(url,), name="orthus-browser", daemon=True).start()

    run(ctx, recipe, HOST, port, api_key, QUEUE, TIMEOUT, when_ready)
