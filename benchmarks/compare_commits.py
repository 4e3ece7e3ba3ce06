"""What differs in behaviour between two commits: python benchmarks/compare_commits.py OLD NEW

Runs the same commands on two trees (git revisions or folders), on the CPU with one thread and in
fp32, and compares everything they print and write: pixels, tensors, texts, exit codes. Each group
of commands is a "pin". Only what outlives a refactoring is used: the command line, the files it
writes, and the public names of `orthus_core`.

    python benchmarks/compare_commits.py main~3 .                  # a revision and a folder
    python benchmarks/compare_commits.py . --save old.json         # hashes of one tree ...
    python benchmarks/compare_commits.py . --against old.json      # ... compared with later
    python benchmarks/compare_commits.py main . --only help api    # some pins; --list names them

The hashes hold for one machine and one set of installed packages, because other processors round
differently. Therefore this script is kept in the repository, and no hashes are.

Intended differences go into a file for `--expect`: one pattern of `pin/item` a line (`*` matches
anything), with comments after `#`. The exit code is 1 when anything else differs or fails.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from multiprocessing import Pool
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
DIFF_LINES = 24
"""Lines of a text's difference that are shown."""
ITEMS_SHOWN = 12
"""Differing items of a pin that are shown, unless --all is given."""

# What changes from run to run, or with a release, and says nothing about behaviour.
VOLATILE = (
    # `orthus convert` tells how long writing and checking took.
    (re.compile(r"in \d+\.\d s \(\d+ MB/s\), checked in \d+\.\d s"), "in <time>"),
    # Where output is no terminal, a line of progress appears after each 30 s of work.
    (re.compile(r"^\w+: (?!(\d+)/\1 )\d+/\d+ .*\n", re.MULTILINE), ""),
    # Figures of a training's speed.
    (re.compile(r', "(seconds|time|speed/\w+|\w+_per_second)": [\d.e+-]+'), ""),
    # The version of the package, in pictures, results and model cards.
    (re.compile(r'("version": )"\d+\.\d+\.\d+[^"]*"'), r'\1"<version>"'),
    (re.compile(r"(orthus(?:-kit)?(?: \w+)?) \d+\.\d+\.\d+\S*"), r"\1 <version>"),
    # transformers' own version, which it writes into a model's configuration.
    (re.compile(r'("transformers_version": )"[^"]*"'), r'\1"<version>"'),
)

EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")

# --- What is run ---------------------------------------------------------------------------------

FP32 = ("--device", "cpu", "--dtype", "fp32")
SHORT = {
    "optim.steps": 2,
    "optim.batch_size": 2,
    "optim.warmup_steps": 1,
    "log.every": 1,
    "log.sample_every": 2,
    "log.validate_every": 2,
    "log.validate_rows": 4,
    "log.tensorboard": "false",
    "data.rows": 8,
}
TOY = {
    "tokenizer.rows": 200,
    "tokenizer.vocab_size": 600,
    "autoencoder.resolution": 32,
    "autoencoder.channel_multiplier": "[1, 2, 2]",
    "autoencoder.embed_dim": 16,
    "autoencoder.latent_channels": 16,
    "autoencoder.num_embeddings": 64,
    "autoencoder.continuous_steps": 1,
    "autoencoder.losses.perceptual": 0.1,
    "autoencoder.losses.adversarial": 0.1,
    "autoencoder.discriminator.start": 1,
    "autoencoder.discriminator.channels": 8,
    "autoencoder.discriminator.levels": 1,
    "autoencoder.optim.steps": 2,
    "autoencoder.optim.batch_size": 2,
    "backbone.hidden_size": 32,
    "backbone.intermediate_size": 64,
    "backbone.num_hidden_layers": 2,
    "backbone.num_attention_heads": 2,
}
TASK = re.compile(r"^data\.tasks\.(\w+)", re.MULTILINE)
WITH_RECIPES = (
    *("generate", "edit", "story", "caption", "convert"),
    *("pretrain", "finetune-vae", "build-base", "posttrain"),
)

