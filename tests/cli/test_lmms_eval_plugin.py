"""The plugin for lmms-eval, with a stand-in for the parts of it that the plugin touches."""

from __future__ import annotations

import importlib
import json
import sys
from collections import namedtuple
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from orthus_core.errors import ArgumentError, DataError

ROOT = Path(__file__).parents[2]
Request = namedtuple("Request", "args")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """lmms-eval 0.7's base class and manifest, as far as a model sees them."""

    class lmms:
        is_simple = True

        def __init__(self) -> None:
            self._rank, self._world_size, self.task_dict = 0, 1, {}

        rank = property(lambda self: self._rank)
        world_size = property(lambda self: self._world_size)

    names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model")
    names += ("lmms_eval.models", "lmms_eval.models.registry_v2")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = lmms  # type: ignore[attr-defined]
    manifest = namedtuple(
        "ModelManifest",
        "model_id simple_class_path chat_class_path aliases",
        defaults=(None, None, ()),
    )
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = manifest  # type: ignore[attr-defined]
    found = "orthus_core.lmms_eval_plugin.asked_by_lmms_eval"
    monkeypatch.delitem(sys.modules, found, raising=False)
    yield sys.modules["lmms_eval"]
    sys.modules.pop(found, None)


def model_class() -> Any:
    """As lmms-eval finds it: entry point, manifest, class path."""
    group = '[project.entry-points."lmms_eval.models"]'
    line = (ROOT / "pyproject.toml").read_text().partition(group)[2].split("\n")[1]
    name, value = (each.strip(' "') for each in line.split("="))
    manifest = EntryPoint(name, value, "lmms_eval.models").load()()
    assert manifest.model_id == "orthus" and manifest.chat_class_path is None
    module, _, found = manifest.simple_class_path.rpartition(".")
    return getattr(importlib.import_module(module), found)


def test_lmms_eval_asks_as_eval_predict_does(harness, orthus, model, tiny_folder, tmp_path):
    records = []
    (tmp_path / "val2014").mkdir()
    for number, shade in enumerate((0, 90, 0)):
        picture = Image.linear_gradient("L").rotate(shade).convert("RGB")
        picture.save(tmp_path / "val2014" / f"{number}.png")
        question = f"Is there a {'fox' if number else 'snowman'}?"
        records.append({"image": picture, "text": question})
    lines = [
        {"question_id": n, "image": f"{n}.png", "text": each["text"], "label": "yes"}
        for n, each in enumerate(records)
    ]
    (tmp_path / "coco_pope_random.json").write_text("\n".join(map(json.dumps, lines)))
    answers = tmp_path / "answers"
    words = ["eval", "predict", "pope", "--data", tmp_path, "-o", answers, "--max-new-tokens", 5]
    done = orthus(*words, *model)
    assert done.exit_code == 0, done.stderr
    text = (answers / "answers_random.jsonl").read_text()
    expected = [json.loads(line)["answer"] for line in text.splitlines()]

    asked = model_class()(pretrained=str(tiny_folder), device="cpu", batch_size="2")
    assert asked.is_simple and asked.rank == 0 and str(asked.device) == "cpu"
    asked.task_dict = {"pope": {"test": records}}
    ending = "\nAnswer the question using a single word or phrase."

    def requests(**decoding: Any) -> list[Request]:
        return [
            Request(
                (each["text"] + ending, decoding, lambda doc: [doc["image"]], n, "pope", "test")
            )
            for n, each in enumerate(records)
        ]

    found = asked.generate_until(requests(max_new_tokens=5, temperature=0))
    assert found == expected and any(expected)
    # An answer ends before the first of the task's ends.
    end = next(each for each in expected if len(each) > 1)[1]
    cut = asked.generate_until(requests(max_new_tokens=5, until=[end, ""]))
    assert cut == [each.partition(end)[0] for each in expected] and cut != expected
    mixed = [requests(max_new_tokens=1)[0], requests(max_new_tokens=5)[1]]
    assert asked.generate_until(mixed)[1] == expected[1]
    with pytest.raises(NotImplementedError, match="generate_until"):
        asked.loglikelihood([])
    film = Request(("What?", {}, lambda doc: ["film.mp4"], 0, "pope", "test"))
    with pytest.raises(DataError, match="shows str, which is no picture"):
        asked.generate_until([film])
    with pytest.raises(ArgumentError, match="no argument 'conv_mode'"):
        model_class()(pretrained=str(tiny_folder), device="cpu", conv_mode="llava")


def test_pictures_stand_at_their_marks_and_come_first_without(harness):
    model_class()
    parts = sys.modules["orthus_core.lmms_eval_plugin.asked_by_lmms_eval"]._parts
    a, b = SimpleNamespace(), SimpleNamespace()
    assert parts("<image>\nOne <image>", (a, b)) == (a, "\nOne ", b)
    assert parts("<image 1> or <image 2>?", (a, b)) == (a, b, "<image 1> or <image 2>?")
    assert parts("only words", ()) == ("only words",)


def test_the_core_does_not_import_the_plugin():
    users = [
        path
        for package in ("orthus_core", "orthus_cli")
        for path in (ROOT / package).rglob("*.py")
        if "lmms_eval_plugin" not in path.parts and "lmms_eval" in path.read_text()
    ]
    assert users == []
