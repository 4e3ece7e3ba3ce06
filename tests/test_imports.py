"""The arrows between packages point one way, and the command line waits with what is heavy."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import orthus_core

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "rich", "accelerate", "datasets", "diffusers", "numpy", "PIL"}
HEAVY |= {"starlette", "uvicorn", "anyio"}

GROUND = {"errors", "events", "version", "device", "atomic", "image_grid", "entry_points"}
GROUND |= {"user_files", "wrong_content", "shell_words", "output_checks", "atomic_folder"}
GROUND |= {"cache_folder"}
USES = {  # a package of orthus_core: what it may import beside itself
    "errors": set(),
    "events": set(),
    "version": set(),
    "entry_points": set(),
    "user_files": set(),
    "cache_folder": {"errors", "user_files"},
    "shell_words": set(),
    "device": {"errors"},
    "atomic": {"errors"},
    "output_checks": {"errors", "atomic"},
    "atomic_folder": {"errors", "atomic", "output_checks"},
    "image_grid": {"errors"},
    "wrong_content": {"errors"},
    "recipe": GROUND,
    "model": GROUND | {"recipe"},
    "losses": GROUND | {"recipe", "model", "evaluation"},
    "data": GROUND | {"recipe", "model"},
    "samplers": GROUND | {"recipe", "model", "data"},
    "checkpoint": GROUND | {"recipe", "model", "data"},
    "evaluation": GROUND | {"model", "data"},
    "results": GROUND | {"recipe", "model", "data", "samplers", "checkpoint"},
    "bench": GROUND | {"model", "samplers", "checkpoint"},
    "distill": GROUND | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "train"},
    "world": GROUND | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "evaluation"},
    "plan": GROUND | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "train"},
    "api": GROUND | {"recipe", "model", "data", "samplers", "checkpoint", "results"},
    "lmms_eval_plugin": GROUND | {"data", "api"},
    "server": GROUND | {"recipe", "model", "data", "samplers", "checkpoint", "results", "api"},
    "train": GROUND
    | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "evaluation", "world"},
    "reproduce": GROUND
    | {"recipe", "checkpoint", "evaluation", "world", "train", "api", "results"},
}

WORLD_USERS = {"train/batches.py", "train/picture_source.py"}


def modules(package: str) -> list[Path]:
    """The files of a package, without the one that goes with a saved model for transformers."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if "starter" not in path.parts)


def imports(tree: ast.AST, nodes: Iterator[ast.AST] | None = None) -> Iterator[str]:
    """The dotted names that a file imports; of all its nodes unless some are given."""
    for node in nodes or ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out, so that they can be read and searched"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules("orthus_core"), ids=lambda path: path.stem)
def test_arrows_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "orthus_core").with_suffix("").parts
    if parts == ("__init__",):
        return  # names everything, imports nothing until it is asked
    tree = ast.parse(path.read_text())
    used = {name.split(".")[1] for name in imports(tree) if name.startswith("orthus_core.")}
    assert used - {parts[0]} <= USES[parts[0]]
    assert not any(name.startswith("orthus_cli") for name in imports(tree))


def test_only_the_sources_of_trainings_import_the_small_world() -> None:
    users = {
        path.relative_to(ROOT / "orthus_core").as_posix()
        for path in modules("orthus_core")
        if any(n.startswith("orthus_core.world") for n in imports(ast.parse(path.read_text())))
    }
    comparisons = ("world/", "reproduce/")
    assert {user for user in users if not user.startswith(comparisons)} == WORLD_USERS


@pytest.mark.parametrize("path", modules("orthus_cli"), ids=lambda path: path.stem)
def test_the_command_line_imports_nothing_heavy_at_module_level(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imports(tree, iter(tree.body))} & HEAVY


