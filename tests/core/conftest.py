"""What tests of this folder share: the small world, a tiny open model, and a picture file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from orthus_core import Orthus
from orthus_core.world.world import World


@pytest.fixture(scope="session")
def world() -> World:
    """The bundled world, opened once; no test may change it."""
    return World.open()


@pytest.fixture(scope="session")
def testing_world(world: World) -> World:
    return World(world.pack, styles=world.styles, testing=True)


@pytest.fixture(scope="module")
def orthus(tiny_folder) -> Orthus:
    return Orthus.open(tiny_folder, device="cpu")


@pytest.fixture
def start(tmp_path) -> Path:
    path = tmp_path / "start.png"
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(path)
    return path