API = """
import inspect, json
import orthus_core
from orthus_core import DiffusionHead, Orthus, OrthusConfig, open_model, soft_embed

def report(name, value):
    print(name, json.dumps(value, default=str))

report("names", orthus_core.__all__)
for name in ("open", "generate", "edit", "story", "caption"):
    report(f"Orthus.{name}", str(inspect.signature(getattr(Orthus, name))))
for what in (open_model, soft_embed, DiffusionHead.__init__):
    report(what.__qualname__, str(inspect.signature(what)))
report("config", OrthusConfig().to_dict())
orthus = Orthus.open("mini", device="cpu", dtype="fp32")
report("parameters", {name: list(p.shape) for name, p in orthus.model.named_parameters()})
pictures = orthus.generate("a red car", num_images=2, seed=5, steps=4)
report("seeds", pictures.seeds)
pictures.save("{prompt}_{seed}.png")
edited = orthus.edit(pictures.images[0], "make it blue", seed=1, steps=4)
report("edited", edited.texts)
edited.save("edited.png")
report("caption", orthus.caption(pictures.images, "What is this?", seed=1).texts)
story = orthus.story("a story about an owl", panels=1, seed=2, steps=4)
report("story", story.texts)
report("saved", story.save("story"))
stream = orthus.generate.stream("a cat", seed=1, steps=2)
report("events", [type(event).__name__ for event in stream][-3:])
"""


class Done(NamedTuple):
    """A command that ran: its exit code, and what it printed."""

    code: int
    stdout: str
    stderr: str