@pytest.mark.parametrize("name", orthus_core.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(orthus_core, name) is not None


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'snowman'"):
        _ = orthus_core.snowman


@pytest.mark.parametrize("path", modules("orthus_core"), ids=lambda path: path.stem)
def test_one_module_puts_finished_files_in_their_place(path: Path) -> None:
    """What is renamed by hand is neither flushed to disk nor cleared after a kill."""
    if path.stem in ("atomic", "atomic_folder"):
        return
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not {call for call in calls if call.endswith((".rename", "os.replace", "shutil.move"))}


# Names that stand for two things, to be renamed: entries may only be taken out.
TWICE: set[str] = set()


def test_a_name_of_a_module_or_a_class_stands_for_one_thing() -> None:
    """So that a name can be searched for, and a reader knows which one is meant."""
    paths = [path for path in modules("orthus_core") if path.stem != "__init__"]
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text())))
    twice = set()
    for names in (
        Counter(path.stem for path in paths),
        Counter(node.name for node in nodes if isinstance(node, ast.ClassDef)),
    ):
        twice |= {name for name, count in names.items() if count > 1}
    assert twice == TWICE


# Runs a command in a process of its own, and says at last which modules it has imported.
IMPORTED = """
import json, sys
from orthus_cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(file=sys.stderr)
json.dump([*sys.modules], sys.stderr)
"""

DRAW = ("generate", "a snowman", "--steps", "1", "-o", "snowman.png")
STEP = ("posttrain", "--init-from", "mini", "-o", "trained")
TINY = ("optim.steps=1", "optim.batch_size=1", "data.rows=4", "data.held_out=0")
QUIET = ("log.sample_every=0",)

CONVERSION = "card convert verify chameleon_hf chameleon_layerwise chameleon_meta meta_files lazy"
CONVERSION += " meta_layerwise pickled processor source writer hub_files chat_processor publish"
NOT_FOR_DRAWING = {
    *(f"orthus_core.{package}" for package in ("train", "losses", "world", "evaluation", "plan")),
    *(f"orthus_core.checkpoint.{name}" for name in CONVERSION.split()),
    *("orthus_core.bench", "orthus_core.recipe.training", "orthus_core.recipe.conversion"),
    *("datasets", "diffusers", "scipy", "sklearn", "pandas", "torchvision", "tensorboard"),
    *("rich", "torchao", "orthus_core.server"),
}
NOT_FOR_POSTTRAIN = {
    *(f"orthus_core.train.{name}" for name in ("autoencoder", "pretrain", "picture_source")),
    *(f"orthus_core.losses.{name}" for name in ("adversarial", "perceptual", "picture_loss")),
    *(f"orthus_core.checkpoint.{name}" for name in ("convert", "verify", "pickled")),
    "orthus_core.evaluation",
    "orthus_core.samplers.generate",
    "orthus_core.data.formats",
}


@pytest.mark.parametrize(
    ("words", "most", "unwanted"),
    [
        (DRAW, 86, NOT_FOR_DRAWING),
        ((*STEP, *(f"--set={key}" for key in TINY + QUIET)), 125, NOT_FOR_POSTTRAIN),
    ],
    ids=["generate", "posttrain"],
)
def test_a_command_imports_what_it_needs_and_little_else(words, most, unwanted, tmp_path) -> None:
    """A reader opens these files to follow a command; the ceilings may only come down.

    They were raised by six when atomic writing and the console were split by idea, by one for what
    transformers calls of a model, by one for the kinds of heads, and that of posttrain by one for
    the mixture's figures, by one for the tables of wordings, by two when the order of rows, their
    faults and the shards of features became files of their own, by one for the random numbers of
    pictures, by three when states came to be written in parts and in the background, by four when a
    model came to lie on several devices, by two for the figures of speed and the work that they
    count, by one when the bundled model came to have a linear encoder, whose features a training
    takes from its code, and that of generate by two for the compiled steps of a CPU.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORTED, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert {"torch", "orthus_core.model.orthus"} <= loaded and not loaded & unwanted
    ours = [name for name in loaded if name.split(".")[0] in ("orthus_cli", "orthus_core")]
    assert len(ours) <= most


@pytest.mark.parametrize("name", ["generate", "edit", "story", "caption", "replay"])
def test_a_drawing_command_is_a_thin_shell(name: str) -> None:
    lines = (ROOT / "orthus_cli" / "commands" / f"{name}.py").read_text().count("\n")
    assert lines <= 120, "what is no option, event or file belongs into orthus_core.api"
