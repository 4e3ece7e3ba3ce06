"""The server at a real port: the official client, clients that leave, and stopping."""

from __future__ import annotations

import base64
import gc
import socket
import threading
import time

import anyio
import pytest

from orthus_core.api.loaded import load_model
from orthus_core.api.pipeline import Orthus
from orthus_core.samplers.generate import RunningBatch
from orthus_core.server import serving
from orthus_core.server.request_guard import Access, Limits
from orthus_core.server.serving import GracefulServer, bind, open_state, url_of
from tests.core.server_under_test import data_url, image_of, png, wait_until

openai = pytest.importorskip("openai")


class Port:
    """A server in a thread of its own."""

    def __init__(self, loaded, seconds: float = 60, **how) -> None:
        self.state = open_state(loaded, Access(), Limits(seconds=seconds), **how)
        self.server = GracefulServer(self.state)
        self.bound = bind("127.0.0.1", 0)
        self.url = url_of(self.bound)
        self.thread = threading.Thread(target=lambda: anyio.run(self.server.serve, [self.bound]))

    def __enter__(self) -> Port:
        self.state.worker.start()
        self.thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.finish()
        self.thread.join(30)
        self.state.worker.stop()
        self.bound.close()
        assert not self.thread.is_alive()

    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def begin(self, body: str) -> socket.socket:
        """A connection that has sent a request for pictures."""
        connection = socket.create_connection(self.bound.getsockname(), 10)
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {self.url[7:]}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        return connection


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load_model(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def port(loaded):
    with Port(loaded) as port:
        yield port


def test_the_official_client_draws_edits_asks_and_is_told_what_is_wrong(port, tiny_folder):
    client, orthus = port.client(), Orthus.open(tiny_folder, device="cpu")
    assert [model.id for model in client.models.list()] == ["tiny"]
    answer = client.images.generate(model="tiny", prompt="a fox", n=2, extra_body={"seed": 1})
    drawn = orthus.generate("a fox", num_images=2, seed=1).images
    assert [image_of(each.b64_json).tobytes() for each in answer.data] == [
        image.tobytes() for image in drawn
    ]
    stream = client.images.generate(
        prompt="a fox", stream=True, partial_images=2, extra_body={"seed": 1}
    )
    *partial, last = list(stream)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert last.type == "image_generation.completed"
    assert image_of(last.b64_json).tobytes() == drawn[0].tobytes()
    edited = client.images.edit(image=("a.png", png()), prompt="make it night")
    assert base64.b64decode(edited.data[0].b64_json).startswith(b"\x89PNG")
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(png())}},
        {"type": "text", "text": "what is this?"},
    ]
    asked = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 6}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said.strip() == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    with pytest.raises(openai.BadRequestError, match="16x16"):
        client.images.generate(prompt="a fox", size="1024x1024")
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.images.generate(prompt="a fox", model="gpt-image-1")


@pytest.mark.parametrize("stream", ["true", "false"])
def test_who_goes_away_leaves_the_batch(port, monkeypatch, stream):
    step, ends = RunningBatch.extend, []

    def watched(batch):
        ends.extend(sequence.ended for sequence in batch.sequences)
        return step(batch)

    monkeypatch.setattr(RunningBatch, "extend", watched)
    body = '{"prompt": "a fox", "n": 10, "steps": 1000, "stream": STREAM, "partial_images": 1}'
    connection = port.begin(body.replace("STREAM", stream))
    wait_until(lambda: len(ends) >= 10)
    connection.close()
    wait_until(lambda: port.state.worker.unfinished_rows == 0)
    assert ends.count("cancelled") == 10
    assert len(port.client().images.generate(prompt="a fox").data) == 1


def test_a_connection_without_a_request_is_closed_and_one_with_a_slow_answer_is_not(
    port, monkeypatch
):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    silent = [socket.create_connection(port.bound.getsockname(), 10) for _ in range(2)]
    silent[1].sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: local")
    asking = port.begin('{"prompt": "a fox", "steps": 1000}')
    for connection in silent:
        assert connection.recv(100) == b""
    wait_until(lambda: port.state.worker.unfinished_rows == 0, 20)
    assert asking.recv(100).startswith(b"HTTP/1.1 200")
    for connection in (*silent, asking):
        connection.close()


def test_stopping_finishes_what_runs_and_refuses_what_is_new(loaded):
    with Port(loaded) as port:
        client, found, frozen = port.client(), [], gc.get_freeze_count()
        late = port.client()
        assert late.models.list()  # an open connection

        def draw() -> None:
            found.append(client.images.generate(prompt="a fox", extra_body={"steps": 200}))

        thread = threading.Thread(target=draw)
        thread.start()
        wait_until(lambda: port.state.worker.unfinished_rows == 1)
        port.server.handle_exit(2, None)
        with pytest.raises(openai.InternalServerError, match="stopping"):
            late.images.generate(prompt="a fox")
        thread.join(20)
        assert len(found[0].data) == 1
        port.thread.join(10)
        assert not port.thread.is_alive() and not port.server.stopped_at_once
        assert gc.get_freeze_count() < frozen / 2  # the model's objects, while it served


def test_the_second_signal_stops_at_once(loaded):
    with Port(loaded) as port:
        connection = port.begin('{"prompt": "a fox", "n": 10, "steps": 1000}')
        wait_until(lambda: port.state.worker.unfinished_rows == 10)
        port.server.handle_exit(2, None)
        time.sleep(0.3)
        assert port.thread.is_alive()
        port.server.handle_exit(2, None)
        port.thread.join(5)
        assert not port.thread.is_alive() and port.server.stopped_at_once
        connection.close()
