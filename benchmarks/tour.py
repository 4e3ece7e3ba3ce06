"""docs/tour.md, each command with what it prints: python benchmarks/tour.py writes it anew.

The commands run one after the other in an empty folder, on the bundled models and on a toy that is
trained on the way. What they print is compared by tests/docs/test_tour.py: word for word after
`NORMAL`, or by the pattern of a stop whose words depend on weights or on the machine.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from orthus_cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "tour.md"

OPENING = """# A tour of the commands

Each command, and what it prints (with `--format human`; in a pipe, tables are tab-separated and
without titles). They ran in this order in an empty folder. In a terminal a bar stands where lines
that begin with `drawing:` are here. Lines about the run go to stderr, the rest to stdout.
`python benchmarks/tour.py` makes this page anew, and a test runs it.
"""

TOY = """\
command = "pretrain"

[tokenizer]
vocab_size = 320
rows = 40

[autoencoder]
resolution = 16
channel_multiplier = [1, 1, 1]
embed_dim = 8
latent_channels = 8
num_embeddings = 32
continuous_steps = 2
optim = { steps = 4, batch_size = 4 }

[backbone]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4

[optim]
steps = 4
batch_size = 4

[data]
rows = 16

[log]
validate_rows = 4
"""

TOYS = (
    "\nThe rest trains a toy, to be seen at work and good for nothing; README.md has the commands "
    f"of the bundled model. `toy.toml`:\n\n```toml\n{TOY}```\n"
)

# What differs from machine to machine and from weights to weights, and what stands for it.
NORMAL = (
    (r" on (cpu|cuda|mps)\S*, (fp32|bf16|fp16)", " on DEVICE"),
    (r", which is not on this machine", ""),
    (r"\b[0-9a-f]{10}\b", "HASH"),
    (r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", "N"),
    (r"─+", "─"),
    (r"[ \t]+", " "),
)
# A line of progress that only a slow machine prints.
ON_THE_WAY = re.compile(r"[\w ]+: (\d+)/(?!\1 )\d+ \w+(, .*)?")
QUICK = "--set optim.steps=4 --set optim.batch_size=4 --set data.rows=16 --set log.validate_rows=4"


class Stop(NamedTuple):
    """One command of the tour.

    line: As it is typed, after `orthus`.
    why: What it is for.
    pattern: Of its whole output after `NORMAL`, where that depends on weights or on the machine;
        empty where the words are always the same.
    before: What the page says in front of it.
    """

    line: str
    why: str
    pattern: str = ""
    before: str = ""

    @property
    def command(self) -> str:
        return self.line.split()[0]


# Commands that run until they are stopped; docs/server.md shows them.
UNTIL_STOPPED = {"serve", "ui"}

STOPS = (
    Stop('generate "a snowman" --seed 1 -o out.png', "Pictures from words."),
    Stop(
        "info out.png",
        "What a picture or a checkpoint says of itself.",
        r"setting value\n.*prompt a snowman\n.*\northus generate 'a snowman' .*",
    ),
    Stop("replay out.png", "The same again: is it identical?"),
    Stop(
        'generate "a strawberry left of a lemon" --seed 1 -o fruit.png',
        "A scene, to be changed.",
    ),
    Stop('edit fruit.png "remove the lemon" --seed 1 -o edited.png', "A picture changed by words."),
    Stop(
        'story "a story about a fox" --panels 2 --seed 1 -o story',
        "Words and pictures by turns; `story/story.html` is to be read.",
        r"mini on DEVICE\n.*story/story.html: N pictures, seed N",
    ),
    Stop("caption out.png", "Words for a picture.", r"mini on DEVICE\nreading: N/N pictures\n.+"),
    Stop(
        "doctor",
        "What is here, and what to do.",
        r"what version needs\n.*\ndevice memory .*\ncpu .*\nmini yes\n.*",
    ),
    Stop(
        "plan generate -m base --device cuda --memory 24",
        "What it takes, of a model and a card that need not be here.",
    ),
    Stop(
        "recipes ls", "Everything that is trained here is a recipe.", r"name command .*\nstory .*"
    ),
    Stop("starter --dry-run", "All stages of the bundled models in order: what each takes."),
    Stop(
        "data prepare world -o rows --rows 3 --task scene",
        "Rows of the small world, to look at.",
    ),
    Stop(
        "bench --shape mini --only race --batch 2 --repeats 1 --patches 1 --steps 2",
        "The engine beside the release's algorithm; so short a race only shows the form.",
        r"device .*\nrace mini .*\nrelease .*\nengine .*",
    ),
    Stop(
        "eval mini --only recon --limit 4 -o report",
        "Measured against exact truth.",
        r"mini on DEVICE\n.*task score value .*report: .*",
    ),
    Stop(
        "reproduce table6 --dry-run",
        "The paper's claims, trained and decided in the small world: what a table takes.",
    ),
    Stop("plugins", "Where each command comes from; any package can add one."),
    Stop(
        "pretrain toy.toml -o toy",
        "A discrete Chameleon from nothing.",
        r"autoencoder: .*\nwrote toy\ntoy",
        before=TOYS,
    ),
    Stop(
        "convert toy -o toy-orthus --set head.width=32 --set head.depth=1",
        "A Chameleon becomes an Orthus, with a proof.",
        r"converting toy to toy-orthus\n.*proof how .*\nwrote N MB .*",
    ),
    Stop(
        f"finetune-vae --init-from toy-orthus -o toy-vae {QUICK}",
        "The pixel decoder learns to draw from features.",
        r".*held-out pictures, after: .*\nwrote toy-vae\ntoy-vae",
    ),
    Stop(
        f"build-base --init-from toy-vae -o toy-base {QUICK}",
        "The soft embedding and the diffusion head learn to draw.",
        r".*nothing that text depends on has moved\n.*wrote toy-base\ntoy-base",
    ),
    Stop(
        "distill grid toy-base -o toy-grid --steps 2 --contexts 8",
        "The times at which the head is called, chosen by measurement: fewer calls do.",
        r"contexts: N/N patches\ngrids of .*\nsolver steps error, own times .*\ntoy-grid",
    ),
    Stop(
        f"posttrain --init-from toy-base -o toy-both {QUICK}",
        "Text and pictures together.",
        r".*training: N/N steps, .*\nwrote toy-both\ntoy-both",
    ),
    Stop(
        f"posttrain --init-from toy-base -o toy-lora --set lora.rank=2 {QUICK}",
        "The same with adapters: the model stays, and what is trained is saved alone.",
        r".*training: N/N steps, .*\nwrote toy-lora\ntoy-lora",
    ),
    Stop(
        "merge toy-base --lora toy-lora:0.5 -o toy-merged",
        "A model and adapters as one model; `--lora` draws with them as they are.",
    ),
)


def outputs(stops: Sequence[Stop] = STOPS) -> Iterator[tuple[Stop, str]]:
    """Runs stops of the tour in the current folder, and yields what each of them printed.

    Args:
        stops: Stops that need no output of others: all, or those before or from the toy's first.

    Raises: RuntimeError when a command fails.
    """
    Path("toy.toml").write_text(TOY, encoding="utf-8")
    for stop in stops:
        words = ["--format", "human", *shlex.split(stop.line)]
        done = CliRunner().invoke(app, words, prog_name="orthus")
        if done.exit_code != 0:
            raise RuntimeError(f"orthus {stop.line}\n{done.output}")
        yield stop, tidy(done.output)


def tidy(output: str) -> str:
    """What is printed, as the page shows it."""
    lines = (line.rstrip() for line in output.splitlines())
    return "\n".join(line for line in lines if not ON_THE_WAY.fullmatch(line)).strip("\n")


def normal(output: str) -> str:
    """An output with what may differ replaced."""
    for pattern, stands_for in NORMAL:
        output = re.sub(pattern, stands_for, output)
    return "\n".join(line.strip() for line in output.splitlines() if line.strip())


def rendered(ran: Iterator[tuple[Stop, str]]) -> str:
    """The page."""
    parts = [OPENING]
    for stop, output in ran:
        shown = f"```console\n$ orthus {stop.line}\n{output}\n```\n"
        parts.append(f"{stop.before}\n## {stop.command}\n\n{stop.why}\n\n{shown}")
    return "".join(parts)


def read(page: str) -> dict[str, str]:
    """What the page says each command prints, by its line."""
    blocks = re.findall(r"```console\n\$ orthus (.*?)\n(.*?)\n?```\n", page, re.DOTALL)
    return dict(blocks)


def main() -> None:
    os.environ["ORTHUS_PLUGINS"] = ""
    with tempfile.TemporaryDirectory(prefix="orthus-tour-") as folder:
        os.chdir(folder)
        page = rendered(outputs())
        os.chdir(PAGE.parent)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
