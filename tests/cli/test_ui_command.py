"""`orthus ui`: the page is opened when the server takes connections."""

from __future__ import annotations

import socket
import threading
import webbrowser

import pytest

from orthus_core.server import serving


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was given, and whether each took a connection by then."""
    found = []

    def open_browser(url):
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), 5):
            found.append(url)
        return len(found) == 1

    def run_server(state, bound, say, log):
        for thread in threading.enumerate():
            if thread.name == "orthus-browser":
                thread.join(5)
        return True

    monkeypatch.setattr(webbrowser, "open", open_browser)
    monkeypatch.setattr(serving, "run_server", run_server)
    monkeypatch.delenv("ORTHUS_API_KEY", raising=False)
    return found


def test_a_browser_opens_the_page_of_a_free_port_with_the_key_behind_the_hash(
    orthus, model, opened, monkeypatch
):
    done = orthus("ui", *model)
    (url,) = opened
    assert done.exit_code == 0 and url.startswith("http://127.0.0.1:") and url.endswith("/")
    assert url.rstrip("/") in done.stderr
    monkeypatch.setenv("ORTHUS_API_KEY", "a key/1")
    done = orthus("ui", *model)
    assert opened[1].endswith("/#key=a%20key%2F1")
    assert "a key" not in done.stderr + done.stdout
    assert orthus("ui", *model, "--no-open").exit_code == 0 and len(opened) == 2


def test_without_a_browser_it_says_where_the_page_is(orthus, model, opened):
    opened.append("no other")
    done = orthus("ui", *model)
    assert "no browser was found: open http://127.0.0.1:" in done.stderr
