"""The server under load: 32 clients, of which some leave, are slow, or hostile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from collections import Counter

import numpy as np
import psutil
import pytest

from orthus_core.api.pipeline import Orthus
from tests.core.server_under_test import data_url, image_of, png, wait_until
from tests.core.test_server_port import Port
from tests.hardening.tally import Tally

SECONDS = float(os.environ.get("ORTHUS_LOAD_SECONDS", "60"))
CLIENTS = 32
PROMPTS = ("a snowman", "a red fox")
SEEDS = range(6)
HOSTILE = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /v1/images/generations HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
)
BODIES = (
    "{",
    "[" * 5000,
    json.dumps({"prompt": "a", "n": 10**9}),
    json.dumps({"prompt": "\ud83d"}),
    json.dumps({"prompt": "a fox " * 5000}),
    json.dumps({"prompt": "a", "scheduler": "subprocess.Popen"}),
)


class Load:
    """What the clients do, and what came of it."""

    def __init__(self, port: Port, expected: dict[tuple[str, int], np.ndarray]) -> None:
        self.host, self.port = port.bound.getsockname()
        self.expected, self.found, self.times = expected, Counter[str](), list[float]()

    async def ask(self, path: str, body: str, *, slowly: bool = False) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        content = body.encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode())
        for first in range(0, len(content), 9 if slowly else len(content)):
            writer.write(content[first : first + (9 if slowly else len(content))])
            await asyncio.sleep(0.05 if slowly else 0)
        received = bytearray()
        while piece := await reader.read(64 if slowly else 1 << 16):
            received += piece
            await asyncio.sleep(0.001 if slowly else 0)
        writer.close()
        head, _, answer = bytes(received).partition(b"\r\n\r\n")
        return int(head.split()[1]), answer

    async def draw(self, rng: random.Random, *, slowly: bool = False) -> None:
        prompt, seed = rng.choice(PROMPTS), rng.choice(SEEDS)
        began = time.perf_counter()
        body = {"prompt": prompt, "seed": seed}
        status, answer = await self.ask("/v1/images/generations", json.dumps(body), slowly=slowly)
        if status == 429:
            self.found["full"] += 1
            return await asyncio.sleep(0.2)
        assert status == 200, answer[:300]
        if not slowly:
            self.times.append(time.perf_counter() - began)
        drawn = np.asarray(image_of(json.loads(answer)["data"][0]["b64_json"]), np.int16)
        assert abs(drawn - self.expected[prompt, seed]).max() <= 1
        self.found["slow" if slowly else "right"] += 1

    async def talk(self, rng: random.Random) -> None:
        part = {"type": "image_url", "image_url": {"url": data_url(png())}}
        content = [part, {"type": "text", "text": "what is this?"}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
        body["stream"] = rng.random() < 0.5
        status, answer = await self.ask("/v1/chat/completions", json.dumps(body))
        assert status in (200, 429), answer[:300]
        assert status == 429 or b"choices" in answer
        self.found["talked"] += status == 200

    async def leave(self, rng: random.Random) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        stream = "true" if rng.random() < 0.5 else "false"
        body = f'{{"prompt": "a fox", "n": 3, "steps": 300, "stream": {stream}}}'
        head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body)[: rng.choice((30, len(head) + 5, 10_000))].encode())
        await writer.drain()
        await asyncio.sleep(rng.random() / 2)
        writer.transport.abort()
        self.found["left"] += 1

    async def attack(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            writer.write(rng.choice(HOSTILE))
            try:
                answer = await asyncio.wait_for(reader.read(12), 5)
                assert answer[9:10] in (b"4", b""), answer
            except (asyncio.TimeoutError, ConnectionError):
                pass
            writer.transport.abort()
        else:
            status, answer = await self.ask("/v1/images/generations", rng.choice(BODIES))
            assert status in (400, 429), (status, answer[:300])
            assert "message" in json.loads(answer)["error"]
        self.found["hostile"] += 1

    async def client(self, number: int, until: float) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            if number % 10 == 0:
                await self.leave(rng)
            elif number % 10 == 1:
                await self.draw(rng, slowly=True)
            elif number % 10 == 2:
                await self.attack(rng)
            elif number % 10 == 3:
                await self.talk(rng)
            else:
                await self.draw(rng)

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.client(number, until) for number in range(CLIENTS)))


def load_of(seconds: float, folder, caplog, tally: Tally) -> tuple[Load, list[int]]:
    """The load, and the process's memory in bytes after each third of it."""
    orthus = Orthus.open(folder, device="cpu")
    expected = {
        (prompt, seed): np.asarray(orthus.generate(prompt, seed=seed).images[0], np.int16)
        for prompt in PROMPTS
        for seed in SEEDS
    }
    caplog.set_level(logging.WARNING)
    process, sizes = psutil.Process(), []
    with Port(orthus._loaded, seconds=600, most_waiting=16) as port:  # on a busy machine too
        load = Load(port, expected)
        with tally.one("the load"):
            for _ in range(3):
                asyncio.run(load.run(seconds / 3))
                sizes.append(process.memory_info().rss)
        wait_until(lambda: port.state.worker.unfinished_rows == 0)
        wait_until(lambda: port.state.access.active == 0)
        assert not port.state.worker._rows and not port.state.worker._waiting
    tally.tries, tally.seconds = sum(load.found.values()), load.times
    if "Traceback" in caplog.text or "ERROR" in caplog.text:
        tally.found("tracebacks", caplog.text)
    return load, sizes


@pytest.mark.slow
def test_32_clients_of_whom_some_leave_are_slow_or_hostile(tiny_folder, caplog, record_property):
    tally = Tally(f"server: {CLIENTS} clients")
    load, sizes = load_of(SECONDS, tiny_folder, caplog, tally)
    print(f"{dict(load.found)}, memory {sizes}")
    tally.finish(record_property)
    kinds = {"right", "slow", "left", "hostile", "talked"}
    assert all(load.found[kind] > 3 for kind in kinds)
    assert sizes[2] < 1.05 * sizes[1]  # the first third warms up


def test_32_clients_for_a_moment(tiny_folder, caplog, record_property):
    """The same without a look at the memory, so that this file cannot rot."""
    tally = Tally("server, smoke")
    load, _ = load_of(1.0, tiny_folder, caplog, tally)
    tally.finish(record_property)
    assert load.found["right"] and load.found["left"] and load.found["hostile"]
