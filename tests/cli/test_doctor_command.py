"""What `doctor` finds, and that it leaves the network alone."""

from __future__ import annotations

import importlib.metadata
import json
import socket

import pytest

from orthus_core import device
from orthus_core.checkpoint import hub
from orthus_core.checkpoint.hub import Reach, reach
from orthus_core.model.compiled_loop import compiler
from orthus_core.plan import software
from orthus_core.plan.software import Package


def test_doctor_tells_versions_devices_and_parts_without_a_network(orthus, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("nobody asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    done = orthus("doctor", "--format", "json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {each["name"] for each in told["required"]} >= {"torch", "transformers", "typer"}
    assert all(each["fits"] for each in told["required"])
    assert "flash-attn" in {each["name"] for each in told["optional"]}
    assert told["devices"][-1]["kind"] == "cpu" and told["models"]["mini"]
    assert told["hub"] is None


def test_a_package_that_is_too_old_is_told_with_exit_code_1(orthus, monkeypatch):
    old = [Package("torch", "2.4.1+cpu", ">=2.5"), Package("rich", None, ">=13")]
    monkeypatch.setattr(software, "required", lambda: old)
    done = orthus("doctor")
    assert done.exit_code == 1
    assert "pip install 'torch>=2.5'" in done.stdout and "2.4.1+cpu is too old" in done.stdout
    assert "pip install 'rich>=13', which is missing" in done.stdout


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    from huggingface_hub import HfApi

    asked = []

    def silent(_, hub_id, **_kwargs):
        asked.append(hub_id)
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "auth_check", silent)
    answers = reach()
    assert len(asked) == len(answers) == 1
    assert answers[0].answer == "out of reach: ConnectionError" and not answers[0].reached


@pytest.mark.parametrize("reached", [True, False])
def test_a_hub_out_of_reach_is_known_by_its_answer_and_not_by_the_words(
    orthus, monkeypatch, reached
):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    answer = Reach("base", "some/model", "kein Anschluss", reached=reached)
    monkeypatch.setattr(hub, "reach", lambda: [answer])
    told = json.loads(orthus("doctor", "--hub", "--format", "json").stdout)
    assert any("out of reach" in line for line in told["next"]) is not reached
    assert told["hub"] == [
        {"alias": "base", "hub_id": "some/model", "answer": "kein Anschluss"},
    ]


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.5", True),
        ("2.4", ">=2.5", False),
        ("13.7", ">=13.7", True),
        ("13.7.0", ">=13.7,<14", True),
        ("14.0", ">=13.7,<14", False),
        ("2.6.0.dev20240901", ">=2.5", True),
        ("of our own", ">=2.5", False),
        (None, ">=2.5", False),
    ],
)
def test_versions_are_compared_as_pip_does(version, wanted, fits):
    assert Package("any", version, wanted).fits is fits


def test_what_is_required_is_read_from_the_distribution_without_extras(monkeypatch):
    lines = [
        "torch>=2.5",
        "typer[all] >=0.1,<99",
        "tomli>=2.0; python_version < '3'",
        "rich>=1; python_version >= '3'",
        "nowhere-to-be-found",
        "ruff>=0.1; extra == 'test'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    found = {each.name: each.wanted for each in software.required()}
    assert found == {
        "torch": ">=2.5",
        "typer": "<99,>=0.1",
        "rich": ">=1",
        "nowhere-to-be-found": "",
    }
    assert [each.name for each in software.required() if not each.fits] == ["nowhere-to-be-found"]


@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
def test_the_denoising_steps_are_compiled_when_asked(orthus, monkeypatch, tmp_path):
    monkeypatch.setenv("ORTHUS_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "devices", lambda: [device._cpu()])  # advice for a CPU alone
    before = json.loads(orthus("doctor", "--format", "json").stdout)
    assert before["compiled_steps"] is None
    assert any("doctor --compile" in line for line in before["next"])
    done = orthus("doctor", "--compile")
    assert done.exit_code == 0, done.output
    assert "compiled the denoising steps with" in done.stderr
    after = json.loads(orthus("doctor", "--format", "json").stdout)
    assert after["compiled_steps"] == str(next((tmp_path / "compiled").iterdir()))
    assert not any("doctor --compile" in line for line in after["next"])
