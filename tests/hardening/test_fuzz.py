"""Inputs drawn at random end in a right result or in one message; the server answers each with a
picture, or with what is wrong with it.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from orthus_core.api.loaded import load_model
from orthus_core.checkpoint import model_folder
from orthus_core.results.record import read_made
from tests.bad_inputs.pictures import damaged
from tests.bad_inputs.test_bad_inputs import judge, state
from tests.core.server_under_test import asked, data_url, image_of
from tests.hardening.conftest import run_here
from tests.hardening.fuzzed_inputs import (
    mutated_bytes,
    mutated_json,
    picture_with_chunks,
    picture_with_exif,
    png_of_noise,
    safetensors_header,
    text,
)
from tests.hardening.tally import FUZZED, SEED, Tally

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))
QUICK = ("-m", "mini", "--steps", "1", "--seed", "1", "-o", "out.png")


class Bench:
    """A folder to try in, where `mini` is a tiny model that is open already."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model, self.loaded = place, model, load_model(model, device="cpu")

    def run(self, *words: str) -> Result:
        """A command that must do no harm, whatever it was given."""
        before = state(self.place)
        done = run_here(list(words))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        judge(done, before, self.place)
        for name in set(state(self.place)) - set(before):
            (self.place / name).unlink()
        return done

    def file(self, name: str, content: bytes) -> str:
        path = self.place / name
        path.write_bytes(content)
        return str(path)

    def model_with(self, name: str, content: bytes) -> str:
        """A copy of the model's folder in which one file is another."""
        folder = self.place / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.model, folder)
        (folder / name).write_bytes(content)
        return str(folder)


@pytest.fixture
def bench(tmp_path, monkeypatch, tiny_folder) -> Bench:
    opened, whole = model_folder.open_model(tiny_folder, device="cpu"), model_folder.open_model

    def open_model(source, **how):
        return opened if str(source) == "mini" else whole(source, **how)

    monkeypatch.setattr(model_folder, "open_model", open_model)
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, tiny_folder)


def pictures(bench: Bench, rng: random.Random) -> None:
    path = bench.file("damaged.png", damaged(rng.randrange(10**9)))
    bench.run("edit", path, "a red fox", "--max-text", "1", *QUICK)


def chunks(bench: Bench, rng: random.Random) -> None:
    content = (picture_with_chunks if rng.random() < 0.6 else picture_with_exif)(rng)
    path = bench.file("chunks.png", content)
    bench.run("info", path)
    bench.run("generate", "-C", path, *QUICK)


def recipes(bench: Bench, rng: random.Random) -> None:
    content = rng.choice(RECIPES).read_bytes()
    for _ in range(rng.randint(1, 3)):
        content = mutated_bytes(rng, content)
    bench.run("recipes", "validate", bench.file("own.toml", content))


def headers(bench: Bench, rng: random.Random) -> None:
    content = (bench.model / "model.safetensors").read_bytes()
    folder = bench.model_with("model.safetensors", safetensors_header(rng, content))
    bench.run("info", folder)
    bench.run("generate", "a red fox", "--device", "cpu", *QUICK, "-m", folder)


def configs(bench: Bench, rng: random.Random) -> None:
    name = rng.choice(("config.json", "config.json", "tokenizer.json", "preprocessor_config.json"))
    path = bench.model / name
    if not path.exists():
        path = bench.model / "config.json"
    content = path.read_bytes()
    if rng.random() < 0.3:
        content = mutated_bytes(rng, content)
    else:
        content = json.dumps(mutated_json(rng, json.loads(content))).encode()
    folder = bench.model_with(path.name, content)
    bench.run("generate", "a red fox", "--device", "cpu", *QUICK, "-m", folder)