class Desk:
    """A folder of its own for one pin, in which commands of one tree run.

    Args:
        tree: Folder of the code.
        folder: Empty folder to work in; everything that is written there becomes an item.
        environment: Variables of the commands.
    """

    def __init__(self, tree: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self.tree, self.folder, self.environment = tree, folder, environment
        self.items: dict[str, Item] = {}
        self.failures: list[str] = []

    def orthus(self, label: str, *words: object, code: int = 0, said: bool = True) -> Done:
        """Runs `orthus WORDS...`; both outputs become items called after the label.

        Args:
            code: Exit code without which the pin has failed.
            said: Whether outputs become items.
        """
        return self.python(label, "-m", "orthus_cli", *words, code=code, said=said)

    def python(self, label: str, *words: object, code: int = 0, said: bool = True) -> Done:
        """Runs the interpreter likewise."""
        ran = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        done = Done(ran.returncode, ran.stdout, ran.stderr)
        if done.code != code:
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            self.failures.append(f"{label}: exit code {done.code}: {' | '.join(last)}")
        if said:
            self.items[f"{label} stdout"] = text_item(done.stdout)
            self.items[f"{label} stderr"] = text_item(done.stderr)
        return done


def inputs(desk: Desk) -> tuple[str, str, str]:
    """Two pictures of different sizes, and records of 12 rows; none depends on the tree."""
    folder = desk.folder / "inputs"
    folder.mkdir()
    names = ("inputs/red.png", "inputs/night.png")
    Image.fromarray(_disc(64, 64, (230, 60, 50), (90, 180, 95))).save(desk.folder / names[0])
    Image.fromarray(_disc(80, 100, (250, 220, 80), (20, 25, 70))).save(desk.folder / names[1])
    rows = []
    for number in range(12):
        colour = (20 * number, 240 - 15 * number, 60 + 10 * number)
        Image.fromarray(_disc(64, 64, colour, (200, 200, 255 - 9 * number))).save(
            folder / f"{number:02}.png"
        )
        words = {"type": "text", "role": "user", "value": f"a disc of colour {number}"}
        picture = {"type": "image", "role": "model", "path": f"{number:02}.png"}
        rows.append(json.dumps({"segments": [words, picture], "id": str(number)}) + "\n")
    (folder / "records.jsonl").write_text("".join(rows), encoding="utf-8")
    for path in folder.iterdir():
        # Features that are kept know a picture by its name, size and time.
        os.utime(path, (1e9, 1e9))
    return (*names, "inputs/records.jsonl")


def _disc(height: int, width: int, colour: Sequence[int], ground: Sequence[int]) -> np.ndarray:
    """A disc on a ground that grows brighter downwards: [height, width, 3], uint8."""
    y_H1, x_1W = np.mgrid[:height, :1][0], np.mgrid[:1, :width][1]
    inside_HW = (y_H1 - height // 2) ** 2 + (x_1W - width // 2) ** 2 < (height // 3) ** 2
    ground_HW3 = np.asarray(ground) + (y_H1 * 40 // height)[..., None] + 0 * x_1W[..., None]
    pixels_HW3 = np.where(inside_HW[..., None], np.asarray(colour), ground_HW3)
    return np.clip(pixels_HW3, 0, 255).astype(np.uint8)


def settings(*tables: Mapping[str, object]) -> list[str]:
    """`--set key=value` for each key of the tables; later ones win."""
    merged = {key: value for table in tables for key, value in table.items()}
    return [word for key, value in merged.items() for word in ("--set", f"{key}={value}")]


def pin_generate(desk: Desk) -> None:
    """Two prompts, two seeds; one picture with another preset."""
    seeds = ("--seed", 1, "--seed", 2)
    files = ("-o", "{prompt}_{seed}.png", "--grid", "grid.png", "--metadata")
    desk.orthus("exact", "generate", "a snowman", "a red apple", *seeds, *files, *FP32)
    desk.orthus("turbo", "generate", "a fox", "--preset", "turbo", "--seed", 3, *FP32)


def pin_samplers(desk: Desk) -> None:
    """Schedulers, early stop, guidance and a negative prompt."""
    for name in ("dpm++", "unipc"):
        words = ("--scheduler", name, "--steps", 6, "--seed", 1, "-o", f"{name}.png")
        desk.orthus(name, "generate", "a cat", *words, *FP32)
    stop = ("--step-tolerance", 0.05, "--noise-scale", 0.7, "--seed", 1)
    desk.orthus("early stop", "generate", "a dog", "a cat", *stop, *FP32)
    negative = ("--negative-prompt", "a dog", "--guidance", 3, "--steps", 5, "--batch-size", 1)
    desk.orthus("negative", "generate", "a cat", *negative, "-n", 2, "--seed", 7, *FP32)


def pin_again(desk: Desk) -> None:
    """Shows how an image was made, draws it again, and continues it."""
    made = ("--steps", 5, "--seed", 4, "-o", "made.png")
    desk.orthus("made", "generate", "a yellow star", *made, "--format", "json", *FP32)
    desk.orthus("info", "info", "made.png")
    desk.orthus("replay", "replay", "made.png", "-o", "replayed.png", *FP32)
    rest = ("--continue", "made.png", "--keep-rows", 2, "--seed", 9, "-o", "rest.png")
    desk.orthus("continue", "generate", *rest, *FP32)
    again = ("-C", "made.png", "--seed", 5, "-o", "from_config.png")
    desk.orthus("config from", "generate", *again, *FP32)


def pin_edit(desk: Desk) -> None:
    """One picture with an instruction, without words, and by an example."""
    red, night, _ = inputs(desk)
    desk.orthus("words", "edit", red, "make it night", "--seed", 1, "-o", "words.png", *FP32)
    direct = ("--max-text", 0, "--compare", "--steps", 5, "--seed", 2, "-o", "direct.png")
    desk.orthus("direct", "edit", red, night, "add a cat", *direct, *FP32)
    example = ("--example", red, night, "--steps", 5, "--seed", 3, "-o", "example.png")
    desk.orthus("example", "edit", red, *example, *FP32)


def pin_story(desk: Desk) -> None:
    """A story of two panels, the same continued from its second, and a free one from a picture."""
    red, _, _ = inputs(desk)
    opening = "a story about an owl and an alien"
    desk.orthus("story", "story", opening, "--panels", 2, "--seed", 3, "-o", "story", *FP32)
    on = ("--from-story", "story", "--from-panel", 2, "--panels", 1, "--seed", 4, "-o", "on")
    desk.orthus("from story", "story", *on, *FP32)
    free = ("--image", red, "--free", "--panels", 2, "--steps", 5, "--seed", 5, "-o", "free")
    desk.orthus("free", "story", "once upon a time", *free, *FP32)


def pin_caption(desk: Desk) -> None:
    """Two pictures; a question; sampled text."""
    red, night, _ = inputs(desk)
    desk.orthus("caption", "caption", red, night, "-o", "captions.jsonl", "--seed", 1, *FP32)
    question = ("--question", "What colour is it?", "--seed", 1, "--format", "json")
    desk.orthus("question", "caption", red, *question, *FP32)
    sampled = ("--seed", 3, *settings({"text.temperature": 1.5, "text.top_p": 0.95}))
    desk.orthus("sampled", "caption", red, night, *sampled, *FP32)


def pin_discrete(desk: Desk) -> None:
    """The discrete model draws and reads."""
    red, _, _ = inputs(desk)
    model = ("-m", "chameleon-mini", "--seed", 1)
    desk.orthus("generate", "generate", "a snowman", *model, "-o", "codes.png", *FP32)
    desk.orthus("caption", "caption", red, *model, *FP32)


def pin_weights(desk: Desk) -> None:
    """Weights held in 8 bits, and left in their files."""
    common = ("generate", "a snowman", "--steps", 4, "--seed", 1, "--device", "cpu")
    desk.orthus("quantize", *common, "--quantize", 8, "--dtype", "fp32", "-o", "eight.png")
    desk.orthus("low memory", *common, "--low-memory", "--dtype", "fp32", "-o", "low.png")
    desk.orthus("info", "info", "mini")


def pin_convert(desk: Desk) -> None:
    """A discrete model becomes an Orthus; an Orthus is written anew."""
    head = ("--head-width", 64, "--dtype", "fp32")
    desk.orthus("chameleon", "convert", "chameleon-mini", "-o", "converted", *head)
    desk.orthus("orthus", "convert", "mini", "-o", "anew")


def pin_pretrain(desk: Desk) -> None:
    """Two steps of the autoencoder with every loss, and two of the transformer."""
    mixture = dict.fromkeys(_tasks(desk), 1)
    desk.orthus("pretrain", "pretrain", "-o", "out", *settings(SHORT, TOY, mixture))


def pin_finetune_vae(desk: Desk) -> None:
    """Two steps on a folder of pictures."""
    *_, records = inputs(desk)
    # No adversarial term: at commit 2e7face the discriminator's first weights follow no seed here,
    # so that each run differs. `pretrain`, which seeds them, covers that term.
    losses = {"losses.multi_scale": 0.5, "losses.perceptual": 0.1}
    data = {"data.source": records, "data.held_out": 0.25, "feature_noise": 0.1}
    values = settings(SHORT, losses, data)
    desk.orthus("finetune-vae", "finetune-vae", "-o", "out", "--init-from", "mini", *values)


def pin_build_base(desk: Desk) -> None:
    """Two steps while the temperature rises, from the discrete model's conversion."""
    values = settings(SHORT, {"temperature.start": 0.1, "optim.accumulate": 2})
    desk.orthus("build-base", "build-base", "-o", "out", "--init-from", "mini", *values)


def pin_posttrain(desk: Desk) -> None:
    """Two steps on every kind of row, packed, by Muon with averaged weights."""
    more = {
        "data.packing": "true",
        "data.own_pictures": "true",
        "optim.kind": "muon",
        "optim.batch_size": 8,
        "optim.ema_decay": 0.9,
        "prefix_noise": 0.2,
        "sampling.guidance": 3.0,
        "data.rows": 16,
    }
    values = settings(SHORT, dict.fromkeys(_tasks(desk), 1), more)
    desk.orthus("posttrain", "posttrain", "-o", "out", "--init-from", "mini", *values)


def pin_posttrain_records(desk: Desk) -> None:
    """Two steps on records of one's own, not packed, by AdamW."""
    *_, records = inputs(desk)
    values = settings(SHORT, {"data.source": records, "data.held_out": 0.25})
    desk.orthus("posttrain", "posttrain", "-o", "out", "--init-from", "mini", *values)


def pin_eval(desk: Desk) -> None:
    """Every task of the benchmark on four samples."""
    desk.orthus("eval", "eval", "mini", "--limit", 4, "--steps", 6, "-o", "report", *FP32)


def pin_world(desk: Desk) -> None:
    """The first 200 rows of each task, and rows that training never sees."""
    desk.orthus("unknown task", "data", "prepare", "world", "--task", "?", "-o", "no", code=1)
    for task in _tasks(desk):
        name = task.rpartition(".")[2]
        words = ("--task", name, "--rows", 200, "-o", name)
        desk.orthus(name, "data", "prepare", "world", *words)
    words = ("--testing", "--rows", 100, "--seed", 3, "--size", 32, "-o", "testing")
    desk.orthus("testing", "data", "prepare", "world", *words)


def pin_data(desk: Desk) -> None:
    """A data set is checked: a good one, and one with a broken record."""
    *_, records = inputs(desk)
    desk.orthus("good", "data", "check", records)
    rows = (desk.folder / records).read_text(encoding="utf-8").splitlines(keepends=True)
    broken = [*rows[:2], '{"segments": [{"type": "image"}]}\n', "no json\n"]
    (desk.folder / "inputs" / "broken.jsonl").write_text("".join(broken), encoding="utf-8")
    desk.orthus("broken", "data", "check", "inputs/broken.jsonl", code=1)


def pin_recipes(desk: Desk) -> None:
    """Recipes that come along, and the keys of each command's recipe."""
    desk.orthus("ls", "recipes", "ls")
    for command in WITH_RECIPES:
        desk.orthus(f"keys {command}", "recipes", "keys", command)
    for training in WITH_RECIPES[-4:]:
        start = () if training == "pretrain" else ("--init-from", "mini")
        desk.orthus(f"dry run {training}", training, "-o", "out", *start, "--dry-run")
    typo = ("posttrain", "-o", "out", "--init-from", "mini", "--set", "optim.lrr=1")
    desk.orthus("typo", *typo, code=1)


def pin_help(desk: Desk) -> None:
    """The help of every command and subcommand."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        command = waiting.pop(0)
        done = desk.orthus(" ".join(("orthus", *command)), *command, "--help")
        listed = done.stdout.partition("\nCommands:\n")[2]
        names = re.findall(r"^  ([a-z][\w-]*)", listed, re.MULTILINE)
        waiting += [(*command, name) for name in names]


def pin_api(desk: Desk) -> None:
    """The public names of `orthus_core`: signatures, parameters, and what they make."""
    desk.python("python", "-c", API)


def _tasks(desk: Desk) -> list[str]:
    """Keys of every kind of row of the small world, such as `data.tasks.caption`."""
    keys = desk.orthus("keys", "recipes", "keys", "posttrain", said=False).stdout
    return [f"data.tasks.{name}" for name in TASK.findall(keys)]


PINS: dict[str, Callable[[Desk], None]] = {
    name.removeprefix("pin_").replace("_", "-"): run
    for name, run in list(globals().items())
    if name.startswith("pin_")
}

# --- What is kept of it --------------------------------------------------------------------------


class Item(NamedTuple):
    """One thing that must not change: what it is with its hash, and its words if it has any."""

    digest: str
    text: str | None = None

    def without(self, places: Mapping[Path, str]) -> Item:
        """The same where folders in a text are called by these names."""
        if self.text is None or not any(str(folder) in self.text for folder in places):
            return self
        text = self.text
        for folder, name in places.items():
            text = text.replace(str(folder), name)
        return text_item(text)


@dataclass
class Outcome:
    """A pin on one tree.

    items: Digest by name.
    failures: Commands that ended with an exit code they should not end with.
    """

    seconds: float
    items: dict[str, str]
    failures: list[str]


@dataclass
class Snapshot:
    """Every pin on one tree; `texts` holds each text once, by its digest."""

    tree: str
    machine: str
    pins: dict[str, Outcome] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def keep(
        self,
        pin: str,
        seconds: float,
        items: Mapping[str, Item],
        failures: list[str],
        places: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        """Adds a pin's outcome.

        Args:
            places: Names for folders, which differ between two trees and are no behaviour.
        """
        items = {name: item.without(places) for name, item in items.items()}
        self.texts |= {item.digest: item.text for item in items.values() if item.text is not None}
        digests = {name: item.digest for name, item in sorted(items.items())}
        self.pins[pin] = Outcome(seconds, digests, failures)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["pins"] = {name: Outcome(**outcome) for name, outcome in kept["pins"].items()}
        return cls(**kept)


def items_of(folder: Path) -> Iterator[tuple[str, Item]]:
    """Everything in a folder: pixels and texts of pictures, tensors, texts, and other bytes."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or name.startswith("inputs/"):
            continue
        if path.suffix == ".png":
            yield from _of_picture(name, path)
        elif path.suffix == ".safetensors":
            yield from _of_safetensors(name, path)
        elif path.suffix == ".pt":
            yield from _of_state(name, path)
        else:
            yield name, _of_bytes(path.read_bytes())


def text_item(text: str) -> Item:
    """A text without what is volatile, and with a picture inside it as its pixels and chunks."""
    text = EMBEDDED.sub(_embedded_text, text)
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return Item(f"text {_hash(text.encode())}", text)


def _embedded_text(embedded: re.Match[str]) -> str:
    """Text for a PNG inside a page. Its chunks can name folders, which base64 would hide."""
    parts = _of_picture("png", io.BytesIO(base64.b64decode(embedded[1])))
    return "\n".join(f"<{name}: {item.text or item.digest}>" for name, item in parts)


def _of_bytes(content: bytes) -> Item:
    try:
        return text_item(content.decode())
    except UnicodeDecodeError:
        return Item(f"{len(content)} bytes {_hash(content)}")


def _of_picture(name: str, path: Path | BinaryIO) -> Iterator[tuple[str, Item]]:
    with Image.open(path) as picture:
        pixels_HW3 = np.asarray(picture.convert("RGB"))
        size = f"{picture.width}x{picture.height} {picture.mode}"
        yield f"{name} pixels", Item(f"{size} {_hash(pixels_HW3.tobytes())}")
        for key, value in picture.info.items():
            yield f"{name} chunk {key}", text_item(str(value))


def _of_safetensors(name: str, path: Path) -> Iterator[tuple[str, Item]]:
    """Read by the format's definition, so that bf16 needs no torch and order is no difference."""
    content = memoryview(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    metadata = json.dumps(header.pop("__metadata__", {}), sort_keys=True)
    yield f"{name} metadata", text_item(metadata)
    for tensor, about in header.items():
        first, last = about["data_offsets"]
        digest = _hash(content[start + first : start + last])
        yield f"{name} {tensor}", Item(f"{about['dtype']} {about['shape']} {digest}")


def _of_state(name: str, path: Path) -> Iterator[tuple[str, Item]]:
    """The tensors and numbers of a training's state, by their path in it."""
    import torch  # only pins of trainings write such files

    def walk(place: str, value: Any) -> Iterator[tuple[str, Item]]:
        if isinstance(value, torch.Tensor):
            content = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            yield place, Item(f"{value.dtype} {list(value.shape)} {_hash(content)}")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{place} {key}", inner)
        elif isinstance(value, list | tuple) and any(
            isinstance(inner, torch.Tensor | Mapping) for inner in value
        ):
            for index, inner in enumerate(value):
                yield from walk(f"{place} {index}", inner)
        else:
            yield place, text_item(repr(value))

    yield from walk(name, torch.load(path, map_location="cpu", weights_only=True))


def _hash(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


# --- How a tree is run ---------------------------------------------------------------------------


def snapshot(tree: Path, called: str, pins: Sequence[str], folder: Path) -> Snapshot:
    """Runs pins on a tree; what they write stays below the folder until each is hashed."""
    environment = _environment(tree, folder / "installed")
    machine = f"{platform.node()} {platform.processor()} torch {version('torch')}"
    kept = Snapshot(called, machine)
    for pin in pins:
        began = time.perf_counter()
        desk = Desk(tree, folder / pin, environment)
        desk.folder.mkdir(parents=True)
        PINS[pin](desk)
        items = {**dict(items_of(desk.folder)), **desk.items}
        seconds = round(time.perf_counter() - began, 1)
        kept.keep(pin, seconds, items, desk.failures, {desk.folder: "<desk>", tree: "<tree>"})
        print(f"{called}: {pin}, {kept.pins[pin].seconds:.1f} s", file=sys.stderr, flush=True)
        for path in desk.folder.rglob("*"):
            # Checkpoints are large, and their hashes are taken.
            if path.suffix in (".safetensors", ".pt") and path.is_file():
                path.unlink()
    return kept


def _environment(tree: Path, installed: Path) -> dict[str, str]:
    """Variables under which a tree is what is imported, and the same run gives the same bits."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORTHUS_", "PYTHON", "HF_")) or name == "HF_HOME"
    }
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {
        **kept,
        **dict.fromkeys(threads, "1"),
        "PYTHONPATH": os.pathsep.join((str(tree), str(installed))),
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
        "ORTHUS_PLUGINS": "",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "LINES": "40",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    _install(tree, installed)
    found = subprocess.run(
        [sys.executable, "-c", "import orthus_cli, orthus_core; print(orthus_core.__path__[0])"],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if Path(found).resolve() != (tree / "orthus_core").resolve():
        raise SystemExit(f"error: {found} would be imported instead of {tree}/orthus_core")
    return environment


def _install(tree: Path, folder: Path) -> None:
    """Metadata of an installed distribution, so that a tree's own entry points are the commands.

    Commands are entry points, and modules that moved would otherwise be looked for where the
    installed distribution had them.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = folder / f"{project['name'].replace('-', '_')}-0.dist-info"
    about.mkdir(parents=True)
    needed = "".join(f"Requires-Dist: {line}\n" for line in project.get("dependencies", ()))
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n{needed}"
    (about / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [f"[console_scripts]\northus = {project['scripts']['orthus']}\n"]
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]\n", *(f"{name} = {value}\n" for name, value in entries.items())]
    (about / "entry_points.txt").write_text("".join(lines), encoding="utf-8")


@contextmanager
def checked_out(named: str, folder: Path) -> Iterator[Path]:
    """The folder that is named, or a temporary worktree of the revision that is."""
    if Path(named).is_dir():
        yield Path(named).resolve()
        return
    git = ("git", "-C", str(REPOSITORY))
    asked = (*git, "rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if not commit:
        raise SystemExit(f"error: {named} is neither a folder nor a revision of {REPOSITORY}")
    add = (*git, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    subprocess.run(add, check=True)
    try:
        yield folder
    finally:
        subprocess.run((*git, "worktree", "remove", "--force", str(folder)), check=True)


# --- What differs --------------------------------------------------------------------------------


class Difference(NamedTuple):
    """An item that is not the same: what it is in the old tree and in the new, None if missing."""

    pin: str
    item: str
    old: str | None
    new: str | None
    meant: bool


def compare(
    old: Snapshot, new: Snapshot, pins: Sequence[str], meant: Sequence[str] = ()
) -> list[Difference]:
    """Items of these pins that differ, or that only one side has.

    Args:
        meant: Patterns of `pin/item` whose differences are intended.
    """
    found = []
    for pin in pins:
        before, after = (side.pins[pin].items if pin in side.pins else {} for side in (old, new))
        for item in sorted({*before, *after}):
            one, other = before.get(item), after.get(item)
            if one != other:
                intended = any(fnmatchcase(f"{pin}/{item}", pattern) for pattern in meant)
                found.append(Difference(pin, item, one, other, intended))
    return found


def describe(difference: Difference, old: Snapshot, new: Snapshot) -> list[str]:
    """A difference in lines: what changed, and for a text how."""
    mark = "meant" if difference.meant else "DIFFERS"
    head = f"{mark}: {difference.pin}/{difference.item}"
    if difference.old is None or difference.new is None:
        side = "new tree" if difference.old is None else "old tree"
        return [f"{head}: only in the {side} ({difference.new or difference.old})"]
    one, other = old.texts.get(difference.old), new.texts.get(difference.new)
    if one is None or other is None:
        return [f"{head}: {difference.old} -> {difference.new}"]
    lines = difflib.unified_diff(_lines(one), _lines(other), lineterm="", n=0)
    shown = [f"    {line[:200]}" for line in lines if not line.startswith(("---", "+++"))]
    rest = len(shown) - DIFF_LINES
    more = [f"    ... {rest} more lines"] if rest > 0 else []
    return [head, *(shown[:DIFF_LINES] or ["    only line ends differ"]), *more]


def _lines(text: str) -> list[str]:
    """Lines of a text; long ones, such as JSON in one line, are broken after commas."""
    return [
        part
        for line in text.splitlines()
        for part in (line.split(", ") if len(line) > 200 else [line])
    ]


def report(
    old: Snapshot, new: Snapshot, pins: Sequence[str], meant: Sequence[str], every: bool
) -> int:
    """Prints the table and the differences; returns how many pins differ or failed."""
    differences = compare(old, new, pins, meant)
    rows: list[tuple[str, ...]] = [("pin", "result", "items", "old s", "new s")]
    bad = 0
    details: list[str] = []
    for pin in pins:
        own = [each for each in differences if each.pin == pin]
        sides = [(each.tree, each.pins.get(pin)) for each in (old, new)]
        failures = [f"FAILED: {pin}: {tree} has no such pin" for tree, has in sides if not has]
        failures += [
            f"FAILED: {pin}: {tree}: {what}" for tree, has in sides if has for what in has.failures
        ]
        unmeant = sum(not each.meant for each in own)
        result = "failed" if failures else f"{unmeant} differ" if unmeant else "same"
        if len(own) > unmeant:
            result += f", {len(own) - unmeant} meant"
        bad += bool(failures or unmeant)
        seconds = [f"{has.seconds:.1f}" if has else "-" for _, has in sides]
        count = max(len(has.items) if has else 0 for _, has in sides)
        rows.append((pin, result, str(count), *seconds))
        own.sort(key=lambda each: each.meant)
        shown = own if every else own[:ITEMS_SHOWN]
        details += failures
        details += [line for each in shown for line in describe(each, old, new)]
        if len(own) > len(shown):
            details.append(f"... {len(own) - len(shown)} more of {pin}; --all shows them")
    print_table(rows)
    print("\n".join(details) or "nothing differs")
    return bad


def report_one(kept: Snapshot) -> int:
    """Prints what was kept of one tree; returns how many pins failed."""
    rows = [("pin", "result", "items", "s")]
    for pin, outcome in kept.pins.items():
        result = "failed" if outcome.failures else "kept"
        rows.append((pin, result, str(len(outcome.items)), f"{outcome.seconds:.1f}"))
    print_table(rows)
    for pin, outcome in kept.pins.items():
        print("".join(f"FAILED: {pin}: {what}\n" for what in outcome.failures), end="")
    return sum(bool(outcome.failures) for outcome in kept.pins.values())


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def patterns(path: Path | None) -> list[str]:
    """Patterns of a file of intended differences."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="*", metavar="TREE", help="OLD NEW, or one tree")
    parser.add_argument("--only", nargs="+", choices=PINS, metavar="PIN", help="run these pins")
    parser.add_argument("--list", action="store_true", help="list the pins, and stop")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="trees at once")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the last tree's hashes")
    parser.add_argument("--against", type=Path, metavar="FILE", help="kept hashes to compare with")
    parser.add_argument("--expect", type=Path, metavar="FILE", help="intended differences")
    parser.add_argument("--all", action="store_true", help="show every difference")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what the commands wrote")
    options = parser.parse_args()
    if options.list:
        print_table([(name, run.__doc__ or "") for name, run in PINS.items()])
        return
    if len(options.trees) + bool(options.against) > 2 or not options.trees:
        parser.error("give two trees, or one tree with --save or --against")
    if len(options.trees) == 1 and not (options.save or options.against):
        parser.error("one tree alone needs --save or --against")
    # A terminated run removes its worktrees, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pins = options.only or list(PINS)
    meant = patterns(options.expect)

    sides = ("old", "new")[-len(options.trees) :]
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        desks = (options.keep or temporary).resolve()
        jobs = []
        for named, side in zip(options.trees, sides, strict=True):
            tree = stack.enter_context(checked_out(named, temporary / f"{side}-tree"))
            shutil.rmtree(desks / side, ignore_errors=True)
            jobs.append((tree, f"{side} ({named})", pins, desks / side))
        # Processes rather than threads: they end with an interrupted run.
        with Pool(options.jobs, signal.signal, (signal.SIGTERM, signal.SIG_DFL)) as pool:
            made = pool.starmap(snapshot, jobs, chunksize=1)
    if options.save:
        made[-1].save(options.save)
    if options.against:
        made.insert(0, Snapshot.read(options.against))
        if made[0].machine != made[1].machine:
            print(f"warning: {options.against} is from {made[0].machine}", file=sys.stderr)
    if len(made) == 1:
        sys.exit(1 if report_one(made[0]) else 0)
    sys.exit(1 if report(made[0], made[1], pins, meant, options.all) else 0)


if __name__ == "__main__":
    main()
