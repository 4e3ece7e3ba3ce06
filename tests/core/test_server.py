"""The server, asked in this process: what it answers, and what it refuses."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import json
import struct
import threading
import weakref
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import anyio
import pytest
import torch
from PIL import Image

from orthus_core.api.loaded import load_model
from orthus_core.api.pipeline import Orthus
from orthus_core.errors import OrthusError, PromptError
from orthus_core.results.record import read_made
from orthus_core.samplers.generate import RunningBatch
from orthus_core.samplers.params import SamplingParams
from orthus_core.server import chat_requests, model_worker, picture_routes, picture_store
from orthus_core.server.body_fields import Fields, Refused
from orthus_core.server.chat_requests import EndAtStop, read_messages
from orthus_core.server.event_streams import MOST_UNREAD, ArrivingEvents
from orthus_core.server.model_worker import (
    SAMPLERS_KEPT,
    Accepted,
    Finished,
    PreparedRows,
    Ticket,
    UnfinishedImage,
)
from orthus_core.server.request_guard import Access, Limits
from orthus_core.server.serving import bind, check_access
from tests.core.server_under_test import (
    asked,
    data_url,
    events_of,
    image_of,
    png,
    wait_until,
)

GENERATE, EDIT, CHAT = "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return load_model(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def orthus(tiny_folder):
    return Orthus.open(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def server(loaded):
    with asked(loaded) as (client, state):
        yield client, state


@pytest.fixture(scope="module")
def client(server):
    return server[0]


def question(*parts) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def words(text: str) -> dict:
    return {"type": "text", "text": text}


def shown(content: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url(content)}}


# Pictures


def test_a_seed_is_the_picture_that_generate_draws_and_says_how_it_was_made(
    client, orthus, tmp_path
):
    body = {"prompt": "a snowman", "n": 2, "seed": 7, "num_inference_steps": 3}
    answer = client.post(GENERATE, json=body).json()
    drawn = orthus.generate("a snowman", num_images=2, seed=7, steps=3)
    assert [each["seed"] for each in answer["data"]] == [7, 8]
    for each, image in zip(answer["data"], drawn.images, strict=True):
        assert image_of(each["b64_json"]).tobytes() == image.tobytes()
    assert answer["size"] == "16x16" and answer["usage"]["output_tokens"] == 2 * 4
    path = tmp_path / "first.png"
    image = image_of(answer["data"][0]["b64_json"])
    path.write_bytes(image.fp.getvalue())  # type: ignore[union-attr]
    record = read_made(path)
    assert record is not None
    assert record.info.prompt == "a snowman" and record.info.sampling["steps"] == 3


def test_requests_with_other_values_are_drawn_with_theirs(server, orthus):
    client, state = server
    guides = ({"guidance_interval": [300, 800]}, {"guidance_schedule": "linear"})
    others = ({"steps": 5, "noise_scale": 0.5}, {"steps": 5, "guidance": 1.0})
    for values in ({"steps": 2}, *others, *({"steps": 5, **each} for each in guides)):
        answer = client.post(GENERATE, json={"prompt": "a fox", "seed": 1, **values}).json()
        drawn = orthus.generate("a fox", seed=1, **values).images[0]
        assert image_of(answer["data"][0]["b64_json"]).tobytes() == drawn.tobytes()
    refused = client.post(GENERATE, json={"prompt": "a fox", "guidance_interval": "all"})
    assert refused.status_code == 400
    assert "guidance_interval must be a list of whole numbers" in refused.text
    form = Fields({"a": "[200, 800]", "b": "[" * 100_000}, from_form=True)
    assert form.integers("a") == [200, 800] and form.integers("c") is None
    with pytest.raises(Refused, match="b must be a list"):
        form.integers("b")
    samplers = list(state.worker._samplers.values())
    assert len(samplers) >= 2 and len({id(each.head) for each in samplers}) == 1  # type: ignore[attr-defined]


def test_a_stream_shows_the_first_patch_and_then_more_and_ends_with_the_picture(client):
    body = {"prompt": "a fox", "seed": 1, "n": 2, "stream": True, "partial_images": 2}
    answer = client.post(GENERATE, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    partial = [event for event in events if event["type"] == "image_generation.partial_image"]
    done = [event for event in events if event["type"] == "image_generation.completed"]
    assert sorted((each["index"], each["partial_image_index"]) for each in partial) == [
        *((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert [each["patches"] for each in partial if each["index"] == 0] == [1, 2]
    first = image_of(partial[0]["b64_json"]).convert("RGB")
    white = [first.getpixel(at) == (255, 255, 255) for at in ((2, 2), (12, 2), (2, 12), (12, 12))]
    assert white == [False, True, True, True]
    plain = client.post(GENERATE, json={"prompt": "a fox", "seed": 1, "n": 2}).json()
    assert {each["index"]: each["b64_json"] for each in done} == {
        index: each["b64_json"] for index, each in enumerate(plain["data"])
    }


def test_a_url_is_answered_for_some_minutes(client, monkeypatch):
    body = {"prompt": "a fox", "seed": 1, "response_format": "url"}
    url = client.post(GENERATE, json=body).json()["data"][0]["url"]
    assert image_of_bytes(client.get(url).content).size == (16, 16)
    later = picture_store.time.monotonic() + 60 * picture_store.MINUTES + 1
    monkeypatch.setattr(picture_store.time, "monotonic", lambda: later)
    assert client.get(url).status_code == 404


def image_of_bytes(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_files_that_are_kept_have_a_bound(monkeypatch):
    monkeypatch.setattr(picture_store, "MOST_BYTES", 10)
    store = picture_store.PictureStore()
    names = [store.keep(b"12345") for _ in range(3)]
    assert [store.file(name) is None for name in names] == [True, False, False]
    drawn_MPC = torch.zeros(100, 1, 1)
    for name in ("first", "second", "second", "third"):
        store.keep_features(name, drawn_MPC[0])
    assert [store.features(name) is None for name in ("first", "second", "third")] == [
        True,
        False,
        False,
    ]
    third_PC = store.features("third")
    assert third_PC is not None and third_PC.untyped_storage().nbytes() == 4
    later = picture_store.time.monotonic() + 60 * picture_store.MINUTES_OF_FEATURES + 1
    monkeypatch.setattr(picture_store.time, "monotonic", lambda: later)
    assert store.features("third") is None and store.file(names[2]) is None


def test_kept_rows_are_those_of_the_picture_and_another_seed_draws_the_rest(client):
    first = client.post(GENERATE, json={"prompt": "a fox", "seed": 1}).json()["data"][0]
    url = "data:image/png;base64," + first["b64_json"]
    body = {"prompt": "a fox", "continue_from": {"image": url, "keep_rows": 1}}
    same = client.post(GENERATE, json={**body, "seed": 1}).json()["data"][0]
    other = client.post(GENERATE, json={**body, "seed": 2}).json()["data"][0]
    pixels, again, branch = (image_of(each["b64_json"]).tobytes() for each in (first, same, other))
    assert again == pixels and branch != pixels


def test_usage_counts_the_tokens_of_the_prompt(client, loaded):
    ids = loaded.builder.context("a snowman").ids
    body = {"prompt": "a snowman", "n": 2, "steps": 1}
    usage = client.post(GENERATE, json=body).json()["usage"]
    assert usage["input_tokens_details"] == {"text_tokens": len(ids), "image_tokens": 0}
    assert usage["input_tokens"] == len(ids) and usage["output_tokens"] == 2 * 4
    assert usage["total_tokens"] == len(ids) + 8
    *_, last = events_of(client.post(GENERATE, json=body | {"stream": True}).text)
    assert last["usage"]["input_tokens"] == len(ids) and last["usage"]["output_tokens"] == 4
    files = [("image[]", ("a.png", png())), ("image[]", ("b.png", png()))]
    edited = client.post(EDIT, files=files, data={"prompt": "make it night", "steps": "1"}).json()
    assert edited["usage"]["input_tokens_details"]["image_tokens"] == 2 * 4


def test_a_list_in_a_form_is_read_as_the_official_client_sends_it(client):
    files = {"image": ("a.png", png(), "image/png")}
    form = {"prompt": "make it night", "steps": "5", "seed": "1", "guidance": "3"}
    in_fields = {**form, "guidance_interval[]": ["300", "800"]}
    sent = [
        client.post(EDIT, files=files, data=data).json()["data"][0]["b64_json"]
        for data in (form, in_fields, {**form, "guidance_interval": "[300, 800]"})
    ]
    pixels = [image_of(each).tobytes() for each in sent]
    assert pixels[1] == pixels[2] != pixels[0]
    for wrong in ({"prompt[]": ["a", "b"]}, {"prompt": "a", "guidance_interval[]": ["a", "b"]}):
        answer = client.post(EDIT, files=files, data=wrong)
        assert answer.status_code == 400
    refused = client.post(EDIT, files=files, data={**form, "negative_prompt": "a fox"})
    assert "negative_prompt is not supported" in refused.json()["error"]["message"]


def test_pictures_of_a_form_may_be_numbered(client):
    form = {"prompt": "make it night", "steps": "1", "seed": "1"}
    contents = [png(), png(colour="blue")]
    sent = [
        client.post(
            EDIT,
            data=form,
            files=[(name, ("a.png", c)) for name, c in zip(names, contents, strict=True)],
        )
        for names in (("image[]", "image[]"), ("image[0]", "image[1]"))
    ]
    first, second = (each.json()["data"][0]["b64_json"] for each in sent)
    assert image_of(first).tobytes() == image_of(second).tobytes()


def test_an_edit_is_that_of_the_command(client, orthus):
    content = png(40, 30, "red")
    files = {"image": ("start.png", content, "image/png")}
    seed = 2**53 + 1  # which a float does not hold
    form = {"prompt": "make it night", "n": "2", "seed": str(seed), "steps": "2"}
    answer = client.post(EDIT, files=files, data=form).json()
    drawn = orthus.edit(content, "make it night", num_images=2, seed=seed, steps=2)
    assert [each["seed"] for each in answer["data"]] == [seed, seed + 1]
    for each, image in zip(answer["data"], drawn.images, strict=True):
        assert image_of(each["b64_json"]).tobytes() == image.tobytes()
    streamed = client.post(EDIT, files=files, data={**form, "stream": "true"})
    assert [event["type"] for event in events_of(streamed.text)] == ["image_edit.completed"] * 2


# Chat


def test_an_answer_is_that_of_caption(client, orthus):
    content = png()
    body = question(shown(content), words("what is this?")) | {"max_tokens": 9}
    answer = client.post(CHAT, json=body).json()
    expected = orthus.caption(content, "what is this?", max_new_tokens=9).texts[0]
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert answer["usage"]["prompt_tokens"] > 4 and answer["usage"]["completion_tokens"] <= 9


SAMPLED = {"max_tokens": 12, "seed": 5, "temperature": 1.5}


def test_a_stream_of_words_and_pictures_is_the_whole_answer(client):
    body = question(words("a red fox")) | SAMPLED
    body |= {"modalities": ["text", "image"], "n": 2, "max_images": 2}
    whole = client.post(CHAT, json=body).json()
    options = {"stream": True, "stream_options": {"include_usage": True}, "partial_images": 2}
    *chunks, last, done = events_of(client.post(CHAT, json=body | options).text)
    assert done == {"type": "done"} and last["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        deltas = [
            each["delta"] for chunk in chunks for each in chunk["choices"] if each["index"] == index
        ]
        said = "".join(delta.get("content", "") for delta in deltas)
        assert said.split() == choice["message"]["content"].split()
        images = [image for delta in deltas for image in delta.get("images", [])]
        assert images == choice["message"].get("images", [])


def test_a_picture_alone_is_the_answer_to_modalities_image(client, orthus):
    body = question(words("a snowman")) | {"modalities": ["image"], "seed": 7, "steps": 3}
    message = client.post(CHAT, json=body).json()["choices"][0]["message"]
    (image,) = message["images"]
    drawn = orthus.generate("a snowman", seed=7, steps=3).images[0]
    b64 = image["image_url"]["url"].partition(",")[2]
    assert image_of(b64).tobytes() == drawn.tobytes() and message["content"] == ""
    assert message["parts"] == [{"type": "image", "index": 0}]


def test_an_answer_ends_before_its_stop_text(client):
    body = question(words("a red fox")) | SAMPLED
    whole = client.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    stop = whole[4:7]
    assert len(whole) > 8 and stop.strip()
    for stream in (False, True):
        answer = client.post(CHAT, json=body | {"stop": [stop], "stream": stream})
        if stream:
            chunks = [chunk for chunk in events_of(answer.text) if "choices" in chunk]
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            said = "".join(delta.get("content", "") for delta in deltas)
        else:
            said = answer.json()["choices"][0]["message"]["content"]
            assert answer.json()["usage"]["completion_tokens"] < 12
        assert said.strip() == whole[: whole.find(stop)].strip()
    last = client.post(CHAT, json=body | {"stop": whole[-3:]}).json()["choices"][0]
    assert last["finish_reason"] == "stop"


def test_the_model_reads_earlier_turns_and_what_the_system_says(server):
    client, state = server
    turns = [
        {"role": "system", "content": "a red fox"},
        {"role": "user", "content": "what is this?"},
        {"role": "assistant", "content": "a snowman"},
        {"role": "user", "content": "a red fox"},
    ]
    tokens = client.post(CHAT, json={"messages": turns}).json()["usage"]["prompt_tokens"]
    length = state.served.loaded.builder.length
    # <s>, SEP after both questions, </s> after the answer.
    texts = ["a red fox what is this?", "a snowman", "a red fox"]
    assert tokens == sum(length(text) - 2 for text in texts) + 4
    asked = question(shown(png()))["messages"]
    counts = [
        client.post(CHAT, json={"messages": each}).json()["usage"]["prompt_tokens"]
        for each in (asked, [turns[0], *asked])
    ]
    assert counts[1] == counts[0] + length("a red fox") - 2


def test_no_more_pictures_of_a_conversation_are_read_than_have_room(client, loaded, monkeypatch):
    read, made = [], chat_requests.read_picture
    monkeypatch.setattr(
        chat_requests, "read_picture", lambda *args: read.append(args) or made(*args)
    )
    config = loaded.model.config
    most = config.max_position_embeddings // config.patches
    answer = client.post(CHAT, json=question(*[shown(png())] * (most + 5)))
    assert answer.status_code == 400 and len(read) == most + 1
    error = answer.json()["error"]
    assert error["param"] == "messages" and f"more than {most} pictures" in error["message"]


# Stories


def test_an_answer_with_pictures_is_read_again_as_it_was_sent(server):
    client, state = server
    red, blue = png(colour="red"), png(colour="blue")
    message = {"role": "assistant", "content": "before\n\nafter", "refusal": None}
    message |= {"images": [shown(red), shown(blue)]}
    order = [{"type": "image", "index": 1}, words("before"), {"type": "image", "index": 0}]
    asks = {"role": "user", "content": "make it night"}

    def read(**more) -> list:
        said = [{"role": "user", "content": "a fox"}, {**message, **more}, asks]
        own = [each for each in read_messages(said, state.served) if each.role == "model"]
        return [each.value if each.type == "text" else each.value.content for each in own]

    as_pictures = [hashlib.sha256(each).hexdigest() for each in (red, blue)]
    assert read() == ["before\n\nafter", *as_pictures]
    assert read(parts=order) == [as_pictures[1], "before", as_pictures[0]]
    assert read(content=None) == as_pictures
    for wrong, place in (
        ({"images": "x"}, "messages[0].images"),
        ({"images": [5]}, "messages[0].content[1]"),
        ({"parts": [{"type": "image", "index": 2}]}, "messages[0].parts[0].index"),
        ({"parts": ["x"]}, "messages[0].parts[0]"),
    ):
        answer = client.post(CHAT, json={"messages": [{**message, **wrong}, asks]})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == place


def test_a_data_url_may_have_line_breaks_and_capitals(client):
    url = data_url(png())
    in_lines = url[:60] + "\n" + url[60:90] + "\r\n" + url[90:] + "\n"
    for sent in (in_lines, url.replace("data:image/png;base64", "DATA:image/PNG;Base64")):
        part = {"type": "image_url", "image_url": {"url": sent}}
        answer = client.post(CHAT, json=question(part, words("what is this?")) | {"max_tokens": 1})
        assert answer.status_code == 200, answer.text


def test_a_top_p_of_zero_takes_the_likeliest_words(client):
    body = question(words("a fox")) | {"max_tokens": 12}
    likeliest, sampled = (
        client.post(CHAT, json=body | values).json()["choices"][0]["message"]["content"]
        for values in ({"temperature": 0}, {"temperature": 2, "top_p": 0, "seed": 1})
    )
    assert likeliest == sampled


def test_a_choice_among_no_tools_changes_nothing(client):
    for more in ({"tool_choice": "auto"}, {"tools": [], "tool_choice": "auto"}):
        assert client.post(CHAT, json=question(words("a fox")) | more).status_code == 200


def test_chunks_say_that_their_usage_comes_last(client):
    body = question(words("a fox")) | {"max_tokens": 3, "stream": True}
    *chunks, last, _ = events_of(
        client.post(CHAT, json=body | {"stream_options": {"include_usage": True}}).text
    )
    assert all("usage" in chunk and chunk["usage"] is None for chunk in chunks)
    assert last["usage"]["prompt_tokens"] > 0
    assert not any("usage" in event for event in events_of(client.post(CHAT, json=body).text))


def test_a_story_is_told_panel_by_panel_and_kept_as_a_folder(client, orthus):
    body = {"prompt": "a red fox", "panels": 2, "seed": 4, "steps": 2, "partial_images": 1}
    body |= {"max_new_tokens": 6}
    events = events_of(client.post("/api/story", json=body).text)
    panels = [event for event in events if event["type"] == "story.panel"]
    told = orthus.story("a red fox", panels=2, seed=4, steps=2, max_new_tokens=6)
    assert [panel["text"] for panel in panels] == told.texts
    drawn = [image_of(panel["b64_json"]).tobytes() for panel in panels]
    assert drawn == [image.tobytes() for image in told.images]
    kinds = {event["type"] for event in events}
    assert {"story.text", "story.partial_image", "story.image_begun"} <= kinds
    file = client.get(events[-1]["file"]).content
    names = zipfile.ZipFile(io.BytesIO(file)).namelist()
    assert events[-1]["seed"] == 4 and "story/story.html" in names
    before = [
        {"text": panels[0]["text"], "image": "data:image/png;base64," + panels[0]["b64_json"]}
    ]
    goes_on = events_of(client.post("/api/story", json={**body, "before": before}).text)
    assert [event["panel"] for event in goes_on if event["type"] == "story.panel"] == [2]


def test_a_story_goes_on_by_as_many_panels_as_are_left(client):
    before = [{"text": "a", "image": data_url(png())}] * 22
    answer = client.post("/api/story", json={"prompt": "a", "steps": 1, "before": before})
    assert "panels must be" not in answer.text


def test_a_story_without_room_for_its_panels_or_without_a_new_one_is_answered(client):
    before = [{"text": "a red fox " * 20, "image": data_url(png())}] * 20
    body = {"prompt": "a", "steps": 1, "max_new_tokens": 2, "before": before}
    kinds = {}
    for panels in (20, 21):
        answer = client.post("/api/story", json={**body, "panels": panels})
        kinds[panels] = [event["type"] for event in events_of(answer.text)]
    assert kinds[20] == ["story.completed"]
    assert kinds[21][0] == "story.note" and kinds[21][-2:] == ["story.panel", "story.completed"]


# What the page asks


def test_the_page_learns_what_the_model_is_and_which_words_it_knows(client, loaded):
    model = client.get("/api/model").json()
    assert model["grid"] == {"rows": 2, "columns": 2, "patches": 4}
    assert model["defaults"]["generate"]["steps"] == 4 and model["has_words"] is False
    assert client.get("/api/words").json() == {"words": None}
    checked = client.post("/api/check_words", json={"text": "a fox"}).json()
    assert checked == {"read_as": "a fox", "unknown": [], "exceeds": False}
    assert client.get("/").status_code == 200


def test_other_requests_are_answered_while_words_are_checked(server, monkeypatch):
    client, state = server
    reading, answered, found = threading.Event(), threading.Event(), []

    def read(text):
        reading.set()
        return text if answered.wait(5) else "nobody else was answered"

    known = SimpleNamespace(read=read, unknown=lambda text: [], exceeds=lambda text: False)
    served = state.served
    monkeypatch.setattr(
        state, "served", served._replace(loaded=served.loaded._replace(known=known))
    )
    body = {"text": "a fox"}
    asking = threading.Thread(
        target=lambda: found.append(client.post("/api/check_words", json=body).json()["read_as"])
    )
    asking.start()
    assert reading.wait(5)
    client.get("/health")
    answered.set()
    asking.join()
    assert found == ["a fox"]


def test_models_health_and_metrics_answer(server):
    client, state = server
    client.post(GENERATE, json={"prompt": "a fox", "steps": 1})
    tokens = 10**9 + 1 - int(state.meters.value("orthus_text_tokens_total"))
    state.meters.add("orthus_text_tokens_total", tokens)
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and client.get("/v1/models/tiny").json() == model
    assert client.get("/health").json() == {"status": "ok", "model": "tiny"}

    def figures() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        parts = [line.rpartition(" ") for line in lines if line[0] != "#"]
        return {name: float(value) for name, _, value in parts}

    # The worker counts its rows after it has answered.
    wait_until(lambda: figures()["orthus_batch_rows"] == 0, 20)
    counted = figures()
    assert counted[f'orthus_requests_total{{code="200",path="{GENERATE}"}}'] >= 1
    assert counted["orthus_text_tokens_total"] == 10**9 + 1
    assert counted["orthus_pictures_total"] >= 1
    name = "orthus_request_seconds"
    assert (
        counted[f'{name}_bucket{{path="{GENERATE}",le="+Inf"}}']
        == (counted[f'{name}_count{{path="{GENERATE}"}}'])
    )


# Refusals


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"prompt": " "}, 400, "prompt", "empty"),
        ({}, 400, "prompt", "empty"),
        ({"prompt": 5}, 400, "prompt", "must be text"),
        ({"prompt": "a", "size": "1024x1024"}, 400, "size", "16x16"),
        ({"prompt": "a", "n": 11}, 400, "n", "1 to 10"),
        ({"prompt": "a", "n": True}, 400, "n", "number"),
        ({"prompt": "a", "seed": -1}, 400, "seed", "at least 0, not -1"),
        ({"prompt": "a", "seed": 1.5}, 400, "seed", "whole"),
        ({"prompt": "a", "steps": 0}, 400, "steps", "at least 1"),
        ({"prompt": "a", "steps": 10**6}, 400, "steps", "1000"),
        ({"prompt": "a", "steps": 3, "num_inference_steps": 3}, 400, "steps", "both"),
        ({"prompt": "a", "guidance_scale": "5"}, 400, "guidance_scale", "number"),
        ({"prompt": "a", "scheduler": "os.system"}, 400, "scheduler", "not supported"),
        ({"prompt": "a", "stepz": 3}, 400, "stepz", "did you mean 'steps'"),
        ({"prompt": "a", "lora": "x"}, 400, "lora", "unknown"),
        ({"prompt": "a", "model": "gpt-image-1"}, 404, "model", "'tiny'"),
        ({"prompt": "a", "output_format": "webp"}, 400, "output_format", "PNG"),
        ({"prompt": "a", "stream": True, "response_format": "url"}, 400, "response_format", "b64"),
        ({"prompt": "a" * 40_000}, 400, "prompt", "32000"),
        ({"prompt": "a fox " * 200}, 400, "prompt", "tokens"),
        ({"prompt": "half \ud83d"}, 400, None, "surrogate"),
        ({"prompt": "a", "continue_from": {"image": "x"}}, 400, "continue_from.image", "data:"),
        ([1], 400, "body", "object"),
    ],
)
def test_a_request_that_cannot_be_drawn_says_why(client, body, status, param, said):
    answer = client.post(
        GENERATE, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    error = answer.json()["error"]
    assert answer.status_code == status and said in error["message"]
    assert error["param"] == param and error["type"] and error["code"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "no JSON"),
        (b'{"prompt": "a", "guidance": NaN}', "no JSON"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
    ],
)
def test_what_is_no_json_is_refused(client, content, said):
    answer = client.post(GENERATE, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "user or assistant"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must be the user's"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"tools": [{}]}, "calls no tools"),
        ({"tools": [{}], "tool_choice": "auto"}, "tools is not supported"),
        ({"tool_choice": "required"}, "tool_choice is not supported"),
        ({"stop": ""}, "none of them empty"),
        ({"logprobs": True}, "not recorded"),
        ({"temperature": 3}, "from 0 to 2"),
        ({"modalities": ["audio"]}, "modalities"),
        (question({"type": "input_audio"}), "text or image_url"),
        (
            question({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}),
            "fetches nothing",
        ),
        (
            question({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}),
            "base64",
        ),
    ],
)
def test_a_conversation_that_cannot_be_continued_says_why(client, change, said):
    answer = client.post(CHAT, json=question(words("a fox")) | change)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"messages": ["a fox"]}, "messages[0]", "messages[0] must be a JSON object"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "'tool'"),
        (question("a fox"), "messages[0].content[0]", "must be a JSON object"),
        (question(words("a"), {"type": "file"}), "messages[0].content[1].type", "image_url"),
        (question({"type": "text", "text": 5}), "messages[0].content[0].text", "must be text"),
        ({"stream_options": {"include_use": True}}, "stream_options.include_use", "include_usage"),
        ({"modalities": []}, "modalities", "not supported"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be at least 1, not 0"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "does not reason"),
        ({"function_call": "auto"}, "function_call", "calls no functions"),
    ],
)
def test_what_is_wrong_in_a_conversation_is_named_by_its_place(client, change, param, said):
    answer = client.post(CHAT, json=question(words("a fox")) | change)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and said in error["message"]


def test_the_place_of_a_wrong_field_in_another_object_is_named(client):
    body = {"prompt": "a", "continue_from": {"image": 5, "keep_rows": 1}}
    assert client.post(GENERATE, json=body).json()["error"]["param"] == "continue_from.image"
    body = {"prompt": "a", "before": [{"text": "a"}, {"text": 5}]}
    assert client.post("/api/story", json=body).json()["error"]["param"] == "before[1].text"


def test_another_address_or_method_says_what_there_is(client):
    for path, said in (
        ("/images/generations", "did you mean /v1/images/generations?"),
        ("/v1/chat/completions/", "did you mean /v1/chat/completions?"),
        ("/v1/responses", "/v1/chat/completions, /v1/images/edits, /v1/images/generations"),
    ):
        answer = client.post(path, json={})
        assert answer.status_code == 404 and said in answer.json()["error"]["message"]
    answer = client.get(CHAT)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert answer.json()["error"] == {
        "message": "this address does not answer GET; use POST",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
    }
    answer = client.get("/v1/models/")
    assert answer.status_code == 404 and "did you mean /v1/models?" in answer.text
    error = client.get("/v1/models/gpt-4o").json()["error"]
    assert error["param"] == "model" and "this server has 'tiny'" in error["message"]


def test_a_compressed_body_is_refused_by_its_encoding(client):
    body = gzip.compress(b'{"prompt": "a fox"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post(GENERATE, content=body, headers=headers)
    error = answer.json()["error"]
    assert answer.status_code == 415 and "gzip" in error["message"]
    assert error["param"] == "Content-Encoding"


def bomb() -> bytes:
    """A PNG file of a few bytes that says it is 30,000 x 30,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def noisy() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"this is a text", "no picture"),
        (b"", "no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (noisy()[:900], "cut short"),
        (bomb(), "too many pixels; scale it down to at most 16 megapixels"),
        (png(5000, 4000), "5000 x 4000"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, ""),
        (b"GIF89a" + b"\xff" * 60, ""),
        (b"BM" + b"\xff" * 60, ""),
    ],
)
def test_a_hostile_upload_is_refused_kindly(client, content, said):
    files = {"image": ("cat.png", content, "image/png")}
    answer = client.post(EDIT, files=files, data={"prompt": "make it night"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"] and error["param"] == "image"


def test_a_form_without_a_picture_or_with_a_mask_is_refused(client):
    files = {"image": ("a.png", png(), "image/png")}
    for sent, said in (
        ({"files": {"else": ("a.png", png())}, "data": {"prompt": "a"}}, "and not 'else'"),
        ({"files": {"mask": ("a.png", png())}, "data": {"prompt": "a"}}, "send it as a file"),
        (
            {"files": {"mask": ("a.png", png())}, "data": {"prompt": "a", "image": "b.png"}},
            "must be a file",
        ),
        ({"files": {**files, "mask": ("m.png", png())}, "data": {"prompt": "a"}}, "anew"),
        ({"files": files, "data": {"prompt": "a", "n": "two"}}, "number"),
        ({"json": {"prompt": "a"}}, "multipart"),
        ({"content": b"nothing", "headers": {"content-type": "multipart/form-data"}}, ""),
        ({"files": [("image", ("a.png", png()))] * 9, "data": {"prompt": "a"}}, "Too many files"),
    ):
        answer = client.post(EDIT, **sent)
        assert answer.status_code in (400, 415) and said in answer.json()["error"]["message"]


# Who is answered


def test_only_this_machines_names_are_answered_on_a_loopback_address(client):
    for host, status in (
        ("localhost:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ):
        assert client.get("/v1/models", headers={"host": host}).status_code == status


def test_a_page_of_another_origin_is_not_answered_and_gets_no_rights(client):
    own, other = {"origin": "http://127.0.0.1:8000"}, {"origin": "http://evil.example"}
    assert client.get("/v1/models", headers=own).status_code == 200
    for answer in (
        client.post(EDIT, files={"image": png()}, data={"prompt": "a"}, headers=other),
        client.options(GENERATE, headers={**other, "access-control-request-method": "POST"}),
        client.get("/v1/models", headers={"origin": "null"}),
    ):
        assert answer.status_code == 403
        assert not any(name.startswith("access-control") for name in answer.headers)
    plain = client.post(GENERATE, content='{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert plain.status_code == 415
    assert client.get(GENERATE).status_code == 405


def test_a_key_is_needed_elsewhere_and_is_compared(loaded):
    with asked(loaded, access=Access("0.0.0.0", "secret")) as (client, _):
        for header, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "Bearer secret2"}, 401),
            ({"authorization": "secret"}, 401),
            ({"authorization": "Bearer \xe4"}, 401),
            ({"authorization": "Bearer secret"}, 200),
        ):
            encoded = {name: value.encode("latin-1") for name, value in header.items()}
            for path in ("/v1/models", "/metrics"):
                assert client.get(path, headers=encoded).status_code == status
        assert client.get("/health").status_code == 200
    for access, said in (
        (Access("0.0.0.0"), "ORTHUS_API_KEY"),
        (Access("::"), "ORTHUS_API_KEY"),
        (Access("127.0.0.1", " "), "empty"),
    ):
        with pytest.raises(OrthusError, match=said):
            check_access(access)
    check_access(Access("::1"))
    assert "secret" not in repr(Access("0.0.0.0", "secret"))


def test_a_body_is_read_only_so_far_and_so_long(loaded):
    limits = Limits(body_bytes=3000, body_seconds=0.2)
    with asked(loaded, limits=limits) as (client, _):
        big = b'{"prompt": "' + b"a" * 4000 + b'"}'
        kind = {"content-type": "application/json"}
        assert client.post(GENERATE, content=big, headers=kind).status_code == 413
        pieces = (big[first : first + 100] for first in range(0, len(big), 100))
        assert client.post(GENERATE, content=pieces, headers=kind).status_code == 413


def test_a_refused_request_leaves_nothing_for_a_garbage_collection(client):
    def errors():
        return [each for each in gc.get_objects() if type(each) in (Refused, PromptError)]

    gc.collect()
    gc.disable()
    try:
        # Refused by the form's thread, and by the worker's.
        for body in ({"prompt": "a fox", "n": 99}, {"prompt": "a fox " * 500}):
            assert client.post(GENERATE, json=body).status_code == 400
            wait_until(lambda: not errors(), 3)
    finally:
        gc.enable()


def test_a_request_has_a_time_limit_and_its_rows_leave(loaded, monkeypatch):
    extend, go = RunningBatch.extend, threading.Event()

    def late(batch):
        go.wait(30)
        yield from extend(batch)

    monkeypatch.setattr(RunningBatch, "extend", late)
    with asked(loaded, limits=Limits(seconds=1)) as (client, state):
        body = {"prompt": "a fox", "n": 10}
        stream = client.post(GENERATE, json=body | {"stream": True})
        answer = client.post(GENERATE, json=body)
        go.set()
        assert answer.status_code == 504 and "--timeout" in answer.json()["error"]["message"]
        assert stream.status_code == 200 and stream.text.startswith("event: error\n")
        assert events_of(stream.text)[-1] == answer.json()
        wait_until(lambda: state.worker.unfinished_rows == 0)


# The worker


def test_a_full_queue_is_429_and_says_when_to_try_again(loaded):
    with asked(loaded, most_rows=1, most_waiting=1) as (client, state):
        hold, holding = threading.Event(), threading.Event()

        def wait_here(_):
            holding.set()
            hold.wait(10)
            raise OrthusError("enough")

        state.worker.submit(Ticket(2, wait_here, lambda _: None))
        assert holding.wait(10)
        answer = client.post(GENERATE, json={"prompt": "a fox"})
        hold.set()
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
        assert client.post(GENERATE, json={"prompt": "a fox"}).status_code == 200
        never = client.post(GENERATE, json={"prompt": "a fox", "n": 3})
        assert never.status_code == 400 and "at most 2" in never.json()["error"]["message"]


def test_rows_beyond_the_batch_wait_and_are_drawn(loaded):
    with asked(loaded, most_rows=2) as (client, state):
        sizes: list[int] = []
        step = RunningBatch.extend

        def watched(batch):
            sizes.append(len(batch.sequences))
            return step(batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunningBatch, "extend", watched)
            answer = client.post(GENERATE, json={"prompt": "a fox", "n": 5, "seed": 1})
        assert len(answer.json()["data"]) == 5 and set(sizes) == {1, 2}


def test_rows_that_wait_hold_no_tables_of_their_steps(loaded, monkeypatch):
    samplers, make = [], model_worker.patch_sampler_for

    def made(*args):
        samplers.append(weakref.ref(sampler := make(*args)))
        return sampler

    monkeypatch.setattr(model_worker, "patch_sampler_for", made)
    with asked(loaded, most_rows=1) as (_, state):
        go, most, left = threading.Event(), [], []

        def rows(steps):
            params = SamplingParams(max_images=1, steps=steps)
            return PreparedRows([loaded.builder.picture("a fox", params)], params)

        def deliver(event):
            if isinstance(event, Accepted):
                most.append(sum(each() is not None for each in samplers))
            if isinstance(event, (Finished, OrthusError)):
                left.append(event)

        threading.Thread(target=lambda: state.worker.call(lambda: go.wait(10))).start()
        for steps in range(1, 31):
            state.worker.submit(Ticket(1, lambda _, steps=steps: rows(steps), deliver))
        go.set()
        wait_until(lambda: len(left) == 30, 20)
        assert SAMPLERS_KEPT <= max(most) <= SAMPLERS_KEPT + 1
        assert all(isinstance(each, Finished) for each in left)

        # One that cannot be made when its turn comes is said, and the others go on.
        whole, left[:] = state.worker._begin, []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                state.worker, "_begin", lambda row: 1 / 0 if row.ticket is bad else whole(row)
            )
            bad, good = (Ticket(2, lambda _: two, left.append) for _ in range(2))
            two = rows(2)._replace(prompts=[*rows(2).prompts] * 2)
            for ticket in (bad, good):
                state.worker.submit(ticket)
            wait_until(lambda: Finished() in left, 20)
            assert not state.worker._rows and not state.worker._waiting
            wait_until(lambda: state.worker.unfinished_rows == 0)
        assert sum(isinstance(each, OrthusError) for each in left) == 1


def test_every_answer_has_an_id_of_its_own_that_the_log_has(client, caplog):
    caplog.set_level("INFO", "orthus.server")
    asked = [client.get("/health"), client.get("/health"), client.get("/nothing")]
    asked.append(client.get("/health", headers={"host": "elsewhere.example"}))
    ids = [each.headers["x-request-id"] for each in asked]
    assert [each.status_code for each in asked] == [200, 200, 404, 403]
    assert len(set(ids)) == len(ids) and all(each.startswith("req_") for each in ids)
    logged = [record.getMessage().split()[-1] for record in caplog.records]
    assert [each for each in logged if each in ids] == ids


def test_a_failure_of_the_server_is_logged_with_the_id_of_its_answer(server, caplog, monkeypatch):
    client, state = server
    monkeypatch.setattr(state, "meters", None)  # for /metrics alone; the guard has its own
    answer = client.get("/metrics")
    assert answer.status_code == 500 and "NoneType" not in answer.text
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert line.startswith("AttributeError: ")
    assert line.endswith(f"({answer.headers['x-request-id']})")


def test_a_step_that_fails_ends_its_requests_and_not_the_server(loaded, monkeypatch, caplog):
    with asked(loaded) as (client, state):
        with monkeypatch.context() as patch:
            patch.setattr(RunningBatch, "extend", lambda batch: iter([1 / 0]))
            answer = client.post(GENERATE, json={"prompt": "a fox", "n": 2})
        assert answer.status_code == 500 and "division" not in answer.text
        assert client.post(GENERATE, json={"prompt": "a fox"}).status_code == 200
        assert state.worker.unfinished_rows == 0
    assert "ZeroDivisionError" in caplog.text and "Traceback" not in caplog.text


def test_a_row_whose_token_cannot_be_chosen_ends_its_request_alone(loaded, monkeypatch, caplog):
    good = question(words("a red fox")) | SAMPLED
    bad = question(words("a snowman")) | SAMPLED | {"n": 2, "stop": "never written"}
    draws = {"prompt": "a fox", "seed": 1}
    step, choose, sizes = RunningBatch.extend, EndAtStop.__call__, []
    held, go = threading.Event(), threading.Event()

    def watched(batch):
        sizes.append(len(batch.sequences))
        return step(batch)

    def fails(stop, ids_1S, scores_1V):
        return 1 / 0 if len(sizes) == 3 else choose(stop, ids_1S, scores_1V)

    with asked(loaded) as (client, state), ThreadPoolExecutor() as pool:
        alone = [client.post(CHAT, json=good).json(), client.post(GENERATE, json=draws).json()]
        monkeypatch.setattr(RunningBatch, "extend", watched)
        monkeypatch.setattr(EndAtStop, "__call__", fails)
        pool.submit(state.worker.call, lambda: held.set() or go.wait(10))
        assert held.wait(10)
        bodies = [(CHAT, good), (CHAT, bad), (GENERATE, draws)]
        answers = [pool.submit(client.post, address, json=body) for address, body in bodies]
        wait_until(lambda: state.worker.unfinished_rows == 4)
        go.set()
        together = [answer.result() for answer in answers]
        wait_until(lambda: state.worker.unfinished_rows == 0)
        assert not state.worker._rows and sizes[2:4] == [4, 2]
        assert client.post(CHAT, json=bad).status_code == 200
    assert [answer.status_code for answer in together] == [200, 500, 200]
    assert together[0].json()["choices"] == alone[0]["choices"]
    assert together[2].json()["data"] == alone[1]["data"]
    error = together[1].json()["error"]
    assert error["code"] == "server_error" and "division" not in error["message"]
    assert caplog.text.count("ZeroDivisionError") == 1


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(loaded, monkeypatch):
    with asked(loaded) as (client, _):
        body = {"prompt": "a fox", "n": 6, "seed": 1}
        whole = client.post(GENERATE, json=body).json()["data"]
        step, sizes = RunningBatch.extend, []

        def narrow(batch):
            sizes.append(len(batch.sequences))
            if len(batch.sequences) > 2 and len(sizes) > 2:
                raise MemoryError
            yield from step(batch)

        monkeypatch.setattr(RunningBatch, "extend", narrow)
        answer = client.post(GENERATE, json=body)
        assert [each["b64_json"] for each in answer.json()["data"]] == [
            each["b64_json"] for each in whole
        ]
        assert sizes[:4] == [6, 6, 6, 3] and max(sizes[4:]) <= 2 or sizes[3] == 3
        monkeypatch.setattr(
            RunningBatch, "extend", lambda batch: (_ for _ in ()).throw(MemoryError)
        )
        answer = client.post(GENERATE, json={"prompt": "a fox"})
        assert answer.status_code == 400 and "memory" in answer.json()["error"]["message"]


def test_words_go_on_after_memory_ran_out(loaded, monkeypatch):
    with asked(loaded) as (client, _):
        body = question(words("a red fox")) | SAMPLED | {"n": 4}
        whole = client.post(CHAT, json=body).json()
        step, sizes = RunningBatch.extend, []

        def narrow(batch):
            sizes.append(len(batch.sequences))
            if len(batch.sequences) > 2 and len(sizes) > 4:
                raise MemoryError
            yield from step(batch)

        monkeypatch.setattr(RunningBatch, "extend", narrow)
        assert client.post(CHAT, json=body).json()["choices"] == whole["choices"]
        assert sizes[3:6] == [4, 4, 2]


def test_a_worker_that_cannot_recover_leaves_nobody_waiting(loaded, monkeypatch):
    with asked(loaded, limits=Limits(seconds=10)) as (client, _):
        monkeypatch.setattr(RunningBatch, "extend", lambda batch: iter([1 / 0]))
        monkeypatch.setattr(model_worker, "release_memory", lambda device: 1 / 0)
        for _ in range(2):
            answer = client.post(GENERATE, json={"prompt": "a fox", "n": 2})
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "stopping"
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "failed"


def test_a_failure_beside_the_model_is_logged_by_its_cause(loaded, monkeypatch, caplog):
    monkeypatch.setattr(picture_routes, "finished_png", lambda *_: 1 / 0)
    with asked(loaded) as (client, state):
        for stream in (False, True):
            answer = client.post(GENERATE, json={"prompt": "a fox", "stream": stream})
            assert "server failed" in answer.text and "division" not in answer.text
        wait_until(lambda: state.worker.unfinished_rows == 0)
    lines = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len(lines) == 2 and all(each.startswith("ZeroDivisionError: ") for each in lines)


def test_unfinished_pictures_that_a_client_does_not_read_have_a_bound():
    async def counts() -> list[int]:
        found, events = [], ArrivingEvents()
        picture = UnfinishedImage(0, 0, 1, 4, torch.zeros(3, 1, 1))
        for sent in (MOST_UNREAD + 9, 2):
            for event in (*[picture] * sent, Finished()):
                events.deliver(event)
            found.append(len([event async for event in events]))
        return found

    assert anyio.run(counts) == [MOST_UNREAD, 2]


def test_a_row_that_nobody_waits_for_leaves_before_the_next_step(loaded, monkeypatch):
    params = SamplingParams(max_images=1, steps=2)
    step, read, ends, reads = RunningBatch.extend, RunningBatch.read, [], []

    def watched(batch):
        ends.append([sequence.ended for sequence in batch.sequences])
        return step(batch)

    monkeypatch.setattr(RunningBatch, "extend", watched)
    monkeypatch.setattr(RunningBatch, "read", lambda batch: (reads.append(batch), read(batch)))
    with asked(loaded) as (_, state):
        worker, seen, shown_after, ended = state.worker, [], [], threading.Event()

        def rows(_):
            return PreparedRows([loaded.builder.picture("a fox", params)], params)

        def leave(event):
            seen.append(type(event).__name__)
            if isinstance(event, UnfinishedImage):
                shown_after.append(len(reads))
                worker.cancel(left)

        def stay(event):
            if isinstance(event, Finished):
                ended.set()

        left = Ticket(1, rows, leave, frozenset({1}))
        worker.submit(left)
        worker.submit(Ticket(1, rows, stay))
        assert ended.wait(10)
        wait_until(lambda: worker.unfinished_rows == 0)
    assert seen == ["Accepted", "ImageBegun", "UnfinishedImage"]
    assert shown_after == [0]  # the first patch: in the step in which the row joins
    assert ends.count(["cancelled", ""]) == 1


def test_a_server_that_stops_refuses_what_is_new(loaded):
    with asked(loaded) as (client, state):
        state.access.stopping = True
        answer = client.post(GENERATE, json={"prompt": "a fox"})
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert client.get("/health").status_code == 503
        state.access.stopping = False
        state.worker.stop()
        assert client.post(GENERATE, json={"prompt": "a fox"}).status_code == 503


def test_an_address_in_use_is_refused():
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(OrthusError, match="in use"):
            bind("127.0.0.1", bound.getsockname()[1])
    with pytest.raises(OrthusError, match="cannot listen"):
        bind("no.such.host.invalid", 0)
