"""The arrows between packages point one way, and the command line waits with what is heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orthus_core

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "rich", "accelerate", "datasets", "diffusers", "numpy", "PIL"}

GROUND = {"errors", "events", "version", "device", "atomic", "image_grid", "entry_points"}
USES = {  # a package of orthus_core: what it may import beside itself
    "errors": set(),
    "events": set(),
    "version": set(),
    "entry_points": set(),
    "device": {"errors"},
    "atomic": {"errors"},
    "image_grid": {"errors"},
    "recipe": GROUND,
    "model": GROUND,
    "losses": GROUND | {"recipe", "model"},
    "data": GROUND | {"recipe", "model"},
    "samplers": GROUND | {"recipe", "model", "data"},
    "checkpoint": GROUND | {"recipe", "model", "data"},
    "evaluation": GROUND | {"model", "data"},
    "results": GROUND | {"recipe", "model", "data", "samplers", "checkpoint"},
    "bench": GROUND | {"model", "samplers", "checkpoint"},
    "world": GROUND | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "evaluation"},
    "plan": GROUND | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "train"},
    "api": GROUND | {"recipe", "model", "data", "samplers", "checkpoint", "results"},
    "train": GROUND
    | {"recipe", "model", "data", "losses", "samplers", "checkpoint", "evaluation", "world"},
}

WORLD_USERS = {"train/batches.py", "train/picture_source.py"}


# What drawing a picture has no use for.
UNUSED_WHEN_DRAWING = (
    *(
        f"orthus_core.{name}"
        for name in ("train", "world", "losses", "evaluation", "plan", "bench")
    ),
    "orthus_core.recipe.training",
    *(f"orthus_core.checkpoint.{name}" for name in ("convert", "verify", "chameleon_meta")),
    "orthus_core.recipe.conversion",
)
# Project modules that `orthus generate` loads; the aim is 75, and this may only shrink.
MOST_MODULES_WHEN_DRAWING = 87


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


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
    assert {user for user in users if not user.startswith("world/")} == WORLD_USERS


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


def test_drawing_loads_neither_training_nor_conversion_nor_the_small_world(tiny_folder, tmp_path):
    words = ["orthus", "generate", "a fox", "-q", "--device", "cpu", "--model", str(tiny_folder)]
    words += ["-o", str(tmp_path / "a.png")]
    code = f"import sys; sys.argv = {words!r}; from orthus_cli.app import main\n"
    code += "try: main()\nexcept SystemExit: print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = [name for name in done.stdout.splitlines() if name.startswith("orthus_c")]
    assert (tmp_path / "a.png").is_file() and "orthus_core.samplers.engine" in loaded
    assert not [name for name in loaded if name.startswith(UNUSED_WHEN_DRAWING)]
    assert len(loaded) <= MOST_MODULES_WHEN_DRAWING, sorted(loaded)
