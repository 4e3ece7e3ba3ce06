"""Trainings killed without warning and resumed end as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import lines_of_metrics
from tests.core.toy_data import begin_orthus, interleaved, pictures_with_words

STEPS = 30
RECIPE = f"""
[optim]
steps = {STEPS}
batch_size = 5
warmup_steps = 2
ema_decay = 0.9
accumulate = 2

[log]
every = 1
save_every = 4
validate_every = 7
validate_rows = 4
sample_every = 0

[data]
held_out = 0.2
"""
POSTTRAIN = "prefix_noise = 0.2\nrepeats = 2\n" + RECIPE + "packing = true\n"
PRETRAIN = (
    RECIPE
    + f"""
[tokenizer]
vocab_size = 320
rows = 40

[autoencoder]
resolution = 16
channel_multiplier = [1, 1]
embed_dim = 8
latent_channels = 8
num_embeddings = 16
continuous_steps = 5
revive_every = 3

[autoencoder.optim]
steps = {STEPS}
batch_size = 4
ema_decay = 0.9

[backbone]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
"""
)
FINETUNE = (
    RECIPE
    + """
[losses]
perceptual = 0.1
adversarial = 0.1

[discriminator]
start = 6
channels = 8
levels = 2
"""
)


class Training:
    """`orthus COMMAND ...`, started as a process of its own as often as needed."""

    def __init__(self, command: str, folder: Path, recipe: str, source: Path, start: Path | None):
        folder.mkdir()
        path = folder / "recipe.toml"
        path.write_text(f'command = "{command}"\nseed = 3\n{recipe}')
        self.log = folder / "log.txt"
        self.output = folder / "model"
        words = [command, path, "-o", self.output, "--resume", "auto"]
        words += ["--set", f"data.source={json.dumps(str(source))}"]
        words += ["--init-from", start] if start else []
        self.words = [str(word) for word in words]

    def metrics(self, part: str = "") -> Path:
        return self.output.with_name("model.training") / part / "metrics.jsonl"

    def lines(self, part: str) -> int:
        path = self.metrics(part)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def kill_at(self, step: int, part: str = "") -> int:
        """Kill it as soon as it has written this step; returns the step it came to."""
        process = begin_orthus(self.words, self.log)
        while process.is_alive() and self.lines(part) < step:
            time.sleep(0.002)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, self.log.read_text()
        assert not self.output.exists()
        return self.lines(part)

    def finish(self) -> None:
        process = begin_orthus(self.words, self.log)
        process.join()
        assert process.exitcode == 0, self.log.read_text()


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


KINDS = {
    "posttrain": (POSTTRAIN, interleaved),
    "finetune-vae": (FINETUNE, pictures_with_words),
    "build-base": ("repeats = 2\n" + RECIPE + "[temperature]\nend = 4.0\n", pictures_with_words),
}


@pytest.mark.parametrize(
    "command",
    ["posttrain", *(pytest.param(name, marks=pytest.mark.slow) for name in list(KINDS)[1:])],
)
def test_a_killed_training_goes_on_as_if_it_had_not_been(command, tiny_folder, tmp_path):
    recipe, make = KINDS[command]
    source = make(tmp_path / "data")
    whole = Training(command, tmp_path / "whole", recipe, source, tiny_folder)
    killed = Training(command, tmp_path / "killed", recipe, source, tiny_folder)
    whole.finish()
    first, second = sorted(random.Random(command).sample(range(5, 25), 2))
    reached = killed.kill_at(first)
    killed.kill_at(max(second, reached // 4 * 4 + 1))
    killed.finish()
    assert same_weights(whole.output, killed.output)
    assert lines_of_metrics(whole.metrics()) == lines_of_metrics(killed.metrics())


def test_a_pretraining_killed_in_both_its_parts_goes_on(tmp_path):
    source = interleaved(tmp_path / "data")
    whole = Training("pretrain", tmp_path / "whole", PRETRAIN, source, None)
    killed = Training("pretrain", tmp_path / "killed", PRETRAIN, source, None)
    whole.finish()
    step = random.Random(0).randrange(5, 25)
    killed.kill_at(step, "autoencoder")
    killed.kill_at(step, "transformer")
    killed.finish()
    assert same_weights(whole.output, killed.output)
    for part in ("autoencoder", "transformer"):
        assert lines_of_metrics(whole.metrics(part)) == lines_of_metrics(killed.metrics(part))