def prompts(bench: Bench, rng: random.Random) -> None:
    words, before = text(rng), state(bench.place)
    done = run_here(["generate", *QUICK, "--", words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    judge(done, before, bench.place)
    if done.exit_code == 0:
        made = read_made(bench.place / "out.png")
        assert made is not None
        assert unicodedata.normalize("NFC", made.info.prompt) == unicodedata.normalize("NFC", words)
        (bench.place / "out.png").unlink()


KINDS: dict[str, Callable[[Bench, random.Random], None]] = {
    each.__name__: each for each in (pictures, chunks, recipes, headers, configs, prompts)
}
OF_EACH = max(1, -(-FUZZED // (len(KINDS) + 1)))  # and the server's bodies


def fuzz(kind: str, bench: Bench, tries: int, record_property) -> None:
    tally = Tally(f"fuzz: {kind}")
    for number in range(tries):
        rng = random.Random(f"{SEED} {kind} {number}")
        with tally.one(f"{kind} {number}"), tally.timed():
            KINDS[kind](bench, rng)
    tally.finish(record_property)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_random_input_is_read_or_refused(kind, bench, record_property):
    fuzz(kind, bench, OF_EACH, record_property)


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_each_kind_is_read_or_refused(kind, bench, record_property):
    """The same, once, so that this file cannot rot."""
    fuzz(kind, bench, 1, record_property)


def bodies(rng: random.Random) -> tuple[str, object]:
    """An address, and a body that would have been right before it was changed."""
    shown = {"type": "image_url", "image_url": {"url": data_url(png_of_noise(rng))}}
    said = {"type": "text", "text": "what is this?"}
    return rng.choice(
        [
            (
                "/v1/images/generations",
                {"prompt": "a fox", "n": 1, "seed": 3, "num_inference_steps": 2, "size": "16x16"}
                | {"guidance_scale": 2.0, "negative_prompt": "a hat", "response_format": "b64_json"}
                | {"stream": False, "continue_from": {"image": data_url(png_of_noise(rng))}},
            ),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": [shown, said]}], "max_tokens": 3}
                | {"model": "tiny", "temperature": 0.5, "stop": ["x"], "stream": False, "seed": 1},
            ),
            (
                "/api/story",
                {"prompt": "a fox", "panels": 1, "seed": 1, "steps": 1, "max_new_tokens": 2},
            ),
            ("/api/check_words", {"text": "a fox"}),
        ]
    )


def ask(client, rng: random.Random) -> None:
    address, body = bodies(rng)
    content = json.dumps(mutated_json(rng, body)).encode()
    if rng.random() < 0.2:
        content = mutated_bytes(rng, content)
    answer = client.post(address, content=content, headers={"content-type": "application/json"})
    told = f"{address} {content[:300]!r}: {answer.status_code} {answer.text[:300]}"
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, told
    assert "Traceback" not in answer.text, told
    if answer.status_code >= 400:
        message = answer.json()["error"]["message"]
        assert message and not re.search(r"\b[A-Z]\w+Error\b", message), told
    elif address.endswith("generations") and answer.headers["content-type"].endswith("json"):
        for each in answer.json()["data"]:
            if "b64_json" in each:
                assert image_of(each["b64_json"]).size == (16, 16), told
    assert client.get("/health").json()["status"] == "ok"


def ask_many(bench: Bench, tries: int, record_property) -> None:
    tally = Tally("fuzz: bodies")
    with asked(bench.loaded) as (client, state_of_server):
        for number in range(tries):
            rng = random.Random(f"{SEED} bodies {number}")
            with tally.one(f"body {number}"), tally.timed():
                ask(client, rng)
        same = {"prompt": "a fox", "seed": 1, "steps": 2}
        first, second = (client.post("/v1/images/generations", json=same) for _ in range(2))
        if first.json()["data"] != second.json()["data"]:
            tally.found("wrong answers", "a seed's picture changed")
        assert state_of_server.worker.unfinished_rows == 0
    tally.finish(record_property)


@pytest.mark.slow
def test_random_bodies_are_answered_or_refused(bench, record_property):
    ask_many(bench, OF_EACH, record_property)


def test_three_random_bodies_are_answered_or_refused(bench, record_property):
    ask_many(bench, 3, record_property)
