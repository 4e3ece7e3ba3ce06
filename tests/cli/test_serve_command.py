"""`orthus serve`: what it says, and what it needs before a model is opened."""

from __future__ import annotations

import json

import pytest

from orthus_cli.commands import serve as command
from orthus_core.server import serving


@pytest.fixture
def served(monkeypatch):
    """What would have been served: the state, and the port that is bound."""
    found = []

    def run_server(state, bound, say, log):
        found.append((state, bound.getsockname()[1]))
        return len(found) == 1

    monkeypatch.setattr(serving, "run_server", run_server)
    return found


def test_the_first_line_says_model_device_precision_and_address(orthus, model, served):
    words = ("serve", *model, "--port", 0, "--queue", 3, "--batch-size", 2, "--timeout", 9)
    done = orthus("--format", "json", *words)
    ((state, port),) = served
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["url"] == f"http://127.0.0.1:{port}" and told["model"] == "tiny"
    assert done.stderr.splitlines()[0].endswith(f"tiny on cpu, fp32, at http://127.0.0.1:{port}")
    assert (state.worker.most_rows, state.worker.most_waiting) == (2, 3)
    assert state.limits.seconds == 9 and state.access.api_key is None
    assert orthus(*words).exit_code == 130  # stopped at once


def test_an_address_that_others_reach_needs_a_key(orthus, model, served, monkeypatch):
    monkeypatch.delenv("ORTHUS_API_KEY", raising=False)
    words = ("serve", *model, "--host", "0.0.0.0", "--port", 0)
    done = orthus(*words)
    assert done.exit_code == 1 and "ORTHUS_API_KEY" in done.stderr and not served
    monkeypatch.setenv("ORTHUS_API_KEY", "secret")
    done = orthus(*words)
    assert done.exit_code == 0 and served[0][0].access.api_key == "secret"
    assert "secret" not in done.stderr + done.stdout


def test_without_the_extra_it_says_what_to_install(orthus, model, served, monkeypatch):
    found = command.find_spec
    monkeypatch.setattr(
        command, "find_spec", lambda name: None if name == "starlette" else found(name)
    )
    done = orthus("serve", *model)
    assert done.exit_code == 1 and "starlette" in done.stderr
    assert "pip install 'orthus-kit[serve]'" in done.stderr
