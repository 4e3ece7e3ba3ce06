"""Two processes that train together do what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.core.toy_data import SHORT, begin_orthus, words

# Text alone: the noise on pictures is each device's own.
ALIKE = (
    *(word for word in SHORT if "batch_size" not in word),
    "optim.lr=0.001",
    "objective=understanding",
)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def posttrained(start: Path, source: Path, output: Path, devices: int) -> Path:
    sets = (*ALIKE, "optim.batch_size=6", f"data.source={json.dumps(str(source))}")
    command = ["posttrain", "--init-from", str(start), "-o", str(output)]
    command += [word for change in sets for word in ("--set", change)]
    together = {"WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    logs, processes = [], []
    for rank in range(devices):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
        logs.append(output.with_name(f"{output.name}-{rank}.txt"))
        environment = together | place if devices > 1 else {}
        processes.append(begin_orthus(command, logs[-1], **environment))
    for process, log in zip(processes, logs, strict=True):
        process.join()
        assert process.exitcode == 0, log.read_text()
    for log in logs[1:]:
        assert "training" not in log.read_text(), "one of them speaks for all"
    return output


def many_texts(path: Path) -> Path:
    """More rows than are checked before the first step, a third of them broken: half of these have
    a picture that only the device that needs it finds to be none.
    """
    path.with_name("bad.png").write_bytes(b"no picture")
    shown = {"type": "image", "role": "user", "path": "bad.png"}
    lines = []
    for number in range(1200):
        asked = {"type": "text", "role": "user", "value": "what is this? " * (number % 5)}
        answer = {"type": "text", "role": "model", "value": words(number)}
        segments = [asked, answer] if number % 6 else [shown, asked, answer]
        row = {"segments": segments, "id": str(number)}
        lines.append(json.dumps(row) if number % 6 != 3 else "broken")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_two_devices_train_as_one_on_the_same_rows(tiny_folder, tmp_path):
    source = many_texts(tmp_path / "texts.jsonl")
    alone = posttrained(tiny_folder, source, tmp_path / "alone", devices=1)
    pair = posttrained(tiny_folder, source, tmp_path / "pair", devices=2)
    begin, one, two = (load_file(f / "model.safetensors") for f in (tiny_folder, alone, pair))
    moved = torch.cat([(one[name] - begin[name]).flatten() for name in one])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in one])
    # Adam takes a step of the same length however small the gradient is, so a rounding error of one
    # that is zero can show; on the whole they go the same way.
    assert moved.norm() > 0.1 and apart.norm() < 0.02 * moved.norm()

    def measured(folder: Path, figure: str) -> list[float]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line[figure] for line in lines if figure in line]

    both = (measured(folder, "validation_text") for folder in (pair, alone))
    torch.testing.assert_close(*both, rtol=1e-3, atol=0)
    per_token = [
        [
            work / tokens
            for work, tokens in zip(
                measured(folder, "speed/flops_per_second"),
                measured(folder, "speed/tokens_per_second"),
                strict=True,
            )
        ]
        for folder in (pair, alone)
    ]
    assert len(per_token[0]) > 1 and per_token[0] == pytest.approx(per_token[1])
    counted = measured(alone, "unusable/texts")
    assert measured(pair, "unusable/texts") == counted and counted[-1] > 3


SHARED_OUT = """
import torch
from orthus_core.train.distributed import current_rank, shared_out
from orthus_core.train.muon import orthogonalised

place, computed = current_rank(), []

def orthogonal(updates):
    computed.append(len(updates))
    return orthogonalised(updates)

for count in (1, 2, 3, 7):
    updates = torch.randn(count, 24, 40, generator=torch.Generator().manual_seed(count))
    assert torch.equal(shared_out(updates, orthogonal), orthogonalised(updates)), count
print(place.shards, computed)
"""


def test_each_process_orthogonalises_a_share_and_all_have_the_whole():
    together = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED_OUT],
            env=os.environ
            | together
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert said == ["3 [1, 1, 1, 3]"] * 3
