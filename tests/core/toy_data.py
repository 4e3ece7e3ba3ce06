"""A few pictures with words on disk, recipes short enough for a test to train by, and `orthus` as a
process that can be killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

COLOURS = {"red": (220, 60, 55), "green": (85, 180, 95), "blue": (70, 130, 230)}

# Every training: four steps on five rows.
SHORT = (
    "optim.steps=4",
    "optim.batch_size=5",
    "optim.warmup_steps=1",
    "log.every=1",
    "log.sample_every=0",
    "log.save_every=0",
    "log.validate_every=2",
    "log.validate_rows=4",
    "data.held_out=0.2",
)


def picture(number: int) -> Image.Image:
    """A square of one colour on a noisy ground, no two alike."""
    random = np.random.default_rng(number)
    pixels_HW3 = random.integers(150, 256, (20, 20, 3), dtype=np.uint8)
    row, column = random.integers(0, 12, 2)
    colour = list(COLOURS.values())[number % 3]
    pixels_HW3[row : row + 8, column : column + 8] = colour
    return Image.fromarray(pixels_HW3)


def words(number: int) -> str:
    return f"a {list(COLOURS)[number % 3]} square, number {number}"


def pictures_with_words(folder: Path, count: int = 20) -> Path:
    """`000.png` beside `000.txt` and so on."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture(number).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(words(number))
    return folder


def tiny_pretrain(source: Path) -> tuple[str, ...]:
    """What makes a `pretrain` one of seconds: pictures of 16 pixels, one step of a transformer."""
    return (
        "autoencoder.resolution=16",
        "autoencoder.channel_multiplier=[1,1,1]",
        "autoencoder.norm_num_groups=8",
        "autoencoder.embed_dim=8",
        "autoencoder.latent_channels=8",
        "autoencoder.num_embeddings=16",
        "autoencoder.optim.steps=2",
        "autoencoder.optim.batch_size=4",
        "tokenizer.vocab_size=320",
        "tokenizer.rows=20",
        f"data.source={json.dumps(str(source))}",
        "backbone.hidden_size=32",
        "backbone.intermediate_size=32",
        "backbone.num_hidden_layers=1",
        "backbone.num_attention_heads=2",
        "optim.steps=1",
        "optim.batch_size=2",
        "log.sample_every=0",
        "log.validate_every=0",
    )


def interleaved(folder: Path, count: int = 20) -> Path:
    """A records.jsonl of drawings, questions and edits by turns, with its pictures."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        name = f"{number:03}.png"
        picture(number).save(folder / name)
        text = {"type": "text", "role": "user", "value": words(number)}
        drawn = {"type": "image", "role": "model", "path": name}
        seen = {"type": "image", "role": "user", "path": name}
        question = {"type": "text", "role": "user", "value": "what is this?"}
        answer = {"type": "text", "role": "model", "value": words(number)}
        kinds = [[text, drawn], [seen, question, answer], [seen, text, drawn]]
        lines.append(json.dumps({"segments": kinds[number % 3], "id": str(number)}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "records.jsonl"


def begin_orthus(
    words: list[str],
    log: Path,
    *,
    dies_at: int | None = None,
    dies_within: bool = False,
    **environment: str,
) -> ForkServerProcess:
    """`orthus WORDS...` as a process of its own, with more in its environment; it writes to `log`.

    It is forked from a server that has imported all it needs once, so it starts in a moment.

    Args:
        dies_at: Which of its file operations (see `_die_at`) ends it as `SIGKILL` does, right
            before it is done; their number is written to `log.operations` if it ends before.
        dies_within: Whether it ends right after instead, where the operation opens a file: it is
            empty then, if it was opened to be written anew.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.core.toy_data", "orthus_core.train.trainings"])
    process = context.Process(
        target=_orthus, args=(words, str(log), dies_at, dies_within, environment)
    )
    process.start()
    return process


def _orthus(
    words: list[str],
    log: str,
    dies_at: int | None,
    dies_within: bool,
    environment: dict[str, str],
) -> None:
    import torch

    from orthus_cli.app import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(to, 1)
    os.dup2(to, 2)
    sys.argv = ["orthus", *words]
    if dies_at is None:
        main()
        return
    count = _die_at(dies_at, within=dies_within)
    try:
        main()
    finally:
        Path(f"{log}.operations").write_text(str(count()))


def _die_at(operation: int, *, within: bool) -> Callable[[], int]:
    """End this process before it opens a file to write, renames, removes, or makes a folder for the
    given time, counted from 1; `within`, when the file is open. Returns what tells how many were
    done.
    """
    done = 0

    def watch(event: str, args: tuple) -> None:
        nonlocal done
        if event == "open":
            is_write = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if not is_write or str(args[0]).startswith("/dev/"):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        done += 1
        if done == operation:
            if within and event == "open":
                with suppress(OSError):
                    os.open(args[0], args[2], 0o666)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: done


class ToyPictures:
    """Pictures of 16 pixels for an autoencoder: five of random pixels, each at a random contrast;
    `held_out_M3HW` has another one, 64 times.
    """

    identity = ""
    faults = None

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._pixels_M3HW = 2 * torch.rand(6, 3, 16, 16, generator=generator) - 1
        contrast_M111 = torch.rand(64, 1, 1, 1, generator=generator)
        self.held_out_M3HW = contrast_M111 * self._pixels_M3HW[-1]

    def draw(
        self, count: int, generator: torch.Generator, own: Sequence[int] | None = None
    ) -> torch.Tensor:
        picked_M = torch.randint(5, (count,), generator=generator)
        contrast_M111 = torch.rand(count, 1, 1, 1, generator=generator)
        drawn_M3HW = contrast_M111 * self._pixels_M3HW[picked_M]
        return drawn_M3HW if own is None else drawn_M3HW[list(own)]


def finished(generator):
    """What a generator of events returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
