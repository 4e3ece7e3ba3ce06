"""How fast the server draws under load, beside `generate` on the same machine.

    python benchmarks/server_load.py --clients 32 --seconds 20

Both sides draw with one model in this process, in turns, so that other work on the machine slows
both: `generate` draws batches of as many pictures as there are clients; the server is asked by as
many clients over its port, each for one picture after another. It also measures the time to the
first unfinished picture, beside the time of a patch: on an idle server, and on one that draws for
the other clients, where a patch takes as long as one of all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from contextlib import contextmanager

from orthus_core.api.images import prepare_generate
from orthus_core.api.loaded import load_model
from orthus_core.api.requests import run
from orthus_core.events import ImageDone, PatchDone
from orthus_core.recipe import GenerateRecipe
from orthus_core.samplers.generate import generate
from orthus_core.server.request_guard import Access, Limits
from orthus_core.server.serving import GracefulServer, bind, open_state

PROMPTS = ("a snowman", "a red fox", "a blue car", "a cat and a dog", "a tree on a hill")


@contextmanager
def serving(loaded, clients):
    """The port of a server in a thread of its own."""
    state = open_state(loaded, Access(), Limits(), most_rows=clients, most_waiting=clients)
    server = GracefulServer(state)
    with bind("127.0.0.1", 0) as bound:
        state.worker.start()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            server.finish()
            thread.join()
            state.worker.stop()


async def post(port, body, first=None):
    """The answer's body; the time of the first unfinished picture is put into `first`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    received = b""
    while piece := await reader.read(1 << 16):
        received += piece
        if first is not None and not first and b"partial_image" in received:
            first.append(time.perf_counter())
    writer.close()
    assert received.startswith(b"HTTP/1.1 200"), received[:300]
    return received


def with_generate(loaded, clients, seconds):
    """Pictures a second of `generate -n CLIENTS`, over whole batches."""
    request = prepare_generate(loaded, GenerateRecipe(), PROMPTS, [1])
    rows = [request.prompts[n % len(PROMPTS)]._replace(seed=n) for n in range(clients)]
    began, pictures = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        events = generate(loaded.model, rows, request.params, clients)
        pictures += sum(isinstance(event, ImageDone) for event in events)
    return pictures / (time.perf_counter() - began)


def with_server(port, clients, seconds):
    """Pictures a second of that many clients, the seconds of each request, and the seconds to the
    first unfinished picture of one of them, who asks for one after another.

    The clients begin one after another in the first quarter of the time, which does not count. Only
    pictures do that are finished after it; when the time is over, clients leave one by one.
    """
    times: list[float] = []
    finished: list[float] = []
    waits: list[float] = []

    async def looker(until):
        await asyncio.sleep((clients - 0.5) / clients * seconds / 4)
        while time.perf_counter() < until:
            first: list[float] = []
            began = time.perf_counter()
            await post(port, {"prompt": PROMPTS[0], "stream": True, "partial_images": 1}, first)
            waits.append(first[0] - began)
            finished.append(time.perf_counter())

    async def client(number, until):
        # Not all at once: they would stay at the same patch, finish together, and let whoever asks
        # next wait for all their decoding.
        await asyncio.sleep(number / clients * seconds / 4)
        seed = number
        while time.perf_counter() < until:
            began = time.perf_counter()
            await post(port, {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed})
            finished.append(time.perf_counter())
            times.append(finished[-1] - began)
            seed += clients - 1

    async def every():
        began = time.perf_counter()
        until, counted = began + seconds, 0.75 * seconds
        askers = (client(number, until) for number in range(clients - 1))
        await asyncio.gather(looker(until), *askers)
        return sum(until - counted <= at < until for at in finished) / counted

    return asyncio.run(every()), times, waits


def first_unfinished(loaded, port):
    """Seconds to the first unfinished picture, and of one patch of a picture drawn alone."""
    request = prepare_generate(loaded, GenerateRecipe(), [PROMPTS[0]], [1])
    waits, patches = [], []
    for _ in range(7):  # in turns, as other work on the machine changes
        at = [time.perf_counter() for event in run(request) if isinstance(event, PatchDone)]
        patches += [b - a for a, b in zip(at, at[1:], strict=False)]
        first: list[float] = []
        began = time.perf_counter()
        body = {"prompt": PROMPTS[0], "stream": True, "partial_images": 1}
        asyncio.run(post(port, body, first))
        waits.append(first[0] - began)
    return statistics.median(waits), statistics.median(patches)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", default="mini")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20, help="of each side, in all")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    loaded = load_model(asked.model)
    each = asked.seconds / asked.rounds
    ours, theirs, times, waits = [], [], [], []
    with serving(loaded, asked.clients) as port:
        with_generate(loaded, 2, 0)
        asyncio.run(post(port, {"prompt": PROMPTS[0]}))
        waited, patch = first_unfinished(loaded, port)
        for _ in range(asked.rounds):
            theirs.append(with_generate(loaded, asked.clients, each))
            rate, seconds, firsts = with_server(port, asked.clients, each)
            ours.append(rate)
            times += seconds
            waits += firsts
    p50, p99 = (statistics.quantiles(times, n=100)[n] for n in (49, 98))
    print(f"generate -n {asked.clients}: {statistics.mean(theirs):.2f} pictures/s")
    print(f"server, {asked.clients} clients: {statistics.mean(ours):.2f} pictures/s")
    print(f"ratio: {statistics.mean(ours) / statistics.mean(theirs):.2f}")
    print(f"request: p50 {p50:.2f} s, p99 {p99:.2f} s")
    print(f"first unfinished picture: {waited:.3f} s = {waited / patch:.1f} patches")
    under_load, of_batch = statistics.median(waits), p50 / loaded.model.config.patches
    print(
        f"under load: {under_load:.3f} s = {under_load / of_batch:.1f} patches of {of_batch:.3f} s"
    )


if __name__ == "__main__":
    main()
