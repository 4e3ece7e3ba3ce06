"""docs/extending.md: every block of it does what the page says, against the real code."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_cli.plugins import discover
from orthus_core import Orthus
from orthus_core.entry_points import COMMANDS, DATA_FORMATS
from orthus_core.losses.joint import LOSS_TERMS
from orthus_core.recipe import PosttrainRecipe, load
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.samplers.solvers import solver_for
from orthus_core.train.trainings import posttrain
from orthus_core.world.benchmark.mini import TASKS
from tests.cli.conftest import stranger  # noqa: F401
from tests.conftest import lines_of_metrics
from tests.core.test_samplers_solvers import RELEASED, gaussian_answer, gaussian_head, run

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def block(section: str, language: str = "python") -> str:
    """The one block of a language in a section of the page."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (inside,) = [part for part in text if part.startswith(section + "\n")]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", inside, re.MULTILINE | re.DOTALL)
    return found


def execute(section: str) -> ModuleType:
    """The section's python block as a module."""
    module = ModuleType("block")
    exec(compile(block(section), f"docs/extending.md: {section}", "exec"), module.__dict__)
    return module


def entry_point(section: str, group: str) -> tuple[str, str, str]:
    """Name, module and object of the section's entry point."""
    found = re.fullmatch(
        rf'\[project\.entry-points\."{group}"\]\n(\w+) = "(\w+):(\w+)"\n', block(section, "toml")
    )
    assert found and f"`{found[2]}.py`" in PAGE
    return found[1], found[2], found[3]


def orthus(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="orthus")


@pytest.fixture
def restored(monkeypatch):
    """The registries as they were, after the test."""
    for registry in (SOLVERS, LOSS_TERMS, TASKS):
        for name in registry:
            monkeypatch.setitem(registry, name, registry[name])
    before = [(registry, dict(registry)) for registry in (SOLVERS, LOSS_TERMS, TASKS)]
    yield
    for registry, names in before:
        registry.clear()
        registry.update(names)  # type: ignore[arg-type]


def test_every_block_of_the_page_is_run_here():
    sections = ["A solver", "A data format", "A command", "A loss term", "A metric"]
    assert [block(section) for section in sections] == re.findall(
        r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
    )


def test_the_solver_solves_our_problem_and_draws(restored):
    execute("A solver")
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    answer, head = gaussian_answer(RELEASED, noise), gaussian_head(RELEASED)

    def error(name: str) -> float:
        return float((run(solver_for(RELEASED, name, 25), noise, head) - answer).abs().max())

    assert error("ddim_thinning") < error("ddim") / 2
    mini = Orthus.open("mini")
    image = mini.generate("a snowman", seed=1, steps=3, scheduler="ddim_thinning").images[0]
    side = mini.model.config.vq_config.resolution
    assert image.size == (side, side) and len(image.getcolors(side**2) or []) > 50


def test_the_data_format_is_read_by_data_check(tmp_path, stranger):  # noqa: F811
    name, module, target = entry_point("A data format", DATA_FORMATS)
    stranger(
        name,
        block("A data format"),
        target=target,
        distribution=module.replace("_", "-"),
        group=DATA_FORMATS,
    )
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    records = [["red.png", "a red square"], ["red.png", ""], ["gone.png", "x"]]
    (tmp_path / "pictures.cap").write_text("\n".join(map(json.dumps, records)))
    checked = orthus("data", "check", tmp_path / "pictures.cap")
    assert "1 usable, 2 bad" in checked.stdout, checked.output
    assert "pictures.cap:2: the line has no caption" in checked.stderr
    assert "pictures.cap:3: there is no picture 'gone.png'" in checked.stderr


def test_the_command_is_discovered_and_runs(stranger):  # noqa: F811
    name, module, target = entry_point("A command", COMMANDS)
    stranger(name, block("A command"), target=target, distribution=module.replace("_", "-"))
    assert discover()[name].distribution == "orthus-shout"
    assert orthus(name, "hello").stdout == "HELLO\n"
    assert "Say it louder." in orthus("--help").stdout


@pytest.mark.gradients
def test_the_loss_term_is_trained_with_and_reported(restored, tmp_path, tiny_folder, monkeypatch):
    module = execute("A loss term")
    (tmp_path / "recipe.toml").write_text('command = "posttrain"\n' + block("A loss term", "toml"))
    small = ("optim.steps=1", "optim.batch_size=2", "log.validate_every=0", "log.sample_every=0")
    small += ("data.tasks.caption=0", "optim.warmup_steps=0")

    def figures(where: str, *more: str) -> dict[str, float]:
        recipe = load(PosttrainRecipe, str(tmp_path / "recipe.toml"), (*small, *more))
        assert recipe.loss_terms
        for _ in posttrain(recipe, tiny_folder, tmp_path / where):
            pass
        return lines_of_metrics(tmp_path / where / "metrics.jsonl")[-1]

    found = figures("model")
    assert found["hidden_size"] > 0
    expected = found["text"] + 100 * found["image"] + 0.01 * found["hidden_size"]
    assert found["total"] == pytest.approx(expected, rel=1e-5)
    # The same by the function's own name, as from the command line.
    monkeypatch.setitem(sys.modules, "my_terms", module)
    LOSS_TERMS.clear()
    (tmp_path / "recipe.toml").write_text(
        'command = "posttrain"\n[loss_terms]\n"my_terms.hidden_size" = 0.01\n'
    )
    assert figures("again") == found


def test_the_metric_is_computed_and_shown(restored, tmp_path, tiny_folder, monkeypatch):
    module = execute("A metric")
    words = ("eval", "mini", "--limit", 2, "--steps", 2, "-m", tiny_folder, "--device", "cpu")
    done = orthus(*words, "--only", "brightness", "-o", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert "brightness\tmean\t" in done.stdout
    (score,) = json.loads((tmp_path / "report" / "result.json").read_text())["tasks"]["brightness"]
    assert 0 < score["value"] < 1 and score["n"] == 2
    assert (tmp_path / "report" / "brightness.png").is_file()
    # The same by the function's own name, as from the command line.
    monkeypatch.setitem(sys.modules, "my_metrics", module)
    del TASKS["brightness"]
    again = orthus(*words, "--only", "my_metrics.brightness", "-o", tmp_path / "again")
    assert again.exit_code == 0 and "brightness\tmean\t" in again.stdout
    assert orthus(*words, "--only", "brightness", "-o", tmp_path / "none").exit_code == 1


def test_the_page_lists_every_solver():
    table = PAGE.partition("### The solvers there are")[2]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in row.split(", ")}
    assert {name.strip("`") for name in listed} == set(SOLVERS)
